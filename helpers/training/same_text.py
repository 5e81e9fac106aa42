"""Images that a training caption's very text also describes: as negatives they would contradict their own captions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from helpers.data.training_data import TrainingData
from helpers.system import processes


@dataclass(frozen=True)
class SameText:
    """The images of each training caption's text, as one list and a stretch of it for each caption.

    Its size is that of the distinct pairs of text and image, and a table is made for a batch alone: captions times
    images would be too many, and hardly any are excluded.

    Attributes:
        images: (P,) int64, text by text; numbers among the images of all processes.
        first, count: (N,) int64, of each of this process's captions' images in that list; its own is among them.
        most: images of a text, at most.
    """

    images: torch.Tensor
    first: torch.Tensor
    count: torch.Tensor
    most: int

    @classmethod
    def of(cls, data: TrainingData) -> SameText | None:
        """Those of the training captions; None where no text describes several images, or the texts are not known."""
        of_all = data.same_text if data.deal is None else data.deal.same_text
        if of_all is None or data.same_text is None:
            return None
        text, positive = of_all.cpu().numpy(), data.positive_of_all.cpu().numpy()
        pairs = np.unique(np.column_stack([text, positive]), axis=0)  # (P, 2) distinct (text, image)
        first = np.searchsorted(pairs[:, 0], text)
        count = np.searchsorted(pairs[:, 0], text, side="right") - first
        if count.max(initial=0) < 2:
            return None
        most = int(count.max())
        if data.deal is not None:
            own = data.deal.place.cpu().numpy() >= 0
            first, count = first[own], count[own]
        on_device = [torch.from_numpy(part).to(data.device) for part in (pairs[:, 1].copy(), first, count)]
        return cls(on_device[0], on_device[1], on_device[2], most)

    def excluded(self, rows: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        """Images of the texts of the captions `rows` (B,): (B, K), filled up with their own images `positive` (B,).

        On a CPU K is what these rows need; elsewhere, and in several processes, it is `most`, so that no shape depends
        on values.
        """
        count, positive = self.count[rows], processes.image_number(positive)
        alone = count.device.type == "cpu" and processes.size() == 1
        width = int(count.max()) if alone else self.most
        place = torch.arange(width, device=rows.device)
        images = self.images[(self.first[rows, None] + place).clamp_(max=len(self.images) - 1)]
        return torch.where(place < count[:, None], images, positive[:, None])
