"""SAIL (Zhang et al., CVPR 2025): a gated head, the sigmoid loss with a trained scale and bias, and Lion.

As published but for its size: batches of 1,024 captions instead of 32,768, since our data are a thousand times smaller,
and learning rates that are searched. Without the head for images (`build_sail`), captions are translated into the image
space. Several captions of an image may share a batch: each is a positive of that image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.baselines.heads import Heads, PairObjective, decayed_matrices
from benchmarks.baselines.networks import ContrastiveConfig, capped, widths
from helpers.data.training_data import TrainingData
from helpers.training.settings import OptimiserConfig


@dataclass(frozen=True)
class SailConfig(ContrastiveConfig):
    """Settings of SAIL.

    Attributes:
        hidden: width of the gate; 0 for eight times the input's.
        shared: width of the space of the two-sided variant.
        scale, bias: what the trained scale and bias of the cosine start from.
    """

    learning_rate: float = 1e-5
    weight_decay: float = 1e-4
    warmup_epochs: float = 10.0
    final_lr_ratio: float = 0.0
    hidden: int = 0
    shared: int = 1024
    scale: float = 20.0
    bias: float = -10.0


class GatedHead(nn.Module):
    """LayerNorm, then g(ReLU6(f1(x)) * f2(x)) with three linear layers."""

    LARGEST = 1e3  # of either factor, as published: their product must not overflow

    def __init__(self, width_in: int, width_out: int, hidden: int) -> None:
        super().__init__()
        hidden = hidden or 8 * width_in
        self.norm = nn.LayerNorm(width_in)
        self.gate, self.value = nn.Linear(width_in, hidden), nn.Linear(width_in, hidden)
        self.out = nn.Linear(hidden, width_out)
        for layer in (self.gate, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        gate, value = (layer(x).clamp(-self.LARGEST, self.LARGEST) for layer in (self.gate, self.value))
        return self.out(nn.functional.relu6(gate) * value)


def sigmoid_loss(
    z: torch.Tensor, y: torch.Tensor, positive: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Mean over all pairs of a caption i and an image j of -log sigmoid(l_ij (scale z_i . y_j + bias)).

    l_ij is 1 where the image is the caption's own, else -1 (Zhai et al., 2023).

    Args:
        z, y: (B, d) unit captions and the images of each. positive: (B,) image of each row.
    """
    own = torch.where(positive[:, None] == positive[None, :], 1.0, -1.0)
    return -nn.functional.logsigmoid(own * (scale * (z @ y.T) + bias)).mean()


class SailObjective(PairObjective):
    """The sigmoid loss."""

    def loss(self, z: torch.Tensor, y: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        return sigmoid_loss(z, y, positive, self.model.log_scale.exp(), self.model.bias)


class Lion(torch.optim.Optimizer):
    """Steps of one size in every parameter: the sign of an interpolated momentum (Chen et al., 2023)."""

    BETAS = (0.9, 0.99)

    def __init__(self, parameters: list[dict[str, object]], lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        fast, slow = self.BETAS
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(torch.lerp(parameter.grad, momentum, fast).sign_(), alpha=group["lr"])
                momentum.lerp_(parameter.grad, 1 - slow)


def lion(model: nn.Module, settings: OptimiserConfig) -> Lion:
    """Lion, with weight decay on matrices alone."""
    return Lion(decayed_matrices(model, settings), settings.learning_rate)


def build_sail(settings: SailConfig, data: TrainingData, two_sided: bool = False) -> tuple[Heads, SailObjective]:
    """A gated head into the image space, or one on each side into a shared space."""
    text_dim, image_dim = widths(data)
    out = settings.shared if two_sided else image_dim
    images = GatedHead(image_dim, out, settings.hidden) if two_sided else None
    start = {"log_scale": float(torch.tensor(settings.scale).log()), "bias": settings.bias}
    model = Heads(GatedHead(text_dim, out, settings.hidden), images, **start).to(data.device)
    return model, SailObjective(capped(settings, data), data, model)


def build_sail_two_sided(settings: SailConfig, data: TrainingData) -> tuple[Heads, SailObjective]:
    """SAIL with both heads."""
    return build_sail(settings, data, two_sided=True)
