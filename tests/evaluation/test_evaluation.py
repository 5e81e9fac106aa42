"""The leaderboard: differences to the best, chance, and text tables."""

import json

import numpy as np
import pytest

from helpers.data.pairs import PairedEmbeddings
from helpers.data.split import make_split
from helpers.evaluation import leaderboard, metrics
from helpers.evaluation.leaderboard import differences_to_best
from helpers.evaluation.settings import EvaluationConfig

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


@pytest.mark.parametrize(
    ("gallery_size", "expected"),
    [(1, 1.0), (2, 1 / 2), (3, 1 / 2), (25, sum(1 / rank for rank in range(1, 25)) / 25)],
)
def test_chance_under_the_challenge_is_the_mean_over_all_ranks(gallery_size, expected):
    settings = EvaluationConfig(bootstrap_samples=2, gallery_size=gallery_size, gallery_rounds=1, latency_repeats=1)
    vectors, targets = np.eye(50, 6, dtype=np.float32) + 1, np.repeat(np.arange(50), 3)
    data = PairedEmbeddings(vectors[targets], vectors, targets, ["a caption"] * 150, ["an image"] * 50, "fingerprint")
    (row,) = leaderboard.judge({}, data, make_split(targets, 50, val_ratio=0.5), settings).rows
    assert row["challenge_mrr"] == pytest.approx(expected)  # of one image the first place is the only one


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
