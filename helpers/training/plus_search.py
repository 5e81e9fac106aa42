"""What the recipe `plus` chooses on cross-validation folds of the training images; validation plays no part.

Temperature and number of epochs; whether captions are partly whitened first, which helps where a few directions of the
text space dominate it; and how much of a closed form, weighted CCA, joins the networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from helpers.data.training_data import TrainingData
from helpers.models import cca
from helpers.training import cca_search, loop
from helpers.training.folds import make_folds
from helpers.training.plus import (
    CLEAR_GAIN,
    Choice,
    Curve,
    PlusObjective,
    WeightPoint,
    basis_for,
    build_ensemble,
    derived,
)
from helpers.training.settings import PlusConfig


def search(data: TrainingData, settings: PlusConfig) -> Choice:
    """Choose whitening, temperature, number of epochs and the closed form's share on cross-validation folds.

    Validation plays no part. One member is trained for each candidate and fold.

    Raises:
        SplitError: too few training images, see `folds.held_out`.
    """
    folds = make_folds(data, settings)
    bases = [basis_for(fold_data, settings) for fold_data in folds]
    number, most = itertools.count(1), len(settings.temperatures) + len(settings.whitenings) - 1

    def attempt(temperature: float, whitening: float) -> Candidate:
        name = f"candidate {next(number)} of at most {most}"
        return train_candidate(folds, bases, settings, temperature, whitening, name)

    chosen, tried = choose_candidate(settings, attempt)
    temperature, whitening = chosen
    mrr = tried[chosen].mrr
    epoch = int(np.argmax(mrr))
    curves: list[Curve] = [{"temperature": t, "whitening": w, "mrr": tried[t, w].mrr} for t, w in sorted(tried)]
    closed_form = choose_cca(folds, mean_of_alike(tried, whitening), settings)
    return Choice(temperature, whitening, epoch + 1, mrr[epoch], curves, *closed_form)


@dataclass(frozen=True)
class Candidate:
    """A candidate of the search: its MRR by epoch, and what its networks make of the captions held out.

    Attributes:
        mrr: by epoch, mean over the folds.
        translations: (V, dy) unit vectors for each fold, each from the best epoch of its network.
    """

    mrr: list[float]
    translations: list[torch.Tensor]


Tried = dict[tuple[float, float], Candidate]
"""By temperature and whitening, in the order in which they were tried."""


def choose_candidate(
    settings: PlusConfig, attempt: Callable[[float, float], Candidate]
) -> tuple[tuple[float, float], Tried]:
    """Walk over whitenings and temperatures to the best of them.

    Each whitening is tried at the middle temperature, then other temperatures at the whitening that did best. MRR rises
    and falls once along the temperatures, so the walk goes on while it gets clearly better (`CLEAR_GAIN`): few images
    cannot tell near ones apart, and chance would choose among them.

    Args:
        attempt: the candidate of a temperature and a whitening, each asked for once.

    Returns:
        The temperature and the whitening chosen, and every candidate that was tried.
    """
    temperatures, (whitening, *others) = settings.temperatures, settings.whitenings
    tried: Tried = {}

    def best(index: int, whitening: float) -> float:
        at = temperatures[index], whitening
        if at not in tried:
            tried[at] = attempt(*at)
        return max(tried[at].mrr)

    index, last = len(temperatures) // 2, len(temperatures) - 1
    for other in others:
        if best(index, other) > (1 + CLEAR_GAIN) * best(index, whitening):
            whitening = other
    for step in (-1, 1):
        while 0 <= index + step <= last and best(index + step, whitening) > (1 + CLEAR_GAIN) * best(index, whitening):
            index += step
    best(index, whitening)  # not looked at yet where it is the only candidate
    return (temperatures[index], whitening), tried


def train_candidate(
    folds: Sequence[TrainingData],
    bases: Sequence[np.ndarray],
    settings: PlusConfig,
    temperature: float,
    whitening: float,
    name: str,
) -> Candidate:
    """Train a candidate of the search: one network a fold, until it gets no better.

    Args:
        bases: (dy, r) of each fold, see `plus.basis_for`.
        name: shown beside its progress.
    """
    runs, translations = [], []
    for number, (fold_data, basis) in enumerate(zip(folds, bases, strict=True), start=1):
        given = derived(settings, fold_data)
        model = build_ensemble(fold_data, given, 1, whitening, basis=basis)
        objective = PlusObjective(given, fold_data, model, temperature, searching=True)
        label = f"{name}, fold {number}/{len(folds)}, temperature {temperature:g}, whitening {whitening:g}"
        runs.append([entry["mrr"] for entry in loop.fit(model, objective, label)])
        with torch.inference_mode():
            translations.append(loop.translations(model, fold_data.val_text))
    common = min(map(len, runs))
    return Candidate(np.mean([run[:common] for run in runs], axis=0).tolist(), translations)


def mean_of_alike(tried: Tried, whitening: float) -> list[torch.Tensor]:
    """Mean translations (V, dy) of each fold, over the networks of one whitening: the nearest thing to an ensemble."""
    alike = [one.translations for (_, w), one in tried.items() if w == whitening]
    return [torch.stack(of_fold).mean(0) for of_fold in zip(*alike, strict=True)]


def choose_cca(
    folds: Sequence[TrainingData], translations: Sequence[torch.Tensor], settings: PlusConfig
) -> tuple[cca.Setting, float, float, list[WeightPoint]]:
    """Choose the closed form's setting, and its weight beside the networks.

    An ensemble wants less of the closed form than one network does, so that its weight is chosen beside a mean.

    Args:
        translations: (V, dy) of each fold, see `mean_of_alike`.

    Returns:
        The setting, the MRR of that closed form alone, its weight, and the MRR of each weight.
    """
    setting, alone = cca_search.best_setting(folds)
    mrr = np.zeros(len(settings.cca_weights))
    for fold_data, networks in zip(folds, translations, strict=True):
        (affine,) = cca.maps(fold_data, [setting])
        closed = cca.translate(affine, fold_data)
        mixed = (torch.lerp(networks, closed, weight) for weight in settings.cca_weights)
        mrr += [np.mean(1 / cca_search.validation_ranks(queries, fold_data)) / len(folds) for queries in mixed]
    points: list[WeightPoint] = [{"weight": w, "mrr": float(m)} for w, m in zip(settings.cca_weights, mrr, strict=True)]
    return setting, alone, choose_weight(points), points


def choose_weight(points: Sequence[WeightPoint]) -> float:
    """The weight of the closed form that ranks best; the first is left for a clear gain alone."""
    best = max(points, key=lambda point: point["mrr"])
    return best["weight"] if best["mrr"] > (1 + CLEAR_GAIN) * points[0]["mrr"] else points[0]["weight"]
