"""Translations for dot products: the correction for lengths against a naive version, invariances, and its use."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.vectors import normalise
from helpers.errors import CheckpointError
from helpers.evaluation import dot_product, metrics


def case(seed, captions=60, images=40, width=6):
    """Captions near to their images' directions, images of lengths that their first dimension tells."""
    rng = np.random.default_rng(seed)
    unit = rng.normal(size=(images, width))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    positive = rng.integers(0, images, captions)
    text = unit[positive] + 0.2 * rng.normal(size=(captions, width))
    return torch.from_numpy(text).float(), unit * (1 + 0.6 * unit[:, :1]), torch.from_numpy(positive)


def test_direction_equals_ridge_regression_by_least_squares():
    _, images, _ = case(0)
    lengths = np.linalg.norm(images, axis=1)
    centred = images - images.mean(0)
    ridge = dot_product.EPS * np.trace(centred.T @ centred) / 6
    # Ridge regression is least squares on data with sqrt(ridge) times the identity appended.
    a = np.vstack([centred, np.sqrt(ridge) * np.eye(6)])
    expected = np.linalg.lstsq(a, np.append(lengths - lengths.mean(), np.zeros(6)), rcond=None)[0]
    np.testing.assert_allclose(dot_product.length_direction(images), expected, rtol=1e-9)


def test_correction_equals_loops():
    text, images, _ = case(1)
    unit = [caption / np.linalg.norm(caption) for caption in text.double().numpy()]
    mean = sum(unit) / len(unit)
    common = (mean @ mean) * mean
    best = []
    for caption in unit:
        best += sorted(image @ (caption - common) / np.linalg.norm(image) for image in images)[-4:]  # a tenth of 40
    direction = dot_product.length_direction(images)
    found = dot_product.correction(text, images, direction)
    np.testing.assert_allclose(found, common + np.mean(best) * direction, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_correction_turns_with_the_space_and_ignores_units_of_length(seed, scale):
    text, images, _ = case(seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))
    turned, queries = scale * images @ rotation, 7 * text @ torch.from_numpy(rotation).float()
    plain = dot_product.correction(text, images, dot_product.length_direction(images))
    found = dot_product.correction(queries, turned, dot_product.length_direction(turned))
    np.testing.assert_allclose(found, plain @ rotation, atol=1e-5)


@pytest.mark.parametrize("images", [np.eye(4), np.full((3, 4), 2.0), np.ones((1, 4))])
def test_images_of_one_length_leave_only_the_common_part(images):
    direction = dot_product.length_direction(images)
    np.testing.assert_allclose(direction, 0, atol=1e-12)
    found = dot_product.correction(torch.ones(2, 4), images, direction)
    np.testing.assert_allclose(found, 0.5, atol=1e-6)  # all the same: the whole of it


def test_correction_gives_back_most_of_what_lengths_cost():
    text, images, positive = case(2, captions=400, images=200)
    gallery = torch.from_numpy(images)
    shift = dot_product.correction(text, images, dot_product.length_direction(images))
    unit = normalise(text)

    def mrr(queries, **options):
        return float(np.mean(1 / metrics.ranks(queries, gallery, positive, **options)))

    cosine, dot, corrected = mrr(unit), mrr(unit, cosine=False), mrr(unit - torch.from_numpy(shift), cosine=False)
    assert dot < cosine - 0.05 and corrected > (dot + cosine) / 2


def test_corrections_come_back_and_a_missing_one_says_what_to_run(tmp_path):
    with pytest.raises(CheckpointError, match="Run notebook 05"):
        dot_product.load(tmp_path, "bigjump")
    shift = np.arange(3, dtype=np.float32)
    dot_product.save(tmp_path, {"bigjump": shift})
    np.testing.assert_array_equal(dot_product.load(tmp_path, "bigjump"), shift)
    with pytest.raises(CheckpointError, match="nothing for the model 'mlp9'"):
        dot_product.load(tmp_path, "mlp9")
    (tmp_path / dot_product.FILE).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="nothing for the model 'bigjump' .*Run notebook 05"):
        dot_product.load(tmp_path, "bigjump")
