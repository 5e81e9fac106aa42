"""Weighted canonical correlation analysis: the affine map that ranks best by cosine, alone or beside networks.

In the canonical space a caption scores an image by u' S^power v, with u = U' C_x^{-1/2} x and v = V' C_y^{-1/2} y, the
canonical correlations S and powers of them as weights (Gong et al., 2014). That is the dot product of y with

    C_y^{scale/2} V S^power U' C_x^{-1/2} x

at scale -1, so this vector is a translation to search with. Scale 1 colours it as Procrustes does, 0 does neither.
Images are taken at unit length and centred; their mean adds the same to every score of a caption, so it is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
import torch

from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.models import geometry
from helpers.system.devices import one_blas_thread


class Setting(TypedDict):
    """A setting of weighted CCA: the ridge of both whitenings, and the exponents of the map (see the module)."""

    eps: float
    scale: float
    power: float


GRID: tuple[Setting, ...] = tuple(
    {"eps": eps, "scale": scale, "power": power}
    for eps in (1e-2, 1e-1, 1.0, 10.0)
    for scale in (-1.0, 0.0, 1.0)
    for power in (0.0, 0.5, 1.0, 1.5, 2.0)
)
"""What `training.closed_forms` chooses from."""


def maps(data: TrainingData, settings: Sequence[Setting]) -> Iterator[geometry.AffineMap]:
    """The map of each setting, fitted on the training split; settings of one eps that follow each other share work."""
    statistics = geometry.pair_statistics(*replace(data, images=normalise(data.images)).pairs)
    groups = [list(group) for _, group in itertools.groupby(settings, key=lambda setting: setting["eps"])]
    spaces = geometry.fit_cross_spaces(statistics, [group[0]["eps"] for group in groups])
    for of_eps, space in zip(groups, spaces, strict=True):
        of_text = _product(space.left.T, space.white_x.inverse_root)  # (k, dx): canonical directions of the captions
        of_images = {scale: _coloured(space, scale) for scale in {setting["scale"] for setting in of_eps}}
        for setting in of_eps:
            matrix = _product(of_images[setting["scale"]] * space.weights(setting["power"]), of_text)
            yield geometry.AffineMap(matrix, -_product(matrix, statistics.mean_x))


def _coloured(space: geometry.CrossSpace, scale: float) -> np.ndarray:
    """(dy, k) canonical directions of the images, times C_y^{scale/2}."""
    if scale == 0:
        return space.right
    return _product(space.white_y.root if scale > 0 else space.white_y.inverse_root, space.right)


@one_blas_thread()
def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b


def translate(affine: geometry.AffineMap, split: TrainingData) -> torch.Tensor:
    """Unit translations (V, dy) of the validation captions by a map."""
    matrix, bias = (torch.from_numpy(part).float().to(split.device) for part in (affine.matrix, affine.bias))
    return normalise(split.val_text @ matrix.T + bias)
