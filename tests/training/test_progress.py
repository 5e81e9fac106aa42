"""Interrupted training: killed at any moment and resumed, it ends where a training left alone ends, bit for bit."""

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.data.training_data import TrainingData
from helpers.errors import CheckpointError
from helpers.models import storage
from helpers.models.build import build_model
from helpers.system.devices import seed_all
from helpers.training import loop
from helpers.training.objectives import BaselineConfig, BigJumpConfig
from helpers.training.state import Progress

DX, DY, N_IMAGES = 12, 16, 60
SETTINGS = BigJumpConfig(
    epochs=40, batch_size=32, hidden=24, queue_size=300, queue_schedule=(0, 0, 100, 300), mixed_precision=False
)
KILLS = 20
DRIVER = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # before anything runs: a process that never had a second thread can be forked safely
sys.path.insert(0, sys.argv[1])
import test_progress
test_progress.kill_and_resume(Path(sys.argv[2]))
"""


def small_data():
    generator = torch.Generator().manual_seed(0)
    images = 1 + torch.randn(N_IMAGES, DY, generator=generator)
    positive = torch.arange(N_IMAGES).repeat_interleave(5)
    text = torch.tanh(images @ torch.randn(DY, DX, generator=generator) / 4)[positive]
    text = text + 0.1 * torch.randn(text.shape, generator=generator)
    return TrainingData(text[:250], positive[:250], images[:50], text[250:], images[50:], positive[250:] - 50)


def train(progress, settings=SETTINGS):
    """BigJump on small data, from its seed or from `progress`."""
    seed_all(settings.seed)
    model = build_model("bigjump", DX, DY, hidden=settings.hidden)
    torch.nn.init.normal_(model.geometry.matrix)
    return model, loop.train_bigjump(model, small_data(), settings, progress)


def train_to(folder):
    """Train and store the model, as a run does."""
    progress = Progress(folder / "state.safetensors", {"settings": "these"}, every=0)
    model, history = train(progress)
    history = [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]
    storage.save_model(folder, "bigjump", model, {"history": history})
    progress.path.unlink(missing_ok=True)


pytestmark = pytest.mark.usefixtures("one_thread")


def kill_and_resume(folder):
    """Train once undisturbed, once killed `KILLS` times; print what the killed one left behind each time."""
    train_to(folder / "undisturbed")  # also warms up the libraries
    started = time.perf_counter()
    train_to(folder / "undisturbed")
    whole = time.perf_counter() - started
    rng, left = np.random.default_rng(0), []
    while len(left) < KILLS:
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            train(None, replace(SETTINGS, epochs=1))  # what a new process does once can take longer than the training
            os.write(tell, b".")
            train_to(folder / "killed")
            os._exit(0)
        os.read(ready, 1)
        os.close(ready), os.close(tell)
        time.sleep(rng.uniform(0, whole / 8))
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):  # otherwise it was done, and the next one starts anew
            left.append(sorted(path.name for path in (folder / "killed").rglob("*") if path.is_file()))
    train_to(folder / "killed")
    print(json.dumps(left))


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path):
    command = [sys.executable, "-c", DRIVER, os.path.dirname(__file__), str(tmp_path)]
    environment = os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=120)
    left = json.loads(done.stdout)
    assert len(left) == KILLS
    assert sum("state.safetensors" in names for names in left) > KILLS / 2, "most lives should resume something"
    killed, whole = (tmp_path / folder / "models" / "bigjump.safetensors" for folder in ("killed", "undisturbed"))
    assert killed.read_bytes() == whole.read_bytes()
    assert not list((tmp_path / "killed").glob("*state*")), "a half-written file was left behind"


class Stop(Exception):
    """Stands for a crash between two epochs."""


def interrupted(progress, monkeypatch, after, settings=SETTINGS):
    """Train until `after` epochs are stored, then stop."""
    save = Progress.save

    def save_then_stop(self, state):
        save(self, state)
        if len(state.history) == after:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "save", save_then_stop)
        with pytest.raises(Stop):
            train(progress, settings)


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3, 39])
def test_resumed_is_the_same_as_undisturbed(tmp_path, monkeypatch, after):
    """Also where A was freed, and where the best epoch lies before the interruption."""
    progress = Progress(tmp_path / "state.safetensors", {"run": 1}, every=0)
    interrupted(progress, monkeypatch, after)
    torch.manual_seed(99)  # what a new process would have drawn in between must not matter
    resumed, history = train(progress)
    model, expected = train(None)
    assert [entry["loss"] for entry in history] == [entry["loss"] for entry in expected]
    assert [entry["mrr"] for entry in history] == [entry["mrr"] for entry in expected]
    for name, values in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], values), name


@pytest.mark.parametrize("name", ["linear", "mlp2"])
def test_baselines_resume_too(tmp_path, monkeypatch, name):
    settings = BaselineConfig(epochs=5, batch_size=32, hidden=24, mixed_precision=False)

    def baseline(progress):
        seed_all(0)
        model = build_model(name, DX, DY, hidden=24)
        return model, loop.train_baseline(model, small_data(), settings, name, progress)

    def stop_after_two(self, state):
        save(self, state)
        if len(state.history) == 2:
            raise Stop

    progress, save = Progress(tmp_path / "state.safetensors", {}, every=0), Progress.save
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "save", stop_after_two)
        with pytest.raises(Stop):
            baseline(progress)
    torch.manual_seed(99)
    (resumed, history), (model, expected) = baseline(progress), baseline(None)
    assert [entry["loss"] for entry in history] == [entry["loss"] for entry in expected]
    for key, values in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], values), key


@pytest.mark.slow
def test_the_state_is_written_no_more_often_than_asked(tmp_path, monkeypatch):
    clock, saved = [0.0], []

    def tick():
        clock[0] += 1.0
        return clock[0]

    monkeypatch.setattr(loop.time, "perf_counter", tick)
    monkeypatch.setattr(Progress, "save", lambda self, state: saved.append(len(state.history)))
    train(Progress(tmp_path / "state.safetensors", {}, every=30), replace(SETTINGS, epochs=20))
    assert 1 < len(saved) < 5 and saved == sorted(set(saved))
    train(Progress(tmp_path / "state.safetensors", {}, every=1e9), replace(SETTINGS, epochs=20))
    assert len(saved) < 5


def test_another_training_starts_anew(tmp_path, monkeypatch):
    progress = Progress(tmp_path / "state.safetensors", {"run": 1}, every=0)
    interrupted(progress, monkeypatch, 2)
    settings = replace(SETTINGS, epochs=3)
    _, history = train(replace(progress, metadata={"run": 2}), settings)
    assert [entry["loss"] for entry in history] == [entry["loss"] for entry in train(None, settings)[1]]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="the system does not list what is mapped")
def test_a_loaded_state_leaves_the_file_free_to_be_replaced(tmp_path, monkeypatch):
    """Where it stays mapped, Windows lets no later epoch replace it."""
    progress = Progress(tmp_path / "state.safetensors", {}, every=0)
    interrupted(progress, monkeypatch, 2)
    load, mapped = Progress.load, []

    def load_and_look(self, state):
        load(self, state)
        gc.collect()
        with open("/proc/self/maps") as maps:
            mapped.append(any(str(progress.path) in line for line in maps))

    monkeypatch.setattr(Progress, "load", load_and_look)
    train(progress, replace(SETTINGS, epochs=3))
    assert mapped == [False]


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"not safetensors"])
def test_a_damaged_state_is_an_error_that_names_the_file(tmp_path, monkeypatch, damage):
    progress = Progress(tmp_path / "state.safetensors", {}, every=0)
    interrupted(progress, monkeypatch, 1)
    progress.path.write_bytes(damage(progress.path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"state\.safetensors: not a readable training state .* resume=False"):
        train(progress)


def test_a_full_disk_is_a_clear_error_and_leaves_the_last_state(tmp_path, monkeypatch):
    """The limit on a file's size stands for the full disk: the write fails half-way in the same manner."""
    progress = Progress(tmp_path / "state.safetensors", {}, every=0)
    interrupted(progress, monkeypatch, 1)
    before = progress.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(CheckpointError, match=r"state\.safetensors: cannot be written .* needs \d+ MB.* is intact"):
            train(progress)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert progress.path.read_bytes() == before and list(tmp_path.iterdir()) == [progress.path]
