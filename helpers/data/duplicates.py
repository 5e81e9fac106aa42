"""Images that (nearly) repeat one another, as in a burst of photos or under two names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from helpers.data.vectors import groups_of_copies, normalise

THRESHOLD = 0.9
"""Of the cosine after subtraction of the mean, which unrelated images share."""
BLOCK = 1024
"""Images compared at a time: scores take 4 MB, and the images are never copied whole."""


@dataclass(frozen=True)
class Grouped:
    """Groups of near-duplicates: how many there are, of two images or more.

    Attributes:
        images: of the data.
        groups: of near-duplicates; an image that repeats no other is in none.
        grouped: images in them.
        largest: images in the largest, 0 where there is none.
    """

    images: int
    groups: int
    grouped: int
    largest: int

    @classmethod
    def of(cls, group: np.ndarray) -> Grouped:
        """Of what `duplicate_groups` gave, (M,)."""
        sizes = np.bincount(group)
        sizes = sizes[sizes > 1]
        return cls(len(group), len(sizes), int(sizes.sum()), int(sizes.max(initial=0)))

    def __str__(self) -> str:
        if not self.groups:
            return f"no near-duplicates among {self.images:,} images"
        return (
            f"groups of near-duplicates: {self.groups:,}, which hold {self.grouped:,} of {self.images:,} images, "
            f"the largest {self.largest:,}"
        )


def _mean(images: np.ndarray) -> np.ndarray:
    """(d,) float64 mean, read in blocks."""
    total = np.zeros(images.shape[1])
    for lo in range(0, len(images), BLOCK):
        total += images[lo : lo + BLOCK].sum(0, dtype=np.float64)
    return total / len(images)


def _directions(images: np.ndarray, rows: np.ndarray | slice, mean: np.ndarray) -> torch.Tensor:
    """(n, d) unit vectors from the mean to some images, float32; an image at the mean itself gives zeros."""
    return normalise(torch.from_numpy((images[rows] - mean).astype(np.float32)))


def duplicate_groups(images: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Group of each image: those that are linked by a chain of near-duplicates share one.

    The mean is taken over all images. That lets nothing leak: no model is fitted to it, only the choice of who
    is in which split depends on it, and that choice is made so that splits have less in common.

    Args:
        images: (M, d) embeddings, finite; may be a memory map.
        threshold: cosine from which two images count as near-duplicates. Equal vectors always do.

    Returns:
        (M,) int64, numbered in the order in which the images first show them.
    """
    group, mean = groups_of_copies(images), _mean(images)
    for lo in range(0, len(images), BLOCK):
        rows = _directions(images, slice(lo, lo + BLOCK), mean)
        for left in range(lo, len(images), BLOCK):
            # Torch's products come out alike on any number of threads.
            scores = rows @ _directions(images, slice(left, left + BLOCK), mean).T
            pairs = (scores >= threshold).nonzero().numpy()
            group = _merge(group, group[lo + pairs[:, 0]], group[left + pairs[:, 1]])
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.ravel()]


def _merge(group: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`group` (M,) after joining the groups one[i] and other[i] (each (P,))."""
    apart = one != other
    if not apart.any():
        return group
    n = int(group.max()) + 1
    links = coo_array((np.ones(apart.sum(), dtype=np.int8), (one[apart], other[apart])), shape=(n, n))
    return connected_components(links, directed=False)[1].astype(np.int64)[group]


def near_duplicates(
    images: np.ndarray, rows: np.ndarray, others: np.ndarray, threshold: float = THRESHOLD
) -> tuple[np.ndarray, np.ndarray]:
    """Images that (nearly) repeat one of `others`: a model has seen such a picture, with other captions.

    Args:
        images: (M, d) all embeddings; their mean is subtracted, as in `duplicate_groups`.
        rows, others: rows of `images`, such as the validation and the training split.
        threshold: of the cosine.

    Returns:
        (P, 2) rows of `images`, the image and its nearest of `others`, and (P,) their cosines; the most alike first.
    """
    mean = _mean(images)
    nearest, cosine = np.empty(len(rows), dtype=np.int64), np.full(len(rows), -np.inf, dtype=np.float32)
    for left in range(0, len(others), BLOCK):
        block = _directions(images, others[left : left + BLOCK], mean).T
        for lo in range(0, len(rows), BLOCK):
            part = slice(lo, lo + BLOCK)
            best = (_directions(images, rows[part], mean) @ block).max(1)
            better = best.values.numpy() > cosine[part]
            nearest[part][better], cosine[part][better] = left + best.indices.numpy()[better], best.values[better]
    found = np.flatnonzero(cosine >= threshold)
    found = found[np.argsort(-cosine[found], kind="stable")]
    return np.column_stack([rows[found], others[nearest[found]]]), cosine[found]
