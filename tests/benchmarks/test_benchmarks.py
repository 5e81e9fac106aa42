"""The timings: what is held against ours computes the same, and every candidate runs, at a tiny size."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import common, epochs, plus_step, scaling, step, widths
from benchmarks.same_accuracy import ReferenceObjective
from helpers.training.objectives import BigJumpObjective

TINY = common.Size(60, 20, 12, 16, 8, 40, 30, 10, 1)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(common.SIZES, "small", TINY)
    monkeypatch.setattr(common, "RESULTS_DIR", tmp_path)


@pytest.mark.parametrize("queue", [0, 13, 40])
def test_the_reference_implementation_computes_the_same_loss(queue):
    data = step.random_data(TINY, "cpu")
    settings = step.settings_of(TINY, mixed_precision=False)
    fast, slow = BigJumpObjective(settings, data), ReferenceObjective(settings, data)
    generator = torch.Generator().manual_seed(0)
    pushed = torch.randint(TINY.images, (57,), generator=generator)  # more than the queue holds: it wraps around
    positive = torch.tensor([3, 3, 0, 7, 19, 7, 7, 2])  # images with several captions in the batch
    values, gradients = [], []
    for objective in (fast, slow):
        objective.start_epoch(1)
        objective.queue.push(pushed[:40])
        objective.queue.push(pushed[40:])
        objective.queue_used = queue
        prediction = torch.randn(len(positive), TINY.image_dim, generator=generator.manual_seed(1)).requires_grad_()
        objective.infonce(prediction, positive).backward()
        values.append(objective.infonce(prediction, positive).item())
        gradients.append(prediction.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("measured", [step, pytest.param(epochs, marks=pytest.mark.slow), plus_step, widths])
def test_every_candidate_runs_and_the_result_says_on_what(measured, monkeypatch, tmp_path, capsys):
    name = measured.__name__.rpartition(".")[2]
    monkeypatch.setattr(sys, "argv", [name])
    measured.main()
    result = json.loads((tmp_path / f"{name}_small.json").read_text())
    assert result["command"] == f"python -m benchmarks.{name} --size small"
    assert result["machine"]["products"] in ("torch.float32", "torch.bfloat16")
    shown = capsys.readouterr().out
    assert all(row["candidate"] in shown and row["over_lower_bound"] > 0 for row in result.get("rows", []))


def test_scaling_measures_time_and_memory_of_a_step():
    row = scaling.measure(TINY, "cpu")
    assert row["images_scored"] <= TINY.images and row["seconds"] > 0 and row["step_memory_mb"] >= 0


def test_a_device_that_a_benchmark_cannot_measure_on_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["closed_form", "--device", "cuda"])
    with pytest.raises(SystemExit):
        common.arguments("", devices=("cpu",))
    assert "unrecognized arguments: --device cuda" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["closed_form"])
    assert common.arguments("", devices=("cpu",)).device == "cpu"


def test_turns_are_interleaved_after_one_call_that_is_not_timed():
    calls = []
    seconds = common.interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2)
    assert calls == ["a", "b"] * 3 and {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_taken_turn_by_turn():
    assert common.median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == 3.0
