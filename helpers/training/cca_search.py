"""The setting of weighted CCA that ranks best on cross-validation folds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from helpers.data.training_data import TrainingData
from helpers.evaluation import metrics
from helpers.models.cca import GRID, Setting, maps, translate


def best_setting(folds: Sequence[TrainingData]) -> tuple[Setting, float]:
    """The setting of `cca.GRID` that ranks best on the folds, and its mean MRR."""
    mrr = np.zeros(len(GRID))
    for fold in folds:
        mrr += [np.mean(1 / validation_ranks(translate(affine, fold), fold)) for affine in maps(fold, GRID)]
    return GRID[int(mrr.argmax())], float(mrr.max()) / len(folds)


def validation_ranks(queries: torch.Tensor, data: TrainingData) -> np.ndarray:
    """Ranks (V,) by cosine of the images of the validation captions, translated to `queries` (V, dy)."""
    return metrics.ranks(queries, data.val_images, data.val_positive)
