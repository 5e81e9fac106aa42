"""Baselines of the accuracy comparison against naive versions of themselves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.baselines import kernel, networks
from benchmarks.baselines.closed import grid, solve_asif
from helpers.data.training_data import TrainingData
from helpers.training.settings import OptimiserConfig


@pytest.fixture
def data() -> TrainingData:
    """Sixty captions of twenty images, and fifteen captions of five more, no two alike."""
    generator = torch.Generator().manual_seed(0)
    positive, val_positive = torch.arange(60) % 20, torch.arange(15) % 5
    shape = torch.randn(6, 9, generator=generator)
    images, val_images = (torch.randn(n, 6, generator=generator) for n in (20, 5))

    def captions(of: torch.Tensor) -> torch.Tensor:
        return torch.tanh(of @ shape) + 0.3 * torch.randn(len(of), 9, generator=generator) + 2

    train = captions(images[positive]), positive, images @ shape + 1
    return TrainingData(*train, captions(val_images[val_positive]), val_images @ shape + 1, val_positive)


def dense_kernel_ridge(data: TrainingData, gamma: float, ridge: float) -> np.ndarray:
    """(V, dy) predictions of ridge regression in the kernel's own space, written with the kernel matrix alone."""
    text, queries = (normalize((x - data.text.mean(0)).double(), dim=1).numpy() for x in (data.text, data.val_text))
    images = normalize(data.images.double(), dim=1).numpy()
    target = images[data.positive] - images[data.positive].mean(0)

    def kernel_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-gamma * np.square(a[:, None] - b[None, :]).sum(2))

    n = len(text)
    return kernel_of(queries, text) @ np.linalg.solve(kernel_of(text, text) + n * ridge * np.eye(n), target)


def test_with_every_caption_as_a_landmark_kernel_ridge_is_the_dense_one(data):
    settings = grid(gamma=(0.5, 2.0), landmarks=(len(data.text),), ridge=(1e-2, 1.0), whitening=(0.0,))
    for setting, fitted in zip(settings, kernel.solve_kernel_ridge(data, settings, 0), strict=True):
        expected = dense_kernel_ridge(data, setting["gamma"], setting["ridge"])
        error = np.abs(fitted.predict(data.val_text).numpy() - expected).max() / np.abs(expected).max()
        assert error < 2e-3, setting  # JITTER, which the dense one does not have, is a ten-thousandth


def test_whitened_predictions_have_a_flat_covariance(data):
    settings = grid(gamma=(1.0,), landmarks=(40,), ridge=(1e-3,), whitening=(0.0, 1.0))
    plain, whitened = (f.predict(data.text).double().numpy() for f in kernel.solve_kernel_ridge(data, settings, 0))
    raw, flat = (np.linalg.eigvalsh(np.cov(x.T, bias=True)) for x in (plain, whitened))
    expected = raw / (raw + kernel.WHITENING_EPS * raw.mean())  # 1 but for the ridge
    np.testing.assert_allclose(np.sort(flat), np.sort(expected), atol=2e-3)


def test_each_kernel_of_a_grid_has_its_own_landmarks(data):
    both = grid(gamma=(1.0,), landmarks=(10, 60), ridge=(1e-2,), whitening=(0.0,))
    together = [f.predict(data.val_text) for f in kernel.solve_kernel_ridge(data, both, 0)]
    apart = [next(kernel.solve_kernel_ridge(data, (one,), 0)).predict(data.val_text) for one in both]
    assert all(map(torch.equal, together, apart)) and not torch.equal(*together)


@pytest.mark.parametrize("neighbours", [1, 3, 500])
def test_asif_like_equals_a_loop(data, neighbours):
    (fitted,) = solve_asif(data, grid(neighbours=(neighbours,), temperature=(0.1,)), 0)
    text, images, positive = (part.astype(np.float64) if part.dtype.kind == "f" else part for part in data.pairs)
    mean, unit = text.mean(0), images / np.linalg.norm(images, axis=1, keepdims=True)
    keys = (text - mean) / np.linalg.norm(text - mean, axis=1, keepdims=True)
    for query, found in zip(data.val_text.double().numpy() - mean, fitted.predict(data.val_text), strict=True):
        cosines = keys @ query / np.linalg.norm(query)
        nearest = sorted(range(len(keys)), key=lambda i: -cosines[i])[:neighbours]
        weights = [math.exp(cosines[i] / 0.1) for i in nearest]
        sums = sum(w * unit[positive[i]] for w, i in zip(weights, nearest, strict=True))
        np.testing.assert_allclose(found, sums / sum(weights) - unit[positive].mean(0), atol=1e-5)


def test_step_decay_falls_to_a_tenth_half_way():
    settings = replace(OptimiserConfig(), epochs=4)
    assert [networks.step_decay(step, 5, settings) for step in (0, 9, 10, 19)] == [1.0, 1.0, 0.1, 0.1]
    assert {networks.constant(step, 5, settings) for step in range(20)} == {1.0}


def test_the_temperature_of_queue_infonce_is_trained_down_to_its_least(data):
    settings = networks.QueueConfig(epochs=1, batch_size=16, hidden=8, queue_size=32)
    model, objective = networks.build_queue(settings, data)
    rows, positive = torch.arange(16), data.positive[:16]
    objective.terms(objective.predict(model, rows), positive, rows)["loss"].backward()
    assert float(model.temperature.grad.abs()) > 0
    below, at_least = [], []
    for temperature, losses in ((1e-4, below), (settings.least_temperature, at_least)):
        model.eval().temperature.data.fill_(temperature)
        losses.append(objective.terms(objective.predict(model, rows), positive, rows)["loss"].item())
    assert below == at_least
