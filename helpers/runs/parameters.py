"""The notebooks of the series and their parameters: which there are, what they may be, and what a run makes of them."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

import papermill

from helpers.training.settings import plus_config
from helpers.system.settings import field_names
from helpers.errors import ConfigError
from helpers.evaluation.settings import EvaluationConfig
from helpers.models.geometry import GeometryConfig
from helpers.runs.settings import RunConfig
from helpers.system import paths, settings
from helpers.system.settings import is_like, require
from helpers.training import settings
from helpers.training.settings import BaselineConfig, BigJumpConfig, RECIPES

STAGES = {"02": GeometryConfig, "03": BaselineConfig, "04": BigJumpConfig, "05": EvaluationConfig}
"""What a notebook builds from its parameters beside the `RunConfig` that all share."""


def notebooks(only: str | None = None) -> list[Path]:
    """The notebooks in order, or the one whose name begins with `only`.

    Raises:
        ConfigError: none does, or several do.
    """
    found = sorted(paths.NOTEBOOKS_DIR.glob("[0-9][0-9]_*.ipynb"))
    if only is None:
        return found
    chosen = [path for path in found if path.name.startswith(only)]
    if len(chosen) != 1:
        names = ", ".join(path.stem for path in found)
        raise ConfigError(f"--only {only}: {len(chosen)} notebooks begin so, not one. There are: {names}.")
    return chosen


def known_parameters(path: Path) -> dict[str, object]:
    """Names and default values in a notebook's `parameters` cell."""
    inspected = papermill.inspect_notebook(literal(path))
    return {name: ast.literal_eval(metadata["default"]) for name, metadata in inspected.items()}


def check_parameters(given: dict[str, object], chosen: list[Path]) -> dict[Path, dict[str, object]]:
    """Deal parameters out to the notebooks that have them; papermill itself would ignore unknown names in silence.

    Raises:
        ConfigError: a name that no chosen notebook has, or a value whose type differs from the default's.
    """
    known = {path: known_parameters(path) for path in chosen}
    every = {name: default for parameters in known.values() for name, default in parameters.items()}
    for name, value in given.items():
        if name not in every:
            close = difflib.get_close_matches(name, every, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"Unknown parameter {name!r}.{hint} Known: {', '.join(sorted(every))}.")
        default = every[name]
        if default is not None and not is_like(value, default):
            raise ConfigError(f"Parameter {name} = {value!r}: give a value of the type of its default, {default!r}.")
    return {path: {n: v for n, v in given.items() if n in parameters} for path, parameters in known.items()}


def parse_value(text: str) -> object:
    """A Python literal (number, True, None, list, quoted text), or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that `literal_eval` may raise
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def literal(path: Path) -> str:
    """A path as papermill takes it, which fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def build_settings(dealt: dict[Path, dict[str, object]], recorded: bool = False) -> RunConfig:
    """The run's settings; builds those of every notebook as well, so that a value out of range is told at once.

    Args:
        recorded: of several calls, where a parameter without effect in one notebook was meant for another.

    Raises:
        ConfigError: a value is out of its range.
    """
    run: dict[str, object] = {}
    for path, given in dealt.items():
        run |= {name: given[name] for name in field_names(RunConfig) if name in given}
        stage = STAGES.get(path.name[:2])
        if stage is not None:
            stage(**{name: given[name] for name in field_names(stage) if name in given})
        if "recipe" in given:
            require(given["recipe"] in RECIPES, f"recipe = {given['recipe']!r}: one of {', '.join(RECIPES)}.")
        if "plus_settings" in given:
            plus_config(given["plus_settings"])
        elsewhere = {name for other, values in dealt.items() if other != path for name in values}
        if not recorded:
            _require_effect(given, elsewhere)
    return RunConfig(**run)


def _require_effect(given: dict[str, object], elsewhere: set[str]) -> None:
    """Raise `ConfigError` where a parameter of notebook 04 belongs to the recipe that is not trained.

    Args:
        given: the notebook's parameters. elsewhere: names that another notebook was given too, and may use.
    """
    if given.get("recipe") != "plus":
        asked = "plus_settings" in given
        require(not asked, "plus_settings has no effect with the recipe 'published'. Add -p recipe plus.")
        return
    idle = sorted(set(given) & set(field_names(BigJumpConfig)) - elsewhere - {"seed"})
    message = f"{', '.join(idle)}: no effect with the recipe 'plus', which has plus_settings."
    require(not idle, message)
