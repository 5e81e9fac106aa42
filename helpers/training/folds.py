"""Cross-validation folds of the training split, by image, on which settings are chosen; validation plays no part."""

from __future__ import annotations

import math

import numpy as np
import torch

from helpers.data.split import VALIDATION, deal
from helpers.data.training_data import TrainingData
from helpers.errors import SplitError
from helpers.training.settings import PlusConfig


def held_out(data: TrainingData, settings: PlusConfig) -> int:
    """Number of images that a fold holds out: `fold_ratio` of those with captions, and ten where that is a third.

    One image alone would be found by every caption, so it is two at least.

    Raises:
        SplitError: two images with captions cannot be held out and two more be left to train on.
    """
    n = len(data.positive.unique())
    if n < 4:
        raise SplitError(
            f"{n} training images with captions: a fold, by which settings are chosen, needs 4 or more. Leave "
            "more to the training split (val_ratio, test_ratio)."
        )
    return max(int(settings.fold_ratio * n), min(10, n // 3), 2)


def make_fold(data: TrainingData, settings: PlusConfig, fold: int) -> TrainingData:
    """One fold: the training split divided once more by image, so that training images validate.

    One seeded order of the images, group by group, is held out part by part, and then another order.

    Images without captions stay with those that are trained on, as negatives: held out they would test nothing. Only
    where they are grouped with an image that is held out do they go with it.

    Raises:
        SplitError: too few training images, see `held_out`, or groups too large to hold some of them out.
    """
    positive = data.positive.cpu().numpy()
    captioned = np.unique(positive)
    n_held = held_out(data, settings)
    dealing, turn = divmod(fold, len(captioned) // n_held)
    order = np.random.default_rng(settings.seed + 1000 + dealing).permutation(len(captioned))
    groups = None if data.groups is None else data.groups[captioned]
    if groups is not None:  # together in the order, so that no part begins within a group that the last one took
        _, first, group = np.unique(groups[order], return_index=True, return_inverse=True)
        order = order[np.argsort(first[group], kind="stable")]
    order = np.roll(order, -turn * n_held)
    validates = np.zeros(len(data.images), dtype=bool)
    validates[captioned] = deal(order, n_held, 0, groups) == VALIDATION
    if data.groups is not None:
        validates |= np.isin(data.groups, data.groups[validates])
        n = validates[captioned].sum()
        if not 1 < n < len(captioned):
            raise SplitError(
                f"{len(captioned)} training images with captions, in groups of near-duplicates that are too large: a "
                f"fold would hold out {n}. Set group_duplicates to False."
            )
    place = np.where(validates, np.cumsum(validates), np.cumsum(~validates)) - 1  # of each image within its part

    def rows(of: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.flatnonzero(of)).to(data.device)

    def owners(of: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(place[positive[of]]).to(data.device)

    held = validates[positive]  # (N,)
    return TrainingData(
        text=data.text[rows(~held)],
        positive=owners(~held),
        images=data.images[rows(~validates)],
        val_text=data.text[rows(held)],
        val_images=data.images[rows(validates)],
        val_positive=owners(held),
        same_text=None if data.same_text is None else data.same_text[rows(~held)],
    )


def make_folds(data: TrainingData, settings: PlusConfig) -> list[TrainingData]:
    """Cross-validation folds, up to ten, until they hold out `fold_images` together.

    A few images cannot tell settings apart.

    Raises:
        SplitError: too few training images, see `held_out`.
    """
    n_folds = min(10, math.ceil(settings.fold_images / held_out(data, settings)))
    return [make_fold(data, settings, fold) for fold in range(n_folds)]
