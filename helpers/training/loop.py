"""One training loop for the baselines and for BigJump: optimiser, schedules, freezing, history."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Generic, cast

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from helpers.data.training_data import TrainingData
from helpers.evaluation import metrics
from helpers.models.networks import GeomWithAdapter, fit_standardisation
from helpers.system import memory, processes
from helpers.system.bars import show, training_bar
from helpers.training.history import EpochEntry
from helpers.training.objectives import (
    BaselineConfig,
    BigJumpConfig,
    BigJumpObjective,
    CombinedObjective,
    Model,
    Objective,
)
from helpers.training.settings import OptimiserConfig
from helpers.training.state import Progress, TrainingState
from helpers.training.steps import Steps

TRANSLATION_BLOCK = 4096
"""Captions of one forward pass without gradients."""


def epoch_order(positive: np.ndarray, captions_per_image: int, rng: np.random.Generator) -> np.ndarray:
    """Order (N,) in which an epoch takes the captions, each once; batches are consecutive parts of it.

    With K captions an image each image's captions are dealt into groups of K (the last may be smaller) and the groups
    are shuffled, so captions of one image share a batch; K = 1 is plain shuffling.

    Args:
        positive: (N,) image of each caption.
    """
    order = rng.permutation(len(positive))
    if captions_per_image == 1:
        return order
    order = order[np.argsort(positive[order], kind="stable")]  # by image, shuffled within
    image = positive[order]
    starts = np.flatnonzero(np.r_[True, image[1:] != image[:-1]])
    within = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    group = np.cumsum(within % captions_per_image == 0) - 1  # (N,) group of each position
    place = rng.permutation(group[-1] + 1)
    return order[np.argsort(place[group], kind="stable")]


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
    rest = [(name, p) for name, p in model.named_parameters() if not any(p is g for g in geometry)]
    weights, biases = [p for name, p in rest if "bias" not in name], [p for name, p in rest if "bias" in name]
    rate = settings.learning_rate
    groups: list[dict[str, object]] = [
        {"name": "weights", "params": weights, "weight_decay": settings.weight_decay},
        {"name": "biases", "params": biases, "weight_decay": 0.0},
    ]
    if geometry and isinstance(settings, BigJumpConfig):
        lr = rate * settings.geometry_lr_ratio
        groups.append({"name": "geometry", "params": geometry, "weight_decay": 0.0, "lr": lr})
    return torch.optim.AdamW(groups, lr=rate, fused=next(model.parameters()).device.type in ("cpu", "cuda"))


def micro_unfreeze(model: nn.Module, settings: OptimiserConfig, epoch: int, history: Sequence[EpochEntry]) -> None:
    """Train A from `unfreeze_epoch` on, until validation MRR falls too far below its best; then never again."""
    if not (isinstance(model, GeomWithAdapter) and isinstance(settings, BigJumpConfig) and settings.unfreeze_epoch):
        return
    free = epoch >= settings.unfreeze_epoch
    for done in history[settings.unfreeze_epoch - 1 :]:
        best = max(entry["mrr"] for entry in history[: done["epoch"]])
        free = free and done["mrr"] >= best - settings.refreeze_drop
    model.geometry.matrix.requires_grad_(free)
    if not free:
        model.geometry.matrix.grad = None  # AdamW skips parameters without a gradient, and would reuse a stale one


def translations(model: nn.Module, text: torch.Tensor) -> torch.Tensor:
    """Translations (N, dy) of text (N, dx), in blocks: the hidden layers of an ensemble are large."""
    return torch.cat([model(block) for block in text.split(TRANSLATION_BLOCK)])


@torch.inference_mode()
def validation_mrr(model: nn.Module, data: TrainingData) -> float:
    """Full-gallery cosine MRR on the validation split, in float32; NaN where the model's output is not finite.

    Each of several processes ranks its own captions.
    """
    model.eval()
    prediction = translations(model, data.val_text)  # (V, dy)
    model.train()
    found = np.full(max(1, len(prediction)), math.nan)
    if prediction.square().sum().isfinite():
        found = 1 / metrics.ranks(prediction, data.val_images, data.val_positive, statistics=data.gallery_statistics)
    if processes.size() == 1:
        return float(np.mean(found))
    sums, count = processes.total_array(np.array([found.sum(), len(found)]))
    return float(sums / count)


def run_epoch(
    model: Model,
    objective: Objective[OptimiserConfig, Model],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    order: torch.Tensor,
    bar: tqdm,
) -> dict[str, float]:
    """One pass over the captions in `order` (N,); returns the loss and its terms, averaged over captions."""
    batches = order.split(objective.settings.batch_size)
    step = Steps(model, objective, optimiser, len(batches))
    with memory.reused():
        for rows in batches:
            step(rows)
            schedule.step()
            bar.update()
    return step.means()


class Training(Generic[Model]):
    """A training that goes on epoch by epoch, from its beginning or from a state on disk.

    Args:
        model: on the device of the objective's data; trained in place.
        objective: holds settings and data, gives the weighted terms of each step.
        progress: where the state is kept between epochs, how often, and whether to go on from there.

    Attributes:
        history: one entry an epoch.
        steps: updates of an epoch.

    Raises:
        CheckpointError: the state to resume is damaged.
    """

    def __init__(
        self, model: Model, objective: Objective[OptimiserConfig, Model], progress: Progress | None = None
    ) -> None:
        settings, data = objective.settings, objective.data
        self.model, self.objective, self.progress = model, objective, progress
        fit_standardisation(model, data.text)
        processes.take_from_first(model.state_dict().values())
        self.history: list[EpochEntry] = []
        self.steps = steps = math.ceil(len(data.positive_of_all) / settings.batch_size)
        optimiser = make_optimiser(model, settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_factor(step, steps, settings)
        )
        rng, best = np.random.default_rng(settings.seed), copy.deepcopy(model.state_dict())
        self._state = TrainingState(model, optimiser, schedule, objective, rng, self.history, best)
        self._positive_on_host = data.positive_of_all.cpu().numpy()
        if progress is not None:
            progress.load(self._state)
            processes.require_same(len(self.history), "The states of an interrupted training")
        model.train()
        self._saved = time.perf_counter()

    def epoch(self, bar: tqdm, label: str) -> EpochEntry:
        """Train one epoch more.

        Args:
            bar: over the steps. label: of the training, for an error.

        Raises:
            FloatingPointError: the loss is not finite; says in which epoch.
            CheckpointError: the state cannot be written.
        """
        state, objective = self._state, self.objective
        settings, device = objective.settings, objective.data.device
        started, epoch = time.perf_counter(), len(self.history) + 1
        if processes.size() > 1:  # each draws its own, and the state on disk need not hold what each has drawn
            _seed_process(settings.seed, epoch)
        micro_unfreeze(self.model, settings, epoch, self.history)
        reported = objective.start_epoch(epoch)
        order = epoch_order(self._positive_on_host, settings.captions_per_image, state.rng)
        rows = torch.from_numpy(order).to(device)
        means = run_epoch(self.model, objective, state.optimiser, state.schedule, rows, bar)
        judged = objective.judged(self.model)
        found = {
            "epoch": epoch,
            **reported,
            **means,
            **{f"lr_{group['name']}": group["lr"] for group in state.optimiser.param_groups},
            "geometry_free": isinstance(self.model, GeomWithAdapter) and self.model.geometry.matrix.requires_grad,
            "mrr": validation_mrr(judged, objective.data),
            "seconds": time.perf_counter() - started,
        }
        entry = cast(EpochEntry, found)  # the names of the terms are the objective's
        _require_finite(entry, label)
        if objective.keeps_last or entry["mrr"] > max((done["mrr"] for done in self.history), default=-1.0):
            state.best = copy.deepcopy(judged.state_dict())
        self.history.append(entry)
        if self.progress is not None and time.perf_counter() - self._saved >= self.progress.every:
            self.progress.save(state)
            self._saved = time.perf_counter()
        return entry

    def end(self) -> None:
        """Leave the model at its best epoch by validation MRR, or the last where the objective says so."""
        self.model.load_state_dict(self._state.best)
        self.model.eval()


def fit(
    model: Model, objective: Objective[OptimiserConfig, Model], label: str, progress: Progress | None = None
) -> list[EpochEntry]:
    """Train a model in place; it is left at its best epoch by validation MRR, or the last where the objective says so.

    Args:
        model, objective, progress: see `Training`.
        label: name shown beside the progress bar.

    Returns:
        One entry an epoch.

    Raises:
        FloatingPointError: the loss is not finite; says in which epoch.
        CheckpointError: the state cannot be written, or the one to resume is damaged.
    """
    training, epochs = Training(model, objective, progress), objective.settings.epochs
    steps = training.steps
    with training_bar(label, epochs * steps, initial=len(training.history) * steps) as bar:
        while len(training.history) < epochs:
            entry = training.epoch(bar, label)
            shown = {"epoch": f"{entry['epoch']}/{epochs}", "loss": f"{entry['loss']:.3f}"}
            if len(objective.data.val_images) > 1:  # among one image every caption finds its own
                shown["mrr"] = f"{entry['mrr']:.3f}"
            show(bar, shown)
    training.end()
    return training.history


def _seed_process(seed: int, epoch: int) -> None:
    """Seed what this one of several processes draws in an epoch, such as dropout."""
    (of_process,) = np.random.SeedSequence([seed, epoch, processes.rank()]).generate_state(1, np.uint64)
    torch.manual_seed(int(of_process))


def _require_finite(entry: EpochEntry, label: str) -> None:
    """The last update of an epoch can break the model after its loss was summed; then the MRR is NaN."""
    if not math.isfinite(entry["loss"]):
        found = f"the loss is {entry['loss']}"
    elif math.isnan(entry["mrr"]):
        found = "the loss is no longer finite"
    else:
        return
    raise FloatingPointError(f"{label}: {found} in epoch {entry['epoch']}; lower the learning rate.")


def train_baseline(
    model: nn.Module, data: TrainingData, settings: BaselineConfig, label: str, progress: Progress | None = None
) -> list[EpochEntry]:
    """Train a baseline with the combined loss; see `fit`."""
    return fit(model.to(data.device), CombinedObjective(settings, data), label, progress)


def train_bigjump(
    model: GeomWithAdapter, data: TrainingData, settings: BigJumpConfig, progress: Progress | None = None
) -> list[EpochEntry]:
    """Train BigJump from the geometry that `model` already holds; see `fit`."""
    return fit(model.to(data.device), BigJumpObjective(settings, data), "bigjump", progress)
