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
import torch
from torch import nn

from helpers.system import processes
from helpers.system.files import leftovers, read_tensors, reading, write_tensors
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

    def record(self) -> dict[str, Any]:
        """All of it, as nested tensors and JSON values."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "objective": self.objective.state_tensors(),
            "rng": self.rng.bit_generator.state,
            "history": self.history,
            "best": self.best,
            "generators": _generator_states(self.objective.data.device),
        }

    def restore(self, record: dict[str, Any]) -> None:
        """Become what `record` was taken of; JSON has made text of the numbers of the parameters."""
        self.model.load_state_dict(record["model"])
        moments = {int(index): kept for index, kept in record["optimiser"]["state"].items()}
        self.optimiser.load_state_dict(record["optimiser"] | {"state": moments})
        self.schedule.load_state_dict(record["schedule"])
        self.objective.load_state_tensors(record["objective"])
        self.rng.bit_generator.state = record["rng"]
        self.history[:] = record["history"]
        self.best = record["best"]
        device, states = self.objective.data.device, record["generators"]
        torch.set_rng_state(states["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], device)
        elif device.type == "mps":
            torch.mps.set_rng_state(states["mps"])


def _generator_states(device: torch.device) -> dict[str, torch.Tensor]:
    """States of the generators that a training on `device` draws from; asking for those of others would start them."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


@dataclass(frozen=True)
class Progress:
    """Where a training keeps its state, and what it must have in common with one that it continues.

    Attributes:
        path: the file; delete it to start anew, and once the model is stored.
        metadata: data, split, architecture and settings, as JSON values; a state of others is not continued.
        every: seconds that must pass between two writes. The state of a large model takes as long to write as a short
            epoch takes to train (about 0.7 s for 100 MB).
    """

    path: Path
    metadata: dict[str, Any]
    every: float = 30.0

    def save(self, state: TrainingState) -> None:
        """Write the state, which is the same in each of several processes: the first writes; replaced atomically.

        Raises:
            CheckpointError: it cannot be written, such as on a full disk; the file before it is intact.
        """
        if not processes.is_first():
            return
        tensors: dict[str, torch.Tensor] = {}

        def number(tensor: torch.Tensor) -> dict[str, str]:
            """What stands in the JSON for a tensor."""
            tensors[name := str(len(tensors))] = tensor
            return {"tensor": name}

        text = json.dumps({"metadata": self.metadata, "state": state.record()}, default=number)
        write_tensors(self.path, tensors, json.loads(text))

    def load(self, state: TrainingState) -> None:
        """Bring a state to where the file was written; nothing changes where there is none of the same metadata.

        Raises:
            CheckpointError: the file is damaged.
        """
        # Safe where one process at a time trains a model of a run, see `locks.lock`.
        for leftover in leftovers(self.path):
            leftover.unlink(missing_ok=True)
        if not self.path.exists():
            return
        with reading(self.path, "not a readable training state", "Delete it, or train with resume=False."):
            tensors, kept = read_tensors(self.path)
            metadata, text = kept["metadata"], json.dumps(kept["state"])
            record = json.loads(
                text, object_hook=lambda value: tensors[value["tensor"]] if "tensor" in value else value
            )
        if metadata == json.loads(json.dumps(self.metadata)):
            state.restore(record)
