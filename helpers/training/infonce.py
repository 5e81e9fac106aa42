"""InfoNCE against a negative bank, loss and gradient in one pass: what a training step costs.

With p_iu the softmax over the bank and y_pos the positive, the gradient of row i with respect to its normalised
prediction is (sum_u p_iu y_u - y_pos) / temperature: attention whose values are its keys. The positive stands apart
from the others throughout, in the precision of the sums: of a caption that is already fitted the gradient is a small
difference.

In several processes (`system.processes`) each has its own predictions and its own part of the bank. Predictions are
gathered, each part of the bank gives its share of every row's sum and pull, and what travels back is one maximum, one
sum and one vector a row: exact, and no process ever holds another's images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.autograd.function import BackwardCFunction, FunctionCtx

from helpers.system import processes
from helpers.system.devices import COLUMN_MULTIPLE, any_order

COLUMN_BLOCK = 4096
"""Images scored at a time on the CPU: a (512, 4096) float32 block is 8 MB."""


def negative_bank_of(vectors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Image vectors (M, d) as a negative bank, in the type of the products.

    On other devices than a CPU rows of zeros at its end make M a multiple of `COLUMN_MULTIPLE`; they must be given
    weight 0.
    """
    negative_bank = vectors.to(dtype)
    missing = 0 if negative_bank.device.type == "cpu" else -len(negative_bank) % COLUMN_MULTIPLE
    return torch.nn.functional.pad(negative_bank, (0, 0, 0, missing)) if missing else negative_bank


class InfoNCE(torch.autograd.Function):
    """InfoNCE whose gradient is computed with the loss and kept, one row a prediction; see `losses.bank_infonce`."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        z: torch.Tensor,
        negative_bank: torch.Tensor,
        positive: torch.Tensor,
        log_weight: torch.Tensor,
        log_positives: torch.Tensor,
        temperature: float,
        matmul_dtype: torch.dtype,
        excluded: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean loss over the rows of z, of all processes.

        Args:
            z: (B, d) unit predictions. negative_bank: (M, d). positive: (B,) bank row of each prediction's image.
            log_weight: (M,) logarithm of how often each image counts. log_positives: (B,) likewise of the positives.
            temperature: positive. matmul_dtype: of the two large products.
            excluded: (B, K) bank rows that are no negatives of a prediction, filled up with its positive; in several
                processes for the predictions of all of them, in the order of `processes.gather`, and -1 for none.
        """
        positive_rows = negative_bank.index_select(0, positive).to(z.dtype)  # (B, d)
        scale = 1 / temperature
        # The positives come from the float32 prediction.
        positive_logit = (z * positive_rows).sum(-1) * scale + log_positives  # (B,)
        of_device = in_blocks if z.device.type == "cpu" or processes.size() > 1 else at_once
        zq = z.to(matmul_dtype)
        loss, pull = of_device(zq, negative_bank, positive, positive_rows, positive_logit, log_weight, scale, excluded)
        ctx.save_for_backward(pull.mul_(scale / processes.total_number(len(z))))
        return loss

    @staticmethod
    def backward(ctx: BackwardCFunction, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The kept gradient with respect to z (B, d); nothing else is trained."""
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None, None, None, None, None


def in_blocks(
    zq: torch.Tensor,
    negative_bank: torch.Tensor,
    positive: torch.Tensor,
    positive_rows: torch.Tensor,
    positive_logit: torch.Tensor,
    log_weight: torch.Tensor,
    scale: float,
    excluded: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and sum_u p_iu y_u - y_pos (B, d), column block by column block, so that scores stay in the caches.

    Args:
        zq: (B, d) unit predictions in the type of the products, as is the bank (M, d). positive: (B,) bank rows.
        positive_rows, positive_logit: (B, d), (B,) the positives and their logits in the precision of the sums.
        log_weight: (M,). scale: one over the temperature.
        excluded: (B, K) bank rows beside the positive that are no negatives of a prediction; none where None.

    Running maxima and sums, as in Milakov and Gimelshein (2018), give them while the scores of a block are at hand.
    The parts of the bank of several processes are such blocks too: each scores the predictions of all of them.
    """
    everyones, own = _everyones(zq, positive, positive_rows, positive_logit)
    zq, positive, logit = everyones.zq, everyones.positive, everyones.positive_logit
    top, total = logit.clone(), everyones.total
    pulled = everyones.pulled  # running sum of weights times vectors, (B, d)
    left_out = positive[:, None] if excluded is None else torch.cat([positive[:, None], excluded], 1)  # (B, 1 + K)
    for lo, hi in _column_blocks(len(negative_bank)):
        part = negative_bank[lo:hi]  # (C, d)
        logits = _product(zq, part.T, logit.dtype).mul_(scale).add_(log_weight[lo:hi])  # (B, C)
        rows, places = ((left_out >= lo) & (left_out < hi)).nonzero(as_tuple=True)
        logits[rows, left_out[rows, places] - lo] = -torch.inf
        new_top = torch.maximum(top, logits.amax(1))
        shrink = torch.exp(top - new_top)
        weights = logits.sub_(new_top[:, None]).exp_()
        total = total * shrink + weights.sum(1)
        pulled = pulled * shrink[:, None] + _product(weights.to(zq.dtype), part, logit.dtype)
        top = new_top
    if processes.size() > 1:
        of_all = processes.maximum(top)
        shrink, top = torch.exp(top - of_all), of_all
        sums = processes.total(torch.cat([pulled, total[:, None]], 1) * shrink[:, None])  # in one exchange
        pulled, total = sums[:, :-1], sums[:, -1]
    return (top + total.log() - logit).mean(), pulled[own] / total[own, None] - positive_rows


class _Everyones(NamedTuple):
    """What `in_blocks` starts from, for the predictions of all processes.

    Attributes:
        zq: (B, d). positive_logit: (B,). positive: (B,) bank row, -1 where another process has the image.
        total: (B,) one where this process has the positive, which counts once, else zero.
        pulled: (B, d) the positives, likewise.
    """

    zq: torch.Tensor
    positive: torch.Tensor
    positive_logit: torch.Tensor
    total: torch.Tensor
    pulled: torch.Tensor


def _everyones(
    zq: torch.Tensor, positive: torch.Tensor, positive_rows: torch.Tensor, positive_logit: torch.Tensor
) -> tuple[_Everyones, slice]:
    """The predictions of all processes, and where this one's stand among them."""
    if processes.size() == 1:
        alone = _Everyones(zq, positive, positive_logit, torch.ones_like(positive_logit), positive_rows.clone())
        return alone, slice(None)
    (of_all, logits), own = processes.gather(zq, positive_logit)
    count = len(logits)
    here = positive.new_full((count,), -1)
    total, pulled = torch.zeros_like(logits), positive_rows.new_zeros(count, positive_rows.shape[1])
    here[own], total[own], pulled[own] = positive, 1.0, positive_rows
    return _Everyones(of_all, here, logits, total, pulled), own


def at_once(
    zq: torch.Tensor,
    negative_bank: torch.Tensor,
    positive: torch.Tensor,
    positive_rows: torch.Tensor,
    positive_logit: torch.Tensor,
    log_weight: torch.Tensor,
    scale: float,
    excluded: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `in_blocks` gives, all columns together in as few passes over the scores as there are kernels for.

    No shape depends on values, and the host is never asked: a GPU need not wait for it.
    """
    logits = _product(zq, negative_bank.T, positive_logit.dtype)  # (B, M)
    torch.add(log_weight, logits, alpha=scale, out=logits)
    first = torch.arange(len(positive), device=positive.device) * len(negative_bank)
    cell = first + positive  # of each row's positive
    if excluded is not None:
        logits.view(-1).index_fill_(0, (first[:, None] + excluded).view(-1), -torch.inf)
    with any_order():
        logits.view(-1).index_copy_(0, cell, positive_logit)
    log_p = torch.log_softmax(logits, 1)
    positive_log_p = log_p.gather(1, positive[:, None])  # (B, 1)
    weights = torch.exp(log_p, out=torch.empty_like(log_p, dtype=zq.dtype))
    weights.view(-1).index_fill_(0, cell, 0)
    pulled = _product(weights, negative_bank, positive_logit.dtype)  # (B, d)
    return -positive_log_p.mean(), pulled + positive_log_p.expm1() * positive_rows


def _product(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """a @ b in `dtype`; from bfloat16 without rounding the sums on the way, where PyTorch offers that."""
    if a.dtype != dtype and a.is_cuda and torch.version.cuda:
        return torch.mm(a, b, out_dtype=dtype)
    return (a @ b).to(dtype)


def _column_blocks(n: int) -> Iterator[tuple[int, int]]:
    """Ends of blocks of n columns; the few that spoil the width of the last one are a block of their own.

    Not where it is narrow: there a block more costs as much as the width does.
    """
    for lo in range(0, n, COLUMN_BLOCK):
        hi = min(lo + COLUMN_BLOCK, n)
        wide = hi - lo >= max(COLUMN_BLOCK // 4, COLUMN_MULTIPLE)
        spoils = (hi - lo) % COLUMN_MULTIPLE if wide else 0
        yield lo, hi - spoils
        if spoils:
            yield hi - spoils, hi
