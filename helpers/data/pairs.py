"""Paired embeddings of captions and images: checked against the format, matched to one another, and cached.

Everything cheap is checked first (names, shapes, widths, caption lines); the vectors are then checked while they
stream, block by block, from the npz into the cache. data/README.md gives the formats to the byte.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.data.cache import Tensor, read_cache, write_cache
from helpers.data.captions import captions_of_rows, match_captions, read_bytes
from helpers.data.npz import WHOLE_LIMIT, NpzReader
from helpers.data.split import TEST, TRAINING, VALIDATION
from helpers.errors import DataError, first_five
from helpers.system import paths

TRAIN_FILE, CAPTIONS_FILE, QUERY_FILE = "train.npz", "captions.txt", "test.clean.npz"
TEXT_KEY, IMAGE_KEY = "captions/embeddings", "images/embeddings"
ENCODERS_FILE = "encoders.json"
"""Optional: what made the vectors. Nothing here reads it; it travels with a run, so that queries are encoded alike."""
PICTURES_FILE = "pictures.json"
"""Optional: where the pictures are."""
IDS_KEY, CAPTIONS_KEY, LABEL_KEY, NAMES_KEY = "captions/ids", "captions/text", "captions/label", "images/names"
ROWS_KEY, SPLIT_KEY = "captions/image", "images/split"
SPLIT_NAMES = {"train": TRAINING, "restval": TRAINING, "val": VALIDATION, "test": TEST}
"""What `images/split` may say; `restval` is what Karpathy's split calls validation images that it trains on."""
CACHE_VERSION = 3
"""Part of every cache's name: raise it when the content or layout of a cache changes."""
LONGEST_TEXT = 2**20
"""Characters of a caption or name, far beyond any: every text takes as much room in an array as the longest."""

_METADATA = {  # optional integers, and the sizes that they repeat
    "metadata/num_captions": "n_captions",
    "metadata/num_images": "n_images",
    "metadata/embedding_dim_text": "text_dim",
    "metadata/embedding_dim_image": "image_dim",
}
# Kinds of values: how an error calls them, and NumPy's codes of their dtypes.
_ANY, _TEXT = ("values", ".*"), ("text, as np.asarray(values, dtype=str),", r"U\d+")
_FLOATS, _INTEGERS = ("float16, float32 or float64", "f[248]"), ("integers", "[iu][1248]")
_INT64, _FLAGS = ("integers that fit int64", "[iu][124]|i8"), ("bool or integers", "b1|[iu][1248]")
_CACHED = "text", "images", "targets", "captions", "image_names", "given_split"  # fields of `PairedEmbeddings`
UNPRINTABLE = re.compile("[\0\ud800-\udfff]")
"""What no text may hold: half a surrogate pair is no character, and NumPy takes NUL for the end."""


@dataclass(frozen=True)
class PairedEmbeddings:
    """Captions and images of two frozen encoders; every caption describes one image.

    Attributes:
        text: (N, dx) float32 caption embeddings as stored (not normalised), a read-only memory map.
        images: (M, dy) float32 image embeddings as stored (not normalised), a read-only memory map.
        targets: (N,) int64, the row of `images` that each caption describes, a read-only memory map.
        captions: the N caption texts.
        image_names: the M names.
        fingerprint: hex digest of the content of the input files, whatever their path and time.
        given_split: (M,) int8, TRAINING, VALIDATION or TEST of `split`, where the data have a split of their own.
    """

    text: np.ndarray
    images: np.ndarray
    targets: np.ndarray
    captions: list[str]
    image_names: list[str]
    fingerprint: str
    given_split: np.ndarray | None = None

    @property
    def n_captions(self) -> int:
        return self.text.shape[0]

    @property
    def n_images(self) -> int:
        return self.images.shape[0]

    @property
    def text_dim(self) -> int:
        return self.text.shape[1]

    @property
    def image_dim(self) -> int:
        return self.images.shape[1]

    @property
    def captions_per_image(self) -> np.ndarray:
        """(M,) int64: how many captions describe each image; 0 is allowed."""
        return np.bincount(self.targets, minlength=self.n_images)


@dataclass(frozen=True)
class QueryEmbeddings:
    """Captions without images: what a submission translates.

    Attributes:
        ids: (Q,) int64, unique.
        text: (Q, dx) float32, as stored (not normalised).
        captions: the Q texts; empty strings where the file has none.
    """

    ids: np.ndarray
    text: np.ndarray
    captions: list[str]


def load_pairs(
    data_dir: str | Path,
    *,
    text_dim: int | None = None,
    image_dim: int | None = None,
    cache_dir: str | Path | None = None,
) -> PairedEmbeddings:
    """Load `train.npz` and `captions.txt` of a folder, or their cache where they were loaded before.

    The archive may hold the pairs itself: `captions/image`, the row of each caption's image, is taken before
    `captions.txt`, and `captions/label`, one-hot rows, where there is none of both. Texts then come from
    `captions/text`.

    Args:
        data_dir: folder with the two files.
        text_dim, image_dim: widths that the embeddings must have; those of the file where None.
        cache_dir: folder of the caches; `paths.cache_dir()` where None.

    Raises:
        DataError: a file is missing or damaged, its content is not what data/README.md describes, or the cache cannot
            be written.
    """
    folder = paths.absolute(data_dir)
    with NpzReader(folder / TRAIN_FILE) as archive:
        named = ROWS_KEY not in archive.keys and (folder / CAPTIONS_FILE).exists()
        captions_path = folder / CAPTIONS_FILE if named else None
        archive.require([TEXT_KEY, IMAGE_KEY, NAMES_KEY])
        sizes = _check_headers(archive, {"text_dim": text_dim, "image_dim": image_dim})
        digest = hashlib.sha256(read_bytes(captions_path)).hexdigest() if captions_path else None
        # The zip's directory has the CRC-32 of each array, so it changes with the content without being decompressed.
        content = archive.directory(), digest
        stats = [(path.stat().st_size, path.stat().st_mtime_ns) for path in (archive.path, captions_path) if path]
        name = f"{_digest(CACHE_VERSION, stats, *content)[:32]}.safetensors"
        cache = paths.absolute(cache_dir or paths.cache_dir()) / name
        data = read_cache(cache, _CACHED) or _convert(cache, archive, captions_path, sizes)
    given_split = data.pop("given_split")
    return PairedEmbeddings(
        **data, fingerprint=_digest(*content), given_split=given_split if len(given_split) else None
    )


def load_queries(path: str | Path, *, text_dim: int | None = None) -> QueryEmbeddings:
    """Load captions without images, such as the challenge's `test.clean.npz`, into memory.

    Args:
        path: npz with `captions/ids` and `captions/embeddings`, and optionally `captions/text`.
        text_dim: width that the embeddings must have; any where None.

    Raises:
        DataError: the file is missing or damaged, or its content is not what data/README.md describes.
    """
    with NpzReader(path) as archive:
        archive.require([IDS_KEY, TEXT_KEY])
        sizes = _check_headers(archive, {"text_dim": text_dim})
        _expect(archive, IDS_KEY, _INT64, n_captions=sizes["n_captions"])
        [text] = sound_rows(archive.path, TEXT_KEY, _float32([archive.read(TEXT_KEY)]))
        ids = archive.read(IDS_KEY).astype(np.int64)
        _require_unique(archive, IDS_KEY, ids.tolist())
        stored = CAPTIONS_KEY in archive.keys
        captions = _read_texts(archive, CAPTIONS_KEY, n_captions=len(ids)) if stored else [""] * len(ids)
    return QueryEmbeddings(ids, text, captions)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def _check_headers(archive: NpzReader, widths: dict[str, int | None]) -> dict[str, int]:
    """Check by headers and metadata that the arrays fit one another, and the `widths` asked for.

    Returns:
        All sizes: text_dim, n_captions and, where widths name image_dim, image_dim and n_images.
    """
    sizes: dict[str, int] = {}
    for key, rows, dim, least in (TEXT_KEY, "n_captions", "text_dim", 1), (IMAGE_KEY, "n_images", "image_dim", 2):
        if dim in widths:
            sizes[rows], sizes[dim] = _expect(archive, key, _FLOATS, **{rows: None, dim: None})
            if sizes[rows] < least:
                raise archive.error(key, f"holds {sizes[rows]} row(s): {least} or more needed to tell match from miss.")
            if not sizes[dim]:
                raise archive.error(key, "has width 0: one or more dimensions are needed.")
            if (width := sizes[dim]) != (widths[dim] or width):
                remedy = f"Set {dim}={width} (a data_dir that is given may have any), or give another encoder's file."
                raise archive.error(key, f"has width {width} but {dim} is {widths[dim]}. {remedy}")
    for key in archive.keys:
        if key in (IDS_KEY, CAPTIONS_KEY):
            _expect(archive, key, _ANY, n_captions=sizes["n_captions"])
        elif (size := _METADATA.get(key, "")) in sizes:  # optional, but where it is there, it must tell the truth
            _expect(archive, key, _INTEGERS, **{"one": 1} if archive.header(key)[0] else {})
            if (declared := int(archive.read(key).item())) != sizes[size]:
                remedy = "Metadata and arrays disagree: export the file again, or leave the metadata out."
                raise archive.error(key, f"says {declared}, but {size} is {sizes[size]}. {remedy}")
    return sizes


def _expect(archive: NpzReader, key: str, kind: tuple[str, str], **axes: int | None) -> tuple[int, ...]:
    """The shape of an array, once its header fits: its kind of values, and its axes, of any size where None."""
    shape, dtype = archive.header(key)
    wanted = tuple(size if want is None else want for want, size in zip(axes.values(), shape, strict=False))
    if shape != wanted or len(shape) != len(axes) or not re.fullmatch(kind[1], dtype.str[1:]):
        named = ", ".join(name if size is None else f"{name}={size}" for name, size in axes.items())
        raise archive.error(key, f"is {dtype} of shape {shape}: {kind[0]} of shape ({named}) needed.")
    return shape


def _convert(cache: Path, archive: NpzReader, captions_path: Path | None, sizes: dict[str, int]) -> dict[str, Any]:
    """Check what headers do not tell, pair captions with images, and write it all to the cache."""
    n_captions, n_images = sizes["n_captions"], sizes["n_images"]
    names = _read_texts(archive, NAMES_KEY, n_images=n_images)
    _require_unique(archive, NAMES_KEY, names)
    if ROWS_KEY in archive.keys:
        archive.require([CAPTIONS_KEY], f" where {ROWS_KEY} pairs the captions")
        texts = _read_texts(archive, CAPTIONS_KEY, n_captions=n_captions)
        targets = _given_targets(archive, n_captions, n_images)
    elif captions_path:
        has_texts = CAPTIONS_KEY in archive.keys and archive.header(CAPTIONS_KEY)[1].kind == "U"
        stored = _read_texts(archive, CAPTIONS_KEY, n_captions=n_captions) if has_texts else None
        keys, texts = captions_of_rows(captions_path, n_captions, stored)
        targets = match_captions(keys, names, str(captions_path))
    else:
        archive.require([LABEL_KEY, CAPTIONS_KEY], f" where neither {ROWS_KEY} nor {CAPTIONS_FILE} pairs the captions")
        texts = _read_texts(archive, CAPTIONS_KEY, n_captions=n_captions)
        targets = _label_targets(archive, n_captions, n_images)
    arrays: dict[str, Tensor] = {"targets": ("I64", targets.shape, [targets])}
    for name, key in ("text", TEXT_KEY), ("images", IMAGE_KEY):
        arrays[name] = "F32", archive.header(key)[0], sound_rows(archive.path, key, _float32(archive.blocks(key)))
    given_split = _given_split(archive, n_images) if SPLIT_KEY in archive.keys else np.empty(0, np.int8)
    arrays["given_split"] = "I8", given_split.shape, [given_split]
    return write_cache(cache, arrays, {"captions": texts, "image_names": names})


def _read_texts(archive: NpzReader, key: str, **axis: int) -> list[str]:
    """An array of text, and nothing in it that no text holds; only the texts themselves are ever held whole."""
    _expect(archive, key, _TEXT, **axis)
    if (width := archive.header(key)[1].itemsize // 4) > LONGEST_TEXT:
        raise archive.error(key, f"has room for {width} characters a text, of which {LONGEST_TEXT} may be: split them.")
    values: list[str] = []
    held = 0
    try:
        for block in archive.blocks(key):
            values += block.tolist()
            held += sum(map(len, values[-len(block) :])) + 8 * len(block)
            if held > WHOLE_LIMIT:
                raise archive.error(key, f"holds over {WHOLE_LIMIT} bytes of text, more than may be: split the file.")
    except SystemError as error:  # what CPython raises for a code point above U+10FFFF
        raise archive.error(key, f"holds characters that do not exist ({error}): export the file again.") from error
    unprintable = [row for row, value in enumerate(values) if UNPRINTABLE.search(value)]
    remedy = "Decode these texts as what they are and export them again."
    refuse_rows(archive.path, key, {"with NUL or half a surrogate pair": unprintable}, remedy)
    return values


def _require_unique(archive: NpzReader, key: str, values: list[Any]) -> None:
    # Not np.unique of texts, which makes each as long as the longest.
    if repeated := sorted(value for value, count in Counter(values).items() if count > 1):
        raise archive.error(key, f"holds {len(repeated)} more than once: {first_five(repeated)}. Make them unique.")


def _given_targets(archive: NpzReader, n_captions: int, n_images: int) -> np.ndarray:
    """(N,) int64 rows of images, of `captions/image`."""
    _expect(archive, ROWS_KEY, _INT64, n_captions=n_captions)
    targets = archive.read(ROWS_KEY).astype(np.int64)
    outside = np.flatnonzero((targets < 0) | (targets >= n_images))
    remedy = f"Each must be a row of {IMAGE_KEY}, from 0 to {n_images - 1}."
    refuse_rows(archive.path, ROWS_KEY, {"outside the images": outside}, remedy)
    return targets


def _given_split(archive: NpzReader, n_images: int) -> np.ndarray:
    """(M,) int8 split of each image, of `images/split`."""
    names = _read_texts(archive, SPLIT_KEY, n_images=n_images)
    unknown = [f"row {row} {name!r}" for row, name in enumerate(names) if name not in SPLIT_NAMES]
    remedy = f"Each must be one of: {', '.join(SPLIT_NAMES)}; or leave the array out."
    refuse_rows(archive.path, SPLIT_KEY, {"of no split that is known": unknown}, remedy)
    return np.array([SPLIT_NAMES[name] for name in names], np.int8)


def _label_targets(archive: NpzReader, n_captions: int, n_images: int) -> np.ndarray:
    """(N,) int64 column of the one nonzero entry in each row of `captions/label`, which is never held whole."""
    _expect(archive, LABEL_KEY, _FLAGS, n_captions=n_captions, n_images=n_images)
    found = [((block != 0).argmax(axis=1), np.count_nonzero(block, axis=1)) for block in archive.blocks(LABEL_KEY)]
    targets, marks = (np.concatenate(parts) for parts in zip(*found, strict=True))
    remedy = f"Each caption describes one image: mark that one only, or supply {CAPTIONS_FILE}."
    refuse_rows(archive.path, LABEL_KEY, {"without exactly one nonzero entry": np.flatnonzero(marks != 1)}, remedy)
    return targets


def _float32(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            yield np.ascontiguousarray(block, np.float32)


def sound_rows(path: Path, key: str, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks of embeddings as they are; after the last, an error where rows were NaN, infinite or zero.

    A row is judged by its squared norm in float32, as later code computes it: values so large or small that it
    overflows or vanishes cannot be normalised either.

    Args:
        path, key: the file and its array, which an error names.
    """
    norms = []
    for block in blocks:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            rows = np.asarray(block, np.float32)
            norms.append(np.einsum("ij,ij->i", rows, rows))
        yield block
    squared = np.concatenate(norms)
    found = {
        "that hold NaN or infinity, or overflow float32": np.flatnonzero(~np.isfinite(squared)),
        "that are zero vectors (norm 0)": np.flatnonzero(squared == 0),
    }
    refuse_rows(path, key, found, "Encode these rows again.")


def refuse_rows(path: Path, key: str, found: Mapping[str, Sequence[int | str] | np.ndarray], remedy: str) -> None:
    """Raise a `DataError` where there are rows of an array, each kind named with its count and the first five."""
    cases = [f"{len(rows)} row(s) {what}: {first_five(rows)}" for what, rows in found.items() if len(rows)]
    if cases:
        raise DataError(f"{path}: '{key}' has {'; '.join(cases)} (rows count from 0). {remedy}")
