"""What a page of the series shows beside its figures: sentences and tables that the run computes.

A notebook states no outcome of its own, since the same page is run on other data: each sentence about a result is put
together here, or in the cell itself, from the numbers at hand, and shown by `note`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from helpers.models.build import ROWS
from helpers.training.plus_choice import Choice

LEVEL = 0.0005
"""Scores that differ by less read alike at three digits, and are called level."""
Columns = Sequence[tuple[str, str, str]]  # key, heading and format of each


def note(*sentences: str) -> None:
    """Show sentences as one paragraph of the page; nothing where all are empty."""
    if text := " ".join(sentence for sentence in sentences if sentence):
        display(Markdown(text))


def sentence(text: str) -> str:
    """Text with a capital at its start and a full stop at its end."""
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


def label(model: str) -> str:
    """The name of a leaderboard row in figures and text."""
    return ROWS[model].label if model in ROWS else model


def listed(items: Iterable[object]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    *first, last = (str(item) for item in items)
    return f"{', '.join(first)} and {last}" if first else last


def counted(n: int, what: str, plural: str | None = None) -> str:
    """`1 caption`, `2,000 captions`."""
    return f"{n:,} {what if n == 1 else plural or what + 's'}"


def versus(name: str, value: float, other: str, other_value: float) -> str:
    """Which of two scores is ahead, and by how much: a clause without a full stop, the better first."""
    if abs(value - other_value) < LEVEL:
        return f"{name} and {other} are level at {value:.3f}"
    if value < other_value:
        (name, value), (other, other_value) = (other, other_value), (name, value)
    return f"{name} ({value:.3f}) is ahead of {other} ({other_value:.3f}) by {value - other_value:.3f}"


def in_order(scores: Mapping[str, float]) -> str:
    """Models by their score, best first: `BigJump 0.589, Weighted CCA 0.512`."""
    return ", ".join(f"{label(name)} {scores[name]:.3f}" for name in sorted(scores, key=lambda name: -scores[name]))


def peak(scores: Mapping[str, float]) -> str:
    """Which of several settings ranks best, or that all rank alike."""
    best = max(scores, key=lambda name: scores[name])
    if scores[best] - min(scores.values()) < LEVEL:
        return f"all rank alike, at {scores[best]:.3f}"
    return f"{best} ranks best, with {scores[best]:.3f}"


def several(names: Sequence[str], of: Sequence[str], what: str) -> str:
    """How many of some models do something: `none of the 3 networks`, `LinearProj and MLP1`, `all 3 networks`."""
    if len(names) == len(of) > 1:
        return f"all {len(of)} {what}"
    return listed(map(label, names)) if names else f"none of the {len(of)} {what}"


def lead(difference: Mapping[str, Any]) -> str:
    """What a paired difference with its interval says about two models, see `evaluation.differences_to_best`."""
    best, other = label(difference["best"]), label(difference["model"])
    by = f"{difference['difference']:.3f} ({difference['low']:.3f} to {difference['high']:.3f})"
    if difference["low"] > 0:
        return f"{best} leads {other} by {by}: the interval leaves out 0."
    return f"{best} leads {other} by {by}: the interval holds 0, so these captions do not tell the two apart."


def kind(networks: Mapping[str, Any]) -> str:
    """Depth and whitening of networks of the recipe plus: `one hidden layer, whitened`."""
    depth = counted(networks["blocks"], "residual block") if networks["blocks"] else "one hidden layer"
    return depth + (", whitened" if networks["whitening"] else "")


def choice(made: Choice) -> str:
    """What the folds chose for the recipe `plus`, as a list of a few words each."""
    kinds = [
        f"{counted(of['members'], 'network')} of {kind(of)} (temperature {of['temperature']:g}, "
        f"{counted(of['epochs'], 'epoch')})"
        for of in made.networks.values()
    ]
    closed = {name: weight for name, weight in made.weights.items() if name not in made.networks}
    beside = "no closed form joins them"
    if closed:
        joined = listed(f"{label(name)} with a weight of {weight:.2g}" for name, weight in closed.items())
        beside = f"{joined} {'join' if len(closed) > 1 else 'joins'} them"
    said = f"{listed(kinds)}; {beside}"
    return said + (f"; the budget left no time for {listed(made.left_out)}" if made.left_out else "")


def table(rows: Iterable[Mapping[str, Any]], columns: Columns, index: str = "model") -> pd.DataFrame:
    """Rows as a table, one line a model; a missing value is a dash.

    Args:
        rows: with the key `index` and those that `columns` names.
        columns: (key, heading, format spec) each.
    """
    rows = list(rows)
    cells = [["–" if row.get(key) is None else format(row[key], spec) for key, _, spec in columns] for row in rows]
    names = pd.Index([label(str(row[index])) for row in rows], name=index)
    return pd.DataFrame(cells, index=names, columns=[heading for _, heading, _ in columns])


def spread(values: np.ndarray) -> str:
    """`26.0`, or `26.0 ± 0.7` where values differ."""
    values = np.asarray(values, dtype=np.float64)
    deviation = values.std()
    return f"{values.mean():.1f}" + (f" ± {deviation:.1f}" if deviation >= 0.05 else "")
