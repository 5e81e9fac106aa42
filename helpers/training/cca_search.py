"""The setting of weighted CCA that ranks best on cross-validation folds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from helpers.data.training_data import TrainingData
from helpers.evaluation import metrics
from helpers.models.cca import GRID, Setting, maps, translate


def best_setting(splits: Sequence[TrainingData]) -> tuple[Setting, float]:
    """The setting of `GRID` with the highest MRR on the validation splits of the splits, on average, and that MRR."""
    mrr = np.zeros(len(GRID))
    for split in splits:
        mrr += [np.mean(1 / validation_ranks(translate(affine, split), split)) for affine in maps(split, GRID)]
    return GRID[int(mrr.argmax())], float(mrr.max()) / len(splits)


def validation_ranks(queries: torch.Tensor, split: TrainingData) -> np.ndarray:
    """(V,) ranks of the images of the validation captions, translated to `queries` (V, dy), by cosine."""
    return metrics.ranks(queries, split.val_images, split.val_positive)
