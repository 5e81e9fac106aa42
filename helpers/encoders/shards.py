"""What is encoded so far, on disk: one file for some hundred items, each written whole, so that a killed call goes on.

A shard knows what it was made of: its encoder, its batches and its items. Items that have changed since, or another
encoder, are another key, and that shard alone is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from helpers.errors import EncoderError
from helpers.system.files import atomic_write
from helpers.system.locks import encoding_lock

WORK = ".encoding"
"""In the data folder while it is made: the shards. It goes when all is written."""

VECTORS, KEY, LEFT_OUT = "vectors", "key", "left_out"


@dataclass(frozen=True)
class Shard:
    """Some consecutive items.

    Attributes:
        path: of the file. first, last: the items are first, ..., last - 1. key: digest of what it is made of.
    """

    path: Path
    first: int
    last: int
    key: str

    @property
    def size(self) -> int:
        return self.last - self.first

    def is_there(self) -> bool:
        """Whether its file is whole and made of the same; any other is written anew."""
        try:
            with safetensors.safe_open(self.path, framework="np") as file:
                return (file.metadata() or {}).get(KEY) == self.key
        except (OSError, safetensors.SafetensorError):
            return False

    def write(self, vectors: np.ndarray, left_out: dict[int, str]) -> None:
        """Store the vectors of the items that have one, and why the others have none.

        Args:
            vectors: (kept, dim) float32. left_out: the reason by item, counted from `first`.

        Raises:
            EncoderError: the file cannot be written; what was there before is intact.
        """
        # One entry of metadata: safetensors writes several in an order of its own, and equal shards would differ.
        reasons = {str(item): reason for item, reason in sorted(left_out.items())}
        header = {KEY: self.key}
        tensors = {VECTORS: np.ascontiguousarray(vectors, np.float32), LEFT_OUT: _as_bytes(reasons)}
        try:
            atomic_write(self.path, lambda path: safetensors.numpy.save_file(tensors, path, metadata=header))
        except (OSError, safetensors.SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise EncoderError(
                f"{self.path}: {vectors.nbytes / 1e6:.0f} MB cannot be written ({reason}). Free some space, or give "
                "another --out. What is encoded so far is kept: the same call goes on from there."
            ) from error

    def vectors(self) -> np.ndarray:
        """(kept, dim) float32."""
        with safetensors.safe_open(self.path, framework="np") as file:
            return file.get_tensor(VECTORS)

    def left_out(self) -> dict[int, str]:
        """Reasons by item, counted from the first item of all."""
        with safetensors.safe_open(self.path, framework="np") as file:
            reasons = json.loads(file.get_tensor(LEFT_OUT).tobytes())
        return {self.first + int(item): reason for item, reason in reasons.items()}


def shards_of(folder: Path, what: str, made_by: str, items: Sequence[str], size: int) -> Iterator[Shard]:
    """Deal items out to shards.

    Args:
        folder: of the files. what: the start of their names.
        made_by: everything that the vectors depend on but the items. items: what identifies each.
        size: items of a shard.
    """
    for number, first in enumerate(range(0, len(items), size)):
        part = list(items[first : first + size])
        key = hashlib.sha256(json.dumps([made_by, part]).encode()).hexdigest()
        yield Shard(folder / f"{what}-{number:06d}.safetensors", first, first + len(part), key)


def vectors_of(shards: Sequence[Shard]) -> Iterator[np.ndarray]:
    """(kept, dim) float32 of one shard after the other, those without any left out."""
    for shard in shards:
        if len(vectors := shard.vectors()):
            yield vectors


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[Path]:
    """The folder of the shards in a data folder, for this process alone; it goes where nothing was raised.

    Raises:
        RunInUseError: another process encodes into the data folder.
        EncoderError: it cannot be written.
    """
    work = folder / WORK
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(encoding_lock(folder))
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EncoderError(f"{folder}: cannot be written ({error.strerror}). Give another --out.") from error
        try:
            yield work
        except BaseException:
            with contextlib.suppress(OSError):  # nothing was begun: no empty folder is left behind
                if not any(work.glob("*.safetensors")):
                    shutil.rmtree(work)
                    folder.rmdir()
            raise
        shutil.rmtree(work, ignore_errors=True)  # while it is held: it is nobody else's yet


def _as_bytes(value: object) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)
