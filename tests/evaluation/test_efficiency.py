"""Parameters, megabytes and latency."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers.evaluation import cost
from helpers.models.build import build_model

AFFINE = 6 * 9 + 9  # the closed forms: a frozen matrix, and the bias, which is a buffer
MLP1 = 2 * 6 + (6 * 5 + 5) + (5 * 9 + 9)  # mean and scale of the input, then two layers


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("procrustes", AFFINE),
        ("linear", 2 * 6 + 6 * 9 + 9),
        ("mlp1", MLP1),
        ("mlp2", MLP1 + 5 * 5 + 5),
        ("bigjump", AFFINE + MLP1),
    ],
)
def test_every_stored_number_is_counted(name, expected):
    assert cost.count_parameters(build_model(name, 6, 9, hidden=5)) == expected


def test_megabytes_are_of_float32_and_decimal():
    assert cost.megabytes(250_000) == 1.0
    assert cost.megabytes(0) == 0.0


def test_latency_is_the_median_in_milliseconds_of_single_queries_after_warm_up(monkeypatch):
    seconds = iter([9.0, 9.0, 0.002, 0.004, 0.003, 5.0, 0.001])  # two of warm-up, then five; one disturbed
    calls, now = [], [100.0]

    def take_time(module, inputs):
        calls.append((tuple(inputs[0].shape), module.training, torch.is_inference_mode_enabled()))
        now[0] += next(seconds)

    model = nn.Linear(6, 9)
    model.register_forward_pre_hook(take_time)
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert cost.milliseconds_per_query(model, 6, "cpu", repeats=5, warmup=2) == pytest.approx(3.0)
    assert calls == [((1, 6), False, True)] * 7
