"""Losses of the contrastive baselines: pure functions from unit vectors to a scalar (float32).

`z` are normalised predictions, `y` normalised images, `positive` names the image of a row. A caption's own image
is never among its negatives, whichever caption brought it into the batch.
"""

from __future__ import annotations

import torch


def hardest_negative_triplet(z: torch.Tensor, y: torch.Tensor, positive: torch.Tensor, margin: float) -> torch.Tensor:
    """Hinge against the batch's hardest negatives in both directions, summed over rows (VSE++, Faghri et al., 2018).

    Args:
        z, y: (B, d) captions and their images. positive: (B,).
    """
    scores = z.float() @ y.float().T  # (B, B) caption by image
    matched = scores.diagonal()  # (B,)
    negative = scores.masked_fill(positive[:, None] == positive[None, :], -torch.inf)
    of_caption = (margin + negative.amax(1) - matched).clamp(min=0)
    of_image = (margin + negative.amax(0) - matched).clamp(min=0)
    return (of_caption + of_image).sum()


def symmetric_infonce(
    z: torch.Tensor, bank: torch.Tensor, positive: torch.Tensor, temperature: float, matmul_dtype: torch.dtype
) -> torch.Tensor:
    """InfoNCE of the batch in both directions; a row that several captions of an image share has several positives.

    Every caption brings its image along, so an image with c captions in the batch counts c times. The loss of a row is
    minus the mean log-probability of its positives (as in Khosla et al., 2020); the two directions are averaged.
    Equal images have equal scores, so each is scored once and weighs c: an identity.

    Args:
        z: (B, d). bank: (M, d) all images, in `matmul_dtype`. positive: (B,) rows of `bank`.
        matmul_dtype: of the product; sums are float32.
    """
    present, column, counts = torch.unique(positive, return_inverse=True, return_counts=True)  # (U,), (B,), (U,)
    logits = (z.to(matmul_dtype) @ bank[present].T).float() / temperature  # (B, U)
    own = logits.gather(1, column[:, None]).mean()
    to_image = (logits + counts.log()).logsumexp(1).mean() - own
    to_caption = (counts * logits.logsumexp(0)).sum() / len(z) - own
    return (to_image + to_caption) / 2


def queue_infonce(
    z: torch.Tensor,
    bank: torch.Tensor,
    positive: torch.Tensor,
    queue_counts: torch.Tensor,
    temperature: torch.Tensor,
    matmul_dtype: torch.dtype,
) -> torch.Tensor:
    """InfoNCE of captions against the images of the batch and of a queue; one positive, its own image.

    Every entry of the batch and of the queue counts; equal entries have equal scores, so each image is scored once and
    weighs its number of entries. Entries of the caption's own image are left out, in the queue and in the batch.

    Args:
        z: (B, d). bank: (M, d) all images, in `matmul_dtype`. positive: (B,) rows of `bank`.
        queue_counts: (M,) float32, how often each image stands in the queue.
        temperature: scalar tensor, which may be trained.
    """
    counts = queue_counts.index_add(0, positive, torch.ones_like(positive, dtype=queue_counts.dtype))
    present = counts.nonzero().squeeze(1)  # (U,)
    log_weight = counts[present].log().expand(len(z), -1)  # (B, U)
    mine = present[None, :] == positive[:, None]
    logits = (z.to(matmul_dtype) @ bank[present].T).float() / temperature
    everything = (logits + log_weight.masked_fill(mine, 0.0)).logsumexp(1)  # the positive counts once
    return (everything - logits[mine]).mean()
