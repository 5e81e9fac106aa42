"""The split by image, the validation gallery, and the caption-to-gallery index."""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from helpers.errors import SplitError
from helpers.system.files import atomic_write

SIDES = ("training", "validation", "test")
TRAINING, VALIDATION, TEST = range(3)


def _none() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Split:
    """Which images train, which validate and which test; captions follow their image.

    Attributes:
        train_images, val_images: (M_t,), (G,) ascending rows of the image embeddings. `val_images` is the gallery.
        train_captions, val_captions: (N_t,), (V,) ascending rows of the caption embeddings.
        train_caption_image: (N_t,) position of each training caption's image in `train_images`.
        caption_to_gallery: (V,) position of each validation caption's image in `val_images`.
        test_images, test_captions, caption_to_test_gallery: the same of the test split; empty where there is none.
    """

    train_images: np.ndarray
    val_images: np.ndarray
    train_captions: np.ndarray
    val_captions: np.ndarray
    train_caption_image: np.ndarray
    caption_to_gallery: np.ndarray
    test_images: np.ndarray = field(default_factory=_none)
    test_captions: np.ndarray = field(default_factory=_none)
    caption_to_test_gallery: np.ndarray = field(default_factory=_none)

    @property
    def has_test(self) -> bool:
        return len(self.test_images) > 0

    @property
    def digest(self) -> str:
        """Hex digest of all sides: models that name it were trained and judged on this very split."""
        parts = [self.train_images, self.val_images, self.train_captions, self.val_captions]
        if self.has_test:  # a split without a test split keeps the digest that it had before there were any
            parts += [self.test_images, self.test_captions]
        sha = hashlib.sha256()
        for part in parts:
            sha.update(np.asarray([len(part)], dtype="<i8").tobytes() + part.astype("<i8").tobytes())
        return sha.hexdigest()

    def judged(self, side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Captions (V,), gallery images (G,) and each caption's position in the gallery (V,) of a side.

        Args:
            side: `validation` or `test`.
        """
        return {
            "validation": (self.val_captions, self.val_images, self.caption_to_gallery),
            "test": (self.test_captions, self.test_images, self.caption_to_test_gallery),
        }[side]


def make_split(
    targets: np.ndarray,
    n_images: int,
    val_ratio: float = 0.1,
    split_seed: int = 42,
    test_ratio: float = 0.0,
    groups: np.ndarray | None = None,
) -> Split:
    """Split by image: the first int(val_ratio * n_images) of a seeded permutation of the file's order validate.

    The next int(test_ratio * n_images) test, so that the validation split is the same with and without a test split.

    Args:
        targets: (N,) image of each caption, in [0, n_images).
        groups: (n_images,) images of one group stay on one side; see `_take` for how near the counts then come.

    Raises:
        SplitError: a side would be without captions, training without images, or another with fewer than two.
    """
    n_val, n_test = _counts(n_images, val_ratio, test_ratio)
    order = np.random.default_rng(split_seed).permutation(n_images)
    side = sides(order, n_val, n_test, groups)
    position = np.empty(n_images, dtype=np.int64)  # of each image within its own side
    images, captions = [], []
    for which in range(3):
        images.append(np.flatnonzero(side == which))
        captions.append(np.flatnonzero(side[targets] == which))
        position[images[-1]] = np.arange(len(images[-1]))
    _require_filled(images, captions, with_test=n_test > 0)
    split = Split(
        train_images=images[TRAINING],
        val_images=images[VALIDATION],
        train_captions=captions[TRAINING],
        val_captions=captions[VALIDATION],
        train_caption_image=position[targets[captions[TRAINING]]],
        caption_to_gallery=position[targets[captions[VALIDATION]]],
        test_images=images[TEST],
        test_captions=captions[TEST],
        caption_to_test_gallery=position[targets[captions[TEST]]],
    )
    check_disjoint(split, targets)
    return split


def _counts(n_images: int, val_ratio: float, test_ratio: float) -> tuple[int, int]:
    """How many images validate and how many test."""
    n_val, n_test = int(val_ratio * n_images), int(test_ratio * n_images)
    # In a gallery of one image every rank is 1, whatever the model.
    if not 1 < n_val < n_images:
        raise SplitError(
            f"val_ratio = {val_ratio} of {n_images} images leaves {n_val} for validation and {n_images - n_val} for "
            f"training; two are needed to rank, one to train on. Set val_ratio between {_at_least(2 / n_images)} and 1."
        )
    if test_ratio and n_test < 2:
        raise SplitError(
            f"test_ratio = {test_ratio} of {n_images} images leaves {n_test} for the test. Set it to 0 for none, or to "
            f"{_at_least(2 / n_images)} or more."
        )
    if test_ratio and (val_ratio + test_ratio >= 1 or n_val + n_test >= n_images):
        raise SplitError(
            f"val_ratio + test_ratio = {val_ratio} + {test_ratio} of {n_images} images leaves "
            f"{max(0, n_images - n_val - n_test)} for training. Their sum must stay below 1, with an image left over."
        )
    return n_val, n_test


def _at_least(ratio: float) -> float:
    """The ratio with four decimals, rounded up: what is advised must do."""
    return math.ceil(ratio * 1e4) / 1e4


def sides(order: np.ndarray, n_val: int, n_test: int, groups: np.ndarray | None) -> np.ndarray:
    """(M,) side of each image, dealt in `order` (M,), a permutation of the images."""
    side = np.full(len(order), TRAINING)
    if groups is None:
        side[order[:n_val]], side[order[n_val : n_val + n_test]] = VALIDATION, TEST
        return side
    _, first, group, sizes = np.unique(groups[order], return_index=True, return_inverse=True, return_counts=True)
    queue = np.argsort(first)  # groups in the order in which the permutation meets them
    for which, wanted in ((VALIDATION, n_val), (TEST, n_test)):
        taken = _take(sizes[queue], wanted)
        side[order[np.isin(group, queue[taken])]] = which
        queue = queue[~taken]
    return side


def _take(sizes: np.ndarray, wanted: int) -> np.ndarray:
    """(K,) which groups to take, in their order, so that `wanted` items come together as nearly as may be.

    A group that no longer fits is passed over, so the count is met exactly wherever single images are left. Where
    none fits any more, the smallest of those left is added if overshooting by it is nearer than falling short; the
    last group is left for training.
    """
    taken, missing = np.zeros(len(sizes), dtype=bool), wanted
    for i, size in enumerate(sizes):
        if size <= missing:
            taken[i] = True
            missing -= size
        if not missing:
            return taken
    left = np.flatnonzero(~taken)
    if len(left) > 1:
        smallest = left[np.argmin(sizes[left])]
        taken[smallest] = sizes[smallest] - missing < missing
    return taken


def _require_filled(images: list[np.ndarray], captions: list[np.ndarray], with_test: bool) -> None:
    sides = range(3 if with_test else 2)
    if not all(len(images[which]) > (which != TRAINING) for which in sides):
        found = ", ".join(f"{len(images[which])} {SIDES[which]}" for which in sides)
        raise SplitError(
            f"{found} images: groups of near-duplicates are too large to be dealt out in these shares. Set "
            "group_duplicates to False, or choose other ratios."
        )
    if not all(len(captions[which]) for which in sides):
        counts = [f"{len(captions[which])} {SIDES[which]}" for which in sides]
        found = f"{', '.join(counts[:-1])} and {counts[-1]}"
        raise SplitError(f"{found} captions: every side needs one or more. Choose another split_seed or other ratios.")


def check_disjoint(split: Split, targets: np.ndarray) -> None:
    """Raise `SplitError` where an image, or a caption of it, stands on two sides, or an index points elsewhere."""
    images = (split.train_images, split.val_images, split.test_images)
    captions = (split.train_captions, split.val_captions, split.test_captions)
    indices = (split.train_caption_image, split.caption_to_gallery, split.caption_to_test_gallery)
    for a, b in itertools.combinations(range(3), 2):
        for what, left, right in (
            ("images", images[a], images[b]),
            ("captions", captions[a], captions[b]),
            ("images of captions", targets[captions[a]], targets[captions[b]]),
        ):
            shared = np.intersect1d(left, right)
            if len(shared):
                raise SplitError(
                    f"{len(shared)} {what} on both sides of the split ({SIDES[a]}, {SIDES[b]}), "
                    f"first: {shared[:5].tolist()}."
                )
    for positive, rows, index in zip(images, captions, indices, strict=True):
        if not np.array_equal(positive[index], targets[rows]):
            raise SplitError("The caption-to-gallery index does not point to the captions' own images.")


def save_split(path: Path, split: Split) -> None:
    """Write the split's arrays as an npz, atomically; those of the test split only where there is one."""
    arrays = {name: array for name, array in vars(split).items() if split.has_test or "test" not in name}

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)

    atomic_write(path, write)
