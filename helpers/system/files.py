"""Files that are written whole or not at all: readers see the old file or the new one."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from helpers.errors import CheckpointError

LEFTOVER_AGE = 86400.0
"""Seconds after which a half-written file cannot be another process at work."""
METADATA = "metadata"
"""The one entry of a header: safetensors writes several in an order of its own, and equal runs would differ."""


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary sibling, flush it to disk, then rename it: readers see the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in leftovers(path):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > LEFTOVER_AGE:
                leftover.unlink()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # safetensors makes files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a write that fails names no file
    finally:
        temporary.unlink(missing_ok=True)


def leftovers(path: Path) -> list[Path]:
    """Temporary siblings of processes that were killed while they wrote `path`; the number tells them from others."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}{glob.escape(path.suffix)}"))


def json_text(value: object) -> str:
    """`value` as JSON, indented; NaN is refused because it is no JSON."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """Write `value` as `json_text` has it."""
    text = json_text(value)
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """What `write_json` wrote; read it within `reading`."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: object) -> None:
    """Write tensors from any device as safetensors, with `metadata` as JSON in the header.

    Raises:
        CheckpointError: the file cannot be written; an earlier one is intact.
        ValueError: the metadata hold NaN, which is no JSON.
    """
    header = {METADATA: json.dumps(metadata, allow_nan=False)}
    # clone: safetensors refuses tensors that share memory, such as best weights that are the current ones.
    state = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    try:
        atomic_write(path, lambda temporary: safetensors.torch.save_file(state, temporary, metadata=header))
    except (OSError, safetensors.SafetensorError) as error:
        needed = sum(value.numel() * value.element_size() for value in state.values()) / 1e6
        forbidden = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        remedy = "Give a folder that you can write" if forbidden else "Free some space"
        raise CheckpointError(
            f"{path}: cannot be written ({error}); it needs {needed:.0f} MB. What was there before is intact. {remedy} "
            "and run again: a training goes on from its last complete epoch."
        ) from error


def has_metadata(path: Path) -> bool:
    """Whether `write_tensors` wrote a file of tensors, in the format of this version; ask within `reading`."""
    with safetensors.safe_open(path, framework="pt") as file:
        return METADATA in (file.metadata() or {})


def read_tensors(path: Path, names: Iterable[str] | None = None) -> tuple[dict[str, torch.Tensor], Any]:
    """Tensors (on the CPU) and metadata that `write_tensors` wrote; read them within `reading`.

    Args:
        names: the tensors that are wanted; all where None.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()[METADATA])
        # Copies: what is read are views of the mapped file, which Windows would not let the next write replace.
        return {name: file.get_tensor(name).clone() for name in (file.keys() if names is None else names)}, metadata


@contextlib.contextmanager
def reading(path: Path, problem: str, remedy: str) -> Iterator[None]:
    """Whatever is wrong with a file, its structure included, becomes one error that names it and the way out.

    Args:
        problem: what it is not, such as "not a readable model". remedy: a sentence.

    Raises:
        CheckpointError: the file is missing, or what is done with it in the context fails.
    """
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file. {remedy}") from None
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: {problem} ({error}). {remedy}") from error
