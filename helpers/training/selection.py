"""How much of each translator joins in a mean: weights chosen greedily on cross-validation folds.

One translator after the other joins, each time the one with which the mean ranks best; one may join several times, and
its weight is its share of all (Caruana et al., 2004). Few steps and few translators: what is chosen fits the folds
hardly better than other data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch

STEPS = 20
"""Translators that join: weights are multiples of a twentieth at the finest."""


class Step(TypedDict):
    """Who joined, and the mean MRR over the folds from then on."""

    added: str
    mrr: float


def mrr_of(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """MRR of captions that score the images of a gallery; equal scores share their places.

    Args:
        scores: (V, G). positive: (V,) column of each caption's own image.
    """
    own = scores.gather(1, positive[:, None])  # (V, 1)
    above, level = (scores > own).sum(1), (scores == own).sum(1)  # the own image is level with itself
    return float((1 / (1 + above + (level - 1) / 2).double()).mean())


def choose_weights(
    scores: Mapping[str, Sequence[torch.Tensor]], positive: Sequence[torch.Tensor], first: str
) -> tuple[dict[str, float], list[Step]]:
    """Weights of the translators whose mean ranks best on the folds.

    Args:
        scores: by translator, for each fold, (V, G) scores of its unit translations against unit images.
        positive: for each fold, (V,) column of each caption's own image.
        first: joins before the others, and so always has a weight.

    Returns:
        The weights, of sum 1, of those that joined, and each step that was taken; those after the best do not count.
    """
    sums = [torch.zeros_like(fold) for fold in scores[first]]

    def with_one_more(name: str) -> float:
        pairs = zip(sums, scores[name], positive, strict=True)
        return sum(mrr_of(total + more, own) for total, more, own in pairs) / len(sums)

    path: list[Step] = []
    for step in range(STEPS):
        found = {name: with_one_more(name) for name in (scores if step else (first,))}
        best = max(found, key=lambda name: found[name])  # the first of equals
        for total, more in zip(sums, scores[best], strict=True):
            total += more
        path.append({"added": best, "mrr": found[best]})
    end = max(range(STEPS), key=lambda step: path[step]["mrr"]) + 1
    joined = [step["added"] for step in path[:end]]
    return {name: joined.count(name) / end for name in scores if name in joined}, path
