"""Models of a run on disk: safetensors for weights, JSON for their metadata; each written atomically."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from helpers.errors import CheckpointError, ConfigError
from helpers.models.build import build_model
from helpers.system.files import write_json, write_tensors


def weights_digest(run_dir: Path, name: str) -> str | None:
    """SHA-256 (hex) of the tensors of the stored model `name`, or None where the run has none of that name.

    Its metadata do not count: they hold the seconds of each epoch.
    """
    path = model_path(run_dir, name)
    if not path.exists():
        return None
    with open(path, "rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")  # its length, and itself
        file.seek(min(header, path.stat().st_size))  # a damaged file has a digest too, and none that was judged
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_judged(path: Path, tensors: dict[str, torch.Tensor], models: Iterable[str], metadata: dict) -> None:
    """Write what judging the `models` of a run leaves in its folder: tensors, metadata, and which weights were judged.

    Raises:
        CheckpointError: the file cannot be written; an earlier one is intact.
    """
    weights = {name: weights_digest(path.parent, name) for name in models}
    # One entry: safetensors writes several in an order of its own, and equal runs would differ.
    write_tensors(path, tensors, {"judged": json.dumps({**metadata, "weights": weights})})


@contextlib.contextmanager
def open_judged(path: Path, model: str, absent: str) -> Iterator[tuple[safetensors.safe_open, dict]]:
    """What judging a run left beside its models, open for reading: tensors (NumPy) and metadata.

    Args:
        model: the one whose share is read; its weights must be those that were judged.
        absent: what is not there where reading fails, for the message.

    Raises:
        CheckpointError: missing or damaged, or the model was not judged, or was trained again since.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: missing. Run notebook 05, which writes it.")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = json.loads(file.metadata()["judged"])
            if metadata["weights"][model] != weights_digest(path.parent, model):
                raise ValueError("it was made for other weights")
            yield file, metadata
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: {absent} for the model {model!r} ({error}). Run notebook 05 again.") from error


def model_path(run_dir: Path, name: str) -> Path:
    """Where a run keeps the weights of the row `name`; its metadata lie beside it as JSON."""
    return Path(run_dir) / "models" / f"{name}.safetensors"


def save_model(run_dir: Path, name: str, model: nn.Module, metadata: dict) -> Path:
    """Write weights and metadata (architecture, settings, split, history) in one file, and the metadata as JSON.

    The weights' own header carries the metadata, so that the two can never disagree; the JSON is for readers.
    """
    path = model_path(run_dir, name)
    write_tensors(path, model.state_dict(), {"metadata": json.dumps(metadata, allow_nan=False)})
    write_json(path.with_suffix(".json"), metadata)
    return path


def load_metadata(run_dir: Path, name: str) -> dict | None:
    """The metadata of a stored model, or None where the run has none of that name.

    Raises:
        CheckpointError: the file is there but cannot be read.
    """
    path = model_path(run_dir, name)
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})["metadata"])
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable model ({error}). Delete it and train again.") from error


def load_model(run_dir: Path, name: str) -> tuple[nn.Module, dict]:
    """A stored model in evaluation mode on the CPU, and its metadata.

    Raises:
        CheckpointError: missing, damaged, or of another architecture.
    """
    metadata = load_metadata(run_dir, name)
    path = model_path(run_dir, name)
    if metadata is None:
        raise CheckpointError(f"{path}: no such model. Run the notebook that makes it, or the whole series.")
    try:
        model = build_model(name, **metadata["architecture"])
        model.load_state_dict(safetensors.torch.load_file(path))
    except (KeyError, TypeError, ConfigError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: the weights do not fit the model {name!r} ({error}).") from error
    return model.eval(), metadata
