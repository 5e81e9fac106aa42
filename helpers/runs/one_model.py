"""The command line that trains or fits one row of a run: `python -m helpers.train RUN --model NAME`, or by torchrun."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from helpers.errors import ConfigError
from helpers.models import storage
from helpers.runs import recipes
from helpers.runs.parameters import parse_value
from helpers.runs.recipes import GEOMETRY_POWERS, RECIPES
from helpers.runs.run import Run, open_run
from helpers.runs.settings import RunConfig
from helpers.system import paths, processes
from helpers.system.console import run_command
from helpers.system.settings import field_names, require, settings_of, unknown_name

FLAGS = ("profile", "run", "data_dir")
"""Settings that have a flag of their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.train",
        description="Train or fit one model of a run, in one process; or in several that work together, started by "
        "torchrun --nproc-per-node=N -m helpers.train ...",
    )
    parser.add_argument("run", metavar="RUN", help="name of the folder under runs/")
    parser.add_argument("--model", required=True, metavar="NAME", help=f"one of: {', '.join(RECIPES)}")
    parser.add_argument("--data-dir", metavar="DIR", help="folder with train.npz (default: the demo data)")
    parser.add_argument("--runs-dir", metavar="DIR", help="folder that holds the runs")
    parser.add_argument("--anew", action="store_true", help="do not go on with an interrupted training")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a setting; repeatable"
    )
    options = parser.parse_args(arguments)
    if options.runs_dir:
        os.environ["HELPERS_RUNS_DIR"] = str(paths.expanded(options.runs_dir).resolve())
    interrupted = "interrupted; the same command goes on with the training"
    return run_command(lambda: processes.together(lambda: train_row(options)), "--runs-dir", interrupted)


def train_row(options: argparse.Namespace) -> str | None:
    """Make the row and store it, where the notebooks find it; returns what to print, in the first process.

    Raises:
        UserError: whatever the user can mend.
    """
    name, given = options.model, {setting: parse_value(value) for setting, value in options.p}
    recipe = RECIPES.get(name)
    if recipe is None:
        raise ConfigError(f"No model is called {name!r}. There are: {', '.join(RECIPES)}.")
    known = {*field_names(RunConfig), *field_names(recipe.kind)} - set(FLAGS)
    for setting in given:
        require(setting in known, unknown_name(setting, known))
    recipe.kind(**settings_of(recipe.kind, given))  # a bad value is told before data are read
    profile = "challenge" if options.data_dir else "demo"
    data_dir = str(paths.expanded(options.data_dir).resolve()) if options.data_dir else None
    run = open_run({}, profile=profile, run=options.run, data_dir=data_dir, **settings_of(RunConfig, given))
    if processes.is_first():
        run.save()
    make(run, name, replace(recipe.defaults(run), **settings_of(recipe.kind, given)), resume=not options.anew)
    mrr = processes.first_tells(lambda: run.mrr(name))  # the others wait as long as it takes
    if not processes.is_first():
        return None
    return f"{storage.model_path(run.directory, name)}\nvalidation MRR {mrr:.4f}"


def make(run: Run, name: str, settings: Any, resume: bool) -> None:
    """Fit or train a row with the very settings given, and store it."""
    if name in GEOMETRY_POWERS:
        recipes.save_geometry(run, recipes.fit_geometry(run, settings), settings)
    elif name in recipes.STARTS:
        recipes.train(run, name, settings, resume)
    else:
        RECIPES[name].make(run, name, settings)
