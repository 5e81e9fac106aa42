"""The leaderboard of a run: reads its models, writes what judging them leaves in its folder."""

from __future__ import annotations

import numpy as np
from torch import nn

from helpers.data.vectors import marks
from helpers.evaluation import dot_product, hubness
from helpers.evaluation.leaderboard import LeaderboardRow, judge, measure_cost
from helpers.evaluation.settings import EvaluationConfig
from helpers.models import storage
from helpers.models.build import ROWS
from helpers.runs.run import Run
from helpers.system import files
from helpers.system.devices import choose_device

LEADERBOARD, TEST_LEADERBOARD = "leaderboard.json", "test_leaderboard.json"


def stored_models(run: Run) -> dict[str, nn.Module]:
    """Every model of the leaderboard, as the run holds it.

    Raises:
        CheckpointError: one is missing or damaged.
    """
    return {name: storage.load_model(run.directory, name)[0] for name, row in ROWS.items() if row.build is not None}


def evaluate(run: Run, settings: EvaluationConfig) -> tuple[list[LeaderboardRow], dict[str, np.ndarray]]:
    """Judge every stored model of a run on its validation split, measure what it costs, and write `leaderboard.json`.

    What `Translator.search` needs for hubness reduction, and `Translator.for_dot_product` is written beside it.

    Returns:
        Rows, each with its costs and, of a model, the digest of the weights that were judged; and the ranks (V,) of
        each row.
    """
    models = stored_models(run)
    found = judge(models, run.data, run.split, settings)
    dot_product.save(run.directory, found.corrections)
    bank = hubness.sample(run.split.train_captions)
    own = marks(run.data.images[run.data.targets[bank]])
    hubness.save_query_bank(run.directory, run.data.text[bank], own, found.betas)
    for row in found.rows:
        if row["model"] == "chance":
            row |= {"parameters": 0, "megabytes": 0.0, "cpu_ms_per_query": 0.0, "gpu_ms_per_query": None}
        else:
            model = models[row["model"]]
            row |= measure_cost(model, run.data.text.shape[1], choose_device(), settings.latency_repeats)
            row["weights"] = storage.weights_digest(run.directory, row["model"])
    files.write_json(run.directory / LEADERBOARD, found.rows)
    return found.rows, found.ranks


def evaluate_test(run: Run, settings: EvaluationConfig) -> list[LeaderboardRow]:
    """Judge every stored model on the test split and write `test_leaderboard.json`.

    Without a test split there are no rows, and a file that an earlier run left is removed.
    """
    path = run.directory / TEST_LEADERBOARD
    if not run.split.has_test:
        path.unlink(missing_ok=True)
        return []
    rows = judge(stored_models(run), run.data, run.split, settings, "test").rows
    files.write_json(path, rows)
    return rows
