"""Objectives of the ablations: BigJump's loss with one thing changed, judged by its last epoch."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from helpers.data.training_data import TrainingData
from helpers.training import losses
from helpers.training.objectives import BigJumpConfig, BigJumpObjective, CombinedObjective


class LastEpoch(BigJumpObjective):
    """BigJump's objective as it is; the last epoch counts, so that no epoch is chosen on any images."""

    keeps_last = True


class LastEpochCombined(CombinedObjective):
    """The baselines' objective, likewise."""

    keeps_last = True


class OwnImageCounted(LastEpoch):
    """A caption's own image, where it stands in the queue, counts among the negatives, as first published."""

    capturable = False  # plain and slow is enough here, and its gradient was never recorded

    def infonce(
        self, prediction: torch.Tensor, positive: torch.Tensor, excluded: torch.Tensor | None = None
    ) -> torch.Tensor:
        counts = self.queue.counts(self.queue_used)
        return infonce_with_own_image_counted(
            prediction, self.negative_bank, positive, counts, self.temperature, self.dtype
        )


class EveryImage(LastEpoch):
    """Every training image once in place of the queue, from the epoch on in which the queue would be used."""

    def infonce(
        self, prediction: torch.Tensor, positive: torch.Tensor, excluded: torch.Tensor | None = None
    ) -> torch.Tensor:
        counts = torch.zeros(len(self.negative_bank), device=self.negative_bank.device)
        counts[: len(self.data.images)] = float(self.queue_used > 0)
        return losses.multi_positive_infonce(
            prediction, self.negative_bank, positive, counts, self.temperature, self.dtype, excluded=excluded
        )


class Bfloat16(LastEpoch):
    """Matrix products in bfloat16 whether the device has them or not."""

    def __init__(self, settings: BigJumpConfig, data: TrainingData) -> None:
        super().__init__(settings, data)
        self.dtype = torch.bfloat16
        self.negative_bank = self.negative_bank.to(self.dtype)


class MomentWithStd(LastEpoch):
    """The moment term of the baselines: means and standard deviations."""

    def terms(self, prediction: torch.Tensor, positive: torch.Tensor, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        moment = losses.moment_loss(prediction, self.data.images[positive], with_std=True)
        return {**super().terms(prediction, positive, rows), "moment": self.settings.moment_weight * moment}


def infonce_with_own_image_counted(
    prediction: torch.Tensor,
    bank: torch.Tensor,
    positive: torch.Tensor,
    queue_counts: torch.Tensor,
    temperature: float,
    matmul_dtype: torch.dtype,
) -> torch.Tensor:
    """`losses.multi_positive_infonce`, but the denominator also holds q_own e^{s_own}; same arguments.

    A reference implementation: one matrix of logits, left to autograd; slower than the helper, and plain.
    """
    batch_counts = torch.zeros_like(queue_counts).index_add_(
        0, positive, torch.ones_like(positive, dtype=queue_counts.dtype)
    )
    z = F.normalize(prediction.float(), dim=-1)
    positive_score = (z * bank[positive].float()).sum(-1, keepdim=True)  # (B, 1), in float32 as the helper has it
    logits = (z.to(matmul_dtype) @ bank.T).float().scatter(1, positive[:, None], positive_score) / temperature  # (B, M)
    total = torch.logsumexp(logits + (batch_counts + queue_counts).log(), dim=1)
    return (total - positive_score[:, 0] / temperature - batch_counts[positive].log()).mean()
