"""Approximate indexes of faiss behind one small interface: they say which rows are worth an exact look.

Each holds the folded vectors [g, -popularity] (see `helpers.serving.folding`) in its own form:

- `hnsw`: a graph over the vectors as they are. Fast, and the largest.
- `int8`: each coordinate in a byte, all of them scanned.
- `ivfpq`: lists by the nearest of many centres, each vector in a byte for every eight coordinates. The last coordinate
  has a byte of its own: its error counts as it is, where that of the others is multiplied by a small query coordinate.
- `binary`: a bit for each coordinate, above or below its mean. Popularity is not in it; the exact look takes it in.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import DataError, shorten
from helpers.system.libraries import library

MULTIPLE = {"hnsw": 1, "int8": 4, "ivfpq": 40, "binary": 100}
"""Candidates for each result: the coarser, the more."""
LEAST = {"hnsw": 10, "int8": 40, "ivfpq": 400, "binary": 1_000}
"""Candidates, at least."""
HNSW_LINKS, HNSW_BUILD, HNSW_SEARCH = 32, 40, 256
"""Neighbours of a node; candidates while it is built and searched: the usual middle between time and recall."""
PQ_WIDTH = 8
"""Coordinates that share a byte."""
PROBED = 1 / 16
"""Share of the lists that a query looks into, at least `LEAST_PROBED` of them."""
LEAST_PROBED = 16
LEAST_ROWS = 1_000
"""For `ivfpq`, which learns 256 values of each byte from the vectors."""
TRAINED_ON = 100_000
"""Vectors, at most, from which `ivfpq` and `int8` learn."""
BLOCK = 65_536
"""Rows handed over at a time."""

_HEADER = struct.Struct("<4siq")
"""How a file of faiss begins: the name of its kind, the width, the number of vectors."""
_CODES = {"int8": 1, "ivfpq": PQ_WIDTH, "binary": 8}
"""Coordinates that share a byte of what the compressed kinds hold of a vector."""


class Candidates:
    """An index of faiss.

    Attributes:
        kind: `hnsw`, `int8`, `ivfpq` or `binary`.
        width: of the folded vectors.
    """

    def __init__(self, kind: str, index: Any, width: int) -> None:
        self.kind, self.index, self.width = kind, index, width

    @classmethod
    def build(cls, kind: str, n: int, width: int, rows: Callable[[slice | np.ndarray], np.ndarray]) -> Candidates:
        """Learn from folded vectors (n, width) and hold them, without a copy of them all.

        Args:
            rows: gives those at a slice, or at ascending indices.

        Raises:
            DataError: too few vectors for `ivfpq`.
            MissingLibraryError: faiss is not installed.
        """
        if kind == "ivfpq" and n < LEAST_ROWS:
            raise DataError(f"{n} pictures: an ivfpq index needs {LEAST_ROWS} or more. Take the kind flat.")
        lists = min(int(4 * n**0.5), n // 39)  # 39 vectors a centre, below which faiss warns
        index = _empty(kind, width, lists)
        sample = rows(np.sort(np.random.default_rng(0).permutation(n)[:TRAINED_ON]))
        if kind != "hnsw":
            index.train(_padded(sample) if kind == "ivfpq" else sample)
        found = cls(kind, index, width)
        for left in range(0, n, BLOCK):
            found.add(rows(slice(left, left + BLOCK)))
        return found

    @classmethod
    def load(cls, kind: str, path: Path, rows: int, width: int) -> Candidates:
        """Read what `write` wrote, by native code of faiss: load only from folders that you trust.

        What a few bytes tell is checked before faiss sees the file: its kind, width, number of vectors, and size. A
        file that was made to attack faiss can pass that.

        Raises:
            ValueError: it is of another kind or length, or holds another number of vectors, or of another width.
            MissingLibraryError: faiss is not installed.
        """
        faiss, expected = library("faiss", "search"), _stored_width(kind, width)
        with path.open("rb") as file:
            start = file.read(_HEADER.size)
        if len(start) < _HEADER.size:
            raise ValueError(f"{path.name} has {len(start)} bytes")
        name, found_width, found_rows = _HEADER.unpack(start)
        if name != faiss.serialize_index(_empty(kind, width, 1))[:4].tobytes():
            raise ValueError(f"{path.name} is no {kind} index of this version of faiss: it starts with {name!r}")
        if (found_rows, found_width) != (rows, expected):
            raise ValueError(f"{path.name} holds {found_rows} vectors of width {found_width}")
        least = rows * (4 * width if kind == "hnsw" else -(-expected // _CODES[kind]))
        if (size := path.stat().st_size) < least:
            raise ValueError(f"{path.name} has {size} bytes, but {rows} vectors need {least} or more")
        index = faiss.read_index(str(path))
        if (index.ntotal, index.d) != (rows, expected):
            raise ValueError(f"{path.name} holds {index.ntotal} vectors of width {index.d}")
        return cls(kind, index, width)

    def write(self, path: Path) -> None:
        """Write a file for `load`.

        Raises:
            OSError: it cannot be written, such as on a full disk.
        """
        try:
            library("faiss", "search").write_index(self.index, str(path))
        except RuntimeError as error:  # faiss has no other
            raise OSError(f"faiss: {shorten(str(error))}") from error

    def add(self, vectors: np.ndarray) -> None:
        """Hold more folded vectors (C, d + 1)."""
        self.index.add(self._form(vectors))

    def find(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Rows (N, C) that may be among the k best of folded queries (N, d + 1); -1 where there are fewer than C."""
        faiss = library("faiss", "search")
        n = min(max(MULTIPLE[self.kind] * k, LEAST[self.kind]), self.index.ntotal)
        parameters = None
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(HNSW_SEARCH, 2 * n))
        elif self.kind == "ivfpq":
            probed = max(LEAST_PROBED, int(PROBED * self.index.nlist))
            parameters = faiss.SearchParametersIVF(nprobe=min(probed, self.index.nlist))
        return self.index.search(self._form(queries), n, params=parameters)[1]

    def _form(self, vectors: np.ndarray) -> np.ndarray:
        return _padded(vectors) if self.kind == "ivfpq" else np.ascontiguousarray(vectors, dtype=np.float32)


def _empty(kind: str, width: int, lists: int) -> Any:
    """An index of faiss that has learned nothing and holds nothing.

    Args:
        width: of the folded vectors. lists: of `ivfpq`.
    """
    faiss = library("faiss", "search")
    width = _stored_width(kind, width)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_BUILD
    elif kind == "int8":
        index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    elif kind == "ivfpq":
        quantiser = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFPQ(quantiser, width, lists, width // PQ_WIDTH, 8, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    else:
        index = faiss.IndexLSH(width, width, False, True)  # not turned; thresholds are learned
    return index


def _stored_width(kind: str, width: int) -> int:
    """Coordinates of a folded vector in an index of a kind; see `_padded`."""
    return -(-(width - 1) // PQ_WIDTH) * PQ_WIDTH + PQ_WIDTH if kind == "ivfpq" else width


def _padded(vectors: np.ndarray) -> np.ndarray:
    """Zeros between the coordinates and the last, and behind it, so that the last has `PQ_WIDTH` of its own."""
    n, width = vectors.shape
    out = np.zeros((n, _stored_width("ivfpq", width)), dtype=np.float32)
    out[:, : width - 1], out[:, -PQ_WIDTH] = vectors[:, :-1], vectors[:, -1]
    return out
