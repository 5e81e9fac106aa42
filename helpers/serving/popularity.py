"""What hubness reduction subtracts from the scores of a gallery: measured by a run's query bank, or given."""

from __future__ import annotations

import numpy as np
import torch

from helpers.evaluation import hubness
from helpers.serving import exact_search


def measured(bank: hubness.QueryBank, translated: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """(M,) float32 popularity of the images of a gallery; see `hubness.attention`.

    Args:
        bank: of the run. translated: (Q, dy) its captions, translated.
        gallery: (M, dy) image embeddings of any length.

    Raises:
        ValueError: NaN, Inf or rows of zeros in the gallery.
    """
    for left in range(0, len(gallery), exact_search.GALLERY_BLOCK):
        exact_search.checked_block(gallery, left)
    return hubness.attention(torch.from_numpy(translated), gallery, bank.beta, own=bank.own).popularity.numpy()


def checked(popularity: np.ndarray, images: int) -> torch.Tensor:
    """Popularity (M,) that a caller gives, as float32.

    Raises:
        ValueError: another shape, NaN or Inf.
    """
    popularity = np.asarray(popularity, dtype=np.float32)
    if popularity.shape != (images,):
        raise ValueError(f"hubness has shape {popularity.shape}; the gallery needs ({images},).")
    if not np.isfinite(popularity).all():
        raise ValueError(f"hubness holds NaN or Inf in {int((~np.isfinite(popularity)).sum())} place(s).")
    return torch.from_numpy(popularity)


class PopularityBeside:
    """The popularity of images that join a gallery, whose own popularity stays as it is.

    Args:
        bank: of the run. translated: (Q, dy) its captions, translated.
        built: (M, dy) the gallery.
    """

    def __init__(self, bank: hubness.QueryBank, translated: torch.Tensor, built: np.ndarray) -> None:
        self._translated, self._beta, self._own = translated, bank.beta, bank.own
        self._attention = hubness.attention(translated, built, bank.beta, own=bank.own)

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """(C,) float32 of new unit vectors (C, dy); see `hubness.popularity_beside`."""
        return hubness.popularity_beside(self._translated, vectors, self._beta, self._attention, self._own).numpy()
