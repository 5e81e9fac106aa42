"""Weighted CCA on a kernel of the captions: the map for few or weakly aligned pairs, alone or beside networks.

The captions' features are those of an RBF kernel, exp(-gamma |x - x'|^2) of centred captions x at unit length, by the
Nystroem method (Williams and Seeger, 2001): with L landmark captions and R R' = k(landmarks, landmarks),

    z(x) = R^{-1} k(landmarks, x),   z(x)' z(x') close to k(x, x').

On them stands the map of `models.cca`, C_y^{scale/2} V S^power U' C_z^{-1/2} (z(x) - mean). With `scale` 1 and `power`
1 it would be kernel ridge regression; other exponents rank better, as they do for linear maps. It is fitted without
C_z^{-1/2}: any square root of the inverse leaves the map as it is, and a triangular one is ten times cheaper.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import scipy.linalg
import torch
from torch import nn

from helpers.data.training_data import Deal, TrainingData
from helpers.data.vectors import normalise
from helpers.models.networks import mean_of_all
from helpers.system import processes
from helpers.system.devices import one_blas_thread

BLOCK = 4096
"""Captions whose features are held at a time."""
JITTER = 1e-4
"""Added to the kernel of the landmarks, whose diagonal is 1: captions that repeat make it singular."""


class Setting(TypedDict):
    """A setting of the map.

    Attributes:
        gamma: of the kernel; captions at unit length are up to 2 apart.
        ridge: added to C_z, in units of its trace, which hardly depends on the number of landmarks.
        image_eps: added to C_y, in units of its mean eigenvalue.
        scale, power: exponents of C_y and of the canonical correlations.
    """

    gamma: float
    ridge: float
    image_eps: float
    scale: float
    power: float


def grid(gammas: Sequence[float], ridges: Sequence[float], image_eps: Sequence[float]) -> list[Setting]:
    """Every setting of some kernels and ridges; those of one kernel, and then of one ridge, stand together."""
    return [
        {"gamma": gamma, "ridge": ridge, "image_eps": eps, "scale": scale, "power": power}
        for gamma in gammas
        for ridge in ridges
        for eps in image_eps
        for scale in (-1.0, -0.5, 0.0)
        for power in (0.5, 1.0, 1.5)
    ]


class KernelMap(nn.Module):
    """y^ = W k(landmarks, x) + b.

    Args:
        text_dim, image_dim: widths of input and output.
        landmarks: number of captions that the kernel compares with.

    Attributes:
        mean: (dx,). landmarks: (L, dx), at unit length. gamma: of the kernel, a scalar tensor.
        weight: (L, dy). bias: (dy,). None is trained.
    """

    mean: torch.Tensor
    landmarks: torch.Tensor
    gamma: torch.Tensor
    bias: torch.Tensor

    def __init__(self, text_dim: int, image_dim: int, landmarks: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(text_dim))
        self.register_buffer("landmarks", torch.zeros(landmarks, text_dim))
        self.register_buffer("gamma", torch.ones(()))
        self.weight = nn.Parameter(torch.zeros(landmarks, image_dim), requires_grad=False)
        self.register_buffer("bias", torch.zeros(image_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Translate x (B, dx) to (B, dy)."""
        with torch.autocast(x.device.type, enabled=False):  # neighbours differ by less than bfloat16 resolves
            kernel = rbf(nn.functional.normalize(x.float() - self.mean, dim=-1), self.landmarks, self.gamma)  # (B, L)
            return kernel @ self.weight + self.bias


def rbf(a: torch.Tensor, b: torch.Tensor, gamma: torch.Tensor | float) -> torch.Tensor:
    """exp(-gamma |a - b|^2), (N, L), of unit vectors a (N, d) and b (L, d)."""
    return ((a @ b.T - 1) * (2 * gamma)).exp()


@dataclass(frozen=True)
class Features:
    """z(x), the features of one kernel.

    Attributes:
        mean: (dx,) of the training captions. landmarks: (L, dx), centred, at unit length. gamma: of the kernel.
        inverse: R^{-1} (L, L), float64.
    """

    mean: torch.Tensor
    landmarks: torch.Tensor
    gamma: float
    inverse: np.ndarray

    @classmethod
    def of(cls, text: torch.Tensor, gamma: float, landmarks: int, seed: int, deal: Deal | None = None) -> Features:
        """Features on a seeded choice of so many of the captions `text` (N, dx), or on all where there are fewer.

        Args:
            deal: of the captions, of which `text` are this process's.
        """
        n = len(text) if deal is None else len(deal.place)
        chosen = torch.from_numpy(np.random.default_rng(seed).permutation(n)[:landmarks]).to(text.device)
        mean = mean_of_all(text)
        at = normalise((text[chosen] if deal is None else _of_all(text, deal.place[chosen])) - mean)
        kernel = rbf(at, at, gamma).double().cpu().numpy()
        kernel[np.diag_indices_from(kernel)] += JITTER
        return cls(mean, at, gamma, _inverse_root(kernel))

    def __call__(self, text: torch.Tensor) -> Iterator[torch.Tensor]:
        """(B, L) features of captions (N, dx), block by block."""
        inverse = torch.from_numpy(self.inverse.astype(np.float32)).to(text.device)
        for block in text.split(BLOCK):
            yield rbf(normalise(block - self.mean), self.landmarks, self.gamma) @ inverse.T


@one_blas_thread()
def _inverse_root(matrix: np.ndarray) -> np.ndarray:
    """R^{-1} of a positive definite R R', with R lower triangular; all (L, L) float64."""
    root = scipy.linalg.cholesky(matrix, lower=True, check_finite=False)
    inverse, _ = scipy.linalg.lapack.dtrtri(root, lower=1)
    return inverse


@dataclass(frozen=True)
class Moments:
    """What a map of one kernel is fitted from, over the captions, in float64.

    Attributes:
        mean_z: (L,). cov_z: (L, L), cov_y: (r, r), cov_zy: (L, r), images in coordinates of `basis`.
        basis: (dy, r).
    """

    mean_z: np.ndarray
    cov_z: np.ndarray
    cov_y: np.ndarray
    cov_zy: np.ndarray
    basis: np.ndarray

    @classmethod
    def of(cls, data: TrainingData, features: Features, basis: np.ndarray) -> Moments:
        """Moments of the training captions' features and their images, at unit length, in a basis (dy, r)."""
        # Of several processes each adds up its own captions and images, and has the sums of all.
        images = normalise(data.images)
        counts = torch.bincount(data.positive, minlength=len(images)).double()[:, None]
        mean_y = processes.total((images * counts).sum(0)) / processes.total(counts.sum())
        # Products in float32, whose bits depend on no number of threads; their sums over blocks in float64.
        coordinates = (images - mean_y.float()) @ torch.from_numpy(basis).float().to(data.device)  # (M, r)
        weighted = (coordinates * counts.sqrt()).float()
        cov_y = processes.total((weighted.T @ weighted).double())
        size, rank, n = len(features.landmarks), basis.shape[1], len(data.positive_of_all)
        mean_z = coordinates.new_zeros(size, dtype=torch.float64)
        cov_z = coordinates.new_zeros(size, size, dtype=torch.float64)
        cov_zy = coordinates.new_zeros(size, rank, dtype=torch.float64)
        for z, positive in zip(features(data.text), data.positive.split(BLOCK), strict=True):
            mean_z += z.double().sum(0)
            cov_z += z.T @ z
            cov_zy += z.T @ coordinates[positive]
        mean_z, cov_z, cov_zy = (processes.total(part) for part in (mean_z, cov_z, cov_zy))
        mean_z /= n
        cov_z = cov_z / n - mean_z[:, None] * mean_z
        return cls(_host(mean_z), _host(cov_z), _host(cov_y / n), _host(cov_zy / n), basis)


def _of_all(text: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(L, dx) captions of all processes, at the places (L,) that they have among `text` of this one, -1 for others'."""
    found = text.new_zeros(len(places), text.shape[1])
    found[places >= 0] = text[places[places >= 0]]
    return processes.total(found)


def _host(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


@dataclass(frozen=True)
class Solution:
    """A map y^ = basis right' left' (z - mean_z); the images' mean, which changes no rank, is left out.

    Attributes:
        left: (L, k). right: (k, r).
    """

    left: np.ndarray
    right: np.ndarray


@one_blas_thread()
def solve(moments: Moments, settings: Sequence[Setting]) -> list[Solution]:
    """The map of each of some settings of one kernel, in order; settings of one ridge share work."""
    values, vectors = scipy.linalg.eigh(moments.cov_y)
    solutions = []
    for ridge, of_ridge in itertools.groupby(settings, key=lambda setting: setting["ridge"]):
        damped = moments.cov_z.copy()
        damped[np.diag_indices_from(damped)] += ridge * np.trace(moments.cov_z)
        root = scipy.linalg.cholesky(damped, lower=True, check_finite=False)
        cross = scipy.linalg.solve_triangular(root, moments.cov_zy @ vectors, lower=True, check_finite=False)
        for image_eps, of_eps in itertools.groupby(of_ridge, key=lambda setting: setting["image_eps"]):
            ridged = np.clip(values, 0, None) + image_eps * values.mean()
            white = cross / np.sqrt(ridged)  # (L, r): R^{-1} C_zy C_y^{-1/2}, images along their principal directions
            squares, v = scipy.linalg.eigh(white.T @ white)
            kept = squares > squares[-1] * len(squares) * np.finfo(np.float32).eps
            correlations, v = np.sqrt(squares[kept]), v[:, kept]
            left = scipy.linalg.solve_triangular(
                root, white @ (v / correlations), lower=True, trans="T", check_finite=False
            )  # (L, k)
            for scale, of_scale in itertools.groupby(of_eps, key=lambda setting: setting["scale"]):
                coloured = vectors @ (ridged[:, None] ** (scale / 2) * v)  # (r, k)
                solutions += [Solution(left, (coloured * correlations ** each["power"]).T) for each in of_scale]
    return solutions


def kernel_map(moments: Moments, features: Features, solution: Solution) -> KernelMap:
    """A solution as a module, on the device of the features."""
    with one_blas_thread():
        weight = solution.left @ (solution.right @ moments.basis.T)  # (L, dy), of z
        bias = -moments.mean_z @ weight
        weight = features.inverse.T @ weight  # of the kernel: z is R^{-1} k
    size, text_dim = features.landmarks.shape
    model = KernelMap(text_dim, weight.shape[1], size)
    with torch.no_grad():
        model.mean.copy_(features.mean)
        model.landmarks.copy_(features.landmarks)
        model.gamma.fill_(features.gamma)
        model.weight.copy_(torch.from_numpy(weight))
        model.bias.copy_(torch.from_numpy(bias))
    return model.to(features.landmarks.device).eval()


def fit(data: TrainingData, setting: Setting, landmarks: int, basis: np.ndarray, seed: int = 0) -> KernelMap:
    """The map of one setting, fitted on the training split.

    Args:
        landmarks: captions to compare with, at most.
        basis: (dy, r) orthonormal directions in which it writes; see `geometry.principal_basis`.
        seed: of the choice of landmarks.
    """
    features = Features.of(data.text, setting["gamma"], landmarks, seed, data.deal)
    moments = Moments.of(data, features, basis)
    (solution,) = solve(moments, [setting])
    return kernel_map(moments, features, solution)
