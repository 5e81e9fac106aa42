"""Images that a training caption's very text also describes: as negatives they would contradict their own captions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from helpers.data.training_data import TrainingData


@dataclass(frozen=True)
class SameText:
    """The images of each training caption's text, as one list and a stretch of it for each caption.

    Its size is that of the distinct pairs of text and image, and a table is made for a batch alone: captions times
    images would be too many, and hardly any are excluded.

    Attributes:
        images: (P,) int64, text by text.
        first, count: (N,) int64, of each caption's images in that list; its own is among them.
        most: images of a text, at most.
    """

    images: torch.Tensor
    first: torch.Tensor
    count: torch.Tensor
    most: int

    @classmethod
    def of(cls, data: TrainingData) -> SameText | None:
        """Those of the training captions; None where no text describes several images, or the texts are not known."""
        if data.same_text is None:
            return None
        text, positive = data.same_text.cpu().numpy(), data.positive.cpu().numpy()
        pairs = np.unique(np.column_stack([text, positive]), axis=0)  # (P, 2) distinct (text, image)
        first = np.searchsorted(pairs[:, 0], text)
        count = np.searchsorted(pairs[:, 0], text, side="right") - first
        if count.max(initial=0) < 2:
            return None
        on_device = [torch.from_numpy(part).to(data.device) for part in (pairs[:, 1].copy(), first, count)]
        return cls(on_device[0], on_device[1], on_device[2], int(count.max()))

    def excluded(self, rows: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        """Images of the texts of the captions `rows` (B,): (B, K), filled up with their own images `positive` (B,).

        On a CPU K is what these rows need; elsewhere it is `most`, so that no shape depends on values.
        """
        count = self.count[rows]
        width = int(count.max()) if count.device.type == "cpu" else self.most
        place = torch.arange(width, device=rows.device)
        images = self.images[(self.first[rows, None] + place).clamp_(max=len(self.images) - 1)]
        return torch.where(place < count[:, None], images, positive[:, None])
