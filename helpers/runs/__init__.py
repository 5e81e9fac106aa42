"""Runs of the series: settings, the models of a run and how they are made, the notebooks in order.

settings: `RunConfig`, which data a run reads and how it is split.
run: `open_run` and the `Run` that it gives.
recipes: how each model of a run is found or made.
leaderboard: every model of a run judged, and what judging leaves for `Translator`.
galleries, run_index: what is searched with a run, and its index. search, app: their command lines.
one_model: the command line that makes one model, in one process or in several.
parameters, series: the notebooks through papermill. manifest: what a run was made from, and what it made.
"""

from helpers.runs.leaderboard import evaluate, evaluate_test
from helpers.runs.recipes import (
    BASELINES,
    GEOMETRY_POWERS,
    find_or_make,
    fit_geometry,
    plus_defaults,
    save_closed_form,
    save_geometry,
    train,
    training_statistics,
)
from helpers.runs.run import Run, open_run
from helpers.runs.settings import RunConfig

__all__ = [
    "BASELINES",
    "GEOMETRY_POWERS",
    "Run",
    "RunConfig",
    "evaluate",
    "evaluate_test",
    "find_or_make",
    "fit_geometry",
    "open_run",
    "plus_defaults",
    "save_closed_form",
    "save_geometry",
    "train",
    "training_statistics",
]
