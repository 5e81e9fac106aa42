"""The settings of weighted CCA and of the kernel map that rank best on cross-validation folds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.evaluation import metrics
from helpers.models import cca, geometry, kernel
from helpers.models.networks import GeomLinear
from helpers.system.bars import training_bar
from helpers.system.devices import one_blas_thread
from helpers.training.selection import mrr_of

KERNEL_BASIS = 0.99
"""Share of the images' variance that the directions hold in which the kernel map writes: the others are noise, and
their decomposition takes most of the time."""
SEARCH_LANDMARKS = 1500
"""Of the kernel map on the folds, where settings are compared with each other."""
KERNEL_WORK = 600_000_000_000
"""Captions times the square of the landmarks: each landmark helps, and so many take half a minute on two cores."""
GAMMAS = (0.25, 0.5, 1.0, 2.0)
RIDGES = (3e-5, 1e-4, 3e-4, 1e-3)
IMAGE_EPS = (0.3, 0.1, 1.0)
"""What the search of the kernel map chooses from; see `kernel.Setting`."""


class Found(TypedDict):
    """The setting of a closed form that ranks best on the folds, and its mean MRR there."""

    setting: cca.Setting | kernel.Setting
    mrr: float


def best_cca(folds: Sequence[TrainingData]) -> Found:
    """The setting of `cca.GRID` that ranks best on the folds, and its mean MRR."""
    mrr = np.zeros(len(cca.GRID))
    with training_bar("weighted CCA, settings", len(folds) * len(cca.GRID)) as bar:
        for fold in folds:
            for number, affine in enumerate(cca.maps(fold, cca.GRID)):
                mrr[number] += np.mean(1 / validation_ranks(cca.translate(affine, fold), fold))
                bar.update()
    return {"setting": cca.GRID[int(mrr.argmax())], "mrr": float(mrr.max()) / len(folds)}


def best_kernel(folds: Sequence[TrainingData]) -> Found:
    """The setting of the kernel map that ranks best on the folds, and its mean MRR.

    Kernel and ridge are chosen first, with the exponents; then the ridge of the images, which matters less.
    """
    first = kernel.grid(GAMMAS, RIDGES, IMAGE_EPS[:1])
    with training_bar("kernel CCA, kernels", len(folds) * (len(GAMMAS) + 1)) as bar:
        mrr = _kernel_mrr(folds, first, bar)
        best = first[int(mrr.argmax())]
        then = kernel.grid([best["gamma"]], [best["ridge"]], IMAGE_EPS[1:])
        mrr = np.concatenate([mrr, _kernel_mrr(folds, then, bar)])
    return {"setting": [*first, *then][int(mrr.argmax())], "mrr": float(mrr.max())}


def _kernel_mrr(folds: Sequence[TrainingData], settings: Sequence[kernel.Setting], bar: tqdm) -> np.ndarray:
    """Mean MRR over the folds of each setting, in order."""
    return np.mean([_kernel_mrr_on(fold, settings, bar) for fold in folds], axis=0)


def _kernel_mrr_on(fold: TrainingData, settings: Sequence[kernel.Setting], bar: tqdm) -> list[float]:
    """MRR of each setting on one fold; the kernels side by side, each on one thread, so that bits depend on no core."""
    basis = kernel_basis(fold)
    gallery = (normalise(fold.val_images).cpu().double().numpy() @ basis).T  # (r, G)

    def of_one_kernel(alike: list[kernel.Setting]) -> list[float]:
        features = kernel.Features.of(fold.text, alike[0]["gamma"], SEARCH_LANDMARKS, seed=0)
        moments = kernel.Moments.of(fold, features, basis)
        z = torch.cat(list(features(fold.val_text))) - _tensor(moments.mean_z, fold)  # (V, L)
        found = []
        # The length of a translation changes no rank, so that none is made: (V, k) times (k, G).
        for _, of_ridge in itertools.groupby(kernel.solve(moments, alike), key=lambda solution: id(solution.left)):
            solutions = list(of_ridge)
            canonical = z @ _tensor(solutions[0].left, fold)  # (V, k)
            found += [mrr_of(canonical @ _tensor(of.right @ gallery, fold), fold.val_positive) for of in solutions]
        bar.update()
        return found

    kernels = [list(alike) for _, alike in itertools.groupby(settings, key=lambda setting: setting["gamma"])]
    # Held outside too: a thread that ends must not give the others' products more threads.
    with one_blas_thread(), ThreadPoolExecutor(min(len(kernels), torch.get_num_threads())) as pool:
        return list(itertools.chain.from_iterable(pool.map(of_one_kernel, kernels)))


def _tensor(array: np.ndarray, like: TrainingData) -> torch.Tensor:
    return torch.from_numpy(array).float().to(like.device)


def kernel_basis(data: TrainingData) -> np.ndarray:
    """Directions (dy, r) in which the kernel map writes, from the training images."""
    return geometry.principal_basis(normalise(data.images).cpu().numpy(), KERNEL_BASIS)


def landmarks_for(captions: int, at_most: int) -> int:
    """Landmarks of a kernel map: all of few captions; of many only so many that the work stays within `KERNEL_WORK`."""
    return min(captions, at_most, max(SEARCH_LANDMARKS, math.isqrt(KERNEL_WORK // captions)))


def fit_kernel(data: TrainingData, setting: kernel.Setting, landmarks: int) -> kernel.KernelMap:
    """The kernel map of a setting, fitted on the training split.

    Args:
        landmarks: at most; see `landmarks_for`.
    """
    return kernel.fit(data, setting, landmarks_for(len(data.positive_of_all), landmarks), kernel_basis(data))


def fit_cca(data: TrainingData, setting: cca.Setting, landmarks: int = 0) -> GeomLinear:
    """Weighted CCA of a setting, fitted on the training split; it has no landmarks."""
    (affine,) = cca.maps(data, [setting])
    model = GeomLinear(data.text.shape[1], data.images.shape[1])
    model.set_affine(affine.matrix, affine.bias)
    return model.to(data.device).eval()


SEARCHES: dict[str, Callable[[Sequence[TrainingData]], Found]] = {"cca": best_cca, "kernel": best_kernel}
FITS: dict[str, Callable[[TrainingData, Any, int], nn.Module]] = {"cca": fit_cca, "kernel": fit_kernel}
"""By the row of the leaderboard."""


def validation_ranks(queries: torch.Tensor, data: TrainingData) -> np.ndarray:
    """Ranks (V,) by cosine of the images of the validation captions, translated to `queries` (V, dy)."""
    return metrics.ranks(queries, data.val_images, data.val_positive)
