"""What tests run in several processes, and in one to compare with; each function says what it found in its part.

Inputs are made from seeds, so that every process has the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import normalize

from helpers.system import processes
from helpers.training import losses

TEMPERATURE = 0.05


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
    """`of_losses_for` all `CASES`; starting processes takes longer than all of them."""
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
