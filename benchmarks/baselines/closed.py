"""Baselines without gradient steps: a grid of settings, each solved exactly; the best on the fold is taken."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from benchmarks.baselines.method import SEARCH_SEED, Fitted
from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.evaluation import metrics
from helpers.models import cca, geometry
from helpers.models.geometry import GeometryConfig
from helpers.system.bars import training_bar

Setting = dict[str, float]
EPS = GeometryConfig().eps


def grid(**values: tuple[float, ...]) -> tuple[Setting, ...]:
    """Every combination of the values; the last name varies fastest."""
    return tuple(dict(zip(values, row, strict=True)) for row in itertools.product(*values.values()))


def fold_mrr(fitted: Fitted, data: TrainingData) -> float:
    """Full-gallery cosine MRR on the validation split of `data`."""
    gallery = fitted.images(data.val_images)
    return float(np.mean(1 / metrics.ranks(fitted.predict(data.val_text), gallery, data.val_positive)))


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

    def metadata(self) -> dict:
        return {"grid": list(self.settings), "version": self.version}

    def tiny(self) -> ClosedForm:
        return self

    def search(self, fold_data: TrainingData, train: TrainingData) -> dict:
        tried = []
        with training_bar(f"{self.name}, settings", len(self.settings)) as bar:
            solved = zip(self.settings, self.solve(fold_data, self.settings, SEARCH_SEED), strict=True)
            for setting, fitted in solved:
                tried.append((setting, fold_mrr(fitted, fold_data)))
                bar.update()
        best, mrr = max(tried, key=lambda pair: pair[1])  # the first of equals
        candidates = [{**setting, "fold_mrr": value} for setting, value in tried]
        return {"setting": best, "fold_mrr": mrr, "candidates": candidates}

    def fit(self, data: TrainingData, chosen: dict, seed: int) -> Fitted:
        return next(self.solve(data, (chosen["setting"],), seed))


def affine_translator(affine: geometry.AffineMap, device: torch.device) -> Fitted:
    """An affine map as a translator."""
    a, b = (torch.from_numpy(part).float().to(device) for part in (affine.matrix, affine.bias))
    return Fitted(lambda text: text @ a.T + b, affine.matrix.size + affine.bias.size)


def solve_power(data: TrainingData, settings: tuple[Setting, ...], seed: int) -> Iterator[Fitted]:
    """`helpers.models.geometry`'s family: `power` 0 is Procrustes, 1 ridge regression with `eps`."""
    statistics = geometry.pair_statistics(*data.pairs)
    for setting in settings:
        yield affine_translator(
            geometry.fit_cross_space(statistics, setting["eps"]).affine(setting["power"]), data.device
        )


def solve_cca(data: TrainingData, settings: tuple[Setting, ...], seed: int) -> Iterator[Fitted]:
    """Weighted canonical correlation analysis, see `helpers.models.cca`."""
    for affine in cca.maps(data, settings):
        yield affine_translator(affine, data.device)


def solve_asif(data: TrainingData, settings: tuple[Setting, ...], seed: int) -> Iterator[Fitted]:
    """Average of the images of the nearest training captions, weighted by a softmax of their similarities.

    Inspired by ASIF (Norelli et al., 2023), which describes a caption by its sparse similarities to training captions,
    an image by its own to training images, and compares the two descriptions. Here the caption's description is turned
    into an image vector instead, since a translator must leave the gallery as it is. Text and unit images are centred.
    """
    mean = data.text.mean(0)
    keys = normalise(data.text - mean)  # (N, dx)
    images = normalise(data.images)
    images = images - images[data.positive].mean(0)

    def predictor(setting: Setting) -> Callable[[torch.Tensor], torch.Tensor]:
        k = min(int(setting["neighbours"]), len(keys))

        def translate(block: torch.Tensor) -> torch.Tensor:
            near, rows = (normalise(block - mean) @ keys.T).topk(k)  # (B, k)
            weights = (near / setting["temperature"]).softmax(1)
            # One product with all images is faster than gathering (B, k, dy) of them.
            of_image = weights.new_zeros(len(block), len(images)).scatter_add_(
                1, data.positive[rows], weights
            )  # (B, M)
            return of_image @ images

        return lambda text: torch.cat([translate(block) for block in text.split(1024)])

    for setting in settings:
        yield Fitted(predictor(setting), keys.numel() + images.numel())
