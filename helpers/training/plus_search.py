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
from helpers.system.bars import show, training_bar
from helpers.training import loop
from helpers.training.closed_forms import FITS, SEARCHES, Found
from helpers.training.folds import make_folds
from helpers.training.plus import basis_for, build_networks, derived, members_for
from helpers.training.plus_choice import (
    Choice,
    Curve,
    Networks,
    deal_members,
    epochs_of_training,
    kind_name,
)
from helpers.training.plus_objective import PlusObjective
from helpers.training.selection import choose_weights, mrr_of
from helpers.training.settings import PlusConfig

CLEAR_GAIN = 0.005
"""Share of the MRR by which an epoch or a candidate of a search must be better to count as progress."""
BEHIND = 0.02
"""Share of the MRR by which a candidate that is given up is behind the leading one, at least."""
NEAR = 0.03
"""Networks of a fold whose MRR is behind the best of their kind by this share or more have no part in the mean that is
weighed."""
PART = "networks"
"""The only part of a candidate."""


class Network(NamedTuple):
    """A candidate of the search."""

    temperature: float
    whitening: float
    blocks: int

    def trained(self, epochs: int, members: int) -> Networks:
        """So many networks like this."""
        return {
            "temperature": self.temperature,
            "whitening": self.whitening,
            "blocks": self.blocks,
            "epochs": epochs,
            "members": members,
        }

    def __str__(self) -> str:
        whitened = [f"whitened {self.whitening:g}"] if self.whitening else []
        more = ", ".join(whitened + ([f"blocks {self.blocks}"] if self.blocks else []))
        return f"temperature {self.temperature:g}" + (f" ({more})" if more else "")


@dataclass(frozen=True)
class Candidate:
    """What became of a candidate on the folds.

    Attributes:
        mrr: by epoch, mean over the folds.
        translations: (V, dy) for each fold, from the epoch with the best mean.
        seconds: of an epoch on all folds.
        given_up: it was out of the leading one's reach, and is not what it could have become.
    """

    mrr: list[float]
    translations: list[torch.Tensor]
    seconds: float
    given_up: bool = False

    @property
    def epochs(self) -> int:
        """With which it ranks best."""
        return int(np.argmax(self.mrr)) + 1


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
    tried, left_out = search_networks(folds, bases, settings, clock)
    best = best_of_kinds(tried)
    scores = {name: _scores(mean_of_near(tried, network), folds) for name, network in best.items()}
    for part, found in closed_forms.items():
        scores[part] = _closed_form_scores(part, found, folds, settings.landmarks)
    positive = [fold.val_positive for fold in folds]
    alone = {part: float(np.mean(list(map(mrr_of, of, positive)))) for part, of in scores.items()}
    weights, path = choose_weights(scores, positive, first=next(iter(best)))

    kinds = {name: best[name] for name in weights if name in best}
    most = members_for(
        data.text.shape[1],
        data.images.shape[1],
        bases[0].shape[1],
        settings,
        [(network.whitening, network.blocks) for network in kinds.values()],
    )
    seconds = {
        name: tried[network].seconds / len(folds) * epochs_of_training(settings, tried[network].epochs)
        for name, network in kinds.items()
    }
    members = affordable(weights, seconds, most, clock.left() * (1 - settings.fold_ratio))
    if sum(members.values()) < most:
        left_out.append(f"{most - sum(members.values())} of {most} networks")
    if set(members) < set(kinds):  # the lightest kinds have no member: the weights are found without them
        kept = {part: of for part, of in scores.items() if part in members or part not in best}
        weights, path = choose_weights(kept, positive, first=next(name for name in best if name in members))
        members = deal_members({name: weights[name] for name in members if name in weights}, sum(members.values()))
    networks = {name: best[name].trained(tried[best[name]].epochs, count) for name, count in members.items()}
    curves: list[Curve] = [
        {
            "temperature": at.temperature,
            "whitening": at.whitening,
            "blocks": at.blocks,
            "given_up": tried[at].given_up,
            "mrr": tried[at].mrr,
        }
        for at in sorted(tried)
    ]
    return Choice(networks, curves, closed_forms, alone, weights, path, left_out)


def affordable(weights: Mapping[str, float], seconds: Mapping[str, float], most: int, left: float) -> dict[str, int]:
    """Networks of each kind that are trained: up to `most`, dealt by weight, as long as there is time, at least one.

    Where there are fewer networks than kinds, the kinds of least weight have none.

    Args:
        weights: of the parts, kinds of networks among them.
        seconds: that the training of one network of each kind takes.
        left: seconds for all of them.
    """
    by_weight = sorted(seconds, key=lambda name: -weights[name])
    for count in range(most, 0, -1):
        dealt = deal_members({name: weights[name] for name in by_weight[:count]}, count)
        if count == 1 or sum(seconds[name] * of for name, of in dealt.items()) <= left:
            return dealt
    raise AssertionError("most is at least one")


def search_networks(
    folds: Sequence[TrainingData], bases: Sequence[np.ndarray], settings: PlusConfig, clock: Clock
) -> tuple[Tried, list[str]]:
    """The networks that were tried on the folds, and those for which the budget had no time.

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
        label = f"candidate {len(tried) + 1} of at most {most} ({network})"
        label += f", best so far {max(tried[leader].mrr):.3f} ({leader})" if leader else ""
        rival = tried[leader].mrr if leader else ()
        started = time.monotonic()
        found = train_candidate(folds, bases, settings, network, label, rival, clock.left() - reserved)
        seconds.append(time.monotonic() - started)
        return found

    return choose_candidate(settings, attempt)[1], left_out


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
    label: str,
    leader: Sequence[float] = (),
    at_most: float = np.inf,
) -> Candidate:
    """Train a candidate of the search: one network a fold, side by side, until their mean gets no better.

    Args:
        bases: (dy, r) of each fold, see `plus.basis_for`.
        label: what is tried and what leads, shown beside the progress.
        leader: MRR by epoch of the candidate that leads, see `out_of_reach`.
        at_most: seconds; an epoch that has begun is ended.
    """
    trainings, started = [], time.monotonic()
    for fold, basis in zip(folds, bases, strict=True):
        given = derived(settings, fold)
        kind = network.trained(given.epochs, members=1)
        model = build_networks(fold, given, {PART: kind}, basis=basis)
        trainings.append(loop.Training(model, PlusObjective(given, fold, model, {PART: kind})))
    steps = sum(training.steps for training in trainings)
    mrr: list[float] = []
    translations: list[torch.Tensor] = []
    with training_bar(label, settings.epochs * steps) as bar:
        while len(mrr) < settings.epochs and not is_over(mrr, settings.patience) and not out_of_reach(mrr, leader):
            mrr.append(float(np.mean([training.epoch(bar, label)["mrr"] for training in trainings])))
            if mrr[-1] > max(mrr[:-1], default=-1.0):
                translations = [judged_translations(training) for training in trainings]
            show(bar, {"epoch": f"{len(mrr)}", "mrr": f"{mrr[-1]:.3f}"})
            if time.monotonic() - started > at_most:
                break
        bar.total = bar.n  # all that there was to do
        bar.refresh()
    seconds = (time.monotonic() - started) / len(mrr)
    return Candidate(mrr, translations, seconds, given_up=out_of_reach(mrr, leader))


@torch.inference_mode()
def judged_translations(training: loop.Training) -> torch.Tensor:
    """(V, dy) of the validation captions, by the running average of the weights."""
    model = training.objective.judged(training.model).eval()
    return loop.translations(model, training.objective.data.val_text)


def is_over(mrr: Sequence[float], patience: int) -> bool:
    """Whether nothing got clearly better for `patience` epochs, or a quarter of all epochs if that is more.

    A plateau rises by chance now and then, so a gain below `CLEAR_GAIN` does not prolong the search.

    Args:
        mrr: by epoch.
    """
    best, at = 0.0, 0
    for epoch, value in enumerate(mrr, start=1):
        if value > (1 + CLEAR_GAIN) * best:
            best, at = value, epoch
    return len(mrr) - at >= max(patience, len(mrr) // 4)


def out_of_reach(mrr: Sequence[float], leader: Sequence[float]) -> bool:
    """Whether a candidate is so far behind the leading one that no more time should be spent on it.

    It is `BEHIND` or more behind at the same epoch, from the third on, and each epoch closes less than a third of
    what lacks.

    Args:
        mrr, leader: of the candidate and of the leading one, by epoch.
    """
    epoch = len(mrr)
    if not 3 <= epoch <= len(leader):
        return False
    before, now = (1 - mrr[at] / leader[at] for at in (epoch - 2, epoch - 1))
    return now >= BEHIND and now > before * 2 / 3


def best_of_kinds(tried: Tried) -> dict[str, Network]:
    """The best candidate of each kind by the name of the part, best first.

    A kind whose best was given up is left out, but for the leading one.
    """
    best: dict[str, Network] = {}
    for network in sorted(tried, key=lambda network: -max(tried[network].mrr)):
        if not tried[network].given_up or not best:
            best.setdefault(kind_name(network.whitening, network.blocks), network)
    return best


def mean_of_near(tried: Tried, best: Network) -> list[torch.Tensor]:
    """Mean translations (V, dy) of each fold, over all networks of a kind that are nearly as good as its best.

    It is the nearest thing to an ensemble that the folds have: one wants less of a closed form beside it than a single
    network does.
    """
    least, kind = (1 - NEAR) * max(tried[best].mrr), best[1:]
    near = [of.translations for network, of in tried.items() if network[1:] == kind and max(of.mrr) >= least]
    return [torch.stack(of_fold).mean(0) for of_fold in zip(*near, strict=True)]


def _scores(translations: Sequence[torch.Tensor], folds: Sequence[TrainingData]) -> list[torch.Tensor]:
    """(V, G) cosines of the translations (V, dy) and the gallery of each fold."""
    return [normalise(of) @ normalise(fold.val_images).T for of, fold in zip(translations, folds, strict=True)]


def _closed_form_scores(name: str, found: Found, folds: Sequence[TrainingData], landmarks: int) -> list[torch.Tensor]:
    models = (FITS[name](fold, found["setting"], landmarks) for fold in folds)
    return _scores([loop.translations(model, fold.val_text) for model, fold in zip(models, folds, strict=True)], folds)
