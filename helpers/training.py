"""One training loop for the baselines and for BigJump: optimiser, schedules, freezing, history."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from helpers import losses, metrics
from helpers.config import BaselineConfig, BigJumpConfig, OptimiserConfig
from helpers.models import GeomWithAdapter, fit_standardisation
from helpers.queue import ImageQueue
from helpers.reproducibility import autocast, choose_device, matmul_dtype

BAR = "{l_bar}{bar:16}| {n}/{total} steps [{elapsed}<{remaining}{postfix}]"
"""Narrow enough for epoch, loss and MRR to stand in one line of a terminal."""


@dataclass(frozen=True)
class TrainingData:
    """Everything a training needs, resident on one device: there is no loader, rows are gathered by index.

    Attributes:
        text: (N, dx) training captions. own: (N,) row of `images` that each describes.
        images: (M, dy) training images as stored.
        val_text: (V, dx). val_images: (G, dy) the validation gallery. val_own: (V,) gallery rows.
    """

    text: torch.Tensor
    own: torch.Tensor
    images: torch.Tensor
    val_text: torch.Tensor
    val_images: torch.Tensor
    val_own: torch.Tensor

    @property
    def device(self) -> torch.device:
        return self.text.device


def training_data(text: np.ndarray, images: np.ndarray, split, device: torch.device | None = None) -> TrainingData:
    """Gather the two sides of a `split.Split` and move them to `device` (chosen where None)."""
    device = choose_device() if device is None else device

    def move(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return TrainingData(
        text=move(text[split.train_captions]),
        own=move(split.train_caption_image),
        images=move(images[split.train_images]),
        val_text=move(text[split.val_captions]),
        val_images=move(images[split.val_images]),
        val_own=move(split.caption_to_gallery),
    )


def epoch_order(own: np.ndarray, captions_per_image: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) every caption once, in the order of an epoch; batches are consecutive slices.

    With K captions an image each image's captions are dealt into groups of K (the last may be smaller) and the groups
    are shuffled, so captions of one image share a batch; K = 1 is plain shuffling.

    Args:
        own: (N,) image of each caption.
    """
    order = rng.permutation(len(own))
    if captions_per_image == 1:
        return order
    order = order[np.argsort(own[order], kind="stable")]  # by image, shuffled within
    image = own[order]
    starts = np.flatnonzero(np.r_[True, image[1:] != image[:-1]])
    within = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    group = np.cumsum(within % captions_per_image == 0) - 1  # (N,) group of each position
    place = rng.permutation(group[-1] + 1)
    return order[np.argsort(place[group], kind="stable")]


class CombinedObjective:
    """The baselines' loss: alpha (1 - cos) + beta MSE + lambda moment + gamma InfoNCE."""

    def __init__(self, settings: BaselineConfig, data: TrainingData) -> None:
        self.settings, self.data = settings, data
        self.dtype = matmul_dtype(data.device, settings.mixed_precision)

    def start_epoch(self, epoch: int) -> dict[str, float]:
        return {}

    def terms(self, prediction: torch.Tensor, own: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted terms whose sum is the loss; a term of weight 0 is not computed."""
        s, target = self.settings, self.data.images[own]
        terms = {
            "cosine": s.cosine_weight * losses.cosine_loss(prediction, target),
            "mse": s.mse_weight * losses.mse_loss(prediction, target),
            "moment": s.moment_weight * losses.moment_loss(prediction, target, with_std=True),
        }
        if s.nce_weight:
            terms["nce"] = s.nce_weight * losses.info_nce(prediction, target, s.temperature)
        return terms

    def predict(self, model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return model(self.data.text[rows])  # (B, dy)

    def end_step(self, own: torch.Tensor) -> None:
        pass


class BigJumpObjective:
    """BigJump's loss with its queue and temperature curriculum."""

    def __init__(self, settings: BigJumpConfig, data: TrainingData) -> None:
        self.settings, self.data = settings, data
        self.dtype = matmul_dtype(data.device, settings.mixed_precision)
        self.bank = metrics.normalise(data.images).to(self.dtype)  # (M, dy)
        self.queue = ImageQueue(settings.queue_size, len(data.images), data.device)
        self.temperature, self.slice = settings.temperature_start, 0
        self.geometry: torch.Tensor | None = None  # (N, dy) A x + b of every caption, while A is frozen

    def start_epoch(self, epoch: int) -> dict[str, float]:
        s = self.settings
        self.temperature = temperature_at(epoch, s.epochs, s.temperature_start, s.temperature_end)
        self.slice = s.queue_slices[min(epoch, len(s.queue_slices)) - 1]
        return {"temperature": self.temperature, "queue": min(self.slice, len(self.queue))}

    def terms(self, prediction: torch.Tensor, own: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted terms whose sum is the loss."""
        s, target = self.settings, self.data.images[own]
        return {
            "nce": s.nce_weight * self.nce(prediction, own),
            "cosine": s.cosine_weight * losses.cosine_loss(prediction, target),
            "moment": s.moment_weight * losses.moment_loss(prediction, target, with_std=False),
            "agreement": s.agreement_weight * losses.agreement_loss(prediction, own),
        }

    def nce(self, prediction: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Multi-positive NCE against the batch's images and the queue's slice."""
        counts = self.queue.counts(self.slice)
        return losses.multi_positive_nce(prediction, self.bank, own, counts, self.temperature, self.dtype)

    def predict(self, model: GeomWithAdapter, rows: torch.Tensor) -> torch.Tensor:
        """(B, dy) predictions; what a frozen A contributes is computed once, not once an epoch."""
        text = self.data.text
        if model.geometry.matrix.requires_grad:
            self.geometry = None
            return model(text[rows])
        if self.geometry is None:
            with torch.no_grad():
                self.geometry = torch.cat([model.geometry(block) for block in text.split(8192)])
        return model(text[rows], self.geometry[rows])

    def end_step(self, own: torch.Tensor) -> None:
        self.queue.push(own)


def temperature_at(epoch: int, epochs: int, start: float, end: float) -> float:
    """Cosine from `start` at epoch 1 to `end` at the last; epochs count from 1."""
    progress = (epoch - 1) / max(1, epochs - 1)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def learning_rate_factor(step: int, steps_per_epoch: int, settings: OptimiserConfig) -> float:
    """Share of the peak rate at a step (from 0): linear warm-up, then a cosine to `final_lr_ratio`."""
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, settings.epochs * steps_per_epoch - warmup - 1)
    return settings.final_lr_ratio + (1 - settings.final_lr_ratio) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def make_optimiser(model: nn.Module, settings: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW with the geometry's A in a group of its own, named so that the history can tell the rates apart.

    A is in the optimiser from the start and is skipped while it has no gradient, so unfreezing keeps Adam's state.
    Biases are not decayed, and neither is A: decay would pull the closed form towards zero.
    """
    geometry = [model.geometry.matrix] if isinstance(model, GeomWithAdapter) else []
    rest = [p for p in model.parameters() if not any(p is g for g in geometry)]
    rate = settings.learning_rate
    groups = [
        {"name": "weights", "params": [p for p in rest if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"name": "biases", "params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if geometry:
        lr = rate * settings.geometry_lr_ratio
        groups.append({"name": "geometry", "params": geometry, "weight_decay": 0.0, "lr": lr})
    return torch.optim.AdamW(groups, lr=rate, fused=next(model.parameters()).device.type in ("cpu", "cuda"))


def micro_unfreeze(model: nn.Module, settings: OptimiserConfig, epoch: int, history: list[dict]) -> None:
    """Train A from `unfreeze_epoch` on, until validation MRR falls too far below its best; then never again."""
    if not isinstance(model, GeomWithAdapter) or not settings.unfreeze_epoch:
        return
    free = epoch >= settings.unfreeze_epoch
    for done in history[settings.unfreeze_epoch - 1 :]:
        best = max(entry["mrr"] for entry in history[: done["epoch"]])
        free = free and done["mrr"] >= best - settings.refreeze_drop
    model.geometry.matrix.requires_grad_(free)
    if not free:
        model.geometry.matrix.grad = None  # AdamW skips parameters without a gradient, and would reuse a stale one


@torch.inference_mode()
def validation_mrr(model: nn.Module, data: TrainingData) -> float:
    """Full-gallery cosine MRR on the validation side, in float32; NaN where the model's output is not finite."""
    model.eval()
    prediction = model(data.val_text)  # (V, dy)
    model.train()
    if not prediction.square().sum().isfinite():
        return math.nan
    return float(np.mean(1 / metrics.ranks(prediction, data.val_images, data.val_own)))


def train_step(model: nn.Module, objective, optimiser: torch.optim.Optimizer, rows: torch.Tensor) -> dict:
    """One update on the captions `rows` (B,); returns the loss and its weighted terms, detached, on the device."""
    data = objective.data
    own = data.own[rows]  # (B,)
    with autocast(data.device, objective.dtype):
        prediction = objective.predict(model, rows)  # (B, dy)
    terms = objective.terms(prediction, own)
    loss = sum(terms.values())
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), objective.settings.clip_norm)
    optimiser.step()
    objective.end_step(own)
    return {"loss": loss.detach(), **{name: value.detach() for name, value in terms.items()}}


def fit(model: nn.Module, objective, label: str) -> list[dict]:
    """Train `model` in place and leave it at its best epoch by validation MRR.

    Args:
        model: on the device of the objective's data.
        objective: `CombinedObjective` or `BigJumpObjective`; holds settings and data, gives weighted terms a step.
        label: name shown beside the progress bar.

    Returns:
        One dict an epoch: epoch, mrr, loss and its terms (means over captions, weighted), learning rates at the
        epoch's end, `geometry_free`, `seconds`, and what the objective reports (temperature, queue).

    Raises:
        FloatingPointError: the loss is not finite; says in which epoch.
    """
    settings, data = objective.settings, objective.data
    fit_standardisation(model, data.text)
    rng, own_on_host = np.random.default_rng(settings.seed), data.own.cpu().numpy()
    optimiser = make_optimiser(model, settings)
    steps_per_epoch = math.ceil(len(data.own) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, steps_per_epoch, settings)
    )
    history: list[dict] = []
    best_state, best_mrr = copy.deepcopy(model.state_dict()), -1.0
    model.train()
    with tqdm(total=settings.epochs * steps_per_epoch, desc=label, bar_format=BAR, mininterval=0.5) as bar:
        for epoch in range(1, settings.epochs + 1):
            started = time.perf_counter()
            micro_unfreeze(model, settings, epoch, history)
            entry = {"epoch": epoch, **objective.start_epoch(epoch)}
            order = torch.from_numpy(epoch_order(own_on_host, settings.captions_per_image, rng)).to(data.device)
            totals: dict[str, torch.Tensor] = {}
            for rows in order.split(settings.batch_size):
                for name, value in train_step(model, objective, optimiser, rows).items():
                    totals[name] = totals.get(name, 0) + value * len(rows)
                schedule.step()
                bar.update()
            # The only place of an epoch where the host waits for the device.
            entry |= {name: float(value) / len(order) for name, value in totals.items()}
            if not math.isfinite(entry["loss"]):
                message = f"{label}: the loss is {entry['loss']} in epoch {epoch}; lower the learning rate."
                raise FloatingPointError(message)
            entry |= {f"lr_{group['name']}": group["lr"] for group in optimiser.param_groups}
            entry["geometry_free"] = isinstance(model, GeomWithAdapter) and model.geometry.matrix.requires_grad
            entry |= {"mrr": validation_mrr(model, data), "seconds": time.perf_counter() - started}
            if math.isnan(entry["mrr"]):  # the last update of an epoch can break the model after its loss was summed
                message = f"{label}: the loss is no longer finite in epoch {epoch}; lower the learning rate."
                raise FloatingPointError(message)
            history.append(entry)
            if entry["mrr"] > best_mrr:
                best_state, best_mrr = copy.deepcopy(model.state_dict()), entry["mrr"]
            bar.set_postfix(epoch=f"{epoch}/{settings.epochs}", loss=f"{entry['loss']:.3f}", mrr=f"{best_mrr:.3f}")
    model.load_state_dict(best_state)
    model.eval()
    return history


def train_baseline(model: nn.Module, data: TrainingData, settings: BaselineConfig, label: str) -> list[dict]:
    """Train a baseline with the combined loss; see `fit`."""
    return fit(model.to(data.device), CombinedObjective(settings, data), label)


def train_bigjump(model: GeomWithAdapter, data: TrainingData, settings: BigJumpConfig) -> list[dict]:
    """Train BigJump from the geometry that `model` already holds; see `fit`."""
    return fit(model.to(data.device), BigJumpObjective(settings, data), "bigjump")
