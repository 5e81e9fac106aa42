"""Embeddings in other people's files: .npy, .npz, safetensors and tables, found by name and read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch

from helpers.data.folder import Blocks
from helpers.data.importers import columns
from helpers.data.importers.tables import Table
from helpers.data.npz import BLOCK_BYTES, NpzReader
from helpers.data.pairs import TRAIN_FILE
from helpers.errors import DataError, first_five
from helpers.system.libraries import library


@dataclass(frozen=True)
class Vectors:
    """Embeddings of a file, which can be read as often as is asked for.

    Attributes:
        where: the file and the array, as an error names them.
        shape: (rows, width).
        dtype: float16, or float32 for any other.
        read: gives the blocks, in order.
    """

    where: str
    shape: tuple[int, int]
    dtype: Any
    read: Callable[[], Iterator[np.ndarray]]

    def blocks(self, rows: np.ndarray | None = None) -> Blocks:
        """All rows, or some of them in ascending order."""
        if rows is None:
            return Blocks(self.shape, self.dtype, self.read())
        return Blocks((len(rows), self.shape[1]), self.dtype, self._some(rows))

    def _some(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        lo = 0
        for block in self.read():
            first, last = np.searchsorted(rows, (lo, lo + len(block)))
            if last > first:
                yield block[rows[first:last] - lo]
            lo += len(block)


@dataclass(frozen=True)
class Source:
    """What a file holds.

    Attributes:
        path: of it.
        arrays: 2-D arrays of floats by name. values: function that gives another array by its name.
        names: of the other arrays. table: where the file is one.
    """

    path: Path
    arrays: dict[str, Vectors]
    names: list[str] = field(default_factory=list)
    values: Callable[[str], Any] | None = None
    table: Table | None = None

    def find(self, wanted: Iterable[str], what: str, alone: bool) -> Vectors:
        """The vectors of one side.

        Args:
            wanted: names that they may have. what: they are, for an error. alone: whether the file is of this side
                alone, so that one array needs no name.
        """
        name = columns.find(wanted, self.arrays)
        if name is None and alone:
            name = columns.find(columns.VECTORS, self.arrays)
            if name is None and len(self.arrays) == 1:
                [name] = self.arrays
        if name is None:
            found = first_five(self.arrays) or "none"
            raise DataError(
                f"{self.path}: has no array of {what} with a known name; arrays of vectors found: {found}. Name it "
                f"{list(wanted)[1]}, or give one file of captions and one of images."
            )
        return self.arrays[name]

    def texts(self, wanted: Iterable[str]) -> list[str] | None:
        """An array of texts by one of its names; None where there is none."""
        return next(iter(self.all_texts(wanted)), None)

    def all_texts(self, wanted: Iterable[str]) -> list[list[str]]:
        """Every array of texts with one of these names, in the order of `wanted`."""
        if self.values is None:
            return []
        return [[str(value) for value in self.values(name)] for name in columns.find_all(wanted, self.names)]

    def numbers(self, wanted: Iterable[str]) -> tuple[str, np.ndarray] | None:
        """Name and values of an array of integers by one of its names; None where there is none.

        Raises:
            DataError: its values are no whole numbers.
        """
        name = columns.find(wanted, self.names)
        if name is None or self.values is None:
            return None
        found = np.asarray(self.values(name))
        if found.dtype.kind not in "iu" or found.ndim != 1:
            raise DataError(f"{self.path}: '{name}' is {found.dtype}: whole numbers, rows from 0 on, are needed.")
        return name, found


def open_source(path: Path) -> Source:
    """Find out what a file or folder holds, from headers alone.

    Raises:
        DataError: it is missing, damaged, of no known format, or has no array of vectors.
    """
    ending = path.suffix.lower()
    if (path / TRAIN_FILE).exists():
        raise DataError(
            f"{path}: is a data folder already. Use it as it is: python -m helpers.series --data-dir {path}"
        )
    if path.is_dir() or ending in (".parquet", ".pq"):
        source = _table(path)
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder. Give embeddings: .npy, .npz, .parquet or .safetensors.")
    elif ending == ".npy":
        source = _npy(path)
    elif ending == ".npz":
        source = _npz(path)
    elif ending == ".safetensors":
        source = _safetensors(path)
    else:
        raise DataError(
            f"{path}: embeddings are read from .npy, .npz, .parquet and .safetensors files, and from folders of "
            "parquet files or of a dataset that save_to_disk wrote. Export them as one of these."
        )
    if not source.arrays:
        found = first_five(source.names) or "none"
        raise DataError(f"{path}: holds no vectors: arrays of floats, a row each, are needed. Found: {found}.")
    return source


def _stored(dtype: Any) -> Any:
    return np.float16 if dtype == np.float16 else np.float32


def _npy(path: Path) -> Source:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Save it with np.save, as a plain array.") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise DataError(f"{path}: is {array.dtype} of shape {array.shape}: floats of shape (rows, width) are needed.")
    return Source(path, {path.stem: Vectors(str(path), array.shape, _stored(array.dtype), lambda: _rows_of(array))})


def _rows_of(array: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, BLOCK_BYTES // max(array.shape[1] * array.itemsize, 1))
    for lo in range(0, len(array), step):
        yield array[lo : lo + step]


def _npz(path: Path) -> Source:
    arrays: dict[str, Vectors] = {}
    with NpzReader(path) as archive:
        headers = {key: archive.header(key) for key in archive.keys}

    def read(key: str) -> Iterator[np.ndarray]:
        with NpzReader(path) as archive:
            yield from archive.blocks(key)

    def values(key: str) -> Any:
        with NpzReader(path) as archive:
            return [value for block in archive.blocks(key) for value in block.tolist()]

    for key, (shape, dtype) in headers.items():
        if len(shape) == 2 and dtype.kind == "f":
            arrays[key] = Vectors(f"{path}: '{key}'", (shape[0], shape[1]), _stored(dtype), partial(read, key))
    others = [key for key, (shape, dtype) in headers.items() if len(shape) == 1 and dtype.kind in "Uiu"]
    return Source(path, arrays, others, values)


def _safetensors(path: Path) -> Source:
    arrays: dict[str, Vectors] = {}
    others: list[str] = []

    def values(name: str) -> Any:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.get_tensor(name).tolist()

    def read(name: str, shape: tuple[int, int]) -> Iterator[np.ndarray]:
        with safetensors.safe_open(path, framework="pt") as file:
            part = file.get_slice(name)
            step = max(1, BLOCK_BYTES // max(shape[1] * 4, 1))
            for lo in range(0, shape[0], step):
                rows = part[lo : lo + step]
                yield (rows if rows.dtype == torch.float16 else rows.float()).numpy()  # NumPy knows no bfloat16

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is no dict
                part = file.get_slice(name)
                shape, dtype = tuple(part.get_shape()), part.get_dtype()
                if len(shape) == 2 and dtype in ("F16", "BF16", "F32", "F64"):
                    stored = np.float16 if dtype == "F16" else np.float32
                    arrays[name] = Vectors(f"{path}: '{name}'", shape, stored, partial(read, name, shape))
                elif len(shape) == 1 and dtype[0] in "IU":
                    others.append(name)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Copy or export it again.") from error
    return Source(path, arrays, others, values)


def _table(path: Path) -> Source:
    table = Table.open(path)
    arrays = {}
    for name in table.vector_columns():
        arrays[name] = _column(table, name)

    def values(name: str) -> Any:
        return [value for batch in table.batches([name]) for value in batch.column(0).to_pylist()]

    return Source(path, arrays, [name for name in table.names if name not in arrays], values, table)


def _column(table: Table, name: str) -> Vectors:
    where, compute = f"{table.path}: '{name}'", library("pyarrow.compute", "encode")
    there = (batch.column(0).drop_null() for batch in table.batches([name]))
    width = next((len(vectors[0]) for vectors in there if len(vectors)), 0)

    def read() -> Iterator[np.ndarray]:
        row = 0
        for batch in table.batches([name]):
            column = batch.column(0)
            values = column.flatten().to_numpy(zero_copy_only=False)
            lengths = compute.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
            wrong = row + np.flatnonzero(lengths != width)
            if len(wrong):
                raise DataError(
                    f"{where}: {len(wrong)} row(s) of another width than the first's {width}: {first_five(wrong)} "
                    "(rows count from 0). Encode these rows again, or leave them out."
                )
            row += len(column)
            yield values.reshape(len(column), width)

    half = str(table.schema.field(name).type.value_type) == "halffloat"
    return Vectors(where, (table.n_rows, width), np.float16 if half else np.float32, read)
