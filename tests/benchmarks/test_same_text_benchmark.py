"""Trainings with and without negatives of the same text, in pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import accuracy_docs, same_text
from helpers.data.training_data import TrainingData


@pytest.fixture(scope="module")
def train() -> TrainingData:
    generator = torch.Generator().manual_seed(0)
    images, positive = torch.randn(60, 8, generator=generator), torch.arange(180) // 3
    text = images[positive] @ torch.randn(8, 6, generator=generator) + torch.randn(180, 6, generator=generator)
    empty = (text[:0], images[:0], positive[:0])
    return TrainingData(text, positive, images, *empty, same_text=torch.arange(180) % 30)


@pytest.mark.parametrize("method", [pytest.param("plus", marks=pytest.mark.slow), "bigjump"])
def test_both_trainings_of_a_pair_differ_by_the_option_alone(train, method):
    found = same_text.compare(train, method, [0, 1], 2, 0.1)
    assert [row["fold"] for row in found["folds"]] == [0, 1]
    (_, off), (_, on) = (same_text.METHODS[method](train, 0, 2, 0.1, wanted) for wanted in (False, True))
    assert off.same_text is None and on.same_text.most > 1
    assert replace(on.settings, exclude_same_text=False) == off.settings
    best = np.mean([max(row["mrr_with"]) - max(row["mrr_without"]) for row in found["folds"]])
    assert found["gain"]["difference"] == pytest.approx(best, abs=1e-6)  # the folds hold out as many captions
    assert found["gain"]["low"] <= found["gain"]["difference"] <= found["gain"]["high"]

    alone = same_text.compare(replace(train, same_text=torch.arange(180)), method, [0], 2, 0.1)
    assert alone["gain"] == {"difference": 0.0, "low": 0.0, "high": 0.0}  # no text stands twice


def test_the_table_has_a_row_for_each_method_that_was_measured():
    gain = {"difference": -0.00023, "low": -0.0023, "high": 0.0017}
    row = {"repeats": {"ceiling": 0.919}, "training_images": 4000, "gain": gain}
    row["training_captions_with_excluded_images"] = 0.3032
    lines = accuracy_docs.same_text_table({"A": {"plus": row}, "B": {"plus": row, "bigjump": row}}).splitlines()[2:]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| A", "one network of `plus`"], ["| B", "one network of `plus`"], ["| B", "BigJump"]
    ]  # fmt: skip
    assert lines[0].endswith("| 4,000 | 30.3 % | 0.919 | -0.0002 (-0.0023 to +0.0017) |")
