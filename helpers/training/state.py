"""The state of a training between two epochs, on disk: an interrupted training goes on as if it had not been.

One safetensors file holds everything that the next step depends on: weights, the best weights so far, AdamW's moments,
the queue, the states of the random generators, and as JSON in its header the schedule, the history and the metadata
of the training. It is replaced atomically, between epochs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from helpers.errors import CheckpointError
from helpers.system.files import write_tensors
from helpers.training.history import EpochEntry
from helpers.training.objectives import Objective
from helpers.training.settings import OptimiserConfig


@dataclass
class TrainingState:
    """What changes from step to step.

    Attributes:
        model, optimiser, schedule: as PyTorch has them.
        objective: gives and takes back what it holds.
        rng: of the order of the captions; PyTorch's own generators are taken from their global state.
        history: one entry an epoch.
        best: weights of the best epoch so far.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    objective: Objective[OptimiserConfig, Any]
    rng: np.random.Generator
    history: list[EpochEntry]
    best: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Progress:
    """Where a training keeps its state, and what it must have in common with one that it continues.

    Attributes:
        path: the file.
        metadata: data, split, architecture and settings, as JSON values.
        resume: continue from the file where it belongs to the same metadata; otherwise start anew and replace it.
        every: seconds that must pass between two writes. The state of a large model takes as long to write as a short
            epoch takes to train (about 0.7 s for 100 MB).
    """

    path: Path
    metadata: dict
    resume: bool = True
    every: float = 30.0

    def save(self, state: TrainingState) -> None:
        """Write the state; the file is replaced atomically.

        Raises:
            CheckpointError: it cannot be written, such as on a full disk; the file before it is intact.
        """
        optimiser, generator = state.optimiser.state_dict(), _torch_generators(state.objective.data.device)
        tensors = _prefixed("model", state.model.state_dict()) | _prefixed("best", state.best)
        for index, moments in optimiser["state"].items():
            tensors |= _prefixed(f"optimiser.{index}", moments)
        tensors |= _prefixed("objective", state.objective.state_tensors()) | _prefixed("generator", generator)
        record = {
            "metadata": self.metadata,
            "history": state.history,
            "groups": optimiser["param_groups"],
            "schedule": {k: v for k, v in state.schedule.state_dict().items() if k != "lr_lambdas"},
            "rng": state.rng.bit_generator.state,
        }
        write_tensors(self.path, tensors, {"progress": json.dumps(record, allow_nan=False)})

    def load(self, state: TrainingState) -> bool:
        """Bring a state to where the file was written; False, and nothing changed, where there is nothing to resume.

        Raises:
            CheckpointError: the file is damaged.
        """
        # Safe where one process at a time trains a model of a run, see `locks.training_lock`.
        for leftover in self.path.parent.glob(f".{self.path.name}.*"):  # of a process killed while it wrote
            leftover.unlink(missing_ok=True)
        if not self.resume or not self.path.exists():
            return False
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                record = json.loads((file.metadata() or {})["progress"])
                if record["metadata"] != json.loads(json.dumps(self.metadata)):
                    return False
                # Copies: what is read are views of the mapped file, which Windows would not let the next save replace.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118  # not iterable
        except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
            message = f"{self.path}: not a readable training state ({error}). Delete it, or train with resume=False."
            raise CheckpointError(message) from error
        _restore(state, record, tensors)
        return True

    def clear(self) -> None:
        """Remove the file: the training is over and its result is stored."""
        self.path.unlink(missing_ok=True)


def _restore(state: TrainingState, record: dict, tensors: dict[str, torch.Tensor]) -> None:
    state.model.load_state_dict(_with_prefix("model", tensors))
    indices = [index for group in record["groups"] for index in group["params"]]
    moments = {index: _with_prefix(f"optimiser.{index}", tensors) for index in indices}
    groups = [group | {"betas": tuple(group["betas"])} for group in record["groups"]]
    state.optimiser.load_state_dict({"state": {i: m for i, m in moments.items() if m}, "param_groups": groups})
    state.schedule.load_state_dict(record["schedule"] | {"lr_lambdas": state.schedule.state_dict()["lr_lambdas"]})
    state.objective.load_state_tensors(_with_prefix("objective", tensors))
    state.rng.bit_generator.state = record["rng"]
    state.history[:] = record["history"]
    state.best = _with_prefix("best", tensors)
    torch.set_rng_state(tensors["generator.cpu"])
    device = state.objective.data.device
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["generator.cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(tensors["generator.mps"])


def _torch_generators(device: torch.device) -> dict[str, torch.Tensor]:
    """States of the generators that a training on `device` draws from; asking for those of others would start them."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def _prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _with_prefix(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
