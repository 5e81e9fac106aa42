"""Files that are written whole or not at all: readers see the old file or the new one."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from helpers.errors import CheckpointError


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary sibling, flush it to disk, then rename it: readers see the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, indented; NaN is refused because it is no JSON."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors from any device as safetensors, with text in the header.

    Raises:
        CheckpointError: the file cannot be written; an earlier one is intact.
    """
    # clone: safetensors refuses tensors that share memory, such as best weights that are the current ones.
    state = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    try:
        atomic_write(path, lambda temporary: safetensors.torch.save_file(state, temporary, metadata=metadata))
    except (OSError, safetensors.SafetensorError) as error:
        needed = sum(value.numel() * value.element_size() for value in state.values()) / 1e6
        raise CheckpointError(
            f"{path}: cannot be written ({error}); it needs {needed:.0f} MB. What was there before is intact. Free "
            "some space and run again: a training goes on from its last complete epoch."
        ) from error
