"""Reading npz archives without trusting them: headers before data, and data in pieces that are counted as they come.

`np.load` decompresses a member whole, and with pickles allowed it runs code from the file. Here a member is a stream,
so that nothing which a header or the zip's directory promises is allocated before its bytes are there.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from helpers.errors import DataError, shorten
from helpers.system.paths import absolute

BLOCK_BYTES = 2**20
"""Bytes decompressed at a time: enough for the overhead of a step not to count, few enough for a core's cache."""
WHOLE_LIMIT = 2**29
"""Bytes up to which an array is read whole: a few kilobytes of a zip can hold a thousand times as many."""

_HEADER_BYTES = 2**14  # of a member in which its npy header must end; NumPy refuses those beyond 10,000
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the methods that zipfile decompresses piece by piece
# What zipfile raises for damage. RuntimeError: encrypted or unsupported; ValueError: impossible places and names.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True)
class _Member:
    """An array in an archive: what its header says, and its data: `first`, which came with the header, and `rest`."""

    shape: tuple[int, ...]
    dtype: np.dtype
    by_column: bool
    first: IO[bytes]
    rest: IO[bytes]

    def take(self, *shape: int) -> np.ndarray:
        """The next values, row by row, in memory that grows as they come: a false promise costs what it held."""
        n_bytes = math.prod(shape) * self.dtype.itemsize
        data = bytearray(self.first.read(n_bytes))
        while len(data) < n_bytes:
            piece = self.rest.read(min(BLOCK_BYTES, n_bytes - len(data)))
            if not piece:
                raise EOFError(f"ends after {len(data)} of {n_bytes} bytes")
            data += piece
        return np.frombuffer(data, self.dtype).reshape(shape)


class NpzReader:
    """An npz archive, open for reading; a context manager.

    Keys are those that `np.savez` was given: `captions/embeddings` is stored as `captions/embeddings.npy`.

    Attributes:
        path: absolute path of the file.
        keys: names of the arrays, in the order of the file.

    Raises:
        DataError: the file is missing, unreadable, not a zip, or a zip that was cut off.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = absolute(path)
        self._zip = _open_zip(self.path)
        entries = [info for info in self._zip.infolist() if info.filename.endswith(".npy")]
        self._entries = {info.filename.removesuffix(".npy"): info for info in entries}
        self.keys = tuple(self._entries)

    def __enter__(self) -> NpzReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._zip.close()

    def error(self, key: str, problem: str) -> DataError:
        """A `DataError` about one array of this file, to be raised by the caller."""
        return DataError(f"{self.path}: '{key}' {problem}")

    def require(self, keys: Sequence[str], purpose: str = "") -> None:
        """Raise a `DataError`, which lists the keys found, where some of `keys` are missing."""
        if missing := [key for key in keys if key not in self.keys]:
            found = ", ".join(self.keys) or "none"
            raise DataError(
                f"{self.path}: {len(missing)} required key(s) missing{purpose}: {', '.join(missing)}. Keys found: "
                f"{found}. Save the arrays under these names with np.savez; data/README.md describes the format."
            )

    def directory(self) -> list[tuple[str, int, int]]:
        """(name, CRC-32, size in bytes) of every member, sorted: identifies the content without reading it."""
        return sorted((info.filename, info.CRC, info.file_size) for info in self._zip.infolist())

    def header(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and dtype of an array; decompresses the first bytes of its member only.

        Raises:
            DataError: the key is missing, the member is damaged or no npy, it holds objects, or its header and its
                size disagree.
        """
        with self._open(key) as member:
            return member.shape, member.dtype

    def read(self, key: str) -> np.ndarray:
        """A small array, whole, in the file's dtype.

        Raises:
            DataError: as `header`; the data is damaged; or the array is larger than `WHOLE_LIMIT`.
        """
        with self._open(key) as member:
            n_bytes = math.prod(member.shape) * member.dtype.itemsize
            if n_bytes > WHOLE_LIMIT:
                remedy = "save np.ascontiguousarray(array), which can stream" if member.by_column else "split the file"
                raise self.error(key, f"holds {n_bytes} bytes, of which {WHOLE_LIMIT} may be read whole: {remedy}.")
            return member.take(*member.shape[::-1]).T if member.by_column else member.take(*member.shape)

    def blocks(self, key: str, block_bytes: int = BLOCK_BYTES) -> Iterator[np.ndarray]:
        """The rows of an array, decompressed as they are asked for.

        Args:
            key: name of the array, (rows, columns) or (rows,).
            block_bytes: size of a block; a row that is larger makes a block of its own.

        Yields:
            (rows of the block, columns) or (rows of the block,), in the file's dtype.

        Raises:
            DataError: as `header`; the array has no or more than two dimensions; the data is damaged; or the array is
                stored column by column, so that its rows cannot stream, and larger than `WHOLE_LIMIT`.
        """
        with self._open(key) as member:
            if len(member.shape) not in (1, 2):
                raise self.error(key, f"has shape {member.shape}: one or two dimensions are needed.")
            n_rows, *columns = member.shape
            step = max(1, block_bytes // max(math.prod(columns) * member.dtype.itemsize, 1))
            whole = self.read(key) if member.by_column and columns else None
            for start in range(0, n_rows, step):
                end = min(start + step, n_rows)
                yield member.take(end - start, *columns) if whole is None else whole[start:end]

    @contextmanager
    def _open(self, key: str) -> Iterator[_Member]:
        """An array, open for taking; whatever damage is met, here or while it is taken, becomes a `DataError`."""
        self.require([key])
        method = self._entries[key].compress_type
        if method not in _BOUNDED:
            raise self.error(key, f"uses zip compression method {method}: save it with np.savez_compressed.")
        try:
            with self._zip.open(self._entries[key]) as stream:
                yield self._parse(key, stream)
        except DataError:
            raise
        except _DAMAGE as error:
            reason = str(error) or type(error).__name__
            raise self.error(key, f"cannot be decompressed ({reason}). Copy or download the file again.") from error

    def _parse(self, key: str, stream: IO[bytes]) -> _Member:
        start = io.BytesIO(stream.read(_HEADER_BYTES))  # NumPy alone would read as long a header as the file claims
        try:
            parse = npy.read_array_header_1_0 if npy.read_magic(start) == (1, 0) else npy.read_array_header_2_0
            shape, fortran_order, dtype = parse(start)
            promised = np.broadcast_to(np.empty((), dtype), shape)  # takes no memory, and fails where no array can be
        except Exception as error:  # ast, tokenize and dtype raise a dozen types for a header that is not one
            reason = shorten(str(error))
            raise self.error(key, f"has no valid npy header ({reason}). Save plain arrays with np.savez.") from error
        if dtype.hasobject:
            remedy = "re-save as plain arrays, such as np.asarray(values, dtype=str)"
            raise self.error(key, f"is an object array ({dtype}), read by pickle, which can run code; {remedy}.")
        held = self._entries[key].file_size - start.tell()
        if promised.nbytes != held:  # where they agree, taking all values reaches the end, where zipfile checks the CRC
            promise = f"{promised.nbytes} bytes (shape {shape}, {dtype})"
            raise self.error(key, f"promises {promise} but holds {held}: it is damaged, copy or export it again.")
        return _Member(promised.shape, promised.dtype, fortran_order, start, stream)


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip, or say which of the usual accidents the file has met."""
    magic = b""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        problem = "no such file. `python -m helpers.encode` makes it of pictures and captions; see data/README.md."
    except _DAMAGE as error:
        if magic == b"PK\x03\x04":
            problem = "starts as an npz, but its end is missing or damaged: copy or download it again."
        elif isinstance(error, OSError):
            problem = f"cannot be read ({error.strerror}). A file that you may read is needed."
        else:
            problem = f"is not an npz (it starts with {magic!r}): write it with np.savez or np.savez_compressed."
    raise DataError(f"{path}: {problem}")
