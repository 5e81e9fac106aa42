"""What training minimises: the objectives of the baselines and of BigJump, with the state that they carry.

A new one is a subclass of `Objective`, made of functions of `losses`, and goes to `loop.fit`. Its settings stand beside
it: the weight of a new term is one line more there.
"""

from __future__ import annotations

import math
from typing import Annotated, Generic, TypeVar

import torch
from pydantic import Field
from torch import nn

from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.models.networks import GeomWithAdapter
from helpers.system.devices import matmul_dtype
from helpers.system.settings import Count, Fraction, NotNegative, Positive, Whole, require, settings
from helpers.training import losses
from helpers.training.infonce import negative_bank_of
from helpers.training.queue import ImageQueue
from helpers.training.same_text import SameText
from helpers.training.settings import OptimiserConfig

Settings = TypeVar("Settings", bound=OptimiserConfig, covariant=True)
Model = TypeVar("Model", bound=nn.Module)


class Objective(Generic[Settings, Model]):
    """What the training loop asks of a loss; the defaults are those of a loss without state.

    In several processes each has the captions and images of its own `data`; made of the functions of `losses`, terms
    are those of the whole batch.

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

    def terms(self, prediction: torch.Tensor, positive: torch.Tensor, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted terms whose sum is the loss.

        Args:
            prediction: what `predict` gave for the captions `rows` (B,).
            positive: (B,) row of the image of each caption.
        """
        raise NotImplementedError

    def end_step(self, positive: torch.Tensor) -> None:
        """Take note of an update, which trained captions of the images `positive` (B,), those of all processes."""

    def judged(self, model: Model) -> Model:
        """The model that validation sees, and that is kept."""
        return model

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """What an interrupted training needs to go on."""
        return {}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back what `state_tensors` gave."""


@settings
class BaselineConfig(OptimiserConfig):
    """LinearProj, MLP1 and MLP2 with the combined loss.

    Loss = cosine_weight (1 - cos) + mse_weight MSE + moment_weight moment + infonce_weight InfoNCE(temperature).
    """

    learning_rate: Positive = 1e-3
    hidden: Count = 1024  # width of the hidden layers
    dropout: Fraction = 0.1  # after each hidden activation
    cosine_weight: NotNegative = 1.0  # alpha of the combined loss
    mse_weight: NotNegative = 1.0  # beta
    moment_weight: NotNegative = 0.05  # lambda
    infonce_weight: NotNegative = 0.0  # gamma
    temperature: Positive = 0.07  # of InfoNCE, used where `infonce_weight` is positive


class CombinedObjective(Objective[BaselineConfig, nn.Module]):
    """The baselines' loss: alpha (1 - cos) + beta MSE + lambda moment + gamma InfoNCE."""

    capturable = True

    def terms(self, prediction: torch.Tensor, positive: torch.Tensor, rows: torch.Tensor) -> dict[str, torch.Tensor]:
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


@settings
class BigJumpConfig(OptimiserConfig):
    """BigJump: a Procrustes start, a residual adapter, and a contrastive loss over a queue of images.

    Loss = infonce_weight InfoNCE + cosine_weight (1 - cos) + moment_weight |mean difference|^2
    + agreement_weight agreement.
    """

    hidden: Count = 1024  # width of the adapter
    dropout: Fraction = 0.1  # inside the adapter
    geometry_lr_ratio: NotNegative = 0.05  # the learning rate of the geometry is this share of the adapter's
    unfreeze_epoch: Whole = 3  # first epoch in which A (never b) is trained; 0 keeps it frozen
    refreeze_drop: NotNegative = 0.005  # A is frozen again where validation MRR falls by more than this below its best
    queue_size: Count = 65536  # entries of the FIFO of recent images
    # Newest entries that serve as negatives in each epoch; the last value holds from there on.
    queue_schedule: Annotated[tuple[Whole, ...], Field(strict=False, min_length=1)] = (0, 0, 16384, 32768, 65536)
    temperature_start: Positive = 0.10  # of InfoNCE; a cosine leads from one to the other, equal values fix it
    temperature_end: Positive = 0.06
    exclude_same_text: bool = False  # InfoNCE leaves out the images that a caption's very text describes elsewhere
    infonce_weight: NotNegative = 1.0  # weights of the loss's terms, from here on
    cosine_weight: NotNegative = 0.5
    moment_weight: NotNegative = 0.02
    agreement_weight: NotNegative = 0.05

    def __post_init__(self) -> None:
        fits = max(self.queue_schedule) <= self.queue_size
        require(fits, f"queue_schedule = {self.queue_schedule}: none may be more than queue_size = {self.queue_size}.")


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
        self.same_text = SameText.of(data) if settings.exclude_same_text else None

    def start_epoch(self, epoch: int) -> dict[str, float]:
        s = self.settings
        self.temperature = temperature_at(epoch, s.epochs, s.temperature_start, s.temperature_end)
        self.queue_used = s.queue_schedule[min(epoch, len(s.queue_schedule)) - 1]
        return {"temperature": self.temperature, "queue": min(self.queue_used, len(self.queue))}

    def terms(self, prediction: torch.Tensor, positive: torch.Tensor, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted terms whose sum is the loss."""
        s, target = self.settings, self.data.images[positive]
        excluded = None if self.same_text is None else self.same_text.excluded(rows, positive)
        return {
            "infonce": s.infonce_weight * self.infonce(prediction, positive, excluded),
            "cosine": s.cosine_weight * losses.cosine_loss(prediction, target),
            "moment": s.moment_weight * losses.moment_loss(prediction, target, with_std=False),
            "agreement": s.agreement_weight * losses.agreement_loss(prediction, positive),
        }

    def infonce(
        self, prediction: torch.Tensor, positive: torch.Tensor, excluded: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Multi-positive InfoNCE against the images of the batch and of the queue's newest `queue_used` entries."""
        counts = self.queue.counts(self.queue_used)
        at_most = losses.whole_columns(min(self.queue_used, self.queue.capacity) + len(positive))
        return losses.multi_positive_infonce(
            prediction, self.negative_bank, positive, counts, self.temperature, self.dtype, at_most, excluded
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
