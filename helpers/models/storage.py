"""Models of a run on disk: one safetensors file each, with weights and metadata, written atomically."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from helpers.models.build import build_model
from helpers.system.files import has_metadata, read_tensors, reading, write_tensors


def model_path(run_dir: Path, name: str) -> Path:
    """Where a run keeps the row `name`."""
    return Path(run_dir) / "models" / f"{name}.safetensors"


def weights_digest(run_dir: Path, name: str) -> str | None:
    """SHA-256 (hex) of the tensors of the stored model `name`, or None where the run has none of that name.

    Its metadata do not count: they hold the seconds of each epoch.
    """
    path = model_path(run_dir, name)
    with reading(path, "cannot be read", "Ask for a copy that you may read."):
        if not path.exists():
            return None
        with open(path, "rb") as file:
            header = 8 + int.from_bytes(file.read(8), "little")  # its length, and itself
            file.seek(min(header, path.stat().st_size))  # a damaged file has a digest too, and none that was judged
            return hashlib.file_digest(file, "sha256").hexdigest()


def stored_models(run_dir: Path) -> list[str]:
    """Names of the models that a run holds, in the order of the alphabet."""
    return sorted(path.stem for path in model_path(run_dir, "any").parent.glob("[!.]*.safetensors"))


def save_model(run_dir: Path, name: str, model: nn.Module, metadata: dict[str, Any]) -> Path:
    """Write weights and metadata (architecture, settings, split, history) in one file, so that they always agree."""
    path = model_path(run_dir, name)
    write_tensors(path, model.state_dict(), metadata)
    return path


def load_metadata(run_dir: Path, name: str) -> dict[str, Any] | None:
    """The metadata of a stored model, or None where the run has none of that name, or one of an earlier version.

    Raises:
        CheckpointError: the file is there but cannot be read.
    """
    path = model_path(run_dir, name)
    with reading(path, "not a readable model", "Delete it and train again."):
        return read_tensors(path, names=())[1] if path.exists() and has_metadata(path) else None


def load_model(run_dir: Path, name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A stored model in evaluation mode on the CPU, and its metadata.

    Raises:
        CheckpointError: missing, damaged, or of another architecture.
    """
    path = model_path(run_dir, name)
    remedy = "Delete it and train again."
    if not path.exists():
        there = ", ".join(stored_models(run_dir))
        remedy = f"There are: {there}." if there else "Run the notebook that makes it, or the whole series."
    with reading(path, f"not a readable model {name!r}", remedy):
        tensors, metadata = read_tensors(path)
        model = build_model(name, **metadata["architecture"])
        model.load_state_dict(tensors)
    return model.eval(), metadata


def write_judged(path: Path, tensors: dict[str, torch.Tensor], models: Iterable[str], metadata: dict[str, Any]) -> None:
    """Write what judging the `models` of a run leaves in its folder: tensors, metadata, and which weights were judged.

    Raises:
        CheckpointError: the file cannot be written; an earlier one is intact.
    """
    weights = {name: weights_digest(path.parent, name) for name in models}
    write_tensors(path, tensors, {**metadata, "weights": weights})


def read_judged(path: Path, model: str, names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What judging a run left beside its models: tensors, by their names, and the metadata.

    Args:
        model: the one for which it is read; its weights must be those that were judged.

    Raises:
        CheckpointError: missing or damaged, or the model was not judged, or was trained again since.
    """
    with reading(path, f"nothing for the model {model!r}", "Run notebook 05, which writes it."):
        tensors, metadata = read_tensors(path, names)
        if metadata["weights"][model] != weights_digest(path.parent, model):
            raise ValueError("it was made for other weights")
    return {name: tensors[name].numpy() for name in names}, metadata
