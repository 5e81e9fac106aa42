"""Closed-form maps between two embedding spaces, fitted in float64 from sufficient statistics.

Notation: x in R^dx (text), y in R^dy (images), rows are samples. C_x and C_y are covariances, W = C^{-1/2} whitens.
M = W_x C_xy W_y = U S V' (thin). The family of maps

    A_p = C_y^{1/2} V S^p U' C_x^{-1/2},    b_p = mu_y - A_p mu_x

holds both classics: p = 0 is whitened Procrustes (whiten, rotate, recolour), p = 1 is least squares (ridge, since
eps > 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
import torch

from helpers.system import processes
from helpers.system.devices import one_blas_thread
from helpers.system.settings import Positive, settings

BLOCK_ROWS = 4096
RANK_TOLERANCE = float(np.finfo(np.float32).eps)
"""Canonical correlations below this share of the first are rounding of the vectors, which come in float32 at best."""


@settings
class GeometryConfig:
    """Settings of the closed-form maps."""

    eps: Positive = 1e-2  # ridge added to both covariances, relative to the mean eigenvalue of each
    # `captions` (one pair a caption) or `caption_means` (one pair an image, its captions averaged).
    fit_on: Literal["captions", "caption_means"] = "captions"


@dataclass(frozen=True)
class PairStatistics:
    """Means and covariances of paired samples; all that a closed-form map depends on.

    Attributes:
        n: number of pairs.
        mean_x, mean_y: (dx,), (dy,) float64.
        cov_x, cov_y, cov_xy: (dx, dx), (dy, dy), (dx, dy) float64, divided by n.
    """

    n: int
    mean_x: np.ndarray
    mean_y: np.ndarray
    cov_x: np.ndarray
    cov_y: np.ndarray
    cov_xy: np.ndarray


def _add_products(totals: list[np.ndarray], pairs: tuple, pool: ThreadPoolExecutor) -> None:
    """Add left' right of each (left, right) to totals[i], side by side; NumPy does half the work where they are one."""
    for total, product in zip(totals, pool.map(lambda pair: pair[0].T @ pair[1], pairs), strict=True):
        total += product


@one_blas_thread()
def pair_statistics(
    text: np.ndarray,
    images: np.ndarray,
    targets: np.ndarray,
    fit_on: str = "captions",
    captions: np.ndarray | None = None,
) -> PairStatistics:
    """Sufficient statistics of (caption, image) pairs in one pass over the captions, in blocks.

    Captions of one image share its vector, so C_xy needs one outer product an image (the sum of its captions times
    the image) and C_y one an image, weighted by its number of captions: exact, and a fifth of the work at five
    captions an image. Rows are shifted by the first image's pair before they are summed, which keeps the
    subtraction of the means from cancelling when a large common offset is present. The three products of a block run
    side by side, each on one thread, so that cores are used and the bits do not depend on their number.

    Args:
        text: (N, dx) caption embeddings; a memory map is read block by block.
        images: (M, dy) image embeddings.
        targets: (N,) row of `images` that each caption describes.
        fit_on: `captions` weighs every caption alike; `caption_means` first averages the captions of an image.
        captions: rows of `text` to use, such as a training split; all where None. Nothing is copied for it.

    Of several processes each gives its own images and captions, and has the statistics of all.

    Returns:
        The statistics in float64. Images that no caption names are left out.

    Raises:
        ValueError: fewer than two images with captions.
    """
    order = np.arange(len(targets)) if captions is None else captions
    order = order[np.argsort(targets[order], kind="stable")]
    image_ids, starts, counts = np.unique(targets[order], return_index=True, return_counts=True)
    n_images = processes.total_number(len(image_ids))
    if n_images < 2:
        raise ValueError(f"{n_images} image(s) with captions: a covariance needs at least two.")
    dx, dy = text.shape[1], images.shape[1]
    shift_x, shift_y = np.zeros(dx), np.zeros(dy)
    if len(order):
        shift_x = np.asarray(text[order[0]], dtype=np.float64)
        shift_y = np.asarray(images[image_ids[0]], dtype=np.float64)
    if processes.size() > 1:  # any shift will do, as long as it is the same
        shift_x, shift_y = (processes.from_first(torch.from_numpy(shift)).numpy() for shift in (shift_x, shift_y))
    grams, sum_x, sum_y = [np.zeros((dx, dx)), np.zeros((dy, dy)), np.zeros((dx, dy))], np.zeros(dx), np.zeros(dy)
    per_block = max(1, int(BLOCK_ROWS / counts.mean())) if len(order) else 1
    with ThreadPoolExecutor(min(len(grams), torch.get_num_threads())) as pool:
        for lo in range(0, len(image_ids), per_block):
            hi = min(lo + per_block, len(image_ids))
            first, last = starts[lo], starts[hi - 1] + counts[hi - 1]
            x = text[order[first:last]].astype(np.float64) - shift_x  # (captions of the block, dx)
            y = images[image_ids[lo:hi]].astype(np.float64) - shift_y  # (images of the block, dy)
            x_per_image = np.add.reduceat(x, starts[lo:hi] - first, axis=0)  # (images of the block, dx)
            weight = counts[lo:hi, None].astype(np.float64)
            if fit_on == "caption_means":
                x = x_per_image = x_per_image / weight
                weight = np.ones_like(weight)
            scaled = y * np.sqrt(weight)
            _add_products(grams, ((x, x), (scaled, scaled), (x_per_image, y)), pool)
            sum_x += x.sum(0)
            sum_y += (y * weight).sum(0)
    n = n_images if fit_on == "caption_means" else processes.total_number(len(order))
    sum_x, sum_y, *grams = (processes.total_array(part) for part in (sum_x, sum_y, *grams))
    mean_x, mean_y = sum_x / n, sum_y / n  # of the shifted rows
    return PairStatistics(
        n=n,
        mean_x=mean_x + shift_x,
        mean_y=mean_y + shift_y,
        cov_x=grams[0] / n - np.outer(mean_x, mean_x),
        cov_y=grams[1] / n - np.outer(mean_y, mean_y),
        cov_xy=grams[2] / n - np.outer(mean_x, mean_y),
    )


@one_blas_thread()
def covariance(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and covariance (d, d) of `rows` (n, d), in float64, divided by n; read in blocks.

    Of several processes each gives its rows, and has those of all.
    """
    n = processes.total_number(len(rows))
    if processes.size() == 1:
        mean = np.asarray(np.mean(rows, axis=0, dtype=np.float64))
    else:
        mean = processes.total_array(np.asarray(np.sum(rows, axis=0, dtype=np.float64))) / n
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for lo in range(0, len(rows), BLOCK_ROWS):
        centred = rows[lo : lo + BLOCK_ROWS] - mean
        total += centred.T @ centred
    return mean, processes.total_array(total) / n


@one_blas_thread()
def spectrum(cov: np.ndarray) -> np.ndarray:
    """Eigenvalues of a covariance, largest first; rounding below zero is clipped."""
    return np.clip(scipy.linalg.eigvalsh(cov)[::-1], 0.0, None)


@one_blas_thread()
def principal_basis(rows: np.ndarray, share: float, multiple: int = 1) -> np.ndarray:
    """Orthonormal basis (d, r), float64, of the largest principal directions of `rows` (n, d) and of their mean.

    Args:
        share: of the variance about the mean that the directions hold, at least; 1 keeps all that have any.
        multiple: of which r is, where there are as many directions and the mean adds one.

    Raises:
        ValueError: all rows are the same vector.
    """
    mean, cov = covariance(rows)
    values, vectors = scipy.linalg.eigh(cov)
    values, vectors = values[::-1], vectors[:, ::-1]
    if not values[0] > 0:
        raise ValueError("The covariance is zero: all embeddings are the same vector.")
    values = np.where(values > RANK_TOLERANCE * values[0], values, 0.0)
    held = values.cumsum() / values.sum()
    r = int(np.searchsorted(held, share)) + 1
    r = min(r + -(r + 1) % multiple, int(np.count_nonzero(values)))  # one more is the mean's
    basis = vectors[:, :r].copy()  # a single column of the reversed view counts as contiguous, and torch refuses it
    rest = mean - basis @ (basis.T @ mean)
    rest -= basis @ (basis.T @ rest)  # once more: what rounding left of the basis in a small rest
    if np.linalg.norm(rest) <= RANK_TOLERANCE * np.sqrt(mean @ mean + values.sum()):
        return basis
    return np.column_stack([basis, rest / np.linalg.norm(rest)])


def effective_rank(eigenvalues: np.ndarray) -> float:
    """Effective number of directions: 1 for one, d for isotropy.

    The exponential of the entropy of the normalised spectrum (Roy and Vetterli, 2007).
    """
    share = eigenvalues / eigenvalues.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def mean_share(mean: np.ndarray, cov: np.ndarray) -> float:
    """Share of the energy that all vectors have in common (anisotropy): |mean|^2 over E|x|^2, from 0 to 1."""
    energy = float(mean @ mean)
    return energy / (energy + float(np.trace(cov)))


@dataclass(frozen=True)
class Whitening:
    """Symmetric square root of a ridged covariance, C + eps tr(C)/d I, and its inverse; each (d, d), float64."""

    root: np.ndarray
    inverse_root: np.ndarray


def whitening(cov: np.ndarray, eps: float) -> Whitening:
    """Whitening (ZCA) of a covariance, regularised relative to its mean eigenvalue.

    Args:
        cov: (d, d) covariance.
        eps: ridge in units of the mean eigenvalue, so that it means the same at every scale of the data.

    Raises:
        ValueError: the covariance is zero (all rows alike), so there is nothing to whiten.
    """
    values, vectors = scipy.linalg.eigh(cov)
    return _whitening(values, vectors, eps)


def _whitening(values: np.ndarray, vectors: np.ndarray, eps: float) -> Whitening:
    """`whitening` of the covariance with these eigenvalues (d,) and eigenvectors (d, d, columns)."""
    values = _ridged(values, eps)
    root = (vectors * np.sqrt(values)) @ vectors.T
    inverse_root = (vectors / np.sqrt(values)) @ vectors.T
    return Whitening(root, inverse_root)


def _ridged(values: np.ndarray, eps: float) -> np.ndarray:
    """Eigenvalues (d,) of C + eps tr(C)/d I, from those of C."""
    mean_eigenvalue = values.mean()
    if not mean_eigenvalue > 0:
        raise ValueError("The covariance is zero: all embeddings are the same vector.")
    return np.clip(values, 0.0, None) + eps * mean_eigenvalue


@one_blas_thread()
def partial_whitening(cov: np.ndarray, eps: float, power: float) -> np.ndarray:
    """Whitening in part, (C + eps tr(C)/d I)^(-power/2), (d, d) float64: with `power` 1 in full, with 0 not at all.

    Powers between leave large directions somewhat larger.

    Raises:
        ValueError: the covariance is zero.
    """
    values, vectors = scipy.linalg.eigh(cov)
    return (vectors * _ridged(values, eps) ** (-power / 2)) @ vectors.T


@dataclass(frozen=True)
class AffineMap:
    """The map y^ = A x + b, with `matrix` A (dy, dx) and `bias` b (dy,), float64."""

    matrix: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Map rows x (N, dx) to (N, dy) float32."""
        return x.astype(np.float32) @ self.matrix.T.astype(np.float32) + self.bias.astype(np.float32)


@dataclass(frozen=True)
class CrossSpace:
    """The whitened cross-covariance of two spaces, decomposed once; every map of the family is cheap from here.

    Attributes:
        statistics: what it was fitted on.
        white_x, white_y: the two whitenings.
        left: U (dx, k). right: V (dy, k). correlations: S (k,), the canonical correlations; k = min(dx, dy).
    """

    statistics: PairStatistics
    white_x: Whitening
    white_y: Whitening
    left: np.ndarray
    right: np.ndarray
    correlations: np.ndarray

    def rotation(self, power: float = 0.0) -> np.ndarray:
        """The map between the whitened spaces, R_p = V S^p U' (dy, dx).

        At p = 0, with enough pairs, its columns are orthonormal (or its rows, where dy < dx).
        """
        return (self.right * self.weights(power)) @ self.left.T

    def weights(self, power: float) -> np.ndarray:
        """Canonical correlations to the power p, S^p (k,), and 0 where there is no correlation.

        Some directions have none where images are fewer than dimensions, or lie in a subspace.

        The singular vectors of such directions are whatever rounding makes of them, and S^0 would count them in full.
        """
        return np.where(self.correlations > RANK_TOLERANCE * self.correlations[0], self.correlations**power, 0)

    @one_blas_thread()
    def affine(self, power: float = 0.0) -> AffineMap:
        """The map A_p, b_p of the family: `power` 0 is whitened Procrustes, 1 is ridge regression."""
        matrix = self.white_y.root @ self.rotation(power) @ self.white_x.inverse_root
        return AffineMap(matrix, self.statistics.mean_y - matrix @ self.statistics.mean_x)


@one_blas_thread()
def fit_cross_space(statistics: PairStatistics, eps: float) -> CrossSpace:
    """Whiten both spaces and decompose the cross-covariance between them.

    The orthogonal factor V U' solves Procrustes between the whitened spaces (Schönemann, 1966); the singular values
    are canonical correlations (Hotelling, 1936), shrunk by eps.

    Args:
        statistics: of the training pairs.
        eps: relative ridge of both whitenings; at `power` 1 the map is exactly ridge regression with
            eps times the mean eigenvalue of C_x, whatever happens in the image space.
    """
    return _cross_space(statistics, whitening(statistics.cov_x, eps), whitening(statistics.cov_y, eps))


def fit_cross_spaces(statistics: PairStatistics, eps_values: Sequence[float]) -> Iterator[CrossSpace]:
    """Cross-space of each ridge in turn, see `fit_cross_space`; the covariances are decomposed once for all of them."""
    with one_blas_thread():
        values_x, vectors_x = scipy.linalg.eigh(statistics.cov_x)
        values_y, vectors_y = scipy.linalg.eigh(statistics.cov_y)
    for eps in eps_values:
        with one_blas_thread():
            white_x, white_y = _whitening(values_x, vectors_x, eps), _whitening(values_y, vectors_y, eps)
            space = _cross_space(statistics, white_x, white_y)
        yield space


def _cross_space(statistics: PairStatistics, white_x: Whitening, white_y: Whitening) -> CrossSpace:
    cross = white_x.inverse_root @ statistics.cov_xy @ white_y.inverse_root
    left, correlations, right_t = scipy.linalg.svd(cross, full_matrices=False)
    return CrossSpace(statistics, white_x, white_y, left, right_t.T, correlations)
