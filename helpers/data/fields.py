"""The arrays of the challenge's npz format, each checked against what the format says of it."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from helpers.data.npz import NpzReader, read_ahead
from helpers.errors import first_five

TEXT_KEY = "captions/embeddings"
IMAGE_KEY = "images/embeddings"
IDS_KEY = "captions/ids"
CAPTIONS_KEY = "captions/text"
LABEL_KEY = "captions/label"
NAMES_KEY = "images/names"

_UNPRINTABLE = re.compile("[\0\ud800-\udfff]")
_PARAMETERS = {TEXT_KEY: "text_dim", IMAGE_KEY: "image_dim"}
_METADATA = {
    TEXT_KEY: ("metadata/num_captions", "metadata/embedding_dim_text"),
    IMAGE_KEY: ("metadata/num_images", "metadata/embedding_dim_image"),
}


def check_embeddings(archive: NpzReader, key: str, dim: int) -> int:
    """Check dtype, shape and metadata of embeddings by their header alone.

    Args:
        archive: the open npz.
        key: `TEXT_KEY` or `IMAGE_KEY`.
        dim: width that the caller asked for, through the parameter `text_dim` or `image_dim`.

    Returns:
        The number of rows.

    Raises:
        DataError: not float16, float32 or float64; not 2-D; no rows; or metadata, array and `dim` disagree.
    """
    header = archive.header(key)
    if header.dtype.kind != "f" or header.dtype.itemsize not in (2, 4, 8):
        raise archive.error(key, f"has dtype {header.dtype}: float16, float32 or float64 is needed.")
    if len(header.shape) != 2:
        raise archive.error(key, f"has shape {header.shape}: one row a vector, two dimensions, is needed.")
    n_rows, width = header.shape
    if n_rows == 0:
        raise archive.error(key, "holds 0 rows: at least one vector is needed.")
    count_key, dim_key = _METADATA[key]
    _check_metadata(archive, count_key, n_rows, f"'{key}' has {n_rows} rows")
    given = f"{_PARAMETERS[key]} is {dim}"
    _check_metadata(archive, dim_key, width, f"'{key}' has width {width} (and the parameter {given})")
    check_width(archive, key, width, dim)
    return n_rows


def check_width(archive: NpzReader, key: str, width: int, dim: int) -> None:
    """Hold the width of embeddings against the caller's parameter; needs no data, so it also serves cached arrays.

    Raises:
        DataError: they differ.
    """
    if width != dim:
        parameter = _PARAMETERS[key]
        raise archive.error(
            key,
            f"has width {width} but {parameter} is {dim}. "
            f"Set {parameter}={width}, or give the file of another encoder.",
        )


def _check_metadata(archive: NpzReader, key: str, actual: int, fact: str) -> None:
    """Metadata is optional; where it is there, it must tell the truth."""
    if key not in archive:
        return
    header = archive.header(key)
    if header.dtype.kind not in "iu" or header.shape not in ((), (1,)):
        raise archive.error(key, f"is {header.dtype} of shape {header.shape}: one integer, shape (1,), is needed.")
    declared = int(archive.read(key).item())
    if declared != actual:
        raise archive.error(
            key,
            f"says {declared}, but {fact}. Metadata and array disagree: export the file again, or leave the metadata "
            "out. The widths that are asked for can be set with text_dim and image_dim.",
        )


def check_length(archive: NpzReader, key: str, n_rows: int, counterpart: str) -> None:
    """Check that an array is 1-D and has one entry for each row of `counterpart`.

    Raises:
        DataError: it has another shape.
    """
    shape = archive.header(key).shape
    if shape != (n_rows,):
        raise archive.error(
            key,
            f"has shape {shape} but '{counterpart}' has {n_rows} rows: one entry a row, in the same order, is needed.",
        )


def read_strings(archive: NpzReader, key: str, n_rows: int, counterpart: str) -> list[str]:
    """Read an array of strings with one entry for each row of `counterpart`.

    Raises:
        DataError: it has another shape or dtype, or holds what no string can.
    """
    check_length(archive, key, n_rows, counterpart)
    dtype = archive.header(key).dtype
    if dtype.kind != "U":
        raise archive.error(key, f"has dtype {dtype}: text is needed; save np.asarray(values, dtype=str).")
    array = archive.read(key)
    try:
        values = array.tolist()
    except (SystemError, ValueError) as error:  # what CPython raises for a code point above U+10FFFF
        raise archive.error(key, f"holds characters that do not exist ({error}): export the file again.") from error
    unprintable = [row for row, value in enumerate(values) if _UNPRINTABLE.search(value)]
    if unprintable:
        raise archive.error(
            key,
            f"has {len(unprintable)} row(s) with NUL or half a surrogate pair: {first_five(unprintable)} (rows count "
            "from 0). Decode these texts as what they are and export them again.",
        )
    return values


def read_image_names(archive: NpzReader, n_images: int) -> list[str]:
    """Read `images/names`.

    Raises:
        DataError: as `read_strings`; fewer than two images; or an image is named more than once.
    """
    names = read_strings(archive, NAMES_KEY, n_images, IMAGE_KEY)
    if n_images < 2:
        raise archive.error(IMAGE_KEY, f"holds {n_images} image: at least 2 are needed to tell a match from a miss.")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise archive.error(
            NAMES_KEY, f"names {len(repeated)} image(s) more than once: {first_five(repeated)}. Make the names unique."
        )
    return names


def read_ids(archive: NpzReader, n_captions: int) -> np.ndarray:
    """Read the numeric `captions/ids` of queries, (Q,) int64.

    Raises:
        DataError: not integers, not one a caption, or an id stands there more than once.
    """
    check_length(archive, IDS_KEY, n_captions, TEXT_KEY)
    dtype = archive.header(IDS_KEY).dtype
    if dtype.kind not in "iu" or not np.can_cast(dtype, np.int64):
        raise archive.error(IDS_KEY, f"has dtype {dtype}: integers are needed; save them as int64.")
    ids = archive.read(IDS_KEY)
    values, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        repeated = values[counts > 1].tolist()
        raise archive.error(
            IDS_KEY, f"holds {len(repeated)} id(s) more than once: {first_five(repeated)}. Make the ids unique."
        )
    return ids.astype(np.int64)


def copy_vectors(archive: NpzReader, key: str, out: np.ndarray) -> None:
    """Stream embeddings into `out`, as float32, and check every row on its way.

    A row is judged by its squared norm in float32, as later code computes it: values so large or small that it
    overflows or vanishes cannot be normalised either.

    Args:
        archive: the open npz.
        key: name of the embeddings, (rows, width).
        out: (rows, width) float32, in memory or memory-mapped.

    Raises:
        DataError: rows hold NaN or infinity, or are zero vectors; with counts and the first five, from 0.
    """
    not_finite: list[int] = []
    zero: list[int] = []
    for start, block in read_ahead(archive.blocks(key)):
        with np.errstate(over="ignore", invalid="ignore"):
            rows = block.astype(np.float32, copy=False)
            squared_norms = np.einsum("ij,ij->i", rows, rows)
        out[start : start + len(rows)] = rows
        not_finite.extend((start + np.flatnonzero(~np.isfinite(squared_norms))).tolist())
        zero.extend((start + np.flatnonzero(squared_norms == 0)).tolist())
    problems = [
        f"{len(rows)} row(s) {what}: {first_five(rows)}"
        for rows, what in (
            (not_finite, "that hold NaN or infinity, or overflow float32"),
            (zero, "that are zero vectors (norm 0)"),
        )
        if rows
    ]
    if problems:
        raise archive.error(key, f"has {'; '.join(problems)} (rows count from 0). Encode these rows again.")


def read_label_targets(archive: NpzReader, n_captions: int, n_images: int) -> np.ndarray:
    """The image of each caption, from the one-hot rows of `captions/label`, which is never held whole.

    Args:
        archive: the open npz.
        n_captions, n_images: N and M; the label matrix must be (N, M), bool or integer.

    Returns:
        (N,) int64 column of the one nonzero entry of each row.

    Raises:
        DataError: another shape or dtype, or rows without exactly one nonzero entry; with count and first five.
    """
    header = archive.header(LABEL_KEY)
    if header.dtype.kind not in "biu":
        raise archive.error(LABEL_KEY, f"has dtype {header.dtype}: bool or integers are needed.")
    if header.shape != (n_captions, n_images):
        raise archive.error(
            LABEL_KEY,
            f"has shape {header.shape}: ({n_captions}, {n_images}) is needed, one row a caption, one column an image.",
        )
    targets = np.empty(n_captions, np.int64)
    wrong: list[int] = []
    for start, block in archive.blocks(LABEL_KEY):
        marked = block.astype(bool, copy=False)
        targets[start : start + len(marked)] = marked.argmax(axis=1)
        wrong.extend((start + np.flatnonzero(np.count_nonzero(marked, axis=1) != 1)).tolist())
    if wrong:
        raise archive.error(
            LABEL_KEY,
            f"has {len(wrong)} row(s) without exactly one nonzero entry: {first_five(wrong)} (rows count from 0). "
            "Each caption describes one image: mark that one only, or supply captions.txt.",
        )
    return targets
