"""A run judged as a whole: every stored model, on the validation and on the test split."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.data.split import make_split
from helpers.evaluation import metrics
from helpers.evaluation.leaderboard import ACCURACY_COLUMNS, format_table, judge
from helpers.evaluation.settings import EvaluationConfig
from helpers.models.build import MODEL_ROWS, build_model
from helpers.models.storage import save_model
from helpers.runs.leaderboard import evaluate, evaluate_test, stored_models
from helpers.runs.manifest import artefact_digests
from helpers.serving.translator import Translator

SETTINGS = EvaluationConfig(bootstrap_samples=200, gallery_size=4, gallery_rounds=3, latency_repeats=3)


@pytest.fixture
def run(tmp_path):
    """A run of tiny models on data that the closed forms map exactly and the others do not map at all."""
    rng = np.random.default_rng(0)
    n_images, text_dim, image_dim = 50, 6, 5
    images = rng.normal(size=(n_images, image_dim)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    targets = np.repeat(np.arange(n_images), 3)
    text = np.column_stack([images[targets], rng.normal(size=len(targets))]).astype(np.float32)
    split = make_split(targets, n_images, val_ratio=0.5)
    captions = [f"caption {row}" for row in range(len(targets))]
    first, other = split.val_captions[[0, 3]]  # of two images
    captions[first] = captions[other] = "a dog"
    shape = {"text_dim": text_dim, "image_dim": image_dim, "hidden": 7}
    for name in MODEL_ROWS[1:]:
        torch.manual_seed(0)
        model = build_model(name, **shape)
        if name in ("least_squares", "procrustes", "cca"):
            model.set_affine(np.eye(image_dim, text_dim), np.zeros(image_dim))
        if name == "kernel":  # all its weights are 0
            torch.nn.init.normal_(model.weight)
        save_model(tmp_path, name, model, {"architecture": shape})
    return SimpleNamespace(
        split=split,
        data=SimpleNamespace(text=text, images=images, captions=captions, targets=targets),
        directory=tmp_path,
    )


def test_every_row_of_a_run_is_judged_alike(run):
    rows, ranks = evaluate(run, SETTINGS)
    assert [row["model"] for row in rows] == list(ranks) == list(MODEL_ROWS)
    json.dumps(rows, allow_nan=False)
    by_model = {row["model"]: row for row in rows}
    for name, row in by_model.items():
        assert ranks[name].shape == (75,) and ranks[name].min() >= 1 and ranks[name].max() <= 25
        assert row["mrr"] == pytest.approx(np.mean(1 / ranks[name]))
        assert row["mrr_low"] - 1e-12 <= row["mrr"] <= row["mrr_high"] + 1e-12
    perfect, chance, blank = (by_model[name] for name in ("procrustes", "chance", "bigjump"))
    assert (perfect["mrr"], perfect["recall_at_1"], perfect["challenge_mrr"]) == (1, 1, 1)
    assert chance["mrr"] == pytest.approx(sum(1 / rank for rank in range(1, 26)) / 25)
    assert chance["challenge_mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 0) / 4)
    assert chance["challenge_corrected_mrr"] == chance["challenge_mrr"]
    assert (chance["parameters"], chance["megabytes"]) == (0, 0)
    assert blank["median_rank"] == 13  # zero everywhere: all images tie
    assert perfect["image_to_text_mrr"] == perfect["image_to_text_recall_at_10"] == 1
    assert blank["image_to_text_mrr"] == pytest.approx(1 / (1 + 72 / 2))  # and so do the captions of 24 other images
    assert chance["image_to_text_mrr"] == pytest.approx(metrics.chance_image_to_text(run.split.caption_to_gallery)[0])
    assert {row["mrr_ceiling"] for row in rows} == {(75 - 1 / 2) / 75}  # of the two captions one must come second
    assert (perfect["parameters"], perfect["megabytes"]) == (35, pytest.approx(35 * 4e-6))
    assert all(by_model[name]["cpu_ms_per_query"] > 0 for name in MODEL_ROWS[1:])
    # What the translator subtracts is what was judged.
    shifted = Translator.load(run.directory, "mlp1").for_dot_product(run.data.text[run.split.val_captions])
    gallery, targets = run.data.images[run.split.val_images], run.split.caption_to_gallery
    found = metrics.challenge_mrr(shifted, gallery, targets, gallery_size=4, rounds=3)
    assert by_model["mlp1"]["challenge_corrected_mrr"] == pytest.approx(found)


def with_test_split(run):
    split = make_split(np.repeat(np.arange(50), 3), 50, val_ratio=0.4, test_ratio=0.3)
    data = SimpleNamespace(**vars(run.data) | {"captions": [f"caption {row}" for row in range(150)]})
    return SimpleNamespace(**vars(run) | {"split": split, "data": data})


@pytest.mark.slow
def test_the_test_split_has_a_table_of_its_own(run):
    judged = with_test_split(run)
    rows = evaluate_test(judged, SETTINGS)
    path = run.directory / "test_leaderboard.json"
    assert json.loads(path.read_text()) == rows and "test_leaderboard.json" in artefact_digests(run.directory)
    assert not (run.directory / "leaderboard.json").exists()
    assert [row["model"] for row in rows] == list(MODEL_ROWS)
    by_model = {row["model"]: row for row in rows}
    assert by_model["procrustes"]["mrr"] == 1 and by_model["bigjump"]["median_rank"] == 8  # of 15 images
    assert {row["mrr_ceiling"] for row in rows} == {1.0}  # its texts differ
    assert all(row["mrr_low"] <= row["mrr"] <= row["mrr_high"] + 1e-12 for row in rows)
    ranks = judge(stored_models(judged), judged.data, judged.split, SETTINGS, "test").ranks
    assert {len(values) for values in ranks.values()} == {45}
    validation, _ = evaluate(judged, SETTINGS)
    assert by_model["chance"]["mrr"] != next(row["mrr"] for row in validation if row["model"] == "chance")


def test_without_a_test_split_a_table_from_before_is_removed(run):
    evaluate_test(with_test_split(run), SETTINGS)
    assert evaluate_test(run, SETTINGS) == []
    assert not (run.directory / "test_leaderboard.json").exists()
    assert evaluate_test(run, SETTINGS) == []  # nor is it an error that there is none


def test_the_shown_table_holds_the_ceiling_and_the_captions_found_for_images(run):
    rows, _ = evaluate(run, SETTINGS)
    heading, *lines = format_table(rows, ACCURACY_COLUMNS).split("\n")
    assert "ceiling" in heading and heading.endswith("image to text: R@10")
    assert all(" 0.993 " in line for line in lines) and lines[-1].split()[0] == rows[-1]["model"]
    older = [{name: row[name] for name in row if not name.startswith(("image_to", "mrr_c"))} for row in rows]
    assert format_table(older, ACCURACY_COLUMNS).split("\n")[1].endswith("-")  # a table of an earlier version
