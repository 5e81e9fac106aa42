"""Hubness reduction: popularity against a naive version, invariances, and the choice of its temperature."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from helpers.data.vectors import MARKS, marks
from helpers.errors import CheckpointError
from helpers.evaluation import hubness, metrics


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def naive_popularity(bank, gallery, beta, iterations):
    """Full matrix, float64; every gallery row distinct."""
    scores = beta * unit(bank) @ unit(gallery).T
    f = np.zeros(len(gallery))
    for _ in range(iterations):
        attention = log_softmax(scores - f, axis=1)
        f = f + logsumexp(attention, axis=0) - np.log(len(bank) / len(gallery))
    return f / beta


def naive_popularity_without_own(bank, gallery, own, beta, iterations):
    """As `naive_popularity`, where caption q gives nothing to the images own[q]."""
    scores = beta * unit(bank) @ unit(gallery).T
    for caption, images in enumerate(own):
        scores[caption, images] = -np.inf
    f = np.zeros(len(gallery))
    for _ in range(iterations):
        f = f + logsumexp(log_softmax(scores - f, axis=1), axis=0) - np.log(len(bank) / len(gallery))
    return f / beta


def case(seed, queries=40, images=23, width=8):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(queries, width)) + 0.5, 3 * rng.normal(size=(images, width)) + 0.5


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("beta", [1.0, 30.0])
def test_popularity_equals_the_full_matrix(monkeypatch, beta, iterations):
    monkeypatch.setattr(hubness, "QUERY_BLOCK", 7)
    monkeypatch.setattr(hubness, "GALLERY_BLOCK", 5)
    bank, gallery = case(0)
    found = hubness.attention(torch.from_numpy(bank), gallery, beta, iterations).popularity.numpy()
    np.testing.assert_allclose(found, naive_popularity(bank, gallery, beta, iterations), atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), beta=st.sampled_from([2.0, 20.0]))
def test_popularity_ignores_lengths_rotations_and_the_order_of_the_bank(seed, beta):
    bank, gallery = case(seed)
    rng = np.random.default_rng(seed + 1)
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    expected = hubness.attention(torch.from_numpy(bank), gallery, beta).popularity.numpy()
    turned = torch.from_numpy(rng.permutation(bank) @ rotation * 7)
    found = hubness.attention(
        turned, gallery @ rotation * rng.uniform(0.1, 9, (len(gallery), 1)), beta
    ).popularity.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("offset", [1, 10, 60])
def test_inverse_temperature_follows_the_spread_however_much_images_share(offset):
    rng = np.random.default_rng(0)
    bank, images = (offset + rng.normal(size=(n, 64)) for n in (50, 80))
    expected = hubness.SHARPNESS / (unit(bank) @ unit(images).T).std(1).mean()
    assert hubness.inverse_temperature(torch.from_numpy(bank), images) == pytest.approx(expected, rel=0.01)


def test_a_repeated_image_changes_nothing_and_shares_its_popularity():
    bank, gallery = case(1)
    alone = hubness.attention(torch.from_numpy(bank), gallery, 20.0).popularity.numpy()
    repeated = hubness.attention(
        torch.from_numpy(bank), np.vstack([gallery, gallery[[4, 4, 4]]]), 20.0
    ).popularity.numpy()
    np.testing.assert_allclose(repeated, np.append(alone, [alone[4]] * 3), atol=1e-5)


def test_many_iterations_spread_the_attention_evenly():
    bank, gallery = case(2)
    f = 5.0 * hubness.attention(torch.from_numpy(bank), gallery, 5.0, iterations=200).popularity.numpy().astype(
        np.float64
    )
    attention = np.exp(log_softmax(5.0 * unit(bank) @ unit(gallery).T - f, axis=1)).sum(0)
    np.testing.assert_allclose(attention, len(bank) / len(gallery), rtol=1e-3)


def test_a_hub_is_corrected():
    """An image that lies where all captions lie takes their first places; popularity gives them back."""
    rng = np.random.default_rng(3)
    images = unit(rng.normal(size=(60, 16)))
    common = unit(rng.normal(size=(1, 16)))[0]
    gallery = np.vstack([images, common])
    positive = np.repeat(np.arange(60), 3)
    captions = images[positive] + 1.4 * common + 0.1 * rng.normal(size=(180, 16))
    bank = unit(rng.normal(size=(500, 16))) + 1.4 * common
    vectors, targets = torch.from_numpy(captions), torch.from_numpy(positive)
    plain = np.mean(1 / metrics.ranks(vectors, gallery, targets))
    offsets = hubness.attention(torch.from_numpy(bank), gallery, 20.0).popularity
    corrected = np.mean(1 / metrics.ranks(vectors, gallery, targets, offsets=offsets))
    assert offsets.argmax() == 60
    assert plain < 0.6 < 0.85 < corrected


def test_ranks_with_offsets_equal_sorting():
    rng = np.random.default_rng(4)
    predictions, gallery = rng.normal(size=(50, 6)), rng.normal(size=(20, 6))
    targets, offsets = rng.integers(0, 20, 50), rng.normal(size=20) * 0.3
    scores = unit(predictions) @ unit(gallery).T - offsets
    expected = 1 + (scores > scores[np.arange(50), targets][:, None]).sum(1)
    found = metrics.ranks(
        torch.from_numpy(predictions), gallery, torch.from_numpy(targets), offsets=torch.from_numpy(offsets).float()
    )
    np.testing.assert_array_equal(found, expected)


def test_the_inverse_temperature_follows_the_spread_of_the_cosines(monkeypatch):
    bank, images = case(5)
    spread = (unit(bank) @ unit(images).T).std(1).mean()
    found = hubness.inverse_temperature(torch.from_numpy(bank), images)
    assert found == pytest.approx(hubness.SHARPNESS / spread, rel=1e-4)
    assert hubness.inverse_temperature(torch.from_numpy(9 * bank), images / 7) == pytest.approx(found, rel=1e-4)
    monkeypatch.setattr(hubness, "IMAGE_SAMPLE", 6)
    few = images[hubness.sample(np.arange(len(images)), 6)]
    spread = (unit(bank[:6]) @ unit(few).T).std(1).mean()
    assert hubness.inverse_temperature(torch.from_numpy(bank), images) == pytest.approx(3 / spread, rel=1e-4)


def test_one_training_image_still_gives_a_finite_inverse_temperature():
    vectors = np.eye(4, dtype=np.float32)[:1]
    assert np.isfinite(hubness.inverse_temperature(torch.from_numpy(vectors), vectors))


@pytest.mark.parametrize(("bank", "gallery"), [(0, 3), (3, 0)])
def test_nothing_to_compare_is_an_error(bank, gallery):
    with pytest.raises(ValueError, match=f"{bank} captions in the query bank, {gallery} gallery images"):
        hubness.attention(torch.ones(bank, 2), np.ones((gallery, 2), dtype=np.float32), 10.0)


def test_a_caption_gives_no_attention_to_its_own_image_of_whatever_length(monkeypatch):
    monkeypatch.setattr(hubness, "QUERY_BLOCK", 7)
    monkeypatch.setattr(hubness, "GALLERY_BLOCK", 5)
    bank, gallery = case(7)
    own = [[q % 20] if q % 3 else [] for q in range(len(bank))]  # every third caption's image is elsewhere
    elsewhere = np.random.default_rng(8).normal(size=8)
    images = np.array([gallery[rows[0]] * 0.3 if rows else elsewhere for rows in own])
    found = hubness.attention(torch.from_numpy(bank), gallery, 9.0, own=marks(images.astype(np.float16))).popularity
    expected = naive_popularity_without_own(bank, gallery, own, 9.0, hubness.ITERATIONS)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)
    assert np.abs(expected - naive_popularity(bank, gallery, 9.0, hubness.ITERATIONS)).max() > 0.01


def test_images_that_trained_are_no_more_popular_for_that():
    """A model that knows its training captions, all of which lie on their own images, beside as many other images."""
    rng = np.random.default_rng(9)
    gallery = unit(rng.normal(size=(60, 32)))
    bank = np.repeat(gallery[:30], 4, axis=0) + 0.05 * rng.normal(size=(120, 32))
    own = marks(np.repeat(gallery[:30], 4, axis=0))
    by_all = hubness.attention(torch.from_numpy(bank), gallery, 20.0).popularity.numpy()
    by_others = hubness.attention(torch.from_numpy(bank), gallery, 20.0, own=own).popularity.numpy()
    assert by_all[:30].min() > by_all[30:].max() + 0.1
    assert abs(by_others[:30].mean() - by_others[30:].mean()) < 0.03


def test_a_new_image_beside_a_gallery_has_the_popularity_of_its_copy_there():
    bank, gallery = (torch.from_numpy(rows).float() for rows in case(10))
    own = marks(gallery[torch.arange(len(bank)) % 20])
    found = hubness.attention(bank, gallery, 9.0, own=own)
    beside = hubness.popularity_beside(bank, 5 * gallery, 9.0, found, own)
    np.testing.assert_allclose(beside.numpy(), found.popularity.numpy(), atol=1e-5)


def test_a_gallery_of_the_captions_own_image_alone_says_nothing():
    bank, gallery = case(11, images=1)
    found = hubness.attention(
        torch.from_numpy(bank), gallery, 9.0, own=marks(np.repeat(gallery, len(bank), axis=0))
    ).popularity
    assert found.tolist() == [0.0]


def test_the_bank_comes_back_and_a_missing_one_says_what_to_run(tmp_path):
    with pytest.raises(CheckpointError, match="Run notebook 05"):
        hubness.load_query_bank(tmp_path, "bigjump")
    bank = np.random.default_rng(6).normal(size=(5, 3)).astype(np.float32)
    hubness.save_query_bank(tmp_path, bank, np.zeros((len(bank), MARKS)), {"bigjump": 30.0})
    found = hubness.load_query_bank(tmp_path, "bigjump")
    np.testing.assert_array_equal(found.text, bank)
    assert found.beta == 30.0 and found.own.shape == (5, MARKS)
    with pytest.raises(CheckpointError, match="nothing for the model 'mlp9'"):
        hubness.load_query_bank(tmp_path, "mlp9")
    (tmp_path / hubness.QUERY_BANK_FILE).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="nothing for the model 'bigjump' .*Run notebook 05"):
        hubness.load_query_bank(tmp_path, "bigjump")


def test_the_sample_is_all_or_a_fixed_part():
    rows = np.arange(100, 130)
    np.testing.assert_array_equal(hubness.sample(rows), rows)
    part = hubness.sample(rows, 7)
    assert len(part) == 7 and set(part) <= set(rows) and np.all(np.diff(part) > 0)
    np.testing.assert_array_equal(part, hubness.sample(rows, 7))
