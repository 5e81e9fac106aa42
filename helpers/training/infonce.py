"""The multi-positive InfoNCE against a bank of vectors, its loss and its gradient in one pass: what a training step costs.

With p_iu the softmax over candidates, the gradient of row i with respect to its normalised prediction is
(sum_u p_iu y_u - y_own) / temperature: attention whose values are its keys. The own vector stands apart from the others
throughout, in the precision of the sums: of a caption that is already fitted the gradient is a small difference.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from helpers.system.devices import COLUMN_MULTIPLE, any_order

COLUMN_BLOCK = 4096
"""Images scored at a time on the CPU: a (512, 4096) float32 block is 8 MB."""


def negative_bank_of(vectors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(M, d) vectors as a bank in the type of the products; on other devices than a CPU with rows of zeros at its end.

    They make M a multiple of `COLUMN_MULTIPLE`, and must be given weight 0.
    """
    bank = vectors.to(dtype)
    missing = 0 if bank.device.type == "cpu" else -len(bank) % COLUMN_MULTIPLE
    return torch.nn.functional.pad(bank, (0, 0, 0, missing)) if missing else bank


class BankInfoNCE(torch.autograd.Function):
    """The loss, see `losses.multi_positive_infonce`; the gradient is computed with it and kept, one row a prediction."""

    @staticmethod
    def forward(ctx, z, bank, positive, log_weight, log_positives, temperature, matmul_dtype):
        positive_rows = bank.index_select(0, positive).to(z.dtype)  # (B, d)
        scale = 1 / temperature
        # The positives come from the float32 prediction.
        positive_logit = (z * positive_rows).sum(-1) * scale + log_positives  # (B,)
        of_device = in_blocks if z.device.type == "cpu" else at_once
        loss, pull = of_device(z.to(matmul_dtype), bank, positive, positive_rows, positive_logit, log_weight, scale)
        ctx.save_for_backward(pull.mul_(scale / len(z)))
        return loss

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None, None, None, None


def in_blocks(
    zq, bank, positive, positive_rows, positive_logit, log_weight, scale
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and sum_u p_iu y_u - y_own (B, d), column block by column block, so that scores stay in the caches.

    Running maxima and sums, as in Milakov and Gimelshein (2018), give them while the scores of a block are at hand.
    """
    top, total = positive_logit.clone(), torch.ones_like(positive_logit)
    pulled = positive_rows.clone()  # running sum of weights times vectors, (B, d)
    for lo, hi in _column_blocks(len(bank)):
        part = bank[lo:hi]  # (C, d)
        logits = (zq @ part.T).to(positive_logit.dtype).mul_(scale).add_(log_weight[lo:hi])  # (B, C)
        rows = ((positive >= lo) & (positive < hi)).nonzero().squeeze(1)
        logits[rows, positive[rows] - lo] = -torch.inf
        new_top = torch.maximum(top, logits.amax(1))
        shrink = torch.exp(top - new_top)
        weights = logits.sub_(new_top[:, None]).exp_()
        total = total * shrink + weights.sum(1)
        pulled = pulled * shrink[:, None] + (weights.to(zq.dtype) @ part).to(positive_logit.dtype)
        top = new_top
    return (top + total.log() - positive_logit).mean(), pulled / total[:, None] - positive_rows


def at_once(zq, bank, positive, positive_rows, positive_logit, log_weight, scale) -> tuple[torch.Tensor, torch.Tensor]:
    """As `in_blocks`, all columns together in as few passes over the scores as there are kernels for.

    No shape depends on values, and the host is never asked: a GPU need not wait for it.
    """
    logits = _product(zq, bank.T, positive_logit.dtype)  # (B, M)
    torch.add(log_weight, logits, alpha=scale, out=logits)
    cell = torch.arange(len(positive), device=positive.device) * len(bank) + positive  # of each row's own image
    with any_order():
        logits.view(-1).index_copy_(0, cell, positive_logit)
    log_p = torch.log_softmax(logits, 1)
    positive_log_p = log_p.gather(1, positive[:, None])  # (B, 1)
    weights = torch.exp(log_p, out=torch.empty_like(log_p, dtype=zq.dtype))
    weights.view(-1).index_fill_(0, cell, 0)
    return -positive_log_p.mean(), _product(
        weights, bank, positive_logit.dtype
    ) + positive_log_p.expm1() * positive_rows


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
