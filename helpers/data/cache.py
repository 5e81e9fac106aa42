"""Arrays and texts in one file that is mapped into memory: what was checked and converted once is there at once.

The layout is that of safetensors (texts are JSON in bytes), written a block at a time, so that no array is ever held.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import DataError
from helpers.system.files import atomic_write

Tensor = tuple[str, tuple[int, ...], Iterable[np.ndarray]]
"""Type by its name in safetensors (a key of `TYPES`), shape, and data in blocks, to be written one after another."""
TYPES = {"I64": "<i8", "F32": "<f4", "I8": "i1", "U8": "u1"}

_NO_CACHE = (OSError, ValueError, LookupError, TypeError)  # what a missing, unreadable, foreign or damaged file raises


def read_cache(path: Path, names: Iterable[str]) -> dict[str, Any] | None:
    """The content of a cache by name, arrays mapped into memory, read-only; None where it cannot be read."""
    with contextlib.suppress(*_NO_CACHE):
        return _map(path, names)
    return None


def write_cache(path: Path, arrays: Mapping[str, Tensor], texts: Mapping[str, list[str]]) -> dict[str, Any]:
    """Write a cache and read it: whole or, where a block fails to come, not at all, and what was there before stays.

    Args:
        arrays: by name; those of wider types first, so that all are aligned.
        texts: lists of strings, by name.

    Raises:
        DataError: the file cannot be written.
    """
    tensors = dict(arrays)
    for name, values in texts.items():
        string = np.frombuffer(json.dumps(values).encode("ascii"), np.uint8)
        tensors[name] = "U8", string.shape, [string]
    header, end = {}, 0
    for name, (code, shape, _) in tensors.items():
        start, end = end, end + math.prod(shape) * np.dtype(TYPES[code]).itemsize
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(header).encode("ascii")
    head += b" " * (-len(head) % 8)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # written to a memory map, a full disk would kill the process (SIGBUS)
            file.write(len(head).to_bytes(8, "little") + head)
            for _, _, blocks in tensors.values():
                for block in blocks:
                    file.write(block.data)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < end:  # told now, and not after the disk has been filled
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        atomic_write(path, write)
        return _map(path, tensors)
    except OSError as error:
        if (made := read_cache(path, tensors)) is not None:  # by a faster process, whose open file Windows protects
            return made
        raise DataError(
            f"{path}: the cache of {end / 1e6:.0f} MB cannot be written ({error.strerror or error}). Free some space "
            "there, or set HELPERS_RUNS_DIR (or --runs-dir) to a folder that you may write to."
        ) from error


def _map(path: Path, names: Iterable[str]) -> dict[str, Any]:
    file = np.memmap(path, np.uint8, "r")
    data = 8 + int(file[:8].view("<u8")[0])
    header = json.loads(file[8:data].tobytes())
    found: dict[str, Any] = {}
    for name in names:
        entry = header[name]
        start, end = entry["data_offsets"]
        array = file[data + start : data + end].view(TYPES[entry["dtype"]]).reshape(entry["shape"])
        found[name] = json.loads(array.tobytes()) if entry["dtype"] == "U8" else array
    return found
