"""Closed forms against independent solvers."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.models import geometry
from helpers.models.geometry import (
    effective_rank,
    fit_cross_space,
    mean_share,
    pair_statistics,
    partial_whitening,
    principal_basis,
    spectrum,
    whitening,
)


def paired(n_images=60, per_image=3, dx=7, dy=11, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n_images, dy)) * np.arange(1, dy + 1) ** -0.5 + 5
    targets = rng.permutation(np.repeat(np.arange(n_images), per_image))
    text = images[targets] @ rng.normal(size=(dy, dx)) + noise * rng.normal(size=(len(targets), dx)) + 3
    return text.astype(np.float32), images.astype(np.float32), targets


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), per_image=st.integers(1, 5))
def test_statistics_equal_numpy(seed, per_image):
    text, images, targets = paired(per_image=per_image, seed=seed)
    stats = pair_statistics(text, images, targets)
    joint = np.cov(text.T.astype(np.float64), images[targets].T.astype(np.float64), bias=True)
    dx = text.shape[1]
    np.testing.assert_allclose(stats.cov_x, joint[:dx, :dx], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(stats.cov_y, joint[dx:, dx:], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(stats.cov_xy, joint[:dx, dx:], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(stats.mean_x, text.mean(0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(stats.mean_y, images[targets].mean(0, dtype=np.float64), rtol=1e-9)


def test_caption_means_equal_averaging_first():
    text, images, targets = paired()
    means = np.stack([text[targets == i].mean(0, dtype=np.float64) for i in range(len(images))])
    expected = pair_statistics(means, images, np.arange(len(images)))
    got = pair_statistics(text, images, targets, fit_on="caption_means")
    assert got.n == expected.n == len(images)
    for name in ("mean_x", "mean_y", "cov_x", "cov_y", "cov_xy"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-6, atol=1e-7)


def test_statistics_of_some_captions_equal_those_of_a_copy():
    text, images, targets = paired()
    rows = np.random.default_rng(1).permutation(len(text))[:50]
    got = pair_statistics(text, images, targets, captions=rows)
    expected = pair_statistics(text[rows], images, targets[rows])
    assert got.n == expected.n == 50
    np.testing.assert_allclose(got.cov_xy, expected.cov_xy, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got.cov_x, expected.cov_x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got.mean_y, expected.mean_y, rtol=1e-12)


def test_power_one_is_least_squares():
    text, images, targets = paired()
    design = np.column_stack([text, np.ones(len(text))]).astype(np.float64)
    solution = np.linalg.lstsq(design, images[targets].astype(np.float64), rcond=None)[0]
    found = fit_cross_space(pair_statistics(text, images, targets), eps=1e-12).affine(1.0)
    np.testing.assert_allclose(found.matrix, solution[:-1].T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.bias, solution[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eps", [1e-3, 1e-1, 1.0])
def test_power_one_is_ridge_at_every_eps(eps):
    stats = pair_statistics(*paired())
    dx = len(stats.mean_x)
    ridge = np.linalg.solve(stats.cov_x + eps * np.trace(stats.cov_x) / dx * np.eye(dx), stats.cov_xy).T
    np.testing.assert_allclose(fit_cross_space(stats, eps).affine(1.0).matrix, ridge, rtol=1e-7, atol=1e-9)


def test_several_ridges_at_once_are_the_same_bits_as_one_by_one():
    stats, grid = pair_statistics(*paired()), [1e-3, 0.1, 10.0]
    for space, eps in zip(geometry.fit_cross_spaces(stats, grid), grid, strict=True):
        np.testing.assert_array_equal(space.affine(0.5).matrix, fit_cross_space(stats, eps).affine(0.5).matrix)


def test_rotation_is_scipy_procrustes_where_widths_agree():
    stats = pair_statistics(*paired(dx=9, dy=9))
    fitted = fit_cross_space(stats, eps=1e-2)
    cross = fitted.white_x.inverse_root @ stats.cov_xy @ fitted.white_y.inverse_root
    # orthogonal_procrustes(A, B) minimises |A R - B| with A'B = cross, so it is given A = I, B = cross.
    expected, _ = scipy.linalg.orthogonal_procrustes(np.eye(9), cross)
    np.testing.assert_allclose(fitted.rotation(0.0), expected.T, atol=1e-8)


@pytest.mark.parametrize("dx,dy", [(7, 11), (11, 7)])
def test_procrustes_factor_is_orthonormal_and_mean_maps_to_mean(dx, dy):
    stats = pair_statistics(*paired(dx=dx, dy=dy))
    fitted = fit_cross_space(stats, eps=1e-2)
    rotation = fitted.rotation(0.0)
    gram = rotation.T @ rotation if dy >= dx else rotation @ rotation.T
    np.testing.assert_allclose(gram, np.eye(min(dx, dy)), atol=1e-10)
    affine = fitted.affine(0.0)
    np.testing.assert_allclose(affine.matrix @ stats.mean_x + affine.bias, stats.mean_y, rtol=1e-10)


def test_whitening_whitens_and_scale_does_not_matter():
    cov = pair_statistics(*paired()).cov_x
    white = whitening(cov, 1e-10)
    np.testing.assert_allclose(white.inverse_root @ cov @ white.inverse_root, np.eye(len(cov)), atol=1e-4)
    np.testing.assert_allclose(whitening(cov * 1e6, 0.1).inverse_root, whitening(cov, 0.1).inverse_root / 1e3)
    with pytest.raises(ValueError, match="same vector"):
        whitening(np.zeros((3, 3)), 0.1)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_partial_whitening_leaves_that_power_of_the_spectrum(power):
    cov = pair_statistics(*paired()).cov_x
    part = partial_whitening(cov, 1e-9, power)
    np.testing.assert_allclose(spectrum(part @ cov @ part), np.sort(spectrum(cov) ** (1 - power))[::-1], rtol=1e-4)
    np.testing.assert_allclose(
        partial_whitening(cov, 0.1, 1.0), whitening(cov, 0.1).inverse_root, rtol=1e-9, atol=1e-12
    )
    with pytest.raises(ValueError, match="same vector"):
        partial_whitening(np.zeros((3, 3)), 0.1, power)


def test_covariance_in_blocks_is_numpys(monkeypatch):
    monkeypatch.setattr(geometry, "BLOCK_ROWS", 7)
    rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32) * [1, 2, 3, 4] + 1000
    mean, cov = geometry.covariance(rows)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(rows.T, bias=True), rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.999), n=st.integers(3, 40))
def test_principal_basis_is_the_smallest_that_holds_its_share(seed, share, n):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 9)) * np.arange(1, 10) ** -1.0 + rng.normal(size=9)
    basis = principal_basis(rows, share)
    centred = rows - rows.mean(0)
    variance = np.linalg.svd(centred, compute_uv=False) ** 2
    r = next(r for r in range(1, 10) if variance[:r].sum() >= share * variance.sum() * (1 - 1e-12))
    assert basis.shape[1] in (r, min(r + 1, 9))  # the mean's own direction is the last
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-12)
    assert ((centred @ basis[:, :r]) ** 2).sum() == pytest.approx(variance[:r].sum())
    np.testing.assert_allclose(basis @ (basis.T @ rows.mean(0)), rows.mean(0), atol=1e-9)


@pytest.mark.parametrize("width", [1, 5])
def test_principal_basis_of_one_direction_is_what_torch_takes(width):
    rows = np.outer([1.0, -1.0, 2.0, -2.0], np.ones(width))
    basis = torch.from_numpy(principal_basis(rows, 0.9))
    np.testing.assert_allclose(basis.abs(), np.full((width, 1), width**-0.5))


def test_principal_basis_of_few_rows_and_of_equal_ones():
    rows = np.random.default_rng(0).normal(size=(5, 30)) + 2
    assert principal_basis(rows, 1.0).shape == (30, 5)  # four directions about the mean, and the mean
    assert principal_basis(rows - rows.mean(0), 1.0).shape == (30, 4)
    assert [principal_basis(rows, 0.1, multiple).shape[1] for multiple in (1, 2, 4, 8)] == [2, 2, 4, 5]
    with pytest.raises(ValueError, match="same vector"):
        principal_basis(np.ones((4, 3)), 0.9)


def test_effective_rank_and_mean_share_of_known_spectra():
    assert effective_rank(np.ones(8)) == pytest.approx(8)
    assert effective_rank(np.array([1.0, 0, 0])) == pytest.approx(1)
    assert mean_share(np.array([3.0, 0]), np.eye(2) * 0.5) == pytest.approx(0.9)
    np.testing.assert_allclose(spectrum(np.diag([1.0, 3.0, 2.0])), [3, 2, 1])
    with pytest.raises(ValueError, match="at least two"):
        pair_statistics(np.ones((3, 2)), np.ones((1, 2)), np.zeros(3, dtype=int))


def test_procrustes_does_not_hang_on_rounding_where_pairs_are_few():
    """With 30 images of 60 dimensions most canonical directions are none, and their singular vectors arbitrary."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 60)) + 2
    positive = np.repeat(np.arange(30), 3)
    text = images[positive] @ rng.normal(size=(60, 50)) / 8 + rng.normal(size=(90, 50))
    maps = []
    for text_now in (text, text * (1 + 1e-9 * rng.normal(size=text.shape))):
        fitted = fit_cross_space(pair_statistics(text_now, images, positive), eps=0.01)
        assert np.count_nonzero(fitted.weights(0.0)) == 29  # centred images span one dimension less than there are
        maps.append(fitted.affine(0.0).matrix)
    assert np.linalg.norm(maps[0] - maps[1]) < 1e-5 * np.linalg.norm(maps[0])
