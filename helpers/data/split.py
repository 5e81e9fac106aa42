"""The split by image: which images, and captions with them, train, validate and test."""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from helpers.errors import SplitError, first_five

SPLITS = ("training", "validation", "test")
TRAINING, VALIDATION, TEST = range(3)


def _none() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


class Part(NamedTuple):
    """One of the three splits.

    Attributes:
        captions: (V,) ascending rows of the caption embeddings.
        images: (G,) ascending rows of the image embeddings: the gallery in which the captions are ranked.
        positive: (V,) position of each caption's image in `images`.
    """

    captions: np.ndarray
    images: np.ndarray
    positive: np.ndarray


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
        """Hex digest of all splits: models that name it were trained and judged on this very split."""
        parts = [self.train_images, self.val_images, self.train_captions, self.val_captions]
        if self.has_test:  # a split without a test split keeps the digest that it had before there were any
            parts += [self.test_images, self.test_captions]
        sha = hashlib.sha256()
        for part in parts:
            sha.update(np.asarray([len(part)], dtype="<i8").tobytes() + part.astype("<i8").tobytes())
        return sha.hexdigest()

    def part(self, name: str) -> Part:
        """Captions, images and the index between them of one of `SPLITS`.

        Raises:
            KeyError: there is no split of that name.
        """
        return {
            "training": Part(self.train_captions, self.train_images, self.train_caption_image),
            "validation": Part(self.val_captions, self.val_images, self.caption_to_gallery),
            "test": Part(self.test_captions, self.test_images, self.caption_to_test_gallery),
        }[name]


def make_split(
    targets: np.ndarray,
    n_images: int,
    val_ratio: float = 0.1,
    split_seed: int = 42,
    test_ratio: float = 0.0,
    groups: np.ndarray | None = None,
    given: np.ndarray | None = None,
) -> Split:
    """Split by image: as the data say, where they have a split of their own, or else by a seeded permutation.

    The first int(val_ratio * n_images) of the permutation of the file's order validate, the next int(test_ratio *
    n_images) test, so that the validation split is the same with and without a test split.

    Args:
        targets: (N,) image of each caption, in [0, n_images).
        n_images: M.
        val_ratio, test_ratio: shares of the images; a `test_ratio` of 0 makes no test split.
        split_seed: of the permutation.
        groups: (M,) images of one group stay in one split; see `_take` for how near the counts then come.
        given: (M,) TRAINING, VALIDATION or TEST of each image, the data's own split, such as
            `PairedEmbeddings.given_split`: ratios and seed then count for nothing, and no image tests where none is
            given so.

    Raises:
        SplitError: a split would be without captions, training without images, or another with fewer than two; or a
            given split is to be changed by `groups`.
    """
    if given is None:
        n_val, n_test = _counts(n_images, val_ratio, test_ratio)
        order = np.random.default_rng(split_seed).permutation(n_images)
        split_of, remedies = deal(order, n_val, n_test, groups), _RATIOS
    else:
        if groups is not None:
            raise SplitError(
                "The data have a split of their own, which does not keep near-duplicates in one split. Set "
                "group_duplicates to False to take it as it is, or split to 'random' to make another."
            )
        if given.shape != (n_images,) or not np.isin(given, range(3)).all():
            raise SplitError(
                f"A split of {given.shape} is given for {n_images} images: one of 0 (training), 1 (validation) and 2 "
                "(test) is needed for each."
            )
        split_of, n_test, remedies = given, int((given == TEST).sum()), _OWN
    position = np.empty(n_images, dtype=np.int64)  # of each image within its own split
    images, captions = [], []
    for which in range(3):
        images.append(np.flatnonzero(split_of == which))
        captions.append(np.flatnonzero(split_of[targets] == which))
        position[images[-1]] = np.arange(len(images[-1]))
    _require_filled(images, captions, n_test > 0, *remedies)
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


def deal(order: np.ndarray, n_val: int, n_test: int, groups: np.ndarray | None) -> np.ndarray:
    """The split that each image falls into: the first of an order validate, the next test, the others train.

    Args:
        order: (M,) a permutation of the images.
        n_val, n_test: how many images validate and test; with groups, as nearly as `_take` comes.
        groups: (M,) images of one group stay together; None for no groups.

    Returns:
        (M,) TRAINING, VALIDATION or TEST.
    """
    split_of = np.full(len(order), TRAINING)
    if groups is None:
        split_of[order[:n_val]], split_of[order[n_val : n_val + n_test]] = VALIDATION, TEST
        return split_of
    _, first, group, sizes = np.unique(groups[order], return_index=True, return_inverse=True, return_counts=True)
    queue = np.argsort(first)  # groups in the order in which the permutation meets them
    for which, wanted in ((VALIDATION, n_val), (TEST, n_test)):
        taken = _take(sizes[queue], wanted)
        split_of[order[np.isin(group, queue[taken])]] = which
        queue = queue[~taken]
    return split_of


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


_RATIOS = (
    "groups of near-duplicates are too large to be dealt out in these shares. Set group_duplicates to False, or choose "
    "other ratios.",
    "Choose another split_seed or other ratios.",
)
_OWN = (
    "the data's own split (images/split) needs one or more that train and two or more in each other split. Set split "
    "to 'random' to make another.",
    "This is the data's own split (images/split): set split to 'random' to make another.",
)
"""What is to be done where a split lacks images, and where it lacks captions."""


def _require_filled(
    images: list[np.ndarray], captions: list[np.ndarray], with_test: bool, few_images: str, no_captions: str
) -> None:
    splits = range(3 if with_test else 2)
    if not all(len(images[which]) > (which != TRAINING) for which in splits):
        found = ", ".join(f"{len(images[which])} {SPLITS[which]}" for which in splits)
        raise SplitError(f"{found} images: {few_images}")
    if not all(len(captions[which]) for which in splits):
        counts = [f"{len(captions[which])} {SPLITS[which]}" for which in splits]
        found = f"{', '.join(counts[:-1])} and {counts[-1]}"
        raise SplitError(f"{found} captions: every split needs one or more. {no_captions}")


def check_disjoint(split: Split, targets: np.ndarray) -> None:
    """Check that no image, and no caption of it, is in two splits, and that every index points to the captions' images.

    Args:
        targets: (N,) image of each caption.

    Raises:
        SplitError: with the count and the first five.
    """
    for a, b in itertools.combinations(SPLITS, 2):
        one, other = split.part(a), split.part(b)
        for what, left, right in (
            ("images", one.images, other.images),
            ("captions", one.captions, other.captions),
            ("images of captions", targets[one.captions], targets[other.captions]),
        ):
            shared = np.intersect1d(left, right)
            if len(shared):
                raise SplitError(f"{len(shared)} {what} in both splits, {a} and {b}: {first_five(shared)}.")
    for captions, images, positive in map(split.part, SPLITS):
        if not np.array_equal(images[positive], targets[captions]):
            raise SplitError("The caption-to-gallery index does not point to the captions' own images.")
