"""Translations for a protocol that scores by dot product with image vectors of any length.

There an image's score is its cosine times its length, so long images take ranks that belong to others. The length of a
translation changes no rank, but a vector subtracted from all of them does: it takes from the score of each image a
constant, which can undo most of what its length does, and of what all translations have in common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from helpers.data.vectors import normalise, unit_rows
from helpers.evaluation import hubness
from helpers.models.storage import read_judged, write_judged
from helpers.system.devices import one_blas_thread

IMAGE_SAMPLE = 8_192
"""Training images by which lengths are learned, at most."""
EPS = 0.1
"""Ridge on the covariance of the images, relative to its mean eigenvalue."""
COMPETITORS = 0.1
"""Share of the images, the nearest to a caption, that compete for its first places."""
FILE = "dot_product.safetensors"


@one_blas_thread()
def length_direction(images: np.ndarray) -> np.ndarray:
    """The direction (dy,) along which images grow longer, by ridge regression.

    w . y + constant is the length of image y, as well as a linear function can say.

    Args:
        images: (M, dy) training images; of many, a sample of `IMAGE_SAMPLE` is taken.
    """
    chosen = np.asarray(images[hubness.sample(np.arange(len(images)), IMAGE_SAMPLE)], dtype=np.float64)
    lengths = np.linalg.norm(chosen, axis=1)
    centred = chosen - chosen.mean(0)
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += EPS * np.trace(gram) / len(gram) or 1.0  # all images alike: nothing to learn
    return np.linalg.solve(gram, centred.T @ (lengths - lengths.mean()))


def competing_score(queries: torch.Tensor, images: np.ndarray) -> float:
    """Mean product of queries with the unit vectors of the images that compete for their first places.

    Args:
        queries: (Q, dy), taken as they are; the first `hubness.IMAGE_SAMPLE` count.
        images: (M, dy) training images; of many, a sample of `hubness.IMAGE_SAMPLE` is taken.
    """
    chosen = hubness.sample(np.arange(len(images)), hubness.IMAGE_SAMPLE)
    vectors = unit_rows(images, chosen, queries.device)
    scores = queries[: hubness.IMAGE_SAMPLE] @ vectors.T
    return float(scores.topk(math.ceil(COMPETITORS * len(chosen)), dim=1).values.mean())


def correction(query_bank: torch.Tensor, images: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The vector (dy,) float32 to subtract from each unit translation of a model before dot products with images.

    Two things are subtracted. First what all translations have in common, their mean, in the proportion of its share of
    their energy: a model that answers nearly always the same (least squares) loses it, one whose translations differ
    keeps its own. Then, with n the length of an image, m the mean length and q what is left of a translation,
    q . y = m q . u + (n - m) q . u, and the second term is what should not be there. Among the images that compete
    q . u is near its mean over them, c; so c (n - m) is subtracted from the scores, with n - m as the linear function
    of y that `direction` gives.

    Args:
        query_bank: (Q, dy) translated training captions, any length.
        images: (M, dy) training images.
        direction: (dy,) `length_direction` of these images.
    """
    unit = normalise(query_bank)
    mean = unit.mean(0)
    common = mean.square().sum() * mean
    return common.cpu().numpy() + (competing_score(unit - common, images) * direction).astype(np.float32)


def save(run_dir: Path, corrections: Mapping[str, np.ndarray]) -> None:
    """Store the correction (dy,) of each model in a run's folder."""
    tensors = {name: torch.from_numpy(value) for name, value in corrections.items()}
    write_judged(Path(run_dir) / FILE, tensors, corrections, {})


def load(run_dir: Path, model: str) -> np.ndarray:
    """The correction (dy,) float32 of a model of a run.

    Raises:
        CheckpointError: missing or damaged, or the model was not judged, or was trained again since.
    """
    return read_judged(Path(run_dir) / FILE, model, [model])[0][model]
