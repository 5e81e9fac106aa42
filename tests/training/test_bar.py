"""What is shown while a training runs, and what stands there afterwards."""

import io
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from helpers.data.training_data import TrainingData
from helpers.models.build import build_model
from helpers.system import bars as bar
from helpers.training.loop import train_baseline
from helpers.training.objectives import BaselineConfig
from helpers.training.plus_search import search
from helpers.training.settings import PlusConfig


class Stream(io.StringIO):
    def __init__(self, watched):
        super().__init__()
        self.isatty = lambda: watched


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    text, images = (torch.randn(n, 6, generator=generator) for n in (40, 20))
    positive = torch.arange(40) // 2
    return TrainingData(text, positive, images, text[:8], images[:4], positive[:8])


@pytest.fixture
def shown(monkeypatch):
    """Everything that a training has written to stderr, with and without someone watching."""
    monkeypatch.setattr(bar, "tqdm", partial(bar.tqdm, disable=False))  # the suite has switched bars off

    def run(train, watched):
        stream = Stream(watched)
        monkeypatch.setattr(sys, "stderr", stream)
        train()
        return stream.getvalue()

    return run


def train(data):
    settings = BaselineConfig(epochs=3, batch_size=8, hidden=4)
    train_baseline(build_model("linear", 6, 6), data, settings, "linear")


def test_a_log_gets_lines_and_no_control_characters(shown, data):
    text = shown(lambda: train(data), watched=False)
    assert "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert lines[-1].startswith("linear: 100%") and "epoch=3/3" in lines[-1]
    assert len(lines) <= 3  # one now and then, not one an epoch


def test_a_terminal_gets_one_bar(shown, data):
    text = shown(lambda: train(data), watched=True)
    assert "\r" in text and text.strip().count("\n") == 0 and "mrr=" in text


def test_no_mrr_is_shown_among_one_image(shown, data):
    one = replace(data, val_text=data.val_text[:2], val_images=data.val_images[:1], val_positive=torch.zeros(2).long())
    assert "mrr" not in shown(lambda: train(one), watched=True)


def test_a_search_says_how_many_candidates_there_are_and_ends_its_bars(shown, data):
    settings = PlusConfig(
        epochs=40, hidden=4, temperatures=(0.05, 0.1), whitenings=(0.0,), blocks=(0,), closed_forms=(), fold_images=8
    )
    text = shown(lambda: search(data, settings), watched=False)
    last = [line for line in text.splitlines() if "candidate 1 of at most 2 (temperature 0.1)" in line][-1]
    assert "100%" in last
