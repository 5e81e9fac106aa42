"""What trained methods with two heads share: the model, its objective, and an optimiser that decays matrices alone.

The published methods train a head on each side. Without the head for images they are translators, whose targets are the
unit image vectors as they are; with it they are two-sided, see `method.Fitted`.
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.baselines.networks import ContrastiveConfig
from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.models.networks import Standardise
from helpers.training.objectives import Objective
from helpers.training.settings import OptimiserConfig


class StandardiseImages(Standardise):
    """`Standardise` for a head of images, fitted on the training images when it is made.

    The training loop fits every `Standardise` of a model on captions; this one keeps what it has.
    """

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__(images.shape[1])
        super().fit(images)

    def fit(self, x: torch.Tensor) -> None:
        """Nothing: `x` are captions."""


class Heads(nn.Module):
    """A head for captions, and one for unit image vectors or none.

    Args:
        scalars: numbers that are trained with the heads, such as a temperature, by name.
    """

    def __init__(self, captions: nn.Module, images: nn.Module | None, **scalars: float) -> None:
        super().__init__()
        self.captions, self.images = captions, images
        for name, value in scalars.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(float(value))))

    @property
    def two_sided(self) -> bool:
        return self.images is not None

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.captions(text)  # (B, d)

    def place(self, unit_images: torch.Tensor) -> torch.Tensor:
        """Unit images (B, dy) where captions are compared with them, (B, d)."""
        return unit_images if self.images is None else self.images(unit_images)

    def gallery(self, images: torch.Tensor) -> torch.Tensor:
        """Images (M, dy) as stored, where captions are compared with them, (M, d)."""
        return torch.cat([self.place(normalise(block)).float() for block in images.split(8192)])


class PairObjective(Objective):
    """An objective of one term, computed from a batch of translations and the images that they belong to."""

    def __init__(self, settings: ContrastiveConfig, data: TrainingData, model: Heads) -> None:
        super().__init__(settings, data)
        self.model, self.unit_images = model, normalise(data.images)  # (M, dy)

    def inputs(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the heads get for the captions `rows` (B,): text (B', dx) and unit images (B', dy)."""
        return self.data.text[rows], self.unit_images[self.data.positive[rows]]

    def predict(self, model: Heads, rows: torch.Tensor) -> torch.Tensor:
        """Translations and images of a batch, one below the other, (2 B', d)."""
        text, images = self.inputs(rows)
        return torch.cat([model(text).float(), model.place(images).float()])

    def terms(self, prediction: torch.Tensor, positive: torch.Tensor, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        z, y = nn.functional.normalize(prediction, dim=-1).chunk(2)
        return {"loss": self.loss(z, y, positive)}

    def loss(self, z: torch.Tensor, y: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        """Loss of unit translations z (B', d) and unit images y (B', d) of captions of the images `positive` (B,)."""
        raise NotImplementedError


def decayed_matrices(model: nn.Module, settings: OptimiserConfig) -> list[dict[str, object]]:
    """Parameter groups: weight decay on matrices, none on biases, norms and scalars."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def adamw(model: nn.Module, settings: OptimiserConfig) -> torch.optim.Optimizer:
    """AdamW as most authors set it up."""
    return torch.optim.AdamW(decayed_matrices(model, settings), lr=settings.learning_rate)
