"""The notebooks of the series, and which parameters each of them is given."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill

from helpers.runs.run import STAGES
from helpers.runs.settings import RunConfig
from helpers.system import paths
from helpers.system.settings import field_names, require, settings_of, unknown_name
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
        ConfigError: a name that no chosen notebook knows.
    """
    dealt: dict[Path, Given] = {}
    every: set[str] = set()
    for path in chosen:
        cell = set(papermill.inspect_notebook(literal(path))) - {"overrides"}
        settings = {name for kind in _kinds(path) for name in field_names(kind)}
        every |= cell | settings
        dealt[path] = {name: value for name, value in given.items() if name in cell}
        if others := {name: value for name, value in given.items() if name in settings - cell}:
            dealt[path]["overrides"] = others
    for name in given:
        require(name in every, unknown_name(name, every))
    return dealt


def check(dealt: Mapping[Path, Given]) -> RunConfig:
    """Build the settings of every notebook, so that a bad value is told at once; returns those of the run.

    Raises:
        ConfigError: a value is of another type or out of its range.
    """
    run: Given = {}
    for path, parameters in dealt.items():
        given = parameters | parameters.get("overrides", {})
        for kind in _kinds(path):
            kind(**settings_of(kind, given))
        run |= settings_of(RunConfig, given)
        resume, plus = given.get("resume", True), given.get("plus_settings", {})
        require(isinstance(resume, bool), f"resume = {resume!r}: True or False is needed.")
        named = isinstance(plus, dict) and all(isinstance(name, str) for name in plus)
        require(named, f"plus_settings = {plus!r}: give a dict, such as {{'members': 4}}.")
        PlusConfig(**{"budget": given.get("budget")} | plus)
    return RunConfig(**run)


def _kinds(path: Path) -> list[Any]:
    """The classes of the settings that a notebook knows."""
    return [RunConfig, *STAGES.get(path.name[:2], ())]
