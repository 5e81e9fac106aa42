"""Canonical Similarity Analysis (CSA; Li et al., ICLR 2025), as a translator and as it was published.

Both sides are brought into the space of their canonical correlations, u = U' C_x^{-1/2} (x - mean) and
v = V' C_y^{-1/2} (y - mean), and cut to the s largest of them. CSA scores a caption and an image by

    sum_k rho_k u_k v_k / (|u| |v|),

the cosine of u and v with the canonical correlations rho as weights. |u| is the same for every image, so a caption's
ranking is that of the cosine between (rho_k u_k) and v: `solve_csa_two_sided`, where the gallery holds v. A translator
must leave the gallery as it is. `solve_csa` gives the vector of the image space whose product with an image y of unit
length is sum_k rho_k u_k v_k, but for a constant of the caption. So it is CSA without the division by |v|: an image
that lies far out in the canonical space scores higher, and nothing else differs.

The paper's CCA has no ridge. It is one setting of the grid here, as good as (`LEAST_EPS`); larger ones are there
because a search should not lose by a setting that costs nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.baselines.closed import Setting, affine_translator, grid
from benchmarks.baselines.method import Fitted
from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.models import geometry

LEAST_EPS = 1e-4
"""The ridge, relative to the mean eigenvalue, that stands for none: below it float32 vectors hold rounding only."""
GRID = grid(eps=(LEAST_EPS, 1e-2, 1e-1, 1.0, 10.0), rank=(8, 16, 32, 64, 128, 256, 512, 1024))


@dataclass(frozen=True)
class Canonical:
    """Both maps into the canonical space, cut to the s largest correlations.

    Attributes:
        text: U' C_x^{-1/2}, (s, dx). images: V' C_y^{-1/2}, (s, dy).
        correlations: (s,), the largest first.
        mean_text, mean_images: (dx,), (dy,); the images' is of unit vectors.
    """

    text: np.ndarray
    images: np.ndarray
    correlations: np.ndarray
    mean_text: np.ndarray
    mean_images: np.ndarray


def canonical_spaces(data: TrainingData, settings: tuple[Setting, ...]) -> Iterator[Canonical]:
    """The canonical space of each setting, fitted on the training split with images at unit length.

    Settings of one `eps` that follow each other share the decomposition; a `rank` beyond the space's own keeps it all.
    """
    statistics = geometry.pair_statistics(*replace(data, images=normalise(data.images)).pairs)
    for eps, of_eps in itertools.groupby(settings, key=lambda setting: setting["eps"]):
        space = geometry.fit_cross_space(statistics, eps)
        text = space.left.T @ space.white_x.inverse_root
        images = space.right.T @ space.white_y.inverse_root
        for setting in of_eps:
            kept = slice(int(setting["rank"]))
            yield Canonical(text[kept], images[kept], space.weights(1.0)[kept], statistics.mean_x, statistics.mean_y)


def solve_csa(data: TrainingData, settings: tuple[Setting, ...], seed: int) -> Iterator[Fitted]:
    """CSA's numerator as the product of a translation and an image."""
    for space in canonical_spaces(data, settings):
        matrix = (space.images.T * space.correlations) @ space.text  # (dy, dx)
        yield affine_translator(geometry.AffineMap(matrix, -matrix @ space.mean_text), data.device)


def solve_csa_two_sided(data: TrainingData, settings: tuple[Setting, ...], seed: int) -> Iterator[Fitted]:
    """CSA as published: captions and gallery both move into the canonical space."""
    for space in canonical_spaces(data, settings):
        weighted = space.correlations[:, None] * space.text  # (s, dx)
        captions = geometry.AffineMap(weighted, -weighted @ space.mean_text)
        images = geometry.AffineMap(space.images, -space.images @ space.mean_images)
        of_text, of_images = (affine_translator(part, data.device) for part in (captions, images))
        yield replace(
            of_text,
            parameters=of_text.parameters + of_images.parameters,
            gallery=_of_unit_images(of_images),
        )


def _of_unit_images(fitted: Fitted) -> Callable[[torch.Tensor], torch.Tensor]:
    def gallery(images: torch.Tensor) -> torch.Tensor:
        return fitted.predict(normalise(images))

    return gallery
