"""Both splits that a training needs, resident on one device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from helpers.data.split import Split
from helpers.data.vectors import GalleryStatistics
from helpers.system.devices import choose_device


@dataclass(frozen=True)
class TrainingData:
    """Everything a training needs, resident on one device: there is no loader, rows are gathered by index.

    Attributes:
        text: (N, dx) training captions. positive: (N,) row of `images` that each describes.
        images: (M, dy) training images as stored.
        val_text: (V, dx). val_images: (G, dy) the validation gallery. val_positive: (V,) gallery rows.
        groups: (M,) training images of one group stay together where they are split once more; None for no groups.
    """

    text: torch.Tensor
    positive: torch.Tensor
    images: torch.Tensor
    val_text: torch.Tensor
    val_images: torch.Tensor
    val_positive: torch.Tensor
    groups: np.ndarray | None = None

    @property
    def device(self) -> torch.device:
        return self.text.device

    @cached_property
    def gallery_statistics(self) -> GalleryStatistics:
        """Of `val_images`, which every epoch ranks."""
        return GalleryStatistics.of(self.val_images)

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Training captions, training images and `positive` on the host, as `geometry.pair_statistics` takes them."""
        return self.text.cpu().numpy(), self.images.cpu().numpy(), self.positive.cpu().numpy()


def training_data(
    text: np.ndarray,
    images: np.ndarray,
    split: Split,
    device: torch.device | None = None,
    groups: np.ndarray | None = None,
) -> TrainingData:
    """Gather two sides of a split and move them to `device` (chosen where None).

    Args:
        text: (N, dx), images: (M, dy), of any floating type; what is trained on is float32.
        groups: (M,) groups by which all images were split, where they were; see `split.make_split`.
    """
    device = choose_device() if device is None else device

    def vectors(array: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array[rows], dtype=np.float32)).to(device)

    return TrainingData(
        text=vectors(text, split.train_captions),
        positive=torch.from_numpy(split.train_caption_image).to(device),
        images=vectors(images, split.train_images),
        val_text=vectors(text, split.val_captions),
        val_images=vectors(images, split.val_images),
        val_positive=torch.from_numpy(split.caption_to_gallery).to(device),
        groups=None if groups is None else groups[split.train_images],
    )
