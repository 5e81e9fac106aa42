"""What the recipe `plus` chooses on cross-validation folds of the training images; see `plus_search`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from helpers.training.closed_forms import Found
from helpers.training.selection import Step
from helpers.training.settings import PlusConfig


class Networks(TypedDict):
    """Networks of one kind.

    Attributes:
        temperature: in units of the spread of the unit image vectors.
        whitening: power of the whitening of their input; with 0 it is standardised alone.
        blocks: residual blocks of a network; 0 is one hidden layer.
        epochs: passes over the training captions; in a `Choice` what was best for one network alone.
        members: how many there are.
    """

    temperature: float
    whitening: float
    blocks: int
    epochs: int
    members: int


def kind_name(whitening: float, blocks: int) -> str:
    """What networks of a kind are called among the parts of an ensemble."""
    deep = f"_blocks{blocks}" if blocks else ""
    return "networks" + deep + (f"_whitened{round(100 * whitening)}" if whitening else "")


class Curve(TypedDict):
    """A candidate of the search, and its mean MRR over the folds by epoch.

    Attributes:
        given_up: it was hopeless, and not trained to the end.
    """

    temperature: float
    whitening: float
    blocks: int
    given_up: bool
    mrr: list[float]


@dataclass(frozen=True)
class Choice:
    """What the folds chose.

    Attributes:
        networks: of each kind that is trained, by the name of the part.
        curves: one for each candidate.
        closed_forms: of `cca` and `kernel`, the setting that ranks best, and its mean MRR over the folds, with few
            landmarks.
        alone: mean MRR over the folds of each kind of networks and of each closed form, as they are weighed. A fold's
            gallery is smaller than the real one.
        weights: of the parts that join in the mean, of sum 1.
        path: how the weights were found, see `selection.choose_weights`.
        left_out: what the budget had no time for.
    """

    networks: dict[str, Networks]
    curves: list[Curve]
    closed_forms: dict[str, Found]
    alone: dict[str, float]
    weights: dict[str, float]
    path: list[Step]
    left_out: list[str]

    @property
    def together(self) -> float:
        """Mean MRR over the folds of the weighted mean."""
        return max(step["mrr"] for step in self.path)


def deal_members(weights: Mapping[str, float], members: int) -> dict[str, int]:
    """How many networks of each kind there are where so many are trained: at least one, the rest by weight.

    Args:
        weights: of the kinds, positive.
        members: of all kinds together, at least as many as there are kinds.
    """
    dealt = dict.fromkeys(weights, 1)
    for _ in range(members - len(weights)):
        # Who has least for its weight; the first of equals (D'Hondt's rule).
        dealt[max(dealt, key=lambda name: weights[name] / (dealt[name] + 1))] += 1
    return dealt


def epochs_of_training(settings: PlusConfig, epochs: int) -> int:
    """Epochs of the ensemble where so many were best for one network."""
    return math.ceil(settings.longer * epochs - 1e-9)
