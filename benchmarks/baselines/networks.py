"""The baselines that are trained: their settings, architectures and objectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from benchmarks.baselines import losses
from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.models import geometry
from helpers.models.build import build_model
from helpers.models.geometry import GeometryConfig
from helpers.models.networks import MLP, Standardise
from helpers.training.objectives import BaselineConfig, BigJumpConfig, BigJumpObjective, CombinedObjective, Objective
from helpers.training.queue import ImageQueue
from helpers.training.settings import OptimiserConfig

Settings = TypeVar("Settings", bound=OptimiserConfig)


@dataclass(frozen=True)
class ContrastiveConfig(OptimiserConfig):
    """Settings of the contrastive baselines: unlike BigJump's, no decay, and no bound on the gradient unless published.

    Attributes:
        hidden, dropout: of the network.
    """

    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    clip_norm: float = 1e6
    hidden: int = 2048
    dropout: float = 0.1


@dataclass(frozen=True)
class TripletConfig(ContrastiveConfig):
    """`margin` of the hinge, in units of the cosine."""

    margin: float = 0.2


@dataclass(frozen=True)
class QueueConfig(ContrastiveConfig):
    """`temperature` at the start and the least that it may come to; `queue_size` in entries."""

    temperature: float = 0.07
    least_temperature: float = 0.01
    queue_size: int = 10_000


class ContrastiveObjective(Objective):
    """An objective of one term, `loss`."""

    def __init__(self, settings: ContrastiveConfig, data: TrainingData) -> None:
        super().__init__(settings, data)
        self.bank = normalise(data.images).to(self.dtype)  # (M, dy)

    def terms(self, prediction: torch.Tensor, positive: torch.Tensor, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.loss(nn.functional.normalize(prediction.float(), dim=-1), positive)}

    def loss(self, z: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        """Loss of unit predictions z (B, dy) of captions of the images `positive` (B,)."""
        raise NotImplementedError


class TripletObjective(ContrastiveObjective):
    """Hardest negatives of the batch, in both directions."""

    capturable = True

    def loss(self, z: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        return losses.hardest_negative_triplet(z, self.bank[positive], positive, self.settings.margin)


class QueueObjective(ContrastiveObjective):
    """InfoNCE against batch and queue at a temperature that is trained with the model."""

    def __init__(self, settings: QueueConfig, data: TrainingData, temperature: nn.Parameter) -> None:
        super().__init__(settings, data)
        self.temperature = temperature
        self.queue = ImageQueue(settings.queue_size, len(data.images), data.device)

    def loss(self, z: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        temperature = self.temperature.clamp(min=self.settings.least_temperature)
        counts = self.queue.counts(self.queue.capacity)
        return losses.queue_infonce(z, self.bank, positive, counts, temperature, self.dtype)

    def end_step(self, positive: torch.Tensor) -> None:
        self.queue.push(positive)


class NormMLP(nn.Sequential):
    """Linear, LayerNorm, GELU, dropout, linear; carries the temperature that is trained with it."""

    def __init__(self, text_dim: int, image_dim: int, width: int, dropout: float, temperature: float) -> None:
        first = (Standardise(text_dim), nn.Linear(text_dim, width), nn.LayerNorm(width))
        super().__init__(*first, nn.GELU(), nn.Dropout(dropout), nn.Linear(width, image_dim))
        self.register_parameter("temperature", nn.Parameter(torch.tensor(temperature)))


def widths(data: TrainingData) -> tuple[int, int]:
    """Of captions and images."""
    return data.text.shape[1], data.images.shape[1]


def capped(settings: Settings, data: TrainingData) -> Settings:
    """The settings with batches of at most a quarter of the captions, for methods whose batches are large."""
    return replace(settings, batch_size=min(settings.batch_size, max(2, len(data.positive) // 4)))


def build_triplet(settings: TripletConfig, data: TrainingData) -> tuple[nn.Module, ContrastiveObjective]:
    """A two-layer ReLU network with VSE++'s loss."""
    return MLP(*widths(data), (settings.hidden,), settings.dropout), TripletObjective(settings, data)


def build_queue(settings: QueueConfig, data: TrainingData) -> tuple[nn.Module, ContrastiveObjective]:
    """A LayerNorm network with InfoNCE over a queue."""
    model = NormMLP(*widths(data), settings.hidden, settings.dropout, settings.temperature).to(data.device)
    return model, QueueObjective(settings, data, model.temperature)


def baseline(name: str) -> Callable[[BaselineConfig, TrainingData], tuple[nn.Module, CombinedObjective]]:
    """A builder of the helpers' baseline `name` with the combined loss."""

    def build(settings: BaselineConfig, data: TrainingData) -> tuple[nn.Module, CombinedObjective]:
        model = build_model(name, *widths(data), hidden=settings.hidden, dropout=settings.dropout)
        return model, CombinedObjective(settings, data)

    return build


def build_bigjump(settings: BigJumpConfig, data: TrainingData) -> tuple[nn.Module, BigJumpObjective]:
    """BigJump from the Procrustes map of its own training split."""
    model = build_model("bigjump", *widths(data), hidden=settings.hidden, dropout=settings.dropout)
    statistics = geometry.pair_statistics(*data.pairs)
    affine = geometry.fit_cross_space(statistics, GeometryConfig().eps).affine()
    model.geometry.set_affine(affine.matrix, affine.bias)
    return model, BigJumpObjective(settings, data)


def step_decay(step: int, steps_per_epoch: int, settings: OptimiserConfig) -> float:
    """VSE++'s schedule: a tenth of the learning rate from half of the epochs on."""
    return 1.0 if step < steps_per_epoch * settings.epochs / 2 else 0.1


def constant(step: int, steps_per_epoch: int, settings: OptimiserConfig) -> float:
    """The learning rate as it is."""
    return 1.0
