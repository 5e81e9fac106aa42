"""The split by image, the validation gallery, and the caption-to-gallery index."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.checkpoints import atomic_write


class SplitError(ValueError):
    """A split that cannot be made, or that leaks."""


@dataclass(frozen=True)
class Split:
    """Which images train and which validate; captions follow their image.

    Attributes:
        train_images, val_images: (M_t,), (G,) ascending rows of the image embeddings. `val_images` is the gallery.
        train_captions, val_captions: (N_t,), (V,) ascending rows of the caption embeddings.
        train_caption_image: (N_t,) position of each training caption's image in `train_images`.
        caption_to_gallery: (V,) position of each validation caption's image in `val_images`.
    """

    train_images: np.ndarray
    val_images: np.ndarray
    train_captions: np.ndarray
    val_captions: np.ndarray
    train_caption_image: np.ndarray
    caption_to_gallery: np.ndarray

    @property
    def digest(self) -> str:
        """Hex digest of both sides: models that name it were trained and judged on this very split."""
        parts = (self.train_images, self.val_images, self.train_captions, self.val_captions)
        sha = hashlib.sha256()
        for part in parts:
            sha.update(np.asarray([len(part)], dtype="<i8").tobytes() + part.astype("<i8").tobytes())
        return sha.hexdigest()


def make_split(targets: np.ndarray, n_images: int, val_ratio: float = 0.1, split_seed: int = 42) -> Split:
    """Split by image: the first int(val_ratio * n_images) of a seeded permutation of the file's order validate.

    Args:
        targets: (N,) image of each caption, in [0, n_images).

    Raises:
        SplitError: a side would be without images or without captions.
    """
    n_val = int(val_ratio * n_images)
    if not 0 < n_val < n_images:
        raise SplitError(
            f"val_ratio = {val_ratio} of {n_images} images leaves {n_val} for validation and {n_images - n_val} for "
            f"training; both need one or more. Set val_ratio between {1 / n_images:.4g} and 1."
        )
    order = np.random.default_rng(split_seed).permutation(n_images)
    is_val = np.zeros(n_images, dtype=bool)
    is_val[order[:n_val]] = True
    position = np.empty(n_images, dtype=np.int64)  # of each image within its own side
    position[is_val], position[~is_val] = np.arange(n_val), np.arange(n_images - n_val)
    caption_is_val = is_val[targets]
    train_captions, val_captions = np.flatnonzero(~caption_is_val), np.flatnonzero(caption_is_val)
    if not len(train_captions) or not len(val_captions):
        raise SplitError(
            f"{len(train_captions)} training and {len(val_captions)} validation captions: both sides need one or more. "
            "Choose another split_seed or val_ratio."
        )
    split = Split(
        train_images=np.flatnonzero(~is_val),
        val_images=np.flatnonzero(is_val),
        train_captions=train_captions,
        val_captions=val_captions,
        train_caption_image=position[targets[train_captions]],
        caption_to_gallery=position[targets[val_captions]],
    )
    check_disjoint(split, targets)
    return split


def check_disjoint(split: Split, targets: np.ndarray) -> None:
    """Raise `SplitError` where an image, or a caption of it, stands on both sides, or an index points elsewhere."""
    for what, left, right in (
        ("images", split.train_images, split.val_images),
        ("captions", split.train_captions, split.val_captions),
        ("images of captions", targets[split.train_captions], targets[split.val_captions]),
    ):
        shared = np.intersect1d(left, right)
        if len(shared):
            raise SplitError(f"{len(shared)} {what} on both sides of the split, first: {shared[:5].tolist()}.")
    val_agrees = np.array_equal(split.val_images[split.caption_to_gallery], targets[split.val_captions])
    train_agrees = np.array_equal(split.train_images[split.train_caption_image], targets[split.train_captions])
    if not (val_agrees and train_agrees):
        raise SplitError("The caption-to-gallery index does not point to the captions' own images.")


def near_duplicates(images: np.ndarray, split: Split, threshold: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Validation images that (nearly) repeat a training image: a model has seen such a picture, with other captions.

    Args:
        images: (M, dy) all image embeddings.
        threshold: of the cosine after subtraction of the training mean, which unrelated images share.

    Returns:
        (P, 2) rows of `images`, the validation image and its nearest training image, and (P,) their cosines; the
        most alike first.
    """
    train = images[split.train_images].astype(np.float32)
    mean = train.mean(0)
    train = _unit(train - mean)
    nearest, cosine = np.empty(len(split.val_images), dtype=np.int64), np.empty(len(split.val_images), np.float32)
    for lo in range(0, len(nearest), 1024):
        scores = _unit(images[split.val_images[lo : lo + 1024]].astype(np.float32) - mean) @ train.T  # (block, M_t)
        nearest[lo : lo + 1024], cosine[lo : lo + 1024] = scores.argmax(1), scores.max(1)
    found = np.flatnonzero(cosine >= threshold)
    found = found[np.argsort(-cosine[found], kind="stable")]
    return np.column_stack([split.val_images[found], split.train_images[nearest[found]]]), cosine[found]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def save_split(path: Path, split: Split) -> None:
    """Write the split's arrays as an npz, atomically."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, **vars(split))

    atomic_write(path, write)
