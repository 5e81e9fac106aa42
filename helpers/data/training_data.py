"""What a training needs, resident on one device: its captions and images, and those that judge each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from helpers.data.repeats import same_texts
from helpers.data.split import Split
from helpers.data.vectors import GalleryStatistics
from helpers.system.devices import choose_device


@dataclass(frozen=True)
class TrainingData:
    """The training and the validation split as tensors on one device: there is no loader, rows are gathered by index.

    Attributes:
        text: (N, dx) float32 training captions, as stored (not normalised).
        positive: (N,) int64, the positive index: the row of `images` that each caption describes.
        images: (M, dy) float32 training images, as stored.
        val_text: (V, dx) float32 validation captions.
        val_images: (G, dy) float32, the validation gallery.
        val_positive: (V,) int64, the row of `val_images` that each caption describes.
        groups: (M,) training images of one group stay together where they are split once more; None for no groups.
        same_text: (N,) int64 number of each training caption's text, equal where two say the same; None where unknown.
    """

    text: torch.Tensor
    positive: torch.Tensor
    images: torch.Tensor
    val_text: torch.Tensor
    val_images: torch.Tensor
    val_positive: torch.Tensor
    groups: np.ndarray | None = None
    same_text: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        text: np.ndarray,
        images: np.ndarray,
        split: Split,
        device: torch.device | None = None,
        groups: np.ndarray | None = None,
        captions: Sequence[str] | None = None,
    ) -> TrainingData:
        """Gather the training and the validation split of paired embeddings, and move them to a device.

        Args:
            text, images: all captions (rows, dx) and images (rows, dy) of the data, of any floating type.
            split: of these rows; its test split is left alone.
            device: where the tensors are to live; chosen where None.
            groups: one a row of `images`, by which they were split; see `split.make_split`.
            captions: the texts of all captions; those of the training split tell which say the same.
        """
        device = choose_device() if device is None else device

        def vectors(array: np.ndarray, rows: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array[rows], dtype=np.float32)).to(device)

        return cls(
            text=vectors(text, split.train_captions),
            positive=torch.from_numpy(split.train_caption_image).to(device),
            images=vectors(images, split.train_images),
            val_text=vectors(text, split.val_captions),
            val_images=vectors(images, split.val_images),
            val_positive=torch.from_numpy(split.caption_to_gallery).to(device),
            groups=None if groups is None else groups[split.train_images],
            same_text=None if captions is None else _same_text(captions, split.train_captions).to(device),
        )

    @property
    def device(self) -> torch.device:
        return self.text.device

    @cached_property
    def gallery_statistics(self) -> GalleryStatistics:
        """Statistics of `val_images`, in which every epoch ranks: computed once, at first use."""
        return GalleryStatistics.of(self.val_images)

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Training captions, training images and `positive` on the host, as `geometry.pair_statistics` takes them."""
        return self.text.cpu().numpy(), self.images.cpu().numpy(), self.positive.cpu().numpy()


def _same_text(captions: Sequence[str], rows: np.ndarray) -> torch.Tensor:
    """(n,) number of the text of each of some captions; the others have no part in it."""
    return torch.from_numpy(same_texts([captions[row] for row in rows]))
