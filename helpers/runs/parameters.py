"""The notebooks of the series, and which parameters each of them is given."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill

from helpers.errors import ConfigError
from helpers.runs.run import STAGES
from helpers.runs.settings import RunConfig
from helpers.system import paths
from helpers.system.settings import field_names, require, unknown_name
from helpers.training.objectives import BigJumpConfig
from helpers.training.settings import PlusConfig

Given = dict[str, Any]


def notebooks(only: str | None = None) -> list[Path]:
    """The notebooks in order, or the one whose name begins with `only`.

    Raises:
        ConfigError: the project's folder has none, or not exactly one begins so.
    """
    found = sorted(paths.NOTEBOOKS_DIR.glob("[0-9][0-9]_*.ipynb"))
    require(bool(found), "The series needs a checkout of the project, with its notebooks/: install it from there.")
    if only is None:
        return found
    chosen = [path for path in found if path.name.startswith(only)]
    names = ", ".join(path.stem for path in found)
    require(len(chosen) == 1, f"--only {only}: {len(chosen)} notebooks begin so, not one. There are: {names}.")
    return chosen


def parse_value(text: str) -> object:
    """A Python literal (number, True, None, list, quoted text), or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that `literal_eval` may raise
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def literal(path: Path) -> str:
    """A path as papermill takes it, which fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def deal(given: Mapping[str, Any], chosen: list[Path]) -> dict[Path, Given]:
    """What each notebook is given: its own parameters by their names, any other setting of its stage by `overrides`.

    Raises:
        ConfigError: a name that no chosen notebook knows, a value of another type or out of its range, or a setting
            without effect.
    """
    dealt: dict[Path, Given] = {}
    every: set[str] = set()
    for path in chosen:
        cell = set(papermill.inspect_notebook(literal(path)))
        kinds = [kind for kind in (RunConfig, STAGES.get(path.name[:2])) if kind]
        settings = {name for kind in kinds for name in field_names(kind)}
        every |= cell | settings
        dealt[path] = {name: value for name, value in given.items() if name in cell}
        if others := {name: value for name, value in given.items() if name in settings - cell}:
            dealt[path]["overrides"] = others
    for name in given:
        require(name in every - {"overrides"}, unknown_name(name, every - {"overrides"}))
    return dealt


def flat(dealt: Mapping[str, Any]) -> Given:
    """What a notebook is given, its overrides among the rest."""
    overrides = dealt.get("overrides", {})
    require(isinstance(overrides, dict), f"overrides = {overrides!r}: a dict is needed, such as {{'epochs': 10}}.")
    return {**{name: value for name, value in dealt.items() if name != "overrides"}, **overrides}


def check(dealt: Mapping[Path, Given], recorded: bool = False) -> RunConfig:
    """Build the settings of every notebook, so that a bad value is told at once; returns those of the run.

    Args:
        recorded: of several calls, where a parameter without effect in one notebook was meant for another.

    Raises:
        ConfigError: a value is of another type or out of its range, or has no effect.
    """
    run: Given = {}
    for path, of_notebook in dealt.items():
        given = flat(of_notebook)
        run |= {name: given[name] for name in field_names(RunConfig) if name in given}
        if stage := STAGES.get(path.name[:2]):
            stage(**{name: given[name] for name in field_names(stage) if name in given})
        resume = given.get("resume", True)
        require(isinstance(resume, bool), f"resume = {resume!r}: True or False is needed.")
        plus_config(given.get("plus_settings", {}))
        if path.name.startswith("04") and not recorded:
            elsewhere = {name for other, values in dealt.items() if other != path for name in flat(values)}
            _require_effect(given, elsewhere)
    return RunConfig(**run)


def plus_config(given: object, **more: Any) -> PlusConfig:
    """`PlusConfig` with some of its settings replaced.

    Raises:
        ConfigError: no dict, an unknown name, or a value of another type or out of its range.
    """
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise ConfigError(f"plus_settings = {given!r}: give a dict, such as {{'members': 4}}.")
    return PlusConfig(**{**more, **given})


def _require_effect(given: Given, elsewhere: set[str]) -> None:
    """Raise `ConfigError` where a parameter of notebook 04 belongs to the recipe that is not trained.

    Args:
        given: the notebook's parameters. elsewhere: names that another notebook was given too, and may use.
    """
    recipe = given.get("recipe", "published")
    require(recipe in ("published", "plus"), f"recipe = {recipe!r}: one of published, plus.")
    if recipe == "published":
        asked = "plus_settings" in given
        require(not asked, "plus_settings has no effect with the recipe 'published'. Add -p recipe plus.")
        return
    idle = sorted(set(given) & set(field_names(BigJumpConfig)) - elsewhere - {"seed"})
    require(not idle, f"{', '.join(idle)}: no effect with the recipe 'plus', which has plus_settings.")
