"""Writing a data folder: what `load_pairs` reads, in bounded memory, whole or not at all, the same bytes each time.

`np.savez` needs every array in memory and writes the time of day. Here arrays stream into the archive block by block,
so that the vectors of 100,000 images need not be held, and equal content makes equal files.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from helpers.data import pairs
from helpers.data.npz import BLOCK_BYTES
from helpers.errors import DataError, first_five
from helpers.system.files import atomic_write, json_text, write_json
from helpers.system.paths import absolute

EARLIEST = (1980, 1, 1, 0, 0, 0)
"""Date of every member: the first that a zip can hold, so that equal content makes equal bytes."""
UNIX = 3
"""The system that every zip says it comes from: `zipfile` would name the one at hand."""
LEVEL = 1
"""Of compression, of texts alone: the blanks that fill an array of texts vanish at any level, noise at none."""


@dataclass(frozen=True)
class Blocks:
    """Vectors that come in pieces, and what they make together.

    Attributes:
        shape: (rows, width) of all.
        dtype: in which they are stored: float16 or float32.
        blocks: (some of the rows, width) each, in their order; gone through once.
    """

    shape: tuple[int, int]
    dtype: Any
    blocks: Iterable[np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> Blocks:
        """The rows of an array or memory map, read as they are needed; other floats than float16 become float32."""
        rows, width = array.shape
        step = max(1, BLOCK_BYTES // max(width * array.dtype.itemsize, 1))
        dtype = np.float16 if array.dtype == np.float16 else np.float32
        return cls((rows, width), dtype, (array[lo : lo + step] for lo in range(0, rows, step)))


def write_data_folder(
    out: str | Path,
    *,
    text: np.ndarray | Blocks,
    images: np.ndarray | Blocks,
    caption_image: Sequence[int] | np.ndarray,
    captions: Sequence[str],
    names: Sequence[str],
    split: Sequence[str] | None = None,
    encoders: Mapping[str, Any] | None = None,
    pictures: Mapping[str, Any] | None = None,
) -> Path:
    """Write `train.npz` of a folder, and `encoders.json` and `pictures.json` where they are given.

    What was there stays until all is written. An `encoders.json` or `pictures.json` of earlier vectors goes where no
    new one is given.

    Args:
        out: the folder; made where it is missing.
        text, images: (N, dx) and (M, dy) vectors: arrays, memory maps, or `Blocks`, which are never held whole.
        caption_image: (N,) the row of `images` that each caption describes.
        captions: N texts.
        names: M names, each once; relative paths with `/` where they are files.
        split: M of `train`, `restval`, `val` and `test`; None where the data have no split of their own.
        encoders: what made the vectors. pictures: where the pictures are. data/README.md describes both.

    Returns:
        `out`, absolute.

    Raises:
        DataError: the arguments do not fit one another, a row cannot be normalised (NaN, infinite, zero, too large for
            its type), a text cannot be stored, or the folder cannot be written; what was there is intact then.
    """
    folder = absolute(out)
    path = folder / pairs.TRAIN_FILE
    vectors = {key: _vectors(path, key, given) for key, given in ((pairs.TEXT_KEY, text), (pairs.IMAGE_KEY, images))}
    texts = {pairs.CAPTIONS_KEY: captions, pairs.NAMES_KEY: names} | ({} if split is None else {pairs.SPLIT_KEY: split})
    n_captions, n_images = (given.shape[0] for given in vectors.values())
    rows = _rows(path, caption_image, n_captions, n_images)
    for key, values in texts.items():
        _check_texts(path, key, values, n_captions if key == pairs.CAPTIONS_KEY else n_images)

    about = {pairs.ENCODERS_FILE: encoders, pairs.PICTURES_FILE: pictures}

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for key, given in vectors.items():
                _write_vectors(archive, path, key, given)
            with _member(archive, pairs.ROWS_KEY, rows.shape, rows.dtype) as member:
                member.write(rows.data)
            for key, values in texts.items():
                _write_texts(archive, key, values)
        # A process that is killed may leave vectors of which nothing is said, but never with what is true of others.
        if path.exists():
            for name, content in about.items():
                if not _holds(folder / name, content):
                    (folder / name).unlink(missing_ok=True)
        else:
            tell()

    def tell() -> None:
        for name, content in about.items():
            if content is None:
                (folder / name).unlink(missing_ok=True)
            elif not _holds(folder / name, content):
                write_json(folder / name, content)

    needed = sum(math.prod(given.shape) * np.dtype(given.dtype).itemsize for given in vectors.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < needed:  # told now, and not after the disk has been filled
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        atomic_write(path, write)
        tell()
    except OSError as error:
        raise DataError(
            f"{path}: {needed / 1e6:.0f} MB cannot be written ({error.strerror or error}). Free some space there, or "
            "give another folder."
        ) from error
    return folder


def _holds(path: Path, content: Mapping[str, Any] | None) -> bool:
    """Whether a JSON file has just this content."""
    with suppress(OSError, ValueError, RecursionError):
        return content is not None and path.read_text(encoding="utf-8") == json_text(content)
    return False


def _vectors(path: Path, key: str, given: np.ndarray | Blocks) -> Blocks:
    """Vectors as blocks, of a shape and type that the archive takes."""
    dtype, shape = np.dtype(given.dtype), tuple(given.shape)
    if dtype.kind != "f" or len(shape) != 2 or 0 in shape:
        raise DataError(f"{path}: '{key}' is {dtype} of shape {shape}: floats of shape (rows, width) are needed.")
    blocks = Blocks.of(given) if isinstance(given, np.ndarray) else given
    if np.dtype(blocks.dtype).itemsize > 4:
        raise DataError(f"{path}: '{key}' is to be stored as {dtype}: float16 and float32 are.")
    return blocks


def _rows(path: Path, given: Sequence[int] | np.ndarray, n_captions: int, n_images: int) -> np.ndarray:
    """(N,) little-endian int64 rows of images."""
    rows = np.asarray(given)
    if rows.shape != (n_captions,) or rows.dtype.kind not in "iu":
        raise DataError(
            f"{path}: '{pairs.ROWS_KEY}' is {rows.dtype} of shape {rows.shape}: one integer for each of {n_captions} "
            "captions is needed."
        )
    outside = np.flatnonzero((rows < 0) | (rows >= n_images))
    remedy = f"Each must be a row of the images, from 0 to {n_images - 1}."
    pairs.refuse_rows(path, pairs.ROWS_KEY, {"outside the images": outside}, remedy)
    return np.ascontiguousarray(rows, "<i8")


def _check_texts(path: Path, key: str, values: Sequence[str], wanted: int) -> None:
    """Whether texts, one for each row, can be stored and will be read again."""
    if len(values) != wanted:
        raise DataError(f"{path}: '{key}' holds {len(values)} texts for {wanted} vectors: one for each is needed.")
    found: dict[str, list[Any]] = {
        "with NUL or half a surrogate pair": [row for row, text in enumerate(values) if pairs.UNPRINTABLE.search(text)],
        f"of over {pairs.LONGEST_TEXT} characters": [
            r for r, text in enumerate(values) if len(text) > pairs.LONGEST_TEXT
        ],
    }
    if key == pairs.SPLIT_KEY:
        unknown = [f"{row} {text!r}" for row, text in enumerate(values) if text not in pairs.SPLIT_NAMES]
        found[f"other than {', '.join(pairs.SPLIT_NAMES)}"] = unknown
    pairs.refuse_rows(path, key, found, "Change or leave out these texts.")
    if key == pairs.NAMES_KEY and (again := [name for name, count in Counter(values).items() if count > 1]):
        raise DataError(f"{path}: '{key}' holds {len(again)} more than once: {first_five(again)}. Make them unique.")


@contextmanager
def _member(
    archive: zipfile.ZipFile, key: str, shape: tuple[int, ...], dtype: Any, compression: int = zipfile.ZIP_STORED
) -> Iterator[IO[bytes]]:
    """An array of the archive, open for its values: row by row, as many as its header promises."""
    entry = zipfile.ZipInfo(f"{key}.npy", EARLIEST)
    entry.compress_type, entry.create_system, entry.external_attr = compression, UNIX, 0o644 << 16
    entry._compresslevel = LEVEL  # type: ignore[attr-defined]  # public from Python 3.13 on
    with archive.open(entry, "w", force_zip64=True) as member:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(member, header)
        yield member


def _write_vectors(archive: zipfile.ZipFile, path: Path, key: str, given: Blocks) -> None:
    (n_rows, width), dtype = given.shape, np.dtype(given.dtype).newbyteorder("<")

    def stored() -> Iterator[np.ndarray]:
        written = 0
        for block in given.blocks:
            written += len(block)
            if block.shape[1:] != (width,) or written > n_rows:
                what = f"a block of shape {block.shape} ends at row {written}"
                raise DataError(f"{path}: '{key}' has shape ({n_rows}, {width}), but {what}. Give what was promised.")
            with np.errstate(over="ignore"):  # what overflows is found to be infinite
                yield np.ascontiguousarray(block, dtype)
        if written < n_rows:
            raise DataError(f"{path}: '{key}' ends after {written} of {n_rows} rows. Give what was promised.")

    with _member(archive, key, (n_rows, width), dtype) as member:
        for block in pairs.sound_rows(path, key, stored()):
            member.write(block.data)


def _write_texts(archive: zipfile.ZipFile, key: str, values: Sequence[str]) -> None:
    """An array of texts, each as long as the longest: never held whole, and blanks are compressed away."""
    dtype = np.dtype(f"<U{max(1, *map(len, values)) if values else 1}")
    step = max(1, BLOCK_BYTES // dtype.itemsize)
    with _member(archive, key, (len(values),), dtype, zipfile.ZIP_DEFLATED) as member:
        for lo in range(0, len(values), step):
            member.write(np.array(values[lo : lo + step], dtype).tobytes())
