"""Tables in Arrow's formats: parquet files, and datasets that Hugging Face's library saved to disk.

Both are read batch by batch through pyarrow, the columns that are asked for alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.data.importers import columns
from helpers.errors import DataError
from helpers.system.libraries import library

PARQUET_MAGIC = b"PAR1"
BATCH = 1024
"""Rows read at a time: 6 MB of vectors of width 1536."""
SPLIT_OF_PART = "\0split"
"""The column that stands for the name of a dataset's part, which is its split."""


def _arrow() -> Any:
    library("pyarrow.ipc", "encode")
    library("pyarrow.parquet", "encode")
    return library("pyarrow", "encode")


@dataclass(frozen=True)
class Table:
    """A table on disk.

    Attributes:
        path: as an error names it.
        schema: pyarrow's, of all parts.
        n_rows: of all parts.
        parts: (split or None, function that gives batches of some columns) each.
    """

    path: Path
    schema: Any
    n_rows: int
    parts: list[tuple[str | None, Callable[[list[str]], Iterator[Any]]]]

    @classmethod
    def open(cls, path: Path) -> Table:
        """A parquet file, a folder of parquet files in the order of their names, or a dataset saved to disk.

        Raises:
            DataError: the file is damaged, or the folder holds neither.
        """
        arrow = _arrow()
        try:
            if path.is_file():
                return cls._of(path, [(None, path)], _parquet)
            if (path / "dataset_dict.json").exists():
                names = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
                if any(Path(name).name != name for name in names):
                    raise ValueError("its splits are no folders of its own")
                return cls._of(path, [(name, file) for name in names for file in _data_files(path / name)], _stream)
            if (path / "state.json").exists():
                return cls._of(path, [(None, file) for file in _data_files(path)], _stream)
            files = sorted(path.glob("*.parquet"))
            if files:
                return cls._of(path, [(None, file) for file in files], _parquet)
        except (arrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: cannot be read as a table ({error}). Copy or export it again.") from error
        raise DataError(
            f"{path}: holds neither parquet files nor a dataset that save_to_disk wrote (state.json). Give one of them."
        )

    @classmethod
    def _of(
        cls, path: Path, files: list[tuple[str | None, Path]], read: Callable[[Path], tuple[Any, int, Any]]
    ) -> Table:
        found = [(split, *read(file)) for split, file in files]
        schemas = {tuple(schema.names) for _, schema, _, _ in found}
        if len(schemas) > 1:
            raise DataError(f"{path}: its {len(found)} files have different columns. Export them with the same ones.")
        parts = [(split, batches) for split, _, _, batches in found]
        return cls(path, found[0][1], sum(n_rows for _, _, n_rows, _ in found), parts)

    @property
    def names(self) -> list[str]:
        return list(self.schema.names)

    def vector_columns(self) -> list[str]:
        """Columns of lists of floats."""
        types = _arrow().types
        return [
            field.name
            for field in self.schema
            if (types.is_list(field.type) or types.is_large_list(field.type) or types.is_fixed_size_list(field.type))
            and types.is_floating(field.type.value_type)
        ]

    def caption_columns(self) -> tuple[str | None, list[str], str | None]:
        """Columns of the image's name, of the captions and of the split, where there are any."""
        left = [name for name in self.names if name not in self.vector_columns()]
        split = columns.find(columns.SPLIT, left)
        if split is None and all(name is not None for name, _ in self.parts):
            split = SPLIT_OF_PART
        return columns.find(columns.IMAGE, left), columns.find_texts(left), split

    def batches(self, names: list[str]) -> Iterator[Any]:
        """Record batches of some columns; of a picture its path alone."""
        arrow = _arrow()
        stored = [name for name in names if name != SPLIT_OF_PART]
        try:
            for split, read in self.parts:
                for batch in read(stored):
                    arrays = [_path_alone(batch.column(name)) for name in stored]
                    if len(stored) < len(names):
                        arrays.append(arrow.array([split] * batch.num_rows, arrow.string()))
                    yield arrow.RecordBatch.from_arrays(arrays, [*stored, SPLIT_OF_PART][: len(names)])
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: cannot be read ({error}). Copy or export it again.") from error


def _path_alone(column: Any) -> Any:
    """Without the bytes of a picture, which Hugging Face's datasets keep beside its path."""
    types = _arrow().types
    if types.is_struct(column.type) and column.type.get_field_index("path") >= 0:
        return column.field("path")
    return column


def _data_files(folder: Path) -> list[Path]:
    """The files of a saved dataset, which lie beside its `state.json` and nowhere else."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    names = [entry["filename"] for entry in state["_data_files"]]
    if not names or any(Path(name).name != name for name in names):
        raise DataError(f"{folder / 'state.json'}: names {len(names)} files, one or more of this folder are needed.")
    return [folder / name for name in names]


def _parquet(path: Path) -> tuple[Any, int, Callable[[list[str]], Iterator[Any]]]:
    arrow = _arrow()
    file = arrow.parquet.ParquetFile(path)

    def batches(names: list[str]) -> Iterator[Any]:
        with arrow.parquet.ParquetFile(path) as opened:
            yield from opened.iter_batches(BATCH, columns=names)

    schema, n_rows = file.schema_arrow, file.metadata.num_rows
    file.close()
    return schema, n_rows, batches


def _stream(path: Path) -> tuple[Any, int, Callable[[list[str]], Iterator[Any]]]:
    """Arrow's streaming format, mapped into memory."""
    arrow = _arrow()

    def batches(names: list[str]) -> Iterator[Any]:
        with arrow.memory_map(str(path)) as source, arrow.ipc.open_stream(source) as reader:
            for batch in reader:
                for lo in range(0, batch.num_rows, BATCH):
                    yield batch.slice(lo, BATCH).select(names)

    with arrow.memory_map(str(path)) as source, arrow.ipc.open_stream(source) as reader:
        return reader.schema, sum(batch.num_rows for batch in reader), batches
