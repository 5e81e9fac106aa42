"""What the recipe `plus` chooses on cross-validation folds of the training images; validation plays no part.

The closed forms come first: weighted CCA and its kernel map take seconds. Then networks: their temperature and number
of epochs; whether captions are partly whitened first, which helps where a few directions of the text space dominate it;
whether residual blocks help. Last, how much of each joins in the mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.training import loop
from helpers.training.closed_forms import FITS, SEARCHES, Found
from helpers.training.folds import make_folds
from helpers.training.plus import (
    CLEAR_GAIN,
    Choice,
    Curve,
    PlusObjective,
    basis_for,
    build_networks,
    derived,
    epochs_of_training,
    members_for,
)
from helpers.training.selection import choose_weights, mrr_of
from helpers.training.settings import PlusConfig

NEAR = 0.03
"""Networks of a fold whose MRR is behind the best by this share or more have no part in the mean that is weighed."""


class Network(NamedTuple):
    """A candidate of the search."""

    temperature: float
    whitening: float
    blocks: int

    def __str__(self) -> str:
        whitened = f", whitened {self.whitening:g}" if self.whitening else ""
        deep = f", blocks {self.blocks}" if self.blocks else ""
        return f"temperature {self.temperature:g}{whitened}{deep}"


@dataclass(frozen=True)
class Candidate:
    """What became of a candidate on the folds.

    Attributes:
        mrr: by epoch, mean over the folds.
        by_fold: by epoch, of each fold.
        translations: (V, dy) for each fold, each from the best epoch of its network.
        seconds: of an epoch on all folds.
    """

    mrr: list[float]
    by_fold: list[list[float]]
    translations: list[torch.Tensor]
    seconds: float


Tried = dict[Network, Candidate]
"""In the order in which they were tried."""


class Clock:
    """What is left of a budget, for a search and the training after it.

    Args:
        minutes: of both together; None for no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        self._ends = None if minutes is None else time.monotonic() + 60 * minutes

    def left(self) -> float:
        """Seconds, infinite without a limit."""
        return np.inf if self._ends is None else self._ends - time.monotonic()


def search(data: TrainingData, settings: PlusConfig, known: Mapping[str, Found] = MappingProxyType({})) -> Choice:
    """Choose networks, closed forms and their weights on cross-validation folds, within the budget of the settings.

    One network is trained for each candidate and fold.

    Args:
        known: closed forms whose setting the same folds have chosen already.

    Raises:
        SplitError: too few training images, see `folds.held_out`.
    """
    clock = Clock(settings.budget)
    folds = make_folds(data, settings)
    bases = [basis_for(fold_data, settings) for fold_data in folds]
    closed_forms: dict[str, Found] = {}
    for name in settings.closed_forms:
        closed_forms[name] = known[name] if name in known else SEARCHES[name](folds)
    chosen, tried, left_out = search_networks(folds, bases, settings, clock)
    of_chosen = tried[chosen]
    epoch = int(np.argmax(of_chosen.mrr)) + 1
    most = members_for(data.text.shape[1], data.images.shape[1], bases[0].shape[1], settings, chosen.blocks)
    each = of_chosen.seconds / len(folds) * epochs_of_training(settings, epoch) / (1 - settings.fold_ratio)
    members = int(max(1, min(most, clock.left() / each)))
    if members < most:
        left_out.append(f"{most - members} of {most} networks")
    scores = {"networks": _scores(mean_of_near(tried, chosen), folds)}
    for part, found in closed_forms.items():
        scores[part] = _closed_form_scores(part, found, folds, settings.landmarks)
    positive = [fold.val_positive for fold in folds]
    alone = {part: float(np.mean(list(map(mrr_of, of, positive)))) for part, of in scores.items()}
    weights, path = choose_weights(scores, positive, first="networks")
    curves: list[Curve] = [
        {"temperature": at.temperature, "whitening": at.whitening, "blocks": at.blocks, "mrr": tried[at].mrr}
        for at in sorted(tried)
    ]
    return Choice(
        *chosen, epoch, of_chosen.mrr[epoch - 1], curves, closed_forms, alone, weights, path, members, left_out
    )


def search_networks(
    folds: Sequence[TrainingData], bases: Sequence[np.ndarray], settings: PlusConfig, clock: Clock
) -> tuple[Network, Tried, list[str]]:
    """The network that ranks best on the folds, all that were tried, and those for which the budget had no time.

    Half of the budget is kept for the training.

    Args:
        bases: (dy, r) of each fold, see `plus.basis_for`.
    """
    seconds, left_out, reserved = [0.0], [], clock.left() / 2
    most = len(settings.temperatures) * len(settings.blocks) + len(settings.whitenings) - 1

    def attempt(network: Network, tried: Tried) -> Candidate | None:
        if tried and clock.left() - max(seconds) < reserved:
            left_out.append(str(network))
            return None
        leader = leader_of(tried) if tried else None
        name = f"candidate {len(tried) + 1} of at most {most} ({network})"
        best = f", best so far {max(tried[leader].mrr):.3f} ({leader})" if leader else ""
        rival = tried[leader].by_fold if leader else None
        started = time.monotonic()
        found = train_candidate(folds, bases, settings, network, name, best, rival, clock.left() - reserved)
        seconds.append(time.monotonic() - started)
        return found

    chosen, tried = choose_candidate(settings, attempt)
    return chosen, tried, left_out


def choose_candidate(
    settings: PlusConfig, attempt: Callable[[Network, Tried], Candidate | None]
) -> tuple[Network, Tried]:
    """Walk over whitenings, temperatures and depths to the best of them.

    Each whitening is tried at the middle temperature, then other temperatures at the whitening that did best, then
    other depths there, and where one is better the temperatures beside it. MRR rises and falls once along the
    temperatures, so the walk goes on while it gets clearly better (`CLEAR_GAIN`): few images cannot tell near ones
    apart, and chance would choose among them.

    Args:
        attempt: what becomes of a network, given those before it; each is asked for once. None where there is no time.

    Returns:
        The network chosen, and every candidate that was tried.
    """
    temperatures, tried, asked = settings.temperatures, Tried(), set()

    def better(network: Network, than: Network) -> bool:
        if network not in asked:
            asked.add(network)
            found = attempt(network, tried)
            if found is not None:
                tried[network] = found
        return network in tried and max(tried[network].mrr) > (1 + CLEAR_GAIN) * max(tried[than].mrr)

    def walk(network: Network) -> Network:
        for step in (-1, 1):
            index = temperatures.index(network.temperature) + step
            while 0 <= index < len(temperatures):
                beside = network._replace(temperature=temperatures[index])
                if not better(beside, network):
                    break
                network, index = beside, index + step
        return network

    best = Network(temperatures[len(temperatures) // 2], settings.whitenings[0], settings.blocks[0])
    first = attempt(best, tried)
    assert first is not None  # there is always time for one
    asked.add(best)
    tried[best] = first
    for whitening in settings.whitenings[1:]:
        other = best._replace(whitening=whitening)
        best = other if better(other, best) else best
    best = walk(best)
    for blocks in settings.blocks[1:]:
        other = best._replace(blocks=blocks)
        best = walk(other) if better(other, best) else best
    return best, tried


def leader_of(tried: Tried) -> Network:
    """The candidate that ranks best."""
    return max(tried, key=lambda network: max(tried[network].mrr))


def train_candidate(
    folds: Sequence[TrainingData],
    bases: Sequence[np.ndarray],
    settings: PlusConfig,
    network: Network,
    name: str,
    best: str = "",
    leader: Sequence[Sequence[float]] | None = None,
    at_most: float = np.inf,
) -> Candidate:
    """Train a candidate of the search: one network a fold, until it gets no better.

    Args:
        bases: (dy, r) of each fold, see `plus.basis_for`.
        name, best: what is tried and what leads, shown beside the progress.
        leader: of the leading candidate, MRR by epoch of each fold; see `plus.out_of_reach`.
        at_most: seconds for all folds together; an epoch that has begun is ended.
    """
    runs, translations, started = [], [], time.monotonic()
    for number, (fold_data, basis) in enumerate(zip(folds, bases, strict=True), start=1):
        given = derived(settings, fold_data)
        model = build_networks(fold_data, given, 1, network.whitening, network.blocks, basis)
        rival = leader[number - 1] if leader else ()
        ends = started + at_most * number / len(folds)
        objective = PlusObjective(given, fold_data, model, network.temperature, True, rival, ends)
        label = f"{name}, fold {number}/{len(folds)}{best}"
        runs.append([entry["mrr"] for entry in loop.fit(model, objective, label)])
        with torch.inference_mode():
            translations.append(loop.translations(model, fold_data.val_text))
    common = min(map(len, runs))
    epochs = sum(map(len, runs)) / len(runs)
    mean = np.mean([run[:common] for run in runs], axis=0).tolist()
    return Candidate(mean, runs, translations, (time.monotonic() - started) / epochs)


def mean_of_near(tried: Tried, chosen: Network) -> list[torch.Tensor]:
    """Mean translations (V, dy) of each fold, over the networks that are nearly as good as the one chosen.

    It is the nearest thing to an ensemble that the folds have: one wants less of a closed form beside it than a single
    network does.
    """
    least = (1 - NEAR) * max(tried[chosen].mrr)
    near = [of.translations for of in tried.values() if max(of.mrr) >= least]
    return [torch.stack(of_fold).mean(0) for of_fold in zip(*near, strict=True)]


def _scores(translations: Sequence[torch.Tensor], folds: Sequence[TrainingData]) -> list[torch.Tensor]:
    """(V, G) cosines of the translations (V, dy) and the gallery of each fold."""
    return [normalise(of) @ normalise(fold.val_images).T for of, fold in zip(translations, folds, strict=True)]


def _closed_form_scores(name: str, found: Found, folds: Sequence[TrainingData], landmarks: int) -> list[torch.Tensor]:
    models = (FITS[name](fold, found["setting"], landmarks) for fold in folds)
    return _scores([loop.translations(model, fold.val_text) for model, fold in zip(models, folds, strict=True)], folds)
