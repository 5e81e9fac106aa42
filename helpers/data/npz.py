"""Reading npz archives without trusting them: headers before data, blocks of rows before whole arrays.

`np.load` decompresses a member whole, and with pickles allowed it runs code from the file. Here a member's header is
read and checked first (no objects, and no more data promised than the archive holds), so that a wrong or hostile file
ends in a `DataError` before anything large is allocated.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.lib import format as npy

from helpers.errors import DataError, _shorten

BLOCK_BYTES = 16 * 2**20
FORTRAN_LIMIT = 2**30
"""Bytes up to which a column-major array is read whole: its rows lie scattered over the member, so it cannot stream."""
READ_LIMIT = 2**29
"""Bytes up to which any other array is read whole: a few kilobytes of a zip can promise a thousand times as many."""

T = TypeVar("T")
_SUFFIX = ".npy"
_ZIP_MAGIC = b"PK\x03\x04"
_DEFLATE_MAX_RATIO = 1032  # of the format: 258 bytes from 2 bits; a directory that claims more is lying
_DEFLATE_SLACK = 64
_HEADER_LIMIT = 2**14  # bytes of a member in which its npy header must end; NumPy refuses those beyond 10,000
# What zipfile raises for damage. RuntimeError: encrypted or unsupported; ValueError: impossible places and names.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Header:
    """What an npy header promises, checked against the size of its member.

    Attributes:
        shape: of the array.
        dtype: of the array; never holds objects.
        fortran_order: whether the data is stored column by column.
        offset: bytes of the member before the data.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    offset: int

    @property
    def data_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a second thread while the one before is in use: decompression frees the GIL."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = worker.submit(next, items, None)
            yield item


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
        self.path = Path(path).expanduser().absolute()
        self._zip = _open_zip(self.path)
        self._members = {
            info.filename.removesuffix(_SUFFIX): info
            for info in self._zip.infolist()
            if info.filename.endswith(_SUFFIX)
        }
        self._headers: dict[str, Header] = {}
        self.keys = tuple(self._members)

    def __enter__(self) -> NpzReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._zip.close()

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def error(self, key: str, problem: str) -> DataError:
        """A `DataError` about one array of this file, to be raised by the caller."""
        return DataError(f"{self.path}: '{key}' {problem}")

    def require(self, keys: Sequence[str]) -> None:
        """Check that arrays are there.

        Raises:
            DataError: one or more are missing; the message lists the keys found.
        """
        missing = [key for key in keys if key not in self]
        if missing:
            found = ", ".join(self.keys) or "none"
            raise DataError(
                f"{self.path}: {len(missing)} required key(s) missing: {', '.join(missing)}. Keys found: {found}. "
                "Save the arrays under these names with np.savez; data/README.md describes the format."
            )

    def directory(self) -> list[tuple[str, int, int]]:
        """(name, CRC-32, size in bytes) of every member, sorted: identifies the content without reading it."""
        return sorted((info.filename, info.CRC, info.file_size) for info in self._zip.infolist())

    def header(self, key: str) -> Header:
        """Shape and dtype of an array; decompresses the first bytes of its member only.

        Raises:
            DataError: the key is missing, the member is damaged or no npy, it holds objects, or its header and its
                size disagree.
        """
        if key not in self._headers:
            self.require([key])
            self._check_directory_entry(key)
            with self._member(key) as stream:
                header = self._parse_header(key, stream)
            held = self._members[key].file_size - header.offset
            if header.data_bytes != held:
                raise self.error(
                    key,
                    f"promises {header.data_bytes} bytes (shape {header.shape}, {header.dtype}) but holds {held}. "
                    "The file is damaged: copy or export it again.",
                )
            self._headers[key] = header
        return self._headers[key]

    def read(self, key: str) -> np.ndarray:
        """A small array, whole and read-only, in the file's dtype.

        Raises:
            DataError: as `header`; the data is damaged; or the array is larger than `READ_LIMIT`.
        """
        self.check_size(key)
        return self._read_whole(key)

    def check_size(self, key: str) -> None:
        """Check by its header that an array may be held in memory.

        Raises:
            DataError: as `header`, or the array is larger than `READ_LIMIT`.
        """
        held = self.header(key).data_bytes
        if held > READ_LIMIT:
            raise self.error(
                key, f"holds {held} bytes, more than the {READ_LIMIT} that are read into memory: split the file."
            )

    def _read_whole(self, key: str) -> np.ndarray:
        header = self.header(key)
        with self._member(key) as stream:
            stream.read(header.offset)
            data = _read_exactly(stream, header.data_bytes)
        flat = np.frombuffer(data, dtype=header.dtype)
        return flat.reshape(header.shape, order="F" if header.fortran_order else "C")

    def blocks(self, key: str, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, np.ndarray]]:
        """The rows of a 2-D array, decompressed as they are asked for.

        Args:
            key: name of the array, (rows, columns).
            block_bytes: size of a block; a row that is larger makes a block of its own.

        Yields:
            (number of the block's first row, block as (rows of the block, columns), in the file's dtype).

        Raises:
            DataError: as `header`; the array is not 2-D; the data is damaged; or the array is column-major and
                larger than `FORTRAN_LIMIT`.
        """
        header = self.header(key)
        if len(header.shape) != 2:
            raise self.error(key, f"has shape {header.shape}: two dimensions are needed.")
        n_rows, n_columns = header.shape
        row_bytes = n_columns * header.dtype.itemsize
        rows_per_block = max(1, block_bytes // max(row_bytes, 1))
        if header.fortran_order:
            yield from self._fortran_blocks(key, header, rows_per_block)
            return
        with self._member(key) as stream:
            stream.read(header.offset)
            for start in range(0, n_rows, rows_per_block):
                rows = min(rows_per_block, n_rows - start)
                data = _read_exactly(stream, rows * row_bytes)
                yield start, np.frombuffer(data, dtype=header.dtype).reshape(rows, n_columns)

    def _fortran_blocks(self, key: str, header: Header, rows_per_block: int) -> Iterator[tuple[int, np.ndarray]]:
        if header.data_bytes > FORTRAN_LIMIT:
            raise self.error(
                key,
                f"is stored column by column and holds {header.data_bytes} bytes, too much to read whole. "
                "Save np.ascontiguousarray(array) instead.",
            )
        array = self._read_whole(key)
        for start in range(0, header.shape[0], rows_per_block):
            yield start, np.ascontiguousarray(array[start : start + rows_per_block])

    def _check_directory_entry(self, key: str) -> None:
        """Hold the size that the directory claims against the bytes that are there, before anyone allocates it."""
        info = self._members[key]
        if info.compress_type == zipfile.ZIP_STORED:
            possible = info.compress_size
        elif info.compress_type == zipfile.ZIP_DEFLATED:
            possible = info.compress_size * _DEFLATE_MAX_RATIO + _DEFLATE_SLACK
        else:
            raise self.error(
                key, f"uses zip compression method {info.compress_type}: save it with np.savez or np.savez_compressed."
            )
        if info.compress_size > self.path.stat().st_size or info.file_size > possible:
            raise self.error(
                key,
                f"promises {info.file_size} bytes, more than its {info.compress_size} stored bytes can hold. "
                "The file is damaged: copy or export it again.",
            )

    def _parse_header(self, key: str, stream: IO[bytes]) -> Header:
        start = io.BytesIO(stream.read(_HEADER_LIMIT))  # NumPy alone would read as long a header as the file claims
        try:
            version = npy.read_magic(start)
            parse = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran_order, dtype = parse(start)
        except Exception as error:  # ast, tokenize and dtype raise a dozen types for a header that is not one
            reason = _shorten(str(error))
            raise self.error(key, f"has no valid npy header ({reason}). Save plain arrays with np.savez.") from error
        if dtype.hasobject:
            raise self.error(
                key,
                f"is an object array ({dtype}): object arrays would need pickle, which can run code; re-save as plain "
                "arrays, for example with np.asarray(values, dtype=str) or dtype=np.float32.",
            )
        # Beside zeros, NumPy cannot hold sizes that overflow it; a dtype with a shape of its own would add dimensions.
        overflow = math.prod(size for size in shape if size) * max(dtype.itemsize, 1) > np.iinfo(np.intp).max
        if dtype.itemsize == 0 or dtype.subdtype or overflow or len(shape) > 64 or any(size < 0 for size in shape):
            raise self.error(key, f"has shape {shape} of {dtype}, which no array has: export the file again.")
        return Header(tuple(shape), dtype, fortran_order, start.tell())

    @contextmanager
    def _member(self, key: str) -> Iterator[IO[bytes]]:
        try:
            with self._zip.open(self._members[key]) as stream:
                yield stream
        except DataError:
            raise
        except _DAMAGE as error:
            reason = str(error) or type(error).__name__
            raise self.error(key, f"cannot be decompressed ({reason}). Copy or download the file again.") from error


def _read_exactly(stream: IO[bytes], n_bytes: int) -> bytes:
    data = stream.read(n_bytes)
    if len(data) != n_bytes:
        raise EOFError(f"ends after {len(data)} of {n_bytes} bytes")
    return data


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip, or say which of the usual accidents the file has met."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_ZIP_MAGIC))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. data/README.md says which files are needed, and where.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). A file that you may read is needed.") from error
    try:
        return zipfile.ZipFile(path)
    except _DAMAGE as error:
        if magic == _ZIP_MAGIC:
            problem = "starts as an npz, but its end is missing or damaged: copy or download it again."
        else:
            problem = f"is not an npz (it starts with {magic!r}): write it with np.savez or np.savez_compressed."
        raise DataError(f"{path}: {problem}") from error
