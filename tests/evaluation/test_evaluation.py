"""The leaderboard: differences to the best, text tables, and a run judged as a whole."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.data.split import make_split
from helpers.evaluation import leaderboard, metrics
from helpers.evaluation.leaderboard import differences_to_best, evaluate
from helpers.evaluation.settings import EvaluationConfig
from helpers.models.networks import MODEL_ROWS, build_model
from helpers.models.storage import save_model
from helpers.runs.manifest import artefact_digests
from helpers.serving.translator import Translator

SETTINGS = EvaluationConfig(bootstrap_samples=200, gallery_size=4, gallery_rounds=3, latency_repeats=3)
GROUPS = np.repeat(np.arange(30), 2)
COLUMNS = (("mrr", "MRR", ".3f"), ("parameters", "parameters", ",d"))


def test_differences_are_paired_with_the_best():
    rng = np.random.default_rng(0)
    good = rng.integers(1, 4, 60)
    ranks = {"linear": good + rng.integers(0, 3, 60), "mlp1": good, "mlp2": good * 1.0, "chance": good + 50}
    found = differences_to_best(ranks, GROUPS, SETTINGS)
    assert [(row["best"], row["model"]) for row in found] == [("mlp1", "linear"), ("mlp1", "mlp2"), ("mlp1", "chance")]
    by_model = {row["model"]: row for row in found}
    for name, row in by_model.items():
        assert row["difference"] == pytest.approx(np.mean(1 / good) - np.mean(1 / ranks[name]))
        expected = metrics.paired_difference(good, ranks[name], GROUPS, samples=200, seed=SETTINGS.seed)
        assert {key: row[key] for key in expected} == expected
    assert (by_model["mlp2"]["low"], by_model["mlp2"]["high"]) == (0, 0)
    assert by_model["chance"]["low"] > by_model["linear"]["low"] > 0
    json.dumps(found, allow_nan=False)


def test_the_best_is_found_by_mrr_and_not_by_mean_rank():
    ranks = {"steady": np.full(60, 2.0), "mostly": np.where(np.arange(60) < 50, 1.0, 100.0)}
    assert [row["best"] for row in differences_to_best(ranks, GROUPS, SETTINGS)] == ["mostly"]


def test_a_table_is_aligned():
    chance, mlp2 = {"mrr": 0.01, "parameters": 0}, {"mrr": 0.12345, "parameters": 3_671_552}
    text = leaderboard.format_table([{"model": "chance", **chance}, {"model": "mlp2", **mlp2}], COLUMNS)
    assert text.split("\n") == [
        "model     MRR  parameters",
        "chance  0.010           0",
        "mlp2    0.123   3,671,552",
    ]
    assert leaderboard.format_table([], COLUMNS) == "model  MRR  parameters"


def test_cells_wider_than_their_heading_widen_the_column():
    rows = [{"model": "a", "mrr": 12345.678, "parameters": 5}, {"model": "least_squares", "mrr": -1, "parameters": 10}]
    lines = leaderboard.format_table(rows, COLUMNS).split("\n")
    assert lines[1:] == ["a              12345.678           5", "least_squares     -1.000          10"]
    assert len({len(line) for line in lines}) == 1


def test_a_missing_value_is_a_dash():
    lines = leaderboard.format_table([{"model": "mlp1", "mrr": None, "parameters": 7}], COLUMNS).split("\n")
    assert lines == ["model  MRR  parameters", "mlp1     -           7"]


def test_captions_are_shown_from_both_ends():
    captions = [f"caption {i}" for i in range(6)]
    ranks = np.array([4.0, 1.0, 30.5, 1.0, 2.0, 100.0])
    lines = leaderboard.captions_by_rank(ranks, captions, 2).split("\n")
    assert [line.split("caption ")[1] for line in lines] == ["1", "3", "2", "5"]
    assert lines[2] == "rank    30.5  caption 2"
    few = leaderboard.captions_by_rank(ranks[:3], captions[:3], 2).split("\n")
    assert [line.split("caption ")[1] for line in few] == ["1", "0", "2"]  # none twice


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
    shape = {"text_dim": text_dim, "image_dim": image_dim, "hidden": 7}
    for name in MODEL_ROWS[1:]:
        torch.manual_seed(0)
        model = build_model(name, **shape)
        if name in ("least_squares", "procrustes", "cca"):
            model.set_affine(np.eye(image_dim, text_dim), np.zeros(image_dim))
        save_model(tmp_path, name, model, {"architecture": shape})
    return SimpleNamespace(
        split=split,
        data=SimpleNamespace(text=text, images=images),
        directory=tmp_path,
    )


def test_every_row_of_a_run_is_judged_alike(run):
    rows, ranks = evaluate(run, SETTINGS)
    assert [row["model"] for row in rows] == list(ranks) == list(MODEL_ROWS)
    json.dumps(rows, allow_nan=False)
    by_model = {row["model"]: row for row in rows}
    for name, row in by_model.items():
        assert ranks[name].shape == (75,) and 1 <= ranks[name].min() and ranks[name].max() <= 25
        assert row["mrr"] == pytest.approx(np.mean(1 / ranks[name]))
        assert row["mrr_low"] - 1e-12 <= row["mrr"] <= row["mrr_high"] + 1e-12
    perfect, chance, blank = (by_model[name] for name in ("procrustes", "chance", "bigjump"))
    assert (perfect["mrr"], perfect["recall_at_1"], perfect["challenge_mrr"]) == (1, 1, 1)
    assert chance["mrr"] == pytest.approx(sum(1 / rank for rank in range(1, 26)) / 25)
    assert chance["challenge_mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 0) / 4)
    assert chance["challenge_corrected_mrr"] == chance["challenge_mrr"]
    assert (chance["parameters"], chance["megabytes"]) == (0, 0)
    assert blank["median_rank"] == 13  # zero everywhere: all images tie
    assert (perfect["parameters"], perfect["megabytes"]) == (35, pytest.approx(35 * 4e-6))
    assert all(by_model[name]["cpu_ms_per_query"] > 0 for name in MODEL_ROWS[1:])
    # What the translator subtracts is what was judged.
    shifted = Translator.load(run.directory, "mlp1").for_dot_product(run.data.text[run.split.val_captions])
    gallery, targets = run.data.images[run.split.val_images], run.split.caption_to_gallery
    found = metrics.challenge_mrr(shifted, gallery, targets, gallery_size=4, rounds=3)
    assert by_model["mlp1"]["challenge_corrected_mrr"] == pytest.approx(found)


@pytest.mark.parametrize(
    ("gallery_size", "expected"),
    [(1, 1.0), (2, 1 / 2), (3, 1 / 2), (25, sum(1 / rank for rank in range(1, 25)) / 25)],
)
def test_chance_under_the_challenge_is_the_mean_over_all_ranks(run, gallery_size, expected):
    settings = EvaluationConfig(bootstrap_samples=2, gallery_size=gallery_size, gallery_rounds=1, latency_repeats=1)
    rows, _ = evaluate(run, settings)
    assert rows[0]["challenge_mrr"] == pytest.approx(expected)  # of one image the first place is the only one


def with_test_side(run):
    split = make_split(np.repeat(np.arange(50), 3), 50, val_ratio=0.4, test_ratio=0.3)
    return SimpleNamespace(**vars(run) | {"split": split})


def test_the_test_side_has_a_table_of_its_own(run):
    judged = with_test_side(run)
    rows = leaderboard.evaluate_test(judged, SETTINGS)
    path = run.directory / "test_leaderboard.json"
    assert json.loads(path.read_text()) == rows and "test_leaderboard.json" in artefact_digests(run.directory)
    assert not (run.directory / "leaderboard.json").exists()
    assert [row["model"] for row in rows] == list(MODEL_ROWS)
    by_model = {row["model"]: row for row in rows}
    assert by_model["procrustes"]["mrr"] == 1 and by_model["bigjump"]["median_rank"] == 8  # of 15 images
    assert all(row["mrr_low"] <= row["mrr"] <= row["mrr_high"] + 1e-12 for row in rows)
    _, ranks, _ = leaderboard.judge(judged, SETTINGS, "test")
    assert {len(values) for values in ranks.values()} == {45}
    validation, _ = evaluate(judged, SETTINGS)
    assert by_model["chance"]["mrr"] != next(row["mrr"] for row in validation if row["model"] == "chance")


def test_without_a_test_side_a_table_from_before_is_removed(run):
    leaderboard.evaluate_test(with_test_side(run), SETTINGS)
    assert leaderboard.evaluate_test(run, SETTINGS) == []
    assert not (run.directory / "test_leaderboard.json").exists()
    assert leaderboard.evaluate_test(run, SETTINGS) == []  # nor is it an error that there is none


def test_the_model_that_validation_chose_is_named_whoever_leads_the_test():
    def table(**mrr):
        return [{"model": n, "mrr": v, "mrr_low": v - 0.1, "mrr_high": v + 0.1} for n, v in mrr.items()]

    validation, test = table(chance=0.9, mlp1=0.5, bigjump=0.4), table(chance=0.1, mlp1=0.3, bigjump=0.6)
    said = "chosen by validation: mlp1, test MRR 0.300 (0.200 to 0.400)"
    assert leaderboard.chosen_on_test(validation, test) == said
    assert leaderboard.chosen_on_test(validation, []) == "no test split: test_ratio is 0"


def test_the_least_gain_leaves_chance_out():
    rows = [{"model": name, "a": a, "b": b} for name, a, b in [("chance", None, 1), ("x", 3, 1), ("y", 2, 1.5)]]
    assert leaderboard.least_gain(rows, "a", "b") == 0.5
    assert leaderboard.least_gain([*rows, {"model": "z", "a": 0, "b": 1}], "a", "b") == -1
