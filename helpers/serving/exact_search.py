"""The nearest gallery vectors of each query, exactly, and the checks of what is searched."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

QUERY_BLOCK, GALLERY_BLOCK = 1024, 16384
"""Scores are held for one such block at a time (64 MB), and a memory-mapped gallery is never held whole."""
Vectors = np.ndarray | torch.Tensor | Sequence[Sequence[float]] | Sequence[float]


def checked_block(gallery: np.ndarray, left: int) -> np.ndarray:
    """Rows of a gallery from `left` on, at most `GALLERY_BLOCK`, float32, finite and none of them zero."""
    with np.errstate(over="ignore", under="ignore"):
        block = np.array(gallery[left : left + GALLERY_BLOCK], dtype=np.float32)
    if not np.isfinite(block).all():
        raise ValueError(f"The gallery holds NaN or Inf between rows {left} and {left + len(block)}.")
    zero = left + np.flatnonzero(~block.any(1))
    if len(zero):
        raise ValueError(f"The gallery holds {len(zero)} row(s) of zeros, without a direction: {zero[:5].tolist()}.")
    return block


def best_rows(
    queries: torch.Tensor, block_at: Callable[[int], torch.Tensor], offsets: torch.Tensor, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of M rows for each query, exactly: by product less the row's offset, best first.

    Args:
        queries: (N, d) float32, on the CPU. offsets: (M,) what to subtract from each row's products.
        block_at: gives the rows (C, d) from one of them on, at most `GALLERY_BLOCK`.
        k: from 1 to M.

    Returns:
        Rows (N, k) int64 and scores (N, k) float32.
    """
    scores, index = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for left in range(0, len(offsets), GALLERY_BLOCK):
        block, offset = block_at(left).T, offsets[left : left + GALLERY_BLOCK]
        parts = [(part @ block - offset).topk(min(k, len(offset)), dim=1) for part in queries.split(QUERY_BLOCK)]
        # The best of the block join the best so far; what is beyond the k best of both can be no result.
        scores = torch.cat([scores, torch.cat([part.values for part in parts])], dim=1)
        index = torch.cat([index, left + torch.cat([part.indices for part in parts])], dim=1)
        scores, order = scores.topk(min(k, scores.shape[1]), dim=1)
        index = index.gather(1, order)
    return index.numpy(), scores.numpy()


def checked_k(k: object) -> int:
    """How many results are wanted.

    Raises:
        ValueError: it is no integer of at least 1.
    """
    if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k = {k!r}: must be an integer of at least 1.")
    return int(k)


def as_array(vectors: Vectors, what: str) -> np.ndarray:
    """Vectors as an array; a memory map stays one, a tensor of any type and device is copied to float32."""
    if isinstance(vectors, torch.Tensor):
        if vectors.is_complex() or vectors.dtype == torch.bool:
            raise ValueError(f"The {what} hold {vectors.dtype}: real numbers are needed.")
        vectors = vectors.detach().float().cpu().numpy()
    array = np.asanyarray(vectors)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":  # a type that other packages add to NumPy
        raise ValueError(f"The {what} hold {array.dtype}: real numbers are needed.")
    return array
