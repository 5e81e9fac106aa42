"""What the recipe `plus` chooses on cross-validation folds of the training images; validation plays no part.

Temperature and number of epochs; whether captions are partly whitened first, which helps where a few directions of the
text space dominate it; and how much of a closed form, weighted CCA, joins the networks.
"""

from __future__ import annotations

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

    Validation plays no part. One member is trained for each candidate and fold: each whitening at the middle
    temperature, then other temperatures at the whitening that did best. MRR rises and falls once along the
    temperatures, so the search walks from the middle one and goes on while it gets clearly better (`CLEAR_GAIN`): few
    images cannot tell near ones apart, and chance would choose among them.

    Raises:
        SplitError: too few training images, see `folds.held_out`.
    """
    folds = make_folds(data, settings)
    bases = [basis_for(fold_data, settings) for fold_data in folds]
    temperatures, (whitening, *others) = settings.temperatures, settings.whitenings
    tried: dict[tuple[int, float], _Tried] = {}

    def best(index: int, whitening: float) -> float:
        if (index, whitening) not in tried:
            tried[index, whitening] = _try(folds, bases, settings, temperatures[index], whitening)
        return max(tried[index, whitening].mrr)

    index, last = len(temperatures) // 2, len(temperatures) - 1
    for other in others:
        if best(index, other) > (1 + CLEAR_GAIN) * best(index, whitening):
            whitening = other
    for step in (-1, 1):
        while 0 <= index + step <= last and best(index + step, whitening) > (1 + CLEAR_GAIN) * best(index, whitening):
            index += step
    best(index, whitening)  # not looked at yet where it is the only candidate
    mrr = tried[index, whitening].mrr
    epoch = int(np.argmax(mrr))
    curves: list[Curve] = [
        {"temperature": temperatures[i], "whitening": w, "mrr": one.mrr}
        for (i, w), one in sorted(tried.items(), key=lambda item: item[0])
    ]
    alone = temperatures[index], whitening, epoch + 1, mrr[epoch], curves
    alike = [one.translations for (_, w), one in tried.items() if w == whitening]
    means = [torch.stack(of_fold).mean(0) for of_fold in zip(*alike, strict=True)]
    return Choice(*alone, *_choose_cca(folds, means, settings))


@dataclass(frozen=True)
class _Tried:
    """One candidate: MRR by epoch, averaged over the folds, and what each network makes of its captions.

    `translations` are (V, dy) unit vectors for each fold, each from the best epoch of its network.
    """

    mrr: list[float]
    translations: list[torch.Tensor]


def _try(
    folds: list[TrainingData], bases: list[np.ndarray], settings: PlusConfig, temperature: float, whitening: float
) -> _Tried:
    runs, translations = [], []
    for number, (fold_data, basis) in enumerate(zip(folds, bases, strict=True), start=1):
        given = derived(settings, fold_data)
        model = build_ensemble(fold_data, given, 1, whitening, basis=basis)
        objective = PlusObjective(given, fold_data, model, temperature, searching=True)
        label = f"fold {number}/{len(folds)}, temperature {temperature:g}, whitening {whitening:g}"
        runs.append([entry["mrr"] for entry in loop.fit(model, objective, label)])
        with torch.inference_mode():
            translations.append(loop.translations(model, fold_data.val_text))
    common = min(map(len, runs))
    return _Tried(np.mean([run[:common] for run in runs], axis=0).tolist(), translations)


def _choose_cca(
    folds: list[TrainingData], translations: list[torch.Tensor], settings: PlusConfig
) -> tuple[cca.Setting, float, float, list[WeightPoint]]:
    """Setting and MRR of the best closed form alone, its weight beside the networks, and the MRR of each weight.

    The first weight is left for a clear gain alone. An ensemble wants less of the closed form than one network does, so
    `translations` are means over the networks of the search, the nearest thing to an ensemble that is at hand.
    """
    setting, alone = cca_search.best_setting(folds)
    mrr = np.zeros(len(settings.cca_weights))
    for fold_data, networks in zip(folds, translations, strict=True):
        (affine,) = cca.maps(fold_data, [setting])
        closed = cca.translate(affine, fold_data)
        mixed = (torch.lerp(networks, closed, weight) for weight in settings.cca_weights)
        mrr += [np.mean(1 / cca_search.validation_ranks(queries, fold_data)) / len(folds) for queries in mixed]
    best = int(mrr.argmax()) if mrr.max() > (1 + CLEAR_GAIN) * mrr[0] else 0
    curve: list[WeightPoint] = [{"weight": w, "mrr": float(m)} for w, m in zip(settings.cca_weights, mrr, strict=True)]
    return setting, alone, settings.cca_weights[best], curve
