"""Peers without gradient steps: a grid of settings, solved exactly, the best on the inner split taken."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from benchmarks.peers.method import SEARCH_SEED, Fitted
from helpers import geometry, metrics
from helpers.config import GeometryConfig
from helpers.objectives import TrainingData

Setting = dict[str, float]
EPS = GeometryConfig().eps


def grid(**values: tuple[float, ...]) -> tuple[Setting, ...]:
    """Every combination of the values; the last name varies fastest."""
    return tuple(dict(zip(values, row, strict=True)) for row in itertools.product(*values.values()))


def inner_mrr(fitted: Fitted, data: TrainingData) -> float:
    """Full-gallery cosine MRR on the validation side of `data`."""
    return float(np.mean(1 / metrics.ranks(fitted.predict(data.val_text), data.val_images, data.val_own)))


@dataclass(frozen=True)
class ClosedForm:
    """A method of the comparison, see `Method`.

    Attributes:
        solve: (data, settings, seed) to one translator a setting, in order; what settings share is computed once.
        settings: the grid.
        version: raise it where the code of `solve` changes what it computes.
    """

    name: str
    solve: Callable[[TrainingData, tuple[Setting, ...], int], Iterator[Fitted]]
    settings: tuple[Setting, ...]
    seeded: bool = False
    version: int = field(default=1, kw_only=True)

    def facts(self) -> dict:
        return {"grid": list(self.settings), "version": self.version}

    def tiny(self) -> ClosedForm:
        return self

    def search(self, inner: TrainingData, train: TrainingData) -> dict:
        solved = zip(self.settings, self.solve(inner, self.settings, SEARCH_SEED), strict=True)
        tried = [(setting, inner_mrr(fitted, inner)) for setting, fitted in solved]
        best, mrr = max(tried, key=lambda pair: pair[1])  # the first of equals
        candidates = [{**setting, "inner_mrr": value} for setting, value in tried]
        return {"setting": best, "inner_mrr": mrr, "candidates": candidates}

    def fit(self, data: TrainingData, chosen: dict, seed: int) -> Fitted:
        return next(self.solve(data, (chosen["setting"],), seed))


def _affine(matrix: np.ndarray, bias: np.ndarray, device: torch.device) -> Fitted:
    a, b = (torch.from_numpy(part.astype(np.float32)).to(device) for part in (matrix, bias))
    return Fitted(lambda text: text @ a.T + b, matrix.size + bias.size)


def _statistics(data: TrainingData, images: torch.Tensor) -> geometry.PairStatistics:
    return geometry.pair_statistics(*(part.cpu().numpy() for part in (data.text, images, data.own)))


def solve_power(data: TrainingData, settings: tuple[Setting, ...], seed: int) -> Iterator[Fitted]:
    """`helpers.geometry`'s family: `power` 0 is Procrustes, 1 ridge regression with `eps`."""
    statistics = _statistics(data, data.images)
    for setting in settings:
        affine = geometry.fit_cross_space(statistics, setting["eps"]).affine(setting["power"])
        yield _affine(affine.matrix, affine.bias, data.device)


def solve_cca(data: TrainingData, settings: tuple[Setting, ...], seed: int) -> Iterator[Fitted]:
    """Canonical correlation analysis with powers of the correlations as weights (Gong et al., 2014).

    In the canonical space a caption scores an image by u' S^power v, with u = U' C_x^{-1/2} x and v = V' C_y^{-1/2} y.
    That is the dot product of y with C_y^{scale/2} V S^power U' C_x^{-1/2} x at scale -1, the translation that is
    searched with here. Scale 1 colours it as Procrustes does, and 0 does neither. Images are taken at unit length and
    centred; their mean adds the same to every score of a caption, so it is left out.
    """
    statistics = _statistics(data, metrics.normalise(data.images))
    for eps, of_eps in itertools.groupby(settings, key=lambda setting: setting["eps"]):
        space = geometry.fit_cross_space(statistics, eps)
        back = {1.0: space.white_y.root, 0.0: np.eye(len(space.right)), -1.0: space.white_y.inverse_root}
        for setting in of_eps:
            matrix = back[setting["scale"]] @ space.rotation(setting["power"]) @ space.white_x.inverse_root
            yield _affine(matrix, -matrix @ statistics.mean_x, data.device)


def solve_asif(data: TrainingData, settings: tuple[Setting, ...], seed: int) -> Iterator[Fitted]:
    """Average of the images of the nearest training captions, weighted by a softmax of their similarities.

    Inspired by ASIF (Norelli et al., 2023), which describes a caption by its sparse similarities to training captions,
    an image by its own to training images, and compares the two descriptions. Here the caption's description is turned
    into an image vector instead, since a translator must leave the gallery as it is. Text and unit images are centred.
    """
    mean = data.text.mean(0)
    keys = metrics.normalise(data.text - mean)  # (N, dx)
    images = metrics.normalise(data.images)
    images = images - images[data.own].mean(0)

    def predictor(setting: Setting) -> Callable[[torch.Tensor], torch.Tensor]:
        k = min(int(setting["neighbours"]), len(keys))

        def translate(block: torch.Tensor) -> torch.Tensor:
            near, rows = (metrics.normalise(block - mean) @ keys.T).topk(k)  # (B, k)
            weights = (near / setting["temperature"]).softmax(1)
            # One product with all images is faster than gathering (B, k, dy) of them.
            of_image = weights.new_zeros(len(block), len(images)).scatter_add_(1, data.own[rows], weights)  # (B, M)
            return of_image @ images

        return lambda text: torch.cat([translate(block) for block in text.split(1024)])

    for setting in settings:
        yield Fitted(predictor(setting), keys.numel() + images.numel())
