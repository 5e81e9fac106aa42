"""STRUCTURE (Gröger et al., NeurIPS 2025): InfoNCE, with a term that keeps the neighbourhoods of the text space.

For a batch X of text embeddings and its translations A, each row is brought to unit length and the mean of the rows is
subtracted; P is the softmax over each row of the products of all pairs, divided by a temperature: where a random walk
goes from a caption. The term compares the walks of one, two, ... L steps in both spaces,

    R = 1/L sum_l 1/l JS(P_X^l, P_A^l),

JS being the Jensen-Shannon divergence of two rows, averaged over the rows. The published method has such a term on each
side; here the images stay as they are, and so do their neighbourhoods. The head is linear or an MLP, whichever the fold
prefers; the paper tries both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.baselines import losses
from benchmarks.baselines.networks import ContrastiveConfig, ContrastiveObjective, capped, widths
from helpers.data.training_data import TrainingData
from helpers.models.networks import MLP

LEAST_CHANCE = 1e-12
"""Of a step of the walk: below it nothing counts, and a logarithm of zero would have no gradient."""


@dataclass(frozen=True)
class StructureConfig(ContrastiveConfig):
    """Settings of STRUCTURE.

    Attributes:
        hidden: width of the MLP's hidden layer; 0 for a linear head.
        temperature: of InfoNCE.
        structure_weight, structure_temperature, levels: of the regulariser: its weight, the softmax's temperature, L.
    """

    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    temperature: float = 0.05
    structure_weight: float = 10.0
    structure_temperature: float = 0.05
    levels: int = 2


def walk(rows: torch.Tensor, temperature: float) -> torch.Tensor:
    """(B, B) probabilities of a step from each row (B, d) to each."""
    unit = nn.functional.normalize(rows.float(), dim=-1)
    centred = unit - unit.mean(0)
    return (centred @ centred.T / temperature).softmax(1)


def jensen_shannon(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence of the rows of p and q (B, B), averaged over the rows."""
    p, q = p.clamp(min=LEAST_CHANCE), q.clamp(min=LEAST_CHANCE)
    middle = ((p + q) / 2).log()
    return ((p * (p.log() - middle)).sum(1) + (q * (q.log() - middle)).sum(1)).mean() / 2


def structure_loss(text: torch.Tensor, translated: torch.Tensor, temperature: float, levels: int) -> torch.Tensor:
    """R of the module's docstring for text (B, dx) and its translations (B, d)."""
    step_text, step_translated = walk(text, temperature), walk(translated, temperature)
    p, q, total = step_text, step_translated, jensen_shannon(step_text, step_translated)
    for level in range(2, levels + 1):
        p, q = p @ step_text, q @ step_translated
        total = total + jensen_shannon(p, q) / level
    return total / levels


class StructureObjective(ContrastiveObjective):
    """InfoNCE of the batch in both directions, and the regulariser."""

    def terms(self, prediction: torch.Tensor, positive: torch.Tensor, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        s = self.settings
        kept = structure_loss(self.data.text[rows], prediction, s.structure_temperature, s.levels)
        return {**super().terms(prediction, positive, rows), "structure": s.structure_weight * kept}

    def loss(self, z: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        return losses.symmetric_infonce(z, self.bank, positive, self.settings.temperature, self.dtype)


def build_structure(settings: StructureConfig, data: TrainingData) -> tuple[nn.Module, StructureObjective]:
    """A linear head or an MLP."""
    hidden = (settings.hidden,) if settings.hidden else ()
    return MLP(*widths(data), hidden, settings.dropout), StructureObjective(capped(settings, data), data)
