"""Do intervals hold what they promise? Simulated experiments, and ranks at the edges of the number formats."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from helpers.data.vectors import normalise
from helpers.evaluation import metrics

N_IMAGES, PER_IMAGE, WORST_RANK = 120, 5, 1000
BOOTSTRAP_SAMPLES = 500
CENTRE, SPREAD, SHARED = 1.5, 1.8, 0.5  # of the logarithm of the rank; half of its variance belongs to the image
IMAGE_OF = np.repeat(np.arange(N_IMAGES), PER_IMAGE)


def simulated_ranks(rng, models=1):
    """(models, captions) ranks; captions of one image share its difficulty, and so do models."""
    image = rng.standard_normal((1, N_IMAGES, 1))
    caption = rng.standard_normal((models, N_IMAGES, PER_IMAGE))
    difficulty = np.sqrt(SHARED) * image + np.sqrt(1 - SHARED) * caption
    return np.clip(np.ceil(np.exp(CENTRE + SPREAD * difficulty)), 1, WORST_RANK).reshape(models, -1)


def true_mrr():
    """The mean of 1 / rank over all experiments, from the law of the rank."""
    rank = np.arange(1, WORST_RANK + 1)
    up_to = norm.cdf((np.log(rank) - CENTRE) / SPREAD)
    up_to[-1] = 1
    return float(np.sum(np.diff(up_to, prepend=0) / rank))


def covered(simulations, groups):
    """Share of experiments whose 95 % interval holds the true mean."""
    rng, truth = np.random.default_rng(0), true_mrr()
    hits = 0
    for seed in range(simulations):
        values = 1 / simulated_ranks(rng)[0]
        low, high = metrics.bootstrap_interval(values, groups, samples=BOOTSTRAP_SAMPLES, seed=seed)
        hits += low <= truth <= high
    return hits / simulations


def test_the_simulation_has_the_mean_that_it_claims():
    rng = np.random.default_rng(1)
    means = [np.mean(1 / simulated_ranks(rng)[0]) for _ in range(2000)]
    assert np.mean(means) == pytest.approx(true_mrr(), abs=4 * np.std(means) / np.sqrt(2000))


@pytest.mark.slow
def test_resampling_images_covers_the_true_mean():
    # 1,500 experiments: the binomial standard error is 0.6 points. 5,000 of them give 94.3 % (0.3): the percentile
    # interval of 120 images is a little narrow, as its theory says.
    assert 0.93 <= covered(1500, IMAGE_OF) <= 0.97


@pytest.mark.slow
def test_resampling_captions_would_promise_too_much():
    # 100 experiments: the binomial standard error is 4.4 points, and the share near 72 %.
    assert covered(100, np.arange(N_IMAGES * PER_IMAGE)) < 0.87


@pytest.mark.slow
def test_equal_models_differ_in_one_of_twenty_experiments():
    # 1,500 experiments: the binomial standard error is 0.6 points. 5,000 of them give 5.4 % (0.3).
    rng = np.random.default_rng(0)
    alarms = 0
    for seed in range(1500):
        a, b = simulated_ranks(rng, models=2)
        found = metrics.paired_difference(a, b, IMAGE_OF, samples=BOOTSTRAP_SAMPLES, seed=seed)
        alarms += not found["low"] <= 0 <= found["high"]
    assert 0.03 <= alarms / 1500 <= 0.07


def naive_ranks(predictions, gallery, targets, cosine):
    """Every pair of rows on its own, in float64; the own item's copies, by value, share their places."""
    result = []
    predictions, gallery = (np.asarray(rows, dtype=np.float64) for rows in (predictions, gallery))
    for prediction, target in zip(predictions, targets, strict=True):
        copies = (gallery == gallery[target]).all(axis=1)
        scores = np.array([np.sum(prediction * row) for row in gallery])
        if cosine:
            scores /= np.array([np.linalg.norm(row) * np.linalg.norm(prediction) for row in gallery])
        result.append(1 + np.sum(scores[~copies] > scores[target]) + (np.sum(copies) - 1) / 2)
    return np.array(result)


def retrieval(seed, n=60, distinct=30, width=16):
    """Predictions, a gallery in which every other row is a copy, and targets."""
    rng = np.random.default_rng(seed)
    gallery = rng.standard_normal((distinct, width))
    gallery = np.concatenate([gallery, gallery[::2]])[rng.permutation(distinct + len(gallery[::2]))]
    targets = rng.integers(0, len(gallery), n)
    return [gallery[targets] + rng.standard_normal((n, width)), gallery, targets]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ranks_of_every_number_format_equal_the_naive_ones(dtype, cosine, seed):
    predictions, gallery, targets = retrieval(seed)
    predictions, gallery = (torch.from_numpy(rows).to(dtype) for rows in (predictions, gallery))
    found = metrics.ranks(predictions, gallery, torch.from_numpy(targets), cosine=cosine)
    expected = naive_ranks(predictions.double().numpy(), gallery.double().numpy(), targets, cosine)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected % 1)) == 2  # copies leave halves


@pytest.mark.parametrize("exponent", [-44, -38, -30, -21, -13, -9, 9, 15, 21, 30, 37])
@pytest.mark.parametrize("which", [0, 1])
def test_ranks_by_cosine_of_very_short_and_very_long_rows(which, exponent):
    rows = retrieval(exponent + 50)
    targets = rows.pop()
    # Some rows with their copies, so that a length which is not divided out would be seen.
    rows[which][rows[which][:, 0] > 0] *= 10.0**exponent
    stored = [row.astype(np.float32) for row in rows]  # below 1e-38 subnormal, with few digits left
    found = metrics.ranks(*map(torch.from_numpy, stored), torch.from_numpy(targets))
    np.testing.assert_array_equal(found, naive_ranks(*stored, targets, cosine=True))


def test_unit_rows_of_all_lengths():
    row = np.array([3.0, 0, -4])
    lengths = 10.0 ** np.arange(-43, 38)
    found = normalise(torch.from_numpy(row * lengths[:, None])).numpy()
    np.testing.assert_allclose(found[5:], np.tile(row / 5, (len(lengths) - 5, 1)), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    assert normalise(torch.zeros(2, 3)).eq(0).all()
    assert normalise(torch.tensor([[1.0, torch.nan], [torch.inf, 1.0]])).isnan().any(1).all()
