"""Galleries of image vectors: read in blocks, brought to unit length, and which rows are copies of one another."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import KDTree

GALLERY_BLOCK = 8192
"""Rows read at a time, so that a gallery may be larger than memory."""
MARKS, MARK_TOLERANCE = 8, 2e-3
"""Projections by which an image is known again, and how far each may be off: see `marks`."""
_GOLDEN = (math.sqrt(5) - 1) / 2 * math.pi
COMMON = 0.99
"""|mean|^2 of unit gallery vectors from which on the mean is subtracted: cosines differ by less and less then, in the
end by no more than float32 rounds, and an own score, which is summed in another order than the others, would seem
ahead or behind by that. Below, exact scores stay exact, so that ties of coarse vectors are ties."""


def normalise(rows: torch.Tensor) -> torch.Tensor:
    """Rows (N, d) at unit L2 length, float32; rows of zeros stay as they are."""
    rows = rows.float()
    largest = rows.abs().amax(-1, keepdim=True)
    # Squares of very small or large values vanish or overflow, so such rows are scaled first; the others by exactly 1.
    extreme = (largest > 0) & largest.isfinite() & ((largest < 1e-10) | (largest > 1e10))
    return torch.nn.functional.normalize(rows / torch.where(extreme, largest, 1.0), dim=-1)


def rows(gallery: torch.Tensor | np.ndarray, which: slice | np.ndarray, device: torch.device) -> torch.Tensor:
    """Some rows of a tensor, an array or a memory map, as float32 on `device`."""
    if isinstance(gallery, np.ndarray):
        return torch.from_numpy(np.array(gallery[which], dtype=np.float32)).to(device)
    index = torch.from_numpy(which).to(gallery.device) if isinstance(which, np.ndarray) else which
    return gallery[index].to(device).float()


def _common_direction(gallery: torch.Tensor | np.ndarray) -> torch.Tensor | None:
    """(d,) float64 mean of the unit gallery vectors (of the first block) where they hardly differ, else None."""
    first = rows(gallery, slice(0, GALLERY_BLOCK), _home(gallery))
    mean = normalise(first).mean(0)
    return _unit(first.cpu()).mean(0) if float(mean.square().sum()) > COMMON else None


def _home(gallery: torch.Tensor | np.ndarray) -> torch.device:
    return gallery.device if isinstance(gallery, torch.Tensor) else torch.device("cpu")


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows.double(), dim=-1, eps=1e-300)


def unit_rows(
    gallery: torch.Tensor | np.ndarray,
    which: slice | np.ndarray,
    device: torch.device,
    less: torch.Tensor | None = None,
) -> torch.Tensor:
    """Some rows of a gallery at unit length, float32 on `device`; less one vector, subtracted in float64, where given.

    That moves all scores of a query alike, so it changes no rank.
    """
    if less is None:
        return normalise(rows(gallery, which, device))
    return (_unit(rows(gallery, which, torch.device("cpu"))) - less).float().to(device)  # MPS has no float64


def marks(gallery: torch.Tensor | np.ndarray) -> np.ndarray:
    """(M, MARKS) float32: a few projections of each unit row, by which an image is known again, whatever its length.

    In each, two images differ by some tenths; the rounding of float16 moves it by 0.0002.
    """
    place = np.arange(1, gallery.shape[1] + 1, dtype=np.float64)
    waves = torch.from_numpy(np.sin(place[:, None] ** 2 * np.arange(1, MARKS + 1) * _GOLDEN)).float()  # (d, MARKS)
    found = [
        unit_rows(gallery, slice(lo, lo + GALLERY_BLOCK), torch.device("cpu")) @ waves
        for lo in range(0, len(gallery), GALLERY_BLOCK)
    ]
    return torch.cat(found).numpy() if found else np.empty((0, MARKS), np.float32)


def same_images(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (P,) in `one` and (P,) in `other`, all pairs of `marks` that are those of one image."""
    near = KDTree(other).query_ball_point(one, MARK_TOLERANCE, p=np.inf) if len(one) and len(other) else []
    pairs = [(place, row) for place, rows in enumerate(near) for row in rows]
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return first, second


def groups_of_copies(gallery: torch.Tensor | np.ndarray) -> np.ndarray:
    """(M,) group of each gallery row; rows with the same values share one.

    By a 64-bit digest, so that a gallery that is only mapped into memory is read once and never held.
    """
    digests = np.empty(len(gallery), dtype=np.uint64)
    for lo in range(0, len(gallery), GALLERY_BLOCK):
        # + 0 turns -0 into 0, which is equal to it and has other bytes.
        block = rows(gallery, slice(lo, lo + GALLERY_BLOCK), _home(gallery)) + 0
        digests[lo : lo + len(block)] = _digests_on_gpu(block) if block.is_cuda else _digests(block.cpu().numpy())
    return np.unique(digests, return_inverse=True)[1].ravel()


def _digests(block: np.ndarray) -> np.ndarray:
    """(C,) 64 bits of each row (C, d)."""
    found = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in block)
    return np.fromiter((int.from_bytes(digest, "little") for digest in found), dtype=np.uint64, count=len(block))


def _digests_on_gpu(block: torch.Tensor) -> np.ndarray:
    """As `_digests`, by arithmetic modulo 2^64: of each value a mixture of its bits and its place, summed over the row.

    The sum is the same in any order, so that equal rows have equal digests; different ones with a probability of about
    2^-64, unless someone looks for them.
    """
    generator = torch.Generator().manual_seed(0)
    added, factor = torch.randint(-(2**63), 2**63 - 1, (2, block.shape[1]), generator=generator).to(block.device)
    mixed = (block.view(torch.int32).long() + added) * (factor | 1)  # odd: no bit gets lost
    for bits in (32, 29):  # the mask, since the sign is shifted in
        mixed = (mixed ^ ((mixed >> bits) & (2 ** (64 - bits) - 1))) * 0x1E3779B97F4A7C15
    return mixed.sum(1).cpu().numpy().view(np.uint64)


@dataclass(frozen=True)
class GalleryStatistics:
    """What `ranks` wants to know of a gallery whatever the queries: worth keeping where it is ranked again and again.

    Attributes:
        group: (M,) see `groups_of_copies`.
        common: (d,) float64, the mean of the unit vectors where they hardly differ, else None; see `COMMON`.
    """

    group: np.ndarray
    common: torch.Tensor | None

    @classmethod
    def of(cls, gallery: torch.Tensor | np.ndarray) -> GalleryStatistics:
        return cls(groups_of_copies(gallery), _common_direction(gallery))
