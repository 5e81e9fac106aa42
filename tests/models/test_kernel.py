"""The kernel map against weighted CCA written out on explicit features of the full kernel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.training_data import TrainingData
from helpers.models import geometry, kernel

DX, DY, IMAGES, CAPTIONS = 6, 5, 40, 90
SETTING: kernel.Setting = {"gamma": 1.0, "ridge": 1e-3, "image_eps": 0.1, "scale": -0.5, "power": 1.0}


def pairs(seed=0, captions=CAPTIONS):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(IMAGES, DY)) + 1
    positive = np.r_[np.arange(IMAGES), rng.integers(IMAGES, size=captions - IMAGES)]
    text = np.tanh(images[positive] @ rng.normal(size=(DY, DX))) + 0.3 * rng.normal(size=(captions, DX))
    text, images = (torch.from_numpy(of).float() for of in (text, images))
    positive = torch.from_numpy(positive)
    return TrainingData(text, positive, images, text[:0], images[:0], positive[:0])


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def symmetric_power(matrix, exponent):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


def naive(data, setting, asked):
    """Features from the whole kernel's own eigenvectors, then the map by symmetric roots and one SVD."""
    text, images, positive = data.text.double().numpy(), data.images.double().numpy(), data.positive.numpy()
    mean = text.mean(0)
    x, q = unit(text - mean), unit(asked.double().numpy() - mean)

    def k(a, b):
        return np.array([[np.exp(-setting["gamma"] * np.sum((u - v) ** 2)) for v in b] for u in a])

    root = symmetric_power(k(x, x) + kernel.JITTER * np.eye(len(x)), -0.5)
    z, zq = k(x, x) @ root, k(q, x) @ root
    y = unit(images)[positive]
    y = y - y.mean(0)
    zc, n = z - z.mean(0), len(z)
    cov_z, cov_y, cov_zy = zc.T @ zc / n, y.T @ y / n, zc.T @ y / n
    cov_z += setting["ridge"] * np.trace(cov_z) * np.eye(len(cov_z))
    cov_y += setting["image_eps"] * np.trace(cov_y) / DY * np.eye(DY)
    white = symmetric_power(cov_z, -0.5)
    u, s, vt = np.linalg.svd(white @ cov_zy @ symmetric_power(cov_y, -0.5), full_matrices=False)
    matrix = symmetric_power(cov_y, setting["scale"] / 2) @ (vt.T * s ** setting["power"]) @ u.T @ white
    return (zq - z.mean(0)) @ matrix.T


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    gamma=st.sampled_from([0.3, 1.0, 2.0]),
    ridge=st.sampled_from([1e-4, 1e-2]),
    image_eps=st.sampled_from([0.01, 1.0]),
    scale=st.sampled_from([-1.0, -0.5, 0.0, 1.0]),
    power=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    seed=st.integers(0, 5),
)
def test_with_every_caption_as_a_landmark_it_is_weighted_cca_on_the_kernel(**drawn):
    data = pairs(drawn.pop("seed"))
    asked = pairs(9).text
    fitted = kernel.fit(data, drawn, len(data.text), np.eye(DY))
    expected = naive(data, drawn, asked)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(fitted(asked).numpy() / scale, expected / scale, atol=2e-3)


def test_settings_that_share_work_give_what_each_gives_alone():
    data, asked = pairs(), pairs(1).text
    basis = np.eye(DY)
    features = kernel.Features.of(data.text, 1.0, 50, 0)
    moments = kernel.Moments.of(data, features, basis)
    some = kernel.grid([1.0], [1e-4, 1e-2], [0.1, 1.0])[::5]
    for setting, solution in zip(some, kernel.solve(moments, some), strict=True):
        together = kernel.kernel_map(moments, features, solution)(asked)
        torch.testing.assert_close(together, kernel.fit(data, setting, 50, basis)(asked))


def test_it_finds_what_no_linear_map_finds():
    """An image that depends on the product of two coordinates of its caption."""
    rng = np.random.default_rng(0)
    text = torch.from_numpy(rng.choice([-1.0, 1.0], (400, 3)) + 0.1 * rng.normal(size=(400, 3))).float()
    images = torch.stack([text[:, 0] * text[:, 1], text[:, 2], torch.ones(400)], 1)
    positive = torch.arange(400)
    data = TrainingData(text, positive, images, text[:0], images[:0], positive[:0])
    fitted = kernel.fit(data, SETTING | {"scale": 1.0}, 200, np.eye(3))
    assert np.corrcoef(fitted(text)[:, 0].numpy(), images[:, 0].numpy())[0, 1] > 0.9
    linear = geometry.fit_cross_space(geometry.pair_statistics(*data.pairs), 1e-2).affine(1.0)
    assert abs(np.corrcoef(linear(text.numpy())[:, 0], images[:, 0].numpy())[0, 1]) < 0.3


def test_captions_that_repeat_do_no_harm():
    data = pairs()
    repeated = TrainingData(
        data.text.repeat(3, 1), data.positive.repeat(3), data.images, data.val_text, data.val_images, data.val_positive
    )
    basis = np.eye(DY)
    once, thrice = (kernel.fit(of, SETTING, 1000, basis)(data.text) for of in (data, repeated))
    assert torch.isfinite(thrice).all()
    cosine = torch.nn.functional.cosine_similarity(once, thrice)
    assert cosine.min() > 0.999


def test_the_seed_chooses_the_landmarks():
    data, basis = pairs(), np.eye(DY)
    same, again, other = (kernel.fit(data, SETTING, 20, basis, seed).landmarks for seed in (3, 3, 4))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def test_it_writes_in_the_basis_alone():
    data = pairs()
    basis = geometry.principal_basis(torch.nn.functional.normalize(data.images, dim=1).numpy(), 0.6)
    assert basis.shape[1] < DY
    out = kernel.fit(data, SETTING, 50, basis)(data.text).double().numpy()
    np.testing.assert_allclose(out @ basis @ basis.T, out, atol=1e-5)


@pytest.mark.parametrize("limit", [1, 2])
def test_bits_do_not_depend_on_the_number_of_threads(limit):
    torch.set_num_threads(limit)
    data = pairs()
    found = kernel.fit(data, SETTING, 60, np.eye(DY)).state_dict()
    torch.set_num_threads(1)
    expected = kernel.fit(data, SETTING, 60, np.eye(DY)).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
