"""FuseMix (Vouitsis et al., CVPR 2024): mixed pairs of latents, residual adapters, InfoNCE with a trained temperature.

Two captions and their two images are mixed with the same share; each mixture is one pair of a batch. Published: four
blocks on each side, expansion 4, dropout 0.6, a shared space of 512, AdamW at 1e-3 with weight decay 0.1, up to 500
epochs of 40,960. Here batches of 2,048 captions make 1,024 mixtures, and there are at most 100 epochs. Inputs are
standardised, as for every network of this comparison; images are mixed at unit length. Without the adapter of the
images (`build_fusemix`), a mixed caption is translated to the mixture of the two images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.baselines.heads import Heads, PairObjective, StandardiseImages
from benchmarks.baselines.networks import ContrastiveConfig, capped, widths
from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.models.networks import Standardise


@dataclass(frozen=True)
class FuseMixConfig(ContrastiveConfig):
    """Settings of FuseMix.

    Attributes:
        hidden: width inside a block; 0 for four times the input's.
        blocks: of an adapter.
        shared: width of the space of the two-sided variant.
        alpha: of the Beta distribution that the share of a mixture is drawn from.
        temperature: at the start; trained between `least_temperature` and `largest_temperature`.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    final_lr_ratio: float = 1e-3
    hidden: int = 0
    dropout: float = 0.6
    blocks: int = 4
    shared: int = 512
    alpha: float = 1.0
    temperature: float = 0.07
    least_temperature: float = 0.001
    largest_temperature: float = 0.5


class Block(nn.Module):
    """x + W2 dropout(GELU(W1 LayerNorm(x))): an inverted bottleneck with a residual connection."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        inside = hidden or 4 * width
        first = (nn.LayerNorm(width), nn.Linear(width, inside), nn.GELU(), nn.Dropout(dropout))
        self.branch = nn.Sequential(*first, nn.Linear(inside, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


def adapter(standardise: nn.Module, width: int, out: int, settings: FuseMixConfig) -> nn.Sequential:
    """The blocks, then LayerNorm and a linear layer to the width of the output."""
    blocks = [Block(width, settings.hidden, settings.dropout) for _ in range(settings.blocks)]
    return nn.Sequential(standardise, *blocks, nn.LayerNorm(width), nn.Linear(width, out))


def mix(a: torch.Tensor, b: torch.Tensor, share: float) -> torch.Tensor:
    """share a + (1 - share) b."""
    return share * a + (1 - share) * b


def pair_infonce(z: torch.Tensor, y: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of row i of z with row i of y among all rows, and the other way round, averaged; both (B, d)."""
    logits = z @ y.T / temperature
    own = torch.arange(len(z), device=z.device)
    return (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)) / 2


class FuseMixObjective(PairObjective):
    """InfoNCE of a batch of mixtures: its first half mixed with its second."""

    def inputs(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = (len(rows) + 1) // 2  # of an odd batch, the caption in the middle stands in both
        share = float(torch.distributions.Beta(self.settings.alpha, self.settings.alpha).sample())
        first, second = super().inputs(rows[:half]), super().inputs(rows[-half:])
        text, images = (mix(a, b, share) for a, b in zip(first, second, strict=True))
        return text, images

    def loss(self, z: torch.Tensor, y: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        return pair_infonce(z, y, self.model.temperature)

    @torch.no_grad()
    def end_step(self, positive: torch.Tensor) -> None:
        self.model.temperature.clamp_(self.settings.least_temperature, self.settings.largest_temperature)


def build_fusemix(
    settings: FuseMixConfig, data: TrainingData, two_sided: bool = False
) -> tuple[Heads, FuseMixObjective]:
    """An adapter into the image space, or one on each side into a shared space."""
    text_dim, image_dim = widths(data)
    out = settings.shared if two_sided else image_dim
    captions, images = adapter(Standardise(text_dim), text_dim, out, settings), None
    if two_sided:
        images = adapter(StandardiseImages(normalise(data.images)), image_dim, out, settings)
    model = Heads(captions, images, temperature=settings.temperature).to(data.device)
    return model, FuseMixObjective(capped(settings, data), data, model)


def build_fusemix_two_sided(settings: FuseMixConfig, data: TrainingData) -> tuple[Heads, FuseMixObjective]:
    """FuseMix with both adapters."""
    return build_fusemix(settings, data, two_sided=True)
