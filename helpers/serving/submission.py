"""The challenge's submission file: CSV with the header `id,embedding`, the cell a quoted JSON list of floats."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from helpers.errors import SubmissionError, first_five
from helpers.system.files import atomic_write
from helpers.system.paths import absolute

HEADER = ("id", "embedding")
MAX_FIELD = 2**24
"""Characters of a cell, at most: a million numbers. The csv module's own limit ends at some ten thousand."""


def write_submission(path: str | Path, ids: np.ndarray, embeddings: np.ndarray) -> None:
    """Write a submission. An existing file is replaced only once the new one is complete on the disk.

    Args:
        path: the CSV file; its folder is made where it is missing.
        ids: (Q,) integers, unique.
        embeddings: (Q, dy) floats, written with the fewest digits that give the same float32 back.

    Raises:
        SubmissionError: the arrays do not fit each other, ids repeat, or rows are zero or not finite.
    """
    path = absolute(path)
    ids, embeddings = _validated(path, ids, embeddings)

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="ascii", newline="") as file:
            file.write(",".join(HEADER) + "\n")
            for number, row in zip(ids.tolist(), embeddings, strict=True):
                # NumPy gives float32 the fewest digits that tell them apart, where json.dumps would print doubles.
                file.write(f'{number},"[{", ".join(row.astype(str).tolist())}]"\n')

    atomic_write(path, write)


def read_submission(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a submission, whoever wrote it.

    Args:
        path: the CSV file.

    Returns:
        ids (Q,) int64 and embeddings (Q, dy) float32.

    Raises:
        SubmissionError: the file is missing, or a line is not an id and a JSON list of numbers, all of one length;
            or the content could not have been written by `write_submission`.
    """
    path = absolute(path)
    ids: list[int] = []
    rows: list[np.ndarray] = []
    for line, number, row in _parsed_lines(path):
        if rows and len(row) != len(rows[0]):
            raise SubmissionError(f"{path}: line {line} holds {len(row)} numbers, the first row {len(rows[0])}.")
        ids.append(number)
        rows.append(row)
    if not rows:
        raise SubmissionError(f"{path}: holds no row. One line an id is needed.")
    return _validated(path, np.asarray(ids), np.stack(rows))


def check_submission(path: str | Path, ids: np.ndarray, embeddings: np.ndarray) -> None:
    """Read a submission back and compare it with what it must hold, exactly, in float32 and in order.

    Args:
        path: the CSV file.
        ids: (Q,) integers.
        embeddings: (Q, dy) floats.

    Raises:
        SubmissionError: as `read_submission`, or ids, shape or values differ; the message says which.
    """
    path = absolute(path)
    ids, embeddings = _validated(path, ids, embeddings)
    found_ids, found = read_submission(path)
    if found.shape != embeddings.shape:
        raise SubmissionError(
            f"{path}: holds embeddings of shape {found.shape}, not {embeddings.shape}. Write it again."
        )
    other = np.flatnonzero(found_ids != ids)
    if len(other):
        cases = first_five(f"{found_ids[i]} for {ids[i]}" for i in other)
        raise SubmissionError(f"{path}: {len(other)} id(s) differ: {cases}. Write it again.")
    differs = found != embeddings
    if differs.any():
        rows = first_five(ids[differs.any(axis=1)])
        raise SubmissionError(f"{path}: {differs.sum()} value(s) differ, in the rows of ids {rows}. Write it again.")


def _validated(path: Path, ids: np.ndarray, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ids as (Q,) int64 and embeddings as (Q, dy) float32, or the reason why they cannot be submitted."""
    ids, embeddings = np.asarray(ids), np.asarray(embeddings)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise SubmissionError(f"{path}: ids are {ids.dtype} of shape {ids.shape}: one integer a row is needed.")
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or 0 in embeddings.shape:
        raise SubmissionError(
            f"{path}: embeddings are {embeddings.dtype} of shape {embeddings.shape}: floats of shape (ids, width) are "
            "needed."
        )
    if len(ids) != len(embeddings):
        raise SubmissionError(f"{path}: {len(ids)} ids for {len(embeddings)} embeddings: one each is needed.")
    if ids.dtype.kind == "u" and len(ids) and ids.max() > np.iinfo(np.int64).max:
        raise SubmissionError(f"{path}: id {ids.max()} is beyond {np.iinfo(np.int64).max}, the largest that fits.")
    values, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        repeated = values[counts > 1]
        raise SubmissionError(f"{path}: {len(repeated)} id(s) more than once: {first_five(repeated)}.")
    with np.errstate(over="ignore"):
        embeddings = embeddings.astype(np.float32)
    for rows, problem in (
        (~np.isfinite(embeddings).all(axis=1), "not finite in float32"),
        (~embeddings.any(axis=1), "zero vectors"),
    ):
        if rows.any():
            raise SubmissionError(f"{path}: {rows.sum()} row(s) are {problem}: ids {first_five(ids[rows])}.")
    return ids.astype(np.int64), embeddings


def _parsed_lines(path: Path) -> Iterator[tuple[int, int, np.ndarray]]:
    """(line number from 1, id, (dy,) float32) of each line after the header."""
    limit = csv.field_size_limit(MAX_FIELD)  # of the whole process, so it is put back
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            if tuple(next(reader, ())) != HEADER:
                raise SubmissionError(f"{path}: the first line is not the header '{','.join(HEADER)}'.")
            for fields in reader:
                yield reader.line_num, *_parsed_fields(path, reader.line_num, fields)
    except OSError as error:
        raise SubmissionError(f"{path}: cannot be read ({error.strerror}). Write the submission first.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise SubmissionError(f"{path}: is not a CSV file in UTF-8 ({error}). Write it again.") from error
    finally:
        csv.field_size_limit(limit)


def _parsed_fields(path: Path, line: int, fields: list[str]) -> tuple[int, np.ndarray]:
    try:
        number, cell = fields
        values = json.loads(cell)
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            raise ValueError("no list of numbers")
        with np.errstate(over="ignore"):
            return int(number), np.asarray(values, dtype=np.float64).astype(np.float32)
    except (ValueError, OverflowError, RecursionError) as error:
        raise SubmissionError(
            f"{path}: line {line} is not an id and a quoted JSON list of numbers ({error})."
        ) from error
