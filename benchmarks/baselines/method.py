"""What a method of the comparison does: it chooses on a fold of the training images, and fits once on all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from helpers.data.training_data import TrainingData
from helpers.system.settings import as_dict
from helpers.training.settings import OptimiserConfig

SEARCH_SEED = 0
"""Of every training that a choice is made from."""


LATER_OPTIONS = ("exclude_same_text",)
"""Settings that came when there were results; off they change nothing, so that those results keep their keys."""


def metadata_of(settings: OptimiserConfig) -> dict:
    """Settings as JSON values, without the later options that are off."""
    return {name: value for name, value in as_dict(settings).items() if value or name not in LATER_OPTIONS}


@dataclass(frozen=True)
class Fitted:
    """What a fit gives.

    Attributes:
        predict: maps captions (N, dx) to (N, d) float32; d is dy but for two-sided methods.
        parameters: the numbers that it stores.
        gallery: maps images (M, dy) to where captions are predicted, (M, d); None where they stay as they are. A method
            with such a map is *two-sided*: every image that is ever searched must be mapped, and mapped again after
            each training, so its scores are not those of a translator.
    """

    predict: Callable[[torch.Tensor], torch.Tensor]
    parameters: int
    gallery: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def two_sided(self) -> bool:
        return self.gallery is not None

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Images (M, dy) as captions are compared with them."""
        return images if self.gallery is None else self.gallery(images)


class Method(Protocol):
    """One row of the comparison.

    Attributes:
        name: of the row.
        seeded: whether a seed changes the result; a method without chance is fitted once.
    """

    name: str
    seeded: bool

    def metadata(self) -> dict:
        """Everything that determines a result beside data and seed, as JSON values; a change makes a new row."""

    def tiny(self) -> Method:
        """The same method at a size for tests."""

    def search(self, fold_data: TrainingData, train: TrainingData) -> dict:
        """Choose by the MRR on the validation split of the fold; what was chosen, as JSON values.

        Args:
            fold_data: the training images, split again.
            train: all of them, for methods that make cross-validation folds of their own.
        """

    def fit(self, data: TrainingData, chosen: dict, seed: int) -> Fitted:
        """Fit on all training images as `chosen` says; the validation split of `data` is empty."""
