"""Where a benchmark keeps its searches and runs: one table a data set, to which each is added as it finishes.

A table is a compressed npz of plain arrays, one a column and all of one length, in the order in which rows were added:

    with np.load("benchmarks/results/accuracy/flickr8k.npz") as table:
        best = table["mrr"][(table["method"] == "bigjump_plus") & (table["kind"] == "run")].max()

`COLUMNS` is the schema. What a row does not have is NaN among floats, -1 among whole numbers, and empty among texts; a
column that no row has is left out. Ranks lie end to end in one array: row i has `n_ranks[i]` of them, after those of
the rows before it. They are stored twice as large, since ties make halves.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from filelock import FileLock

from helpers.system.files import atomic_write

Row = dict[str, object]
"""A value for each name in `COLUMNS`, None where the row has none."""

JSON = object
SCORES = ("mrr", "recall_at_1", "recall_at_5", "recall_at_10", "ndcg", "median_rank", "p75_rank")
COLUMNS: dict[str, type] = {
    "key": str,  # digest of everything that determines the row
    "kind": str,  # search: what a method chose on the fold; run: one training, scored
    "method": str,  # of the comparison, or variant of the ablations
    "split": int,
    "seed": int,  # of a run
    "problem": str,  # digest of the data, the split and the training images kept
    "device": str,  # of the computation, and the type of its matrix products
    "products": str,
    "settings": JSON,  # beside data and seed all that determines the result
    "search": str,  # key of the search that a run follows
    "chosen": JSON,  # by the search
    "two_sided": int,  # of a run: 1 where the method moves the gallery too; missing in rows older than such methods
    **dict.fromkeys(SCORES, float),  # by plain cosine
    **{f"hubness_{score}": float for score in SCORES},  # with hubness reduction
    "spread_within_images": float,
    "fold_mrr": JSON,  # of each epoch
    "geometry_free": JSON,  # epochs that trained A
    "diverged": str,  # why a training has no model
    "parameters": int,  # numbers that the method stores
    "seconds": float,  # of the search, or of the training
    "search_seconds": float,  # of the search that a run follows
    "threads": int,
    "ranks": np.ndarray,  # (V,) of the scored captions, by plain cosine
    "hubness_ranks": np.ndarray,  # (V,) with hubness reduction
}
MISSING = {str: "", JSON: "", int: -1, float: np.nan}


class Store:
    """A table on disk, safe for several processes that add to it at once.

    Args:
        path: of the npz; it is made with the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._seen: tuple[int, ...] | None = None
        self._rows: dict[str, Row] = {}

    def rows(self) -> dict[str, Row]:
        """{key: row} of what the file holds now."""
        stat = self.path.stat() if self.path.exists() else None
        seen = stat and (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen != self._seen:
            self._rows, self._seen = _read(self.path), seen
        return self._rows

    def load(self, key: str) -> Row | None:
        """The row of that key, or None where it is not there yet."""
        return self.rows().get(key)

    def once(self, key: str, compute: Callable[[], Row]) -> Row:
        """The row of that key, computed and added if it is not there yet.

        Args:
            compute: gives a value for some of `COLUMNS`; called without a lock, so that others can add meanwhile.
        """
        if self.load(key) is None:
            self.add([{"key": key, **compute()}])
        return self.rows()[key]

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows whose keys the table does not have, and keep what others have added since it was read.

        Raises:
            ValueError: a row has a value that `COLUMNS` does not name.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.stem}.lock")):
            held = self.rows()
            columns = _columns([*held.values(), *(row for row in rows if row["key"] not in held)])

            def write(temporary: Path) -> None:
                # As `np.savez_compressed` writes it, at a level that takes a seventh of the time for a tenth more room.
                with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                    for name, values in columns.items():
                        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                            np.lib.format.write_array(member, values, allow_pickle=False)

            atomic_write(self.path, write)


def _columns(rows: list[Row]) -> dict[str, np.ndarray]:
    """The arrays of the file."""
    if unknown := {name for row in rows for name in row} - set(COLUMNS):
        raise ValueError(f"{', '.join(sorted(unknown))}: no column of benchmarks.store.COLUMNS.")
    columns = {}
    for name, kind in COLUMNS.items():
        values = [row.get(name) for row in rows]
        if all(value is None for value in values):
            continue
        if kind is np.ndarray:
            parts = [np.rint(2 * np.asarray([] if value is None else value)).astype(np.uint32) for value in values]
            joined = np.concatenate(parts)
            columns[f"n_{name}"] = np.array([len(part) for part in parts])
            columns[f"doubled_{name}"] = joined.astype(np.min_scalar_type(joined.max()))
        elif kind is JSON:
            columns[name] = np.array(["" if value is None else json.dumps(value) for value in values], dtype=str)
        else:
            columns[name] = np.array([MISSING[kind] if value is None else value for value in values], dtype=kind)
    return columns


def _read(path: Path) -> dict[str, Row]:
    """The rows of a file, none where there is no file."""
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in file.files}
    values = {name: _values(name, kind, columns) for name, kind in COLUMNS.items()}
    return {
        key: {name: of_column[place] if of_column else None for name, of_column in values.items()}
        for place, key in enumerate(columns["key"].tolist())
    }


def _values(name: str, kind: type, columns: dict[str, np.ndarray]) -> list | None:
    """A value for each row as it was given, None where it had none; None for a column that the file lacks."""
    if kind is np.ndarray:
        if f"n_{name}" not in columns:
            return None
        ends = np.cumsum(columns[f"n_{name}"])[:-1]
        parts = np.split(columns[f"doubled_{name}"], ends)
        return [part / 2 if len(part) else None for part in parts]
    if name not in columns:
        return None
    values = columns[name].tolist()
    if kind is float:
        return [None if np.isnan(value) else value for value in values]
    values = [None if value == MISSING[kind] else value for value in values]
    return [value and json.loads(value) for value in values] if kind is JSON else values
