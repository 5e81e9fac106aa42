"""What tests run in several processes, and in one to compare with; each function says what it found in its part.

Inputs are made from seeds, so that every process has the same.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from helpers.data.split import make_split
from helpers.data.training_data import TrainingData
from helpers.models import cca, geometry, kernel
from helpers.models.build import build_model
from helpers.system import processes
from helpers.system.devices import seed_all
from helpers.training import closed_forms, loop, losses, plus
from helpers.training.objectives import BaselineConfig, BigJumpConfig
from helpers.training.plus_choice import Networks
from helpers.training.plus_objective import PlusObjective
from helpers.training.settings import PlusConfig
from helpers.training.state import Progress

TEMPERATURE = 0.05
N_IMAGES, PER_IMAGE, DX, DY = 61, 5, 12, 16
# Without dropout: each process draws its own, so that nothing else could be compared.
SHORT: dict[str, Any] = {"epochs": 3, "batch_size": 64, "hidden": 24, "mixed_precision": False, "dropout": 0.0}
BASELINE = BaselineConfig(**SHORT, learning_rate=1e-2, infonce_weight=0.1)
BIGJUMP = BigJumpConfig(
    **SHORT, learning_rate=3e-3, queue_size=300, queue_schedule=(0, 100, 300), exclude_same_text=True
)
PLUS = PlusConfig(**SHORT | {"hidden": 32}, negative_share=1.0, exclude_same_text=True)


def batch(dtype: torch.dtype, captions: int = 37, images: int = 50, dim: int = 12) -> dict[str, torch.Tensor]:
    """Predictions, and the images that they are of; images of some residue alone, so that processes may have none."""
    generator = torch.Generator().manual_seed(captions)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    positive = integers(images, captions)
    return {
        "prediction": normal(captions, dim).to(dtype),
        "images": normalize(normal(images, dim) + 0.5, dim=-1).to(dtype),
        "positive": positive if captions > 5 else positive // 4 * 4,  # a small batch is all of the first process
        "queue_counts": integers(4, images).float() * (integers(3, images) > 0),
        "log_weight": torch.where(integers(3, images) > 0, 0.7, -torch.inf).index_fill(0, positive, 0.0).to(dtype),
        "excluded": torch.where(integers(3, captions, 2) > 0, integers(images, captions, 2), positive[:, None]),
    }


Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor], torch.Tensor], torch.Tensor]
LOSSES: dict[str, Loss] = {
    "bank": lambda z, bank, at, of, ex: losses.bank_infonce(z, bank, at, TEMPERATURE, bank.dtype),
    "sampled": lambda z, bank, at, of, ex: losses.bank_infonce(
        z, bank, at, TEMPERATURE, bank.dtype, of["log_weight"], None, ex
    ),
    "queue": lambda z, bank, at, of, ex: losses.multi_positive_infonce(
        z, bank, at, of["queue_counts"], TEMPERATURE, bank.dtype
    ),
    "excluding": lambda z, bank, at, of, ex: losses.multi_positive_infonce(
        z, bank, at, of["queue_counts"], TEMPERATURE, bank.dtype, None, ex
    ),
    "in_batch": lambda z, bank, at, of, ex: losses.in_batch_infonce(z, bank[at], TEMPERATURE),
    "cosine": lambda z, bank, at, of, ex: losses.cosine_loss(z, bank[at]),
    "mse": lambda z, bank, at, of, ex: losses.mse_loss(z, bank[at]),
    "moment": lambda z, bank, at, of, ex: losses.moment_loss(z, bank[at], with_std=False),
    "moment_with_std": lambda z, bank, at, of, ex: losses.moment_loss(z, bank[at], with_std=True),
    "agreement": lambda z, bank, at, of, ex: losses.agreement_loss(z, at),
}
CASES = (("float32", 37), ("float32", 3), ("float64", 37))
"""Types, and captions of a batch; three are too few for every process to have one."""
IN_FLOAT64 = ("bank", "sampled", "queue", "excluding")
"""The others compute in float32, whatever they are given."""


def of_losses() -> list[dict[str, dict[str, torch.Tensor]]]:
    """`of_losses_for` all `CASES`."""
    return [of_losses_for(*case) for case in CASES]


def of_losses_for(dtype: str, captions: int) -> dict[str, dict[str, torch.Tensor]]:
    """Loss, and gradient of this process's predictions, of every loss; which captions are its own."""
    whole = batch(getattr(torch, dtype), captions)
    images = torch.arange(len(whole["images"]))
    has = images[processes.owner(images) == processes.rank()]
    own = torch.nonzero(processes.owner(whole["positive"]) == processes.rank()).squeeze(1)
    at = processes.place(whole["positive"][own])
    of_images = {name: whole[name][has] for name in ("queue_counts", "log_weight")}
    found = {}
    for name, loss in LOSSES.items():
        z = whole["prediction"][own].requires_grad_()
        value = loss(z, whole["images"][has], at, of_images, whole["excluded"][own])
        (gradient,) = torch.autograd.grad(3 * value, z)
        found[name] = {"loss": value.detach(), "gradient": gradient, "rows": own}
    return found


def data() -> TrainingData:
    """Captions that are a bent view of their image; some images have none, and some texts describe several images."""
    rng = np.random.default_rng(0)
    images = 1 + rng.normal(size=(N_IMAGES, DY))
    targets = np.repeat(np.arange(3, N_IMAGES), PER_IMAGE)
    text = np.tanh(images @ rng.normal(size=(DY, DX)) / 4)[targets] + 0.1 * rng.normal(size=(len(targets), DX))
    texts = [f"text {number}" for number in rng.integers(0, 200, len(targets))]
    split = make_split(targets, N_IMAGES, val_ratio=0.25)
    cpu = torch.device("cpu")
    return TrainingData.of(text.astype(np.float32), images.astype(np.float32), split, cpu, captions=texts)


def _start(kind: str, dropout: float) -> tuple[nn.Module, Any]:
    """An untrained model, and its objective."""
    whole = data()
    if kind == "plus":
        kinds = {
            name: Networks(temperature=0.055, whitening=whitening, blocks=blocks, epochs=epochs, members=members)
            for name, whitening, blocks, epochs, members in (
                ("networks", 0.0, 0, 2, 2),
                ("networks_whitened50", 0.5, 1, 3, 1),
            )
        }
        settings = plus.derived(replace(PLUS, dropout=dropout), whole)
        with processes.by_itself():  # of the sum in another order an eigenvector may have the other sign
            basis = plus.basis_for(data(), settings)
        model = plus.build_networks(whole, settings, kinds, basis=basis)
        return model, PlusObjective(settings, whole, model, kinds)
    statistics = geometry.pair_statistics(*whole.pairs)
    seed_all(BASELINE.seed)
    model = build_model(kind, DX, DY, hidden=BASELINE.hidden, dropout=dropout)
    if kind == "bigjump":
        affine = geometry.fit_cross_space(statistics, 1e-2).affine()
        model.geometry.set_affine(affine.matrix, affine.bias)
        return model, loop.BigJumpObjective(replace(BIGJUMP, dropout=dropout), whole)
    return model, loop.CombinedObjective(replace(BASELINE, dropout=dropout), whole)


def trained(kind: str, dropout: float = 0.0, stop_after: int = 0, folder: str = "", dies_in: int = 0) -> dict[str, Any]:
    """History and weights of a training; with a folder it keeps its state there, and goes on from one that is there.

    Args:
        stop_after: epochs; 0 for all.
        dies_in: the epoch in the middle of which process 1 is killed; 0 for none.
    """
    model, objective = _start(kind, dropout)
    progress = Progress(Path(folder) / f"{kind}.safetensors", {"kind": kind}, every=0) if folder else None
    training = loop.Training(model, objective, progress)
    with loop.training_bar("test", 1) as bar:
        while len(training.history) < (stop_after or objective.settings.epochs):
            if dies_in == len(training.history) + 1 and processes.rank() == 1:
                objective.end_step = lambda positive: os.kill(os.getpid(), signal.SIGKILL)
            training.epoch(bar, "test")
    training.end()
    history = [{name: value for name, value in entry.items() if name != "seconds"} for entry in training.history]
    return {"history": history, "weights": dict(model.state_dict())}


def of_trainings(folder: str) -> dict[str, Any]:
    """Every kind of training, and those with a state with dropout, in one go and interrupted."""
    found = {kind: trained(kind) for kind in ("mlp1", "bigjump", "plus")}
    for kind in ("bigjump", "plus"):
        found[f"{kind} with dropout"] = trained(kind, 0.5)
        trained(kind, 0.5, 2, folder)
        found[f"{kind} resumed"] = trained(kind, 0.5, 0, folder)
    return found


def everything(folder: str) -> dict[str, Any]:
    """All of this module: starting processes takes longer than most of it."""
    return {"losses": of_losses(), "closed forms": of_closed_forms(), "trainings": of_trainings(folder)}


def of_closed_forms() -> dict[str, torch.Tensor]:
    """What the closed forms are fitted to, on the dealt captions."""
    whole, found = data(), {}
    for fit_on in ("captions", "caption_means"):
        statistics = geometry.pair_statistics(*whole.pairs, fit_on)
        for name in ("n", "mean_x", "mean_y", "cov_x", "cov_y", "cov_xy"):
            found[f"{fit_on} {name}"] = torch.as_tensor(getattr(statistics, name))
        for power in (0.0, 1.0):
            affine = geometry.fit_cross_space(statistics, 1e-2).affine(power)
            found[f"{fit_on} map {power}"] = torch.from_numpy(affine.matrix)
    found["cca"] = closed_forms.fit_cca(whole, cca.GRID[17]).matrix.detach()
    setting = kernel.grid([1.0], [1e-3], [0.1])[4]
    found["kernel"] = closed_forms.fit_kernel(whole, setting, 100)(whole.val_images[:5, :DX]).detach()
    return found
