"""The vectors of an index, written for a vector database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from helpers.data.vectors import GALLERY_BLOCK
from helpers.errors import DataError
from helpers.serving.folding import folded
from helpers.system.files import atomic_write, write_json
from helpers.system.libraries import library
from helpers.system.paths import absolute

Format = Literal["parquet", "npy"]


def export(
    folder: str | Path,
    format: Format,  # noqa: A002
    names: Sequence[str],
    vectors: np.ndarray,
    popularity: np.ndarray,
    about: Mapping[str, Any],
) -> Path:
    """Write names (M,), vectors (M, dy) and popularity (M,) of an index; see `PictureIndex.export`.

    Args:
        about: what `export.json` says of the index beside what the vectors are.

    Raises:
        DataError: another format, or the files cannot be written.
        MissingLibraryError: parquet needs pyarrow.
    """
    folder = absolute(folder)
    if format not in ("parquet", "npy"):
        raise DataError(f"format = {format!r}: `parquet` or `npy` is needed.")
    shape = len(names), vectors.shape[1] + 1
    content = {
        "metric": "inner product",
        "vector": "[unit image vector, -popularity]",
        "query": "[unit translated text vector, 1], or 0 in place of 1 for cosines without hubness reduction",
        "rows": shape[0],
        "width": shape[1],
        **about,
    }
    try:
        if format == "parquet":
            _write_parquet(folder / "pictures.parquet", names, shape, _blocks(vectors, popularity))
        else:
            atomic_write(folder / "vectors.npy", lambda path: _write_npy(path, shape, _blocks(vectors, popularity)))
            write_json(folder / "names.json", names)
        write_json(folder / "export.json", content)
    except OSError as error:
        raise DataError(f"{folder}: the export cannot be written ({error.strerror or error}).") from error
    return folder


def _blocks(vectors: np.ndarray, popularity: np.ndarray) -> Iterator[np.ndarray]:
    """Folded vectors (C, dy + 1), some at a time."""
    for left in range(0, len(vectors), GALLERY_BLOCK):
        rows = slice(left, left + GALLERY_BLOCK)
        yield folded(vectors[rows], -popularity[rows])


def _write_npy(path: Path, shape: tuple[int, int], blocks: Iterator[np.ndarray]) -> None:
    with path.open("wb") as file:  # a memory map on a full disk would kill the process
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for block in blocks:
            file.write(block.data)


def _write_parquet(path: Path, names: Sequence[str], shape: tuple[int, int], blocks: Iterator[np.ndarray]) -> None:
    arrow, parquet = library("pyarrow", "search"), library("pyarrow.parquet", "search")
    kind = arrow.list_(arrow.float32(), shape[1])
    schema = arrow.schema([("row", arrow.int64()), ("name", arrow.string()), ("vector", kind)])

    def write(temporary: Path) -> None:
        left = 0
        with parquet.ParquetWriter(temporary, schema) as writer:
            for block in blocks:
                rows = arrow.array(np.arange(left, left + len(block)))
                some = arrow.array(names[left : left + len(block)], arrow.string())
                vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(block.ravel()), shape[1])
                writer.write_table(arrow.table([rows, some, vectors], schema=schema))
                left += len(block)

    atomic_write(path, write)
