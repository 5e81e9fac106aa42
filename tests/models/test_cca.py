"""Weighted CCA: the map against canonical scores written out, what leaves it unchanged, how its setting is chosen."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch

from helpers.data.training_data import TrainingData
from helpers.models import cca, geometry
from helpers.training import closed_forms

DX, DY = 7, 9


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(DX, DY))

    def side(n, captions=3):
        latent = rng.normal(size=(n, DX))
        positive = np.repeat(np.arange(n), captions)
        text = latent[positive] * np.arange(1, DX + 1) + 0.5 * rng.normal(size=(len(positive), DX)) + 4
        images = latent @ mixing + 0.2 * rng.normal(size=(n, DY)) + 5
        return [torch.from_numpy(a) for a in (text.astype(np.float32), positive, images.astype(np.float32))]

    text, positive, images = side(80)
    val_text, val_positive, val_images = side(30)
    return TrainingData(text, positive, images, val_text, val_images, val_positive)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("eps", [0.01, 1.0])
def test_a_dot_product_with_the_map_is_the_canonical_score(data, power, eps):
    setting = {"eps": eps, "scale": -1.0, "power": power}
    (affine,) = cca.maps(data, [setting])
    x = data.text.double().numpy()
    y = (data.images / data.images.norm(dim=1, keepdim=True)).double().numpy()[data.positive.numpy()]
    x0, y0 = x - x.mean(0), y - y.mean(0)

    def ridged(rows):
        cov = rows.T @ rows / len(rows)
        return cov + eps * np.trace(cov) / len(cov) * np.eye(len(cov))

    # Canonical directions from the generalised eigenproblem, by another road than the whitened product.
    cross, of_x, of_y = x0.T @ y0 / len(x0), ridged(x0), ridged(y0)
    squares, directions = scipy.linalg.eigh(cross @ np.linalg.solve(of_y, cross.T), of_x)
    correlations = np.sqrt(squares.clip(0))
    partners = np.linalg.solve(of_y, cross.T) @ directions / correlations
    expected = (x0 @ directions * correlations**power) @ (y0 @ partners).T
    np.testing.assert_allclose(affine(x) @ y0.T, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_scale_and_offset_of_the_captions_and_lengths_of_the_images_do_not_count(data):
    setting = {"eps": 0.1, "scale": 0.0, "power": 0.5}
    changed = replace(data, text=3 * data.text + 7, images=data.images * torch.rand(len(data.images), 1).add(0.5))
    (affine,), (other,) = (list(cca.maps(side, [setting])) for side in (data, changed))
    queries = cca.translate(affine, data)
    torch.testing.assert_close(
        cca.translate(other, replace(changed, val_text=3 * data.val_text + 7)), queries, rtol=1e-3, atol=1e-4
    )


def test_a_rotation_of_the_images_rotates_the_translations(data):
    rotation = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(DY, DY)))[0]).float()
    turned = replace(data, images=data.images @ rotation)
    for setting in cca.GRID[::7]:
        (affine,), (other,) = (list(cca.maps(side, [setting])) for side in (data, turned))
        expected = cca.translate(affine, data) @ rotation
        torch.testing.assert_close(cca.translate(other, turned), expected, rtol=1e-3, atol=1e-4)


def test_the_same_maps_one_by_one_and_together(data):
    together = list(cca.maps(data, cca.GRID))
    assert len(together) == len(cca.GRID) == 60
    for setting, affine in list(zip(cca.GRID, together, strict=True))[::11]:
        (alone,) = cca.maps(data, [setting])
        np.testing.assert_array_equal(alone.matrix, affine.matrix)
        np.testing.assert_array_equal(alone.bias, affine.bias)


def test_scale_one_is_the_power_family_of_the_geometry(data):
    (affine,) = cca.maps(data, [{"eps": 0.1, "scale": 1.0, "power": 0.5}])
    unit = torch.nn.functional.normalize(data.images, dim=1)
    statistics = geometry.pair_statistics(data.text.numpy(), unit.numpy(), data.positive.numpy())
    expected = geometry.fit_cross_space(statistics, 0.1).affine(0.5)
    np.testing.assert_allclose(affine.matrix, expected.matrix, rtol=1e-9, atol=1e-12)


def test_the_best_setting_has_the_best_mean_over_the_splits(data):
    kept = data.positive < 20
    splits = [data, replace(data, text=data.text[kept], positive=data.positive[kept])]
    mrr = np.zeros(len(cca.GRID))
    for split in splits:
        for number, setting in enumerate(cca.GRID):
            (affine,) = cca.maps(split, [setting])
            scores = affine(split.val_text.numpy()) @ torch.nn.functional.normalize(split.val_images, dim=1).T.numpy()
            positive = scores[np.arange(len(scores)), split.val_positive]
            mrr[number] += np.mean(1 / (1 + (scores > positive[:, None]).sum(1)))
    found = closed_forms.best_cca(splits)
    assert found["setting"] == cca.GRID[int(mrr.argmax())] and found["mrr"] == pytest.approx(mrr.max() / 2)
