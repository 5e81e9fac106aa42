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
from helpers.errors import SplitError
from helpers.system import processes
from helpers.system.devices import choose_device


@dataclass(frozen=True)
class Deal:
    """What a process knows of all training captions, where it holds those of its own images alone.

    Attributes:
        positive: (N,) int64 number of each caption's image among all training images.
        place: (N,) int64 row of each caption among those of this process, -1 for those of others.
        same_text: (N,) int64 as in `TrainingData`, of all captions; None where unknown.
    """

    positive: torch.Tensor
    place: torch.Tensor
    same_text: torch.Tensor | None


@dataclass(frozen=True)
class TrainingData:
    """The training and the validation split as tensors on one device: there is no loader, rows are gathered by index.

    In several processes each holds its own part: the training images dealt by `processes.owner` with their captions,
    and every N-th validation caption. The validation gallery is whole in all of them.

    Attributes:
        text: (N, dx) float32 training captions, as stored (not normalised).
        positive: (N,) int64, the positive index: the row of `images` that each caption describes.
        images: (M, dy) float32 training images, as stored.
        val_text: (V, dx) float32 validation captions.
        val_images: (G, dy) float32, the validation gallery.
        val_positive: (V,) int64, the row of `val_images` that each caption describes.
        groups: (M,) training images of one group stay together where they are split once more; None for no groups.
        same_text: (N,) int64 number of each training caption's text, equal where two say the same; None where unknown.
        deal: of all captions among several processes; None in one.
    """

    text: torch.Tensor
    positive: torch.Tensor
    images: torch.Tensor
    val_text: torch.Tensor
    val_images: torch.Tensor
    val_positive: torch.Tensor
    groups: np.ndarray | None = None
    same_text: torch.Tensor | None = None
    deal: Deal | None = None

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

        Raises:
            SplitError: fewer training images than processes.
        """
        device = choose_device() if device is None else device
        same_text = None if captions is None else _same_text(captions, split.train_captions)
        if processes.size() > 1:
            return cls._dealt(text, images, split, device, same_text)

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
            same_text=None if same_text is None else same_text.to(device),
        )

    @classmethod
    def _dealt(
        cls,
        text: np.ndarray,
        images: np.ndarray,
        split: Split,
        device: torch.device,
        same_text: torch.Tensor | None,
    ) -> TrainingData:
        """This process's part; of memory maps its own rows alone are read."""
        rank, size = processes.rank(), processes.size()
        if len(split.train_images) < size:
            raise SplitError(f"{len(split.train_images)} training images for {size} processes: start fewer of them.")
        own = np.flatnonzero(processes.owner(split.train_caption_image) == rank)
        place = np.full(len(split.train_captions), -1)
        place[own] = np.arange(len(own))
        mine = slice(rank, None, size)

        def vectors(array: np.ndarray, rows: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array[rows], dtype=np.float32)).to(device)

        def numbers(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)

        of_all = None if same_text is None else same_text.to(device)
        return cls(
            text=vectors(text, split.train_captions[own]),
            positive=numbers(processes.place(split.train_caption_image[own])),
            images=vectors(images, split.train_images[mine]),
            val_text=vectors(text, split.val_captions[mine]),
            val_images=vectors(images, split.val_images),
            val_positive=numbers(split.caption_to_gallery[mine]),
            same_text=None if of_all is None else of_all[numbers(own)],
            deal=Deal(numbers(split.train_caption_image), numbers(place), of_all),
        )

    @property
    def positive_of_all(self) -> torch.Tensor:
        """(N,) number of the image of every training caption, those of other processes among them."""
        return self.positive if self.deal is None else self.deal.positive

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        """Of some of all training captions (B,) those that this process has, as rows of its own, in their order."""
        if self.deal is None:
            return rows
        places = self.deal.place[rows]
        return places[places >= 0]

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
