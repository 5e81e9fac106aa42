"""What training minimises: the objectives of the baselines and of BigJump, with the state that they carry.

A new one is a subclass of `Objective`, made of functions of `losses`, and goes to `loop.fit`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import nn

from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.models.networks import GeomWithAdapter
from helpers.system.devices import matmul_dtype
from helpers.training import losses
from helpers.training.history import EpochEntry
from helpers.training.infonce import negative_bank_of
from helpers.training.queue import ImageQueue
from helpers.training.settings import BaselineConfig, BigJumpConfig, OptimiserConfig

Settings = TypeVar("Settings", bound=OptimiserConfig, covariant=True)
Model = TypeVar("Model", bound=nn.Module)


class Objective(Generic[Settings, Model]):
    """What the training loop asks of a loss; the defaults are those of a loss without state.

    Attributes:
        settings, data: as given.
        dtype: of the matrix products.
        keeps_last: the last epoch's model is the result, not the best by validation MRR.
        capturable: a step can be recorded as a CUDA graph: what changes from step to step is changed in place, in
            tensors on the device, and the host is asked nothing on the way.
    """

    keeps_last = False
    capturable = False

    def __init__(self, settings: Settings, data: TrainingData) -> None:
        self.settings, self.data = settings, data
        self.dtype = matmul_dtype(data.device, settings.mixed_precision)

    def start_epoch(self, epoch: int) -> dict[str, float]:
        """Prepare an epoch, counted from 1; what is returned joins its entry in the history."""
        return {}

    def predict(self, model: Model, rows: torch.Tensor) -> torch.Tensor:
        """Translations of the captions `rows` (B,), in the form that `terms` takes; differentiable."""
        return model(self.data.text[rows])  # (B, dy)

    def terms(self, prediction: torch.Tensor, positive: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted terms whose sum is the loss.

        Args:
            prediction: what `predict` gave. positive: (B,) row of the image of each caption.
        """
        raise NotImplementedError

    def end_step(self, positive: torch.Tensor) -> None:
        """Take note of an update, which trained captions of the images `positive` (B,)."""

    def judged(self, model: Model) -> Model:
        """The model that validation sees, and that is kept."""
        return model

    def is_over(self, history: Sequence[EpochEntry]) -> bool:
        """Whether training ends before its last epoch."""
        return False

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """What an interrupted training needs to go on."""
        return {}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back what `state_tensors` gave."""


class CombinedObjective(Objective[BaselineConfig, nn.Module]):
    """The baselines' loss: alpha (1 - cos) + beta MSE + lambda moment + gamma InfoNCE."""

    capturable = True

    def terms(self, prediction: torch.Tensor, positive: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted terms whose sum is the loss; a term of weight 0 is not computed."""
        s, target = self.settings, self.data.images[positive]
        terms = {
            "cosine": s.cosine_weight * losses.cosine_loss(prediction, target),
            "mse": s.mse_weight * losses.mse_loss(prediction, target),
            "moment": s.moment_weight * losses.moment_loss(prediction, target, with_std=True),
        }
        if s.infonce_weight:
            terms["infonce"] = s.infonce_weight * losses.in_batch_infonce(prediction, target, s.temperature)
        return terms


class BigJumpObjective(Objective[BigJumpConfig, GeomWithAdapter]):
    """BigJump's loss with its queue and temperature curriculum."""

    capturable = True

    def __init__(self, settings: BigJumpConfig, data: TrainingData) -> None:
        super().__init__(settings, data)
        # (M, dy), or with rows of zeros behind
        self.negative_bank = negative_bank_of(normalise(data.images), self.dtype)
        self.queue = ImageQueue(settings.queue_size, len(self.negative_bank), data.device)
        self.temperature, self.queue_used = settings.temperature_start, 0
        self.geometry: torch.Tensor | None = None  # (N, dy) A x + b of every caption, while A is frozen

    def start_epoch(self, epoch: int) -> dict[str, float]:
        s = self.settings
        self.temperature = temperature_at(epoch, s.epochs, s.temperature_start, s.temperature_end)
        self.queue_used = s.queue_schedule[min(epoch, len(s.queue_schedule)) - 1]
        return {"temperature": self.temperature, "queue": min(self.queue_used, len(self.queue))}

    def terms(self, prediction: torch.Tensor, positive: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted terms whose sum is the loss."""
        s, target = self.settings, self.data.images[positive]
        return {
            "infonce": s.infonce_weight * self.infonce(prediction, positive),
            "cosine": s.cosine_weight * losses.cosine_loss(prediction, target),
            "moment": s.moment_weight * losses.moment_loss(prediction, target, with_std=False),
            "agreement": s.agreement_weight * losses.agreement_loss(prediction, positive),
        }

    def infonce(self, prediction: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        """Multi-positive InfoNCE against the images of the batch and of the queue's newest `queue_used` entries."""
        counts = self.queue.counts(self.queue_used)
        at_most = losses.whole_columns(min(self.queue_used, self.queue.capacity) + len(positive))
        return losses.multi_positive_infonce(
            prediction, self.negative_bank, positive, counts, self.temperature, self.dtype, at_most
        )

    def predict(self, model: GeomWithAdapter, rows: torch.Tensor) -> torch.Tensor:
        """Predictions (B, dy); what a frozen A contributes is computed once, not once an epoch."""
        text = self.data.text
        if model.geometry.matrix.requires_grad:
            self.geometry = None
            return model(text[rows])
        if self.geometry is None:
            with torch.no_grad(), torch.autocast(text.device.type, enabled=False):
                self.geometry = torch.cat([model.geometry(block) for block in text.split(8192)])
        return model(text[rows], self.geometry[rows])

    def end_step(self, positive: torch.Tensor) -> None:
        self.queue.push(positive)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        return self.queue.state_tensors()

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.queue.load_state_tensors(tensors)


def temperature_at(epoch: int, epochs: int, start: float, end: float) -> float:
    """Temperature of an epoch, counted from 1: a cosine from `start` at the first to `end` at the last."""
    progress = (epoch - 1) / max(1, epochs - 1)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
