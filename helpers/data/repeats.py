"""Captions whose text occurs again, word for word: how many there are, and what they cost every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helpers.data.pairs import PairedEmbeddings
from helpers.data.split import Split


@dataclass(frozen=True)
class Repeats:
    """Repeated texts among the captions that a part of a split judges.

    Attributes:
        captions: that are judged.
        of_several_images: judged captions whose text also describes another image of the gallery.
        in_training: judged captions whose text also stands in the training split.
        ceiling: the MRR that no method can exceed which sees the text alone; see `ceiling`.
    """

    captions: int
    of_several_images: int
    in_training: int
    ceiling: float

    def __str__(self) -> str:
        return (
            f"{self.of_several_images:,} of {self.captions:,} captions have a text that also describes another image "
            f"of the gallery, {self.in_training:,} one that occurs in training: no method can exceed an MRR of "
            f"{self.ceiling:.3f}"
        )


def count_repeats(data: PairedEmbeddings, split: Split, part: str = "validation") -> Repeats:
    """Count the captions of a part of a split whose text occurs again, but for blanks at the ends.

    Args:
        part: `validation` or `test`.
    """
    judged = split.part(part)
    text = same_texts(data.captions)
    of_judged = text[judged.captions]
    pairs = np.unique(np.column_stack([of_judged, judged.positive]), axis=0)  # (P, 2) distinct (text, image)
    images_of_text = np.bincount(pairs[:, 0], minlength=text.max() + 1)
    return Repeats(
        captions=len(of_judged),
        of_several_images=int((images_of_text[of_judged] > 1).sum()),
        in_training=int(np.isin(of_judged, text[split.train_captions]).sum()),
        ceiling=ceiling(of_judged, judged.positive),
    )


def same_texts(captions: Sequence[str]) -> np.ndarray:
    """(N,) int64 number of each caption's text: equal where two captions say the same, word for word."""
    numbers: dict[str, int] = {}  # not np.unique, which makes every text as long as the longest
    return np.array([numbers.setdefault(caption.strip(), len(numbers)) for caption in captions], np.int64)


def ceiling(text: np.ndarray, positive: np.ndarray) -> float:
    """The best MRR of a method that sees the text alone, so that equal texts get one and the same ranking.

    The best ranking for a text puts the image first that most of its captions mean, then the next.

    Args:
        text: (V,) number of each caption's text. positive: (V,) gallery row of its image.
    """
    pairs, counts = np.unique(np.column_stack([text, positive]), axis=0, return_counts=True)
    order = np.lexsort((-counts, pairs[:, 0]))  # text by text, its most frequent image first
    of_text = pairs[order, 0]
    first = np.searchsorted(of_text, of_text)
    rank = 1 + np.arange(len(order)) - first
    return float((counts[order] / rank).sum() / len(text))
