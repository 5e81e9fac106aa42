"""Loss terms: functions from tensors to a scalar (float32).

In several processes (`system.processes`) each gives its own captions, and may have none in a batch. The value is
that of the whole batch, the same in every process; its gradient that of each process's own predictions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from helpers.system import processes
from helpers.system.devices import COLUMN_MULTIPLE, any_order
from helpers.training.infonce import InfoNCE


def cosine_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - cos over rows; both (B, d)."""
    return 1 - processes.mean_of_rows(F.cosine_similarity(prediction.float(), target.float(), dim=-1))


def mse_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared difference over rows and dimensions; both (B, d)."""
    # Row by row first: the mean of a whole matrix is summed in an order that depends on the number of threads.
    return processes.mean_of_rows(F.mse_loss(prediction.float(), target.float(), reduction="none").mean(-1))


def moment_loss(prediction: torch.Tensor, target: torch.Tensor, *, with_std: bool) -> torch.Tensor:
    """Squared difference of the batch means; with `with_std` that of the standard deviations is added.

    Both (B, d); averaged over the d dimensions, as `mse_loss` is, so that its weight means the same at every width.
    A batch of one has no standard deviation and contributes its mean only.
    """
    prediction, target = prediction.float(), target.float()
    mean, target_mean = processes.mean_of_rows(prediction), processes.mean_of_rows(target)  # (d,)
    loss = (mean - target_mean).square().mean()
    if with_std and processes.total_number(len(prediction)) > 1:
        loss = loss + (_std(prediction, mean) - _std(target, target_mean)).square().mean()
    return loss


def _std(rows: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Standard deviation (d,) of the rows (B, d) of all processes, whose mean is known, divided by their number - 1."""
    if processes.size() == 1:
        return rows.std(0)
    n = processes.total_number(len(rows))
    # The mean is detached: through it the sum of squares has no gradient, since the deviations add up to nothing.
    variance = processes.total((rows - mean.detach()).square().sum(0)) / (n - 1)
    varies = variance > 0  # the root has no slope at 0, and a gradient of 0 is taken there, as `torch.std` has it
    return torch.where(varies, torch.where(varies, variance, 1.0).sqrt(), 0.0)


def in_batch_infonce(prediction: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
    """In-batch InfoNCE by cosine, diagonal positives (van den Oord et al., 2018); both (B, d)."""
    if processes.size() > 1:  # the targets of every process are its part of a bank
        own = torch.arange(len(target), device=target.device)
        return bank_infonce(prediction, F.normalize(target.float(), dim=-1), own, temperature)
    logits = F.normalize(prediction.float(), dim=-1) @ F.normalize(target.float(), dim=-1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def agreement_loss(prediction: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """How far the predictions for captions of one image lie apart.

    Mean over dimensions of the (biased) variance of the normalised predictions, averaged over the images that have
    two captions or more in the batch; 0 where there is none.

    Args:
        prediction: (B, d). images: (B,) image of each caption.
    """
    z = F.normalize(prediction.float(), dim=-1)
    # Groups from sorted neighbours: torch.unique would make the host wait for the device to learn their number.
    image, order = images.sort()
    starts = torch.cat([image.new_zeros(min(1, len(image))), (image[1:] != image[:-1]).long()])
    group = starts.cumsum(0)  # (B,), of the sorted rows
    z = z[order]
    with any_order():
        size = torch.zeros(len(z), device=z.device).index_add_(0, group, torch.ones(len(z), device=z.device))
    mean = torch.zeros_like(z).index_add(0, group, z) / size.clamp(min=1)[:, None]
    spread = (z - mean[group]).square().mean(-1)  # (B,)
    # Each row weighs 1 / size, so that an image counts once however many captions it has.
    several = (size[group] > 1).float() / size[group]
    # An image is of one process, and so are its captions.
    return processes.total((spread * several).sum()) / processes.total(several.sum()).clamp(min=1)


GATHERING = {"cpu": 40, "cuda": 200}
"""Captions for which scoring an image costs what gathering its vector does: two cores, an H200 in bfloat16."""


Gathered = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Negative bank, `positive`, `log_weight` and `excluded` of a loss, the rows of the bank renumbered alike."""


def _gathered(
    negative_bank: torch.Tensor,
    positive: torch.Tensor,
    log_weight: torch.Tensor,
    excluded: torch.Tensor | None,
    at_most: int | None,
) -> Gathered:
    """Bank (M, d), `positive` (B,) and `log_weight` (M,) without the rows of weight 0, where leaving them out pays.

    Their number decides the shapes, and a GPU's host would wait for it: there `at_most` rows are kept, where given.
    """

    def pays(kept: int) -> bool:
        return (len(negative_bank) - kept) * len(positive) > GATHERING.get(
            negative_bank.device.type, GATHERING["cuda"]
        ) * kept

    if negative_bank.device.type == "cpu" or processes.size() > 1:
        present = log_weight.isneginf().logical_not_().nonzero().squeeze(1)
        if pays(len(present)):
            return _kept(present, negative_bank, positive, log_weight, excluded)
    elif at_most is not None and pays(at_most):
        return keep_heaviest(negative_bank, positive, log_weight, at_most, excluded)
    return negative_bank, positive, log_weight, excluded


def keep_heaviest(
    negative_bank: torch.Tensor,
    positive: torch.Tensor,
    log_weight: torch.Tensor,
    k: int,
    excluded: torch.Tensor | None = None,
) -> Gathered:
    """The k bank rows that count most: those of the batch, then those of the highest weights; else as `_gathered`.

    No shape depends on values.
    """
    keep = log_weight.index_fill(0, positive, torch.inf).argsort(descending=True, stable=True)[:k]
    return _kept(keep, negative_bank, positive, log_weight, excluded)


def _kept(
    rows: torch.Tensor,
    negative_bank: torch.Tensor,
    positive: torch.Tensor,
    log_weight: torch.Tensor,
    excluded: torch.Tensor | None,
) -> Gathered:
    """The bank's `rows` (k,) alone, every positive among them; an excluded row that is not becomes the positive.

    In several processes `excluded` is as `InfoNCE` takes it, and such a row becomes -1.
    """
    position = torch.full_like(log_weight, -1, dtype=torch.long).index_copy_(
        0, rows, torch.arange(len(rows), device=positive.device)
    )
    places = position[positive]
    if excluded is not None:
        there = position[excluded]  # (B, K)
        if processes.size() > 1:
            excluded = torch.where(excluded < 0, -1, there)
        else:
            excluded = torch.where(there < 0, places[:, None], there)
    return negative_bank[rows], places, log_weight[rows], excluded


def multi_positive_infonce(
    prediction: torch.Tensor,
    negative_bank: torch.Tensor,
    positive: torch.Tensor,
    queue_counts: torch.Tensor,
    temperature: float,
    matmul_dtype: torch.dtype = torch.float32,
    at_most: int | None = None,
    excluded: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multi-positive InfoNCE of captions against the images of the batch and of the queue.

    For caption i with score s_iu = cos(y^_i, y_u) / temperature, the positive pos, batch counts c_u, queue counts q_u,
    and E_i the images that are no negatives of it (none, or those that its very text also describes),

        loss_i = -log( c_pos e^{s_i,pos} / (c_pos e^{s_i,pos} + sum_{u != pos, u not in E_i} (c_u + q_u) e^{s_iu}) ).

    Entries of one image have one score, so the sum over batch and queue entries is a sum over unique images weighted
    by their counts: an identity. The caption's own image in the queue is never a negative.

    Args:
        prediction: (B, d), any length.
        negative_bank: (M, d) normalised image vectors, frozen, in `matmul_dtype`.
        positive: (B,) bank row of each caption's image.
        queue_counts: (M,) float32, how often each image stands among the queue's entries in use.
        temperature: positive.
        matmul_dtype: of the two large products; sums are float32.
        at_most: no fewer images than stand in batch or queue; with it a GPU leaves out most of the others.
        excluded: (B, K) images E_i, filled up with the positive; see `same_text.SameText`.

    In several processes the bank is this one's part of the images, and `positive` a row of it, while `excluded` are
    numbers of images among all (`processes.image_number`).
    """
    with any_order():
        batch_counts = torch.zeros_like(queue_counts).index_add_(
            0, positive, torch.ones_like(positive, dtype=queue_counts.dtype)
        )
    log_positives = batch_counts[positive].log()
    # -inf for images that are neither in the batch nor in the queue
    log_weight = (queue_counts + batch_counts).log()
    excluded = None if excluded is None else _rows_here(excluded)
    negative_bank, positive, log_weight, excluded = _gathered(negative_bank, positive, log_weight, excluded, at_most)
    exact = torch.promote_types(prediction.dtype, torch.float32)  # sums in float32, or float64 if given so
    z = F.normalize(prediction.to(exact), dim=-1)
    weights = log_weight, log_positives
    return InfoNCE.apply(z, negative_bank, positive, *weights, temperature, matmul_dtype, excluded)


def _rows_here(images: torch.Tensor) -> torch.Tensor:
    """Excluded images (B, K) of each process's captions as rows of this process's bank, for the captions of all."""
    if processes.size() == 1:
        return images
    (everyones,), _ = processes.gather(images)
    return torch.where(processes.owner(everyones) == processes.rank(), processes.place(everyones), -1)


def bank_infonce(
    prediction: torch.Tensor,
    negative_bank: torch.Tensor,
    positive: torch.Tensor,
    temperature: float,
    matmul_dtype: torch.dtype = torch.float32,
    log_weight: torch.Tensor | None = None,
    at_most: int | None = None,
    excluded: torch.Tensor | None = None,
) -> torch.Tensor:
    """InfoNCE of captions against the images of a negative bank.

    It is the softmax cross-entropy of z_i . y_u / temperature over all u that are not excluded. z_i is the prediction
    at unit length; the bank's rows are taken as they are. Subtracting one vector from all of them changes no softmax,
    and so no loss.

    Args:
        prediction: (B, d), any length.
        negative_bank: (M, d) image vectors, frozen, in `matmul_dtype`.
        positive: (B,) bank row of each caption's image.
        temperature: positive.
        matmul_dtype: of the two large products; sums are float32.
        log_weight: (M,) logarithm of how often each image counts as a negative, see `sampled_weights`; once where None.
        at_most: images that count, see `most_drawn`; with it a GPU leaves out most of those that do not.
        excluded: (B, K) images that are no negatives of a caption, filled up with its positive; see
            `multi_positive_infonce`, also for several processes.
    """
    exact = torch.promote_types(prediction.dtype, torch.float32)
    z = F.normalize(prediction.to(exact), dim=-1)
    if log_weight is None:
        log_weight = torch.zeros(len(negative_bank), dtype=exact, device=negative_bank.device)
    excluded = None if excluded is None else _rows_here(excluded)
    negative_bank, positive, log_weight, excluded = _gathered(negative_bank, positive, log_weight, excluded, at_most)
    weights = log_weight, torch.zeros_like(z[:, 0])
    return InfoNCE.apply(z, negative_bank, positive, *weights, temperature, matmul_dtype, excluded)


def sampled_weights(n_images: int, positive: torch.Tensor, share: float) -> torch.Tensor:
    """Log weights (n_images,) under which a random `share` of the images stands for all of them as negatives.

    Images of the batch always count, once; each other image is drawn with probability `share` and then counts
    1 / share times, so that the sum over negatives is right on average.

    Args:
        positive: (B,) image of each caption of the batch.
        share: greater than 0; 1 draws every image.
    """
    drawn = torch.rand(n_images, device=positive.device) < share
    log_weight = torch.where(drawn, -math.log(share), -torch.inf)
    return log_weight.index_fill_(0, positive, 0.0)


def most_drawn(n_images: int, batch: int, share: float) -> int:
    """Upper bound on the images that count under `sampled_weights` with `batch` captions, but for one draw in 10^9."""
    most = share * n_images + 6 * math.sqrt(share * (1 - share) * n_images) + batch  # six standard deviations
    return min(n_images, whole_columns(most))


def whole_columns(n: float) -> int:
    """The next multiple of `COLUMN_MULTIPLE`."""
    return math.ceil(n / COLUMN_MULTIPLE) * COLUMN_MULTIPLE
