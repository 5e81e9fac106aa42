"""Choice of the device, and what a GPU must compute as the CPU does (skipped where there is none)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.errors import ConfigError
from helpers.evaluation import hubness, metrics
from helpers.models.build import build_model
from helpers.system import devices
from helpers.training import loop, losses, plus, state, steps
from helpers.training.objectives import BaselineConfig, BigJumpConfig, BigJumpObjective, CombinedObjective, Objective
from helpers.training.plus_choice import Networks
from helpers.training.plus_objective import PlusObjective
from helpers.training.settings import PlusConfig

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def data_on(device: torch.device) -> TrainingData:
    generator = torch.Generator().manual_seed(0)
    images, val_images = (1 + torch.randn(n, 24, generator=generator) for n in (90, 30))
    mixed = torch.randn(24, 17, generator=generator) / 4
    positive, val_positive = torch.arange(270) % 90, torch.arange(90) % 30
    text, val_text = (
        torch.tanh(of @ mixed) + 0.1 * torch.randn(len(of), 17, generator=generator)
        for of in (images[positive], val_images[val_positive])
    )
    return TrainingData(*(part.to(device) for part in (text, positive, images, val_text, val_images, val_positive)))


def test_the_environment_chooses_the_device(monkeypatch):
    monkeypatch.setenv("HELPERS_DEVICE", "cpu")
    assert devices.choose_device() == CPU
    for wrong in ("gpu", "cuda:99", "meta device"):
        monkeypatch.setenv("HELPERS_DEVICE", wrong)
        with pytest.raises(ConfigError, match=f"HELPERS_DEVICE = '{wrong}': no device that is there"):
            devices.choose_device()
    monkeypatch.delenv("HELPERS_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.choose_device() == CPU


@pytest.mark.slow
def test_a_training_on_the_cpu_asks_no_other_device(monkeypatch, tmp_path):
    """Asking for the state of a GPU's generator would start CUDA, after which a process can no longer fork."""

    def started(*_):
        raise AssertionError("CUDA was started")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", started)
    data, settings = data_on(CPU), BaselineConfig(epochs=2, batch_size=64, hidden=8, mixed_precision=False)
    model = build_model("mlp1", 17, 24, hidden=8)
    kept = state.Progress(tmp_path / "state.safetensors", {}, every=0.0)
    assert len(loop.fit(model, CombinedObjective(settings, data), "mlp1", kept)) == 2
    assert kept.path.exists()


@pytest.mark.parametrize("share", [0.05, 0.25, 0.9])
def test_a_gpu_scores_the_drawn_images_alone_to_the_same_loss(share):
    """`keep_heaviest` stands for what the CPU gathers by a number that it looks at."""
    generator = torch.Generator().manual_seed(0)
    bank, positive = torch.randn(900, 12, generator=generator).double(), torch.tensor([3, 3, 8, 1, 0, 899])
    k = losses.most_drawn(900, len(positive), share)
    found = []
    for log_weight in (losses.sampled_weights(900, positive, share).double() for _ in range(20)):
        assert int((~log_weight.isneginf()).sum()) <= k < 900
        kept, position, weights, _ = losses.keep_heaviest(bank, positive, log_weight, k)
        assert len(kept) == len(weights) == k and torch.equal(kept[position], bank[positive])
        for rows, places, of_rows in ((bank, positive, log_weight), (kept, position, weights)):
            z = torch.randn(6, 12, generator=generator.manual_seed(1)).double().requires_grad_()
            loss = losses.bank_infonce(z, rows, places, 0.1, torch.float64, of_rows)
            found.append((loss.detach(), *torch.autograd.grad(loss, z)))
    for whole, part in zip(found[::2], found[1::2], strict=True):
        torch.testing.assert_close(whole, part, rtol=1e-12, atol=1e-12)


def test_the_images_of_the_batch_are_kept_even_where_more_were_drawn():
    positive, log_weight = torch.tensor([5, 2]), torch.zeros(10)
    _, position, *_ = losses.keep_heaviest(torch.arange(10.0)[:, None], positive, log_weight, 4)
    assert sorted(position.tolist()) == [0, 1]


@needs_cuda
def test_losses_and_ranks_are_those_of_the_cpu():
    generator = torch.Generator().manual_seed(0)
    bank = normalise(torch.randn(500, 24, generator=generator))
    z, positive = torch.randn(64, 24, generator=generator), torch.randint(500, (64,), generator=generator)
    counts = torch.randint(4, (500,), generator=generator).float()
    results = []
    for device in (CPU, CUDA):
        sides = [part.to(device) for part in (z, bank, positive, counts)]
        sides[0].requires_grad_()
        loss = losses.multi_positive_infonce(*sides, 0.1)
        results.append([loss.detach().cpu(), torch.autograd.grad(loss, sides[0])[0].cpu()])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)
    ranks = [metrics.ranks(z.to(device), bank.to(device), positive.to(device)) for device in (CPU, CUDA)]
    assert np.mean(ranks[0] == ranks[1]) > 0.98  # rounding may turn two near-equal scores
    popularity = [hubness.attention(z.to(device), bank.to(device), 20.0).popularity.cpu() for device in (CPU, CUDA)]
    torch.testing.assert_close(*popularity, rtol=1e-3, atol=1e-5)


KINDS = {
    "networks": Networks(temperature=0.1, whitening=0.0, blocks=0, epochs=6, members=2),
    "networks_blocks1_whitened50": Networks(temperature=0.2, whitening=0.5, blocks=1, epochs=4, members=1),
}
"""Of the recipe plus: the second kind ends two epochs before the first."""


def training_on(device: torch.device, name: str) -> tuple[torch.nn.Module, Objective]:
    """A model and its objective, from the same seed on every device."""
    data = data_on(device)
    name, _, exclude = name.partition(", ")
    if exclude:  # a text for seven images or so
        data = replace(data, same_text=data.positive // 7)
    devices.seed_all(0)
    if name == "bigjump_plus":
        settings = plus.derived(PlusConfig(epochs=6, hidden=64, exclude_same_text=bool(exclude)), data)
        model = plus.build_networks(data, settings, KINDS)
        return model, PlusObjective(settings, data, model, KINDS)
    bigjump = BigJumpConfig(queue_size=150, queue_schedule=(0, 40, 150), exclude_same_text=bool(exclude))
    config = bigjump if name == "bigjump" else BaselineConfig()
    settings = replace(config, epochs=6, batch_size=64, hidden=64, learning_rate=3e-3)
    model = build_model(name, 17, 24, hidden=64).to(device)
    return model, (BigJumpObjective if name == "bigjump" else CombinedObjective)(settings, data)


TRAININGS = ["mlp1", "bigjump", "bigjump_plus", "bigjump, excluding", "bigjump_plus, excluding"]
every_training = pytest.mark.parametrize("name", TRAININGS)


@needs_cuda
@every_training
def test_a_training_on_a_gpu_learns_what_one_on_the_cpu_does_and_repeats_itself(name):
    first, again, on_cpu = (
        [entry["mrr"] for entry in loop.fit(*training_on(device, name), name)] for device in (CUDA, CUDA, CPU)
    )
    assert first == again
    assert max(first) == pytest.approx(max(on_cpu), abs=0.1)


@needs_cuda
@every_training
def test_replayed_steps_train_as_steps_one_by_one_do(name, monkeypatch):
    """Bit for bit but for the learning rate, which a graph reads in float32: dropout, draws and queue included."""
    replays = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda *given: (replays.append(1), replay(*given)))
    monkeypatch.setattr(steps, "LEAST_UPDATES", 2)
    histories, weights = [], []
    for capturable in (True, False):
        model, objective = training_on(CUDA, name)
        objective.capturable = capturable
        histories.append(loop.fit(model, objective, name))
        weights.append([parameter.detach() for parameter in model.parameters()])
        assert bool(replays) == capturable
        replays.clear()
    for replayed, alone in zip(*histories, strict=True):
        assert replayed["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert replayed["mrr"] == pytest.approx(alone["mrr"], abs=0.02)
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


@needs_cuda
@every_training
def test_a_gpu_never_waits_for_the_host_within_an_epoch(name):
    model, objective = training_on(CUDA, name)
    optimiser, rows = loop.make_optimiser(model, objective.settings), torch.arange(64, device=CUDA)
    objective.start_epoch(3)
    for expected in (1, 100):
        step = steps.Steps(model, objective, optimiser, expected)
        step(rows)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                step(rows)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert np.isfinite(step.means()["loss"])
