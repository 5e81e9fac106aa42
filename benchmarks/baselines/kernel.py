"""Kernel ridge regression on Nystroem features, its predictions partly whitened."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.baselines.closed import Setting
from benchmarks.baselines.method import Fitted
from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise

BLOCK = 8192
JITTER = 1e-4
"""Added to the kernel of the landmarks (diagonal 1), which is singular where captions repeat."""
WHITENING_EPS = 1e-2  # of the mean eigenvalue, as everywhere in helpers.models.geometry


class Features:
    """Nystroem features of the RBF kernel exp(-gamma |x - x'|^2) on centred text at unit length.

    z(x) = L^{-1} k(landmarks, x), L L' the kernel of the landmarks: z(x) z(x') approximates the kernel (Williams and
    Seeger, 2001).
    """

    def __init__(self, text: torch.Tensor, gamma: float, landmarks: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(text), generator=generator)[:landmarks].to(text.device)
        self.mean, self.gamma = text.mean(0), gamma
        self.landmarks = normalise(text[chosen] - self.mean)  # (L, dx)
        kernel = self._kernel(self.landmarks).double()
        kernel.diagonal().add_(JITTER)
        self.factor = torch.linalg.cholesky(kernel).float()  # (L, L)

    def _kernel(self, unit: torch.Tensor) -> torch.Tensor:
        return (2 * self.gamma * (unit @ self.landmarks.T - 1)).exp_()  # (B, L); |x - x'|^2 = 2 - 2 x x'

    def __call__(self, text: torch.Tensor) -> torch.Tensor:
        """(B, L) features of captions (B, dx)."""
        kernel = self._kernel(normalise(text - self.mean))
        return torch.linalg.solve_triangular(self.factor, kernel.T, upper=False).T


def _moments(features: Features, data: TrainingData, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Means of z (L,), z z' (L, L) and z y' (L, dy) over the captions, float64."""
    size = len(features.landmarks)
    mean = torch.zeros(size, dtype=torch.float64, device=data.device)
    gram = torch.zeros(size, size, dtype=torch.float64, device=data.device)
    cross = torch.zeros(size, images.shape[1], dtype=torch.float64, device=data.device)
    for rows in torch.arange(len(data.text), device=data.device).split(BLOCK):
        z = features(data.text[rows])
        mean += z.sum(0)
        gram += z.T @ z
        cross += z.T @ images[data.positive[rows]]
    n = len(data.text)
    return mean / n, gram / n, cross / n


def _whitening(values: torch.Tensor, vectors: torch.Tensor, power: float) -> torch.Tensor:
    """C^{-power/2} (d, d) of a covariance with these eigenvalues and eigenvectors, float64."""
    values = values.clamp(min=0) + WHITENING_EPS * values.mean()
    return (vectors * values ** (-power / 2)) @ vectors.T


def solve_kernel_ridge(data: TrainingData, settings: tuple[Setting, ...], seed: int) -> Iterator[Fitted]:
    """Ridge regression from the features to the centred unit images; predictions times C_p^{-whitening/2}.

    C_p is the covariance of the training predictions. Regression shrinks what captions say little about, so that the
    directions that all images share dominate the cosine; whitening gives some of it back.
    """

    def kernel_of(setting: Setting) -> tuple[float, int]:
        return setting["gamma"], int(setting["landmarks"])

    images = normalise(data.images)
    images = images - images[data.positive].mean(0)
    for (gamma, landmarks), of_kernel in itertools.groupby(settings, key=kernel_of):
        features = Features(data.text, gamma, landmarks, seed)
        mean, gram, cross = _moments(features, data, images)
        for ridge, of_ridge in itertools.groupby(of_kernel, key=lambda setting: setting["ridge"]):
            damped = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            weights = torch.cholesky_solve(cross, torch.linalg.cholesky(damped))  # (L, dy)
            shift = mean @ weights
            spectrum = torch.linalg.eigh(weights.T @ gram @ weights - shift[:, None] * shift)
            for setting in of_ridge:
                yield _fitted(features, weights @ _whitening(*spectrum, setting["whitening"]))


def _fitted(features: Features, weights: torch.Tensor) -> Fitted:
    weights = weights.float()

    def predict(text: torch.Tensor) -> torch.Tensor:
        return torch.cat([features(block) @ weights for block in text.split(BLOCK)])

    # L^{-1} folds into the weights, so that landmarks and weights are all that must be stored.
    return Fitted(predict, int(np.sum([part.numel() for part in (features.landmarks, features.mean, weights)])))
