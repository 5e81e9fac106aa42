"""Paired embeddings of captions and images: loaded, checked, matched, and cached as memory maps.

Everything cheap is checked first (names, shapes, widths, caption lines); the vectors are then checked while they
stream, block by block, from the npz into the cache. data/README.md gives the formats to the byte.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.data import fields
from helpers.data.captions import match_captions, parse_captions, read_bytes
from helpers.data.fields import CAPTIONS_KEY, IDS_KEY, IMAGE_KEY, LABEL_KEY, NAMES_KEY, TEXT_KEY
from helpers.data.npz import NpzReader
from helpers.errors import DataError, first_five
from helpers.system import paths

__all__ = [
    "DataError",
    "PairedEmbeddings",
    "QueryEmbeddings",
    "load_paired",
    "load_queries",
    "match_captions",
    "parse_captions",
]

TRAIN_FILE = "train.npz"
CAPTIONS_FILE = "captions.txt"
QUERY_FILE = "test.clean.npz"
LEFTOVER_AGE = 86400.0
"""Seconds after which a half-written cache cannot be another process at work."""
CACHE_VERSION = 1
"""Part of every cache's key: raise it when the content or layout of a cache changes."""


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
    """

    text: np.ndarray
    images: np.ndarray
    targets: np.ndarray
    captions: list[str]
    image_names: list[str]
    fingerprint: str

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


def load_paired(
    data_dir: str | Path, *, text_dim: int = 1024, image_dim: int = 1536, cache_dir: str | Path | None = None
) -> PairedEmbeddings:
    """Load `train.npz` and `captions.txt` of a folder, or their cache where they were loaded before.

    Where `captions.txt` is missing, pairs come from `captions/label` (one-hot rows) and texts from `captions/text`.

    Args:
        data_dir: folder with the two files.
        text_dim, image_dim: widths that the embeddings must have.
        cache_dir: folder of the caches; `paths.cache_dir()` where None.

    Raises:
        DataError: a file is missing or damaged, or its content is not what data/README.md describes.
    """
    folder = Path(data_dir).expanduser().absolute()
    captions_path = folder / CAPTIONS_FILE
    caches = Path(cache_dir or paths.cache_dir()).expanduser().absolute()
    with NpzReader(folder / TRAIN_FILE) as archive:
        captions_digest = hashlib.sha256(read_bytes(captions_path)).hexdigest() if captions_path.exists() else None
        cache = caches / _cache_key(archive, captions_path, captions_digest)
        if not cache.is_dir():
            _build_cache(cache, archive, captions_path, text_dim, image_dim)
        data = _read_cache(cache, fingerprint=_digest(archive.directory(), captions_digest))
        fields.check_width(archive, TEXT_KEY, data.text_dim, text_dim)
        fields.check_width(archive, IMAGE_KEY, data.image_dim, image_dim)
    return data


def load_queries(path: str | Path, *, text_dim: int = 1024) -> QueryEmbeddings:
    """Load captions without images, such as the challenge's `test.clean.npz`, into memory.

    Args:
        path: npz with `captions/ids` and `captions/embeddings`, and optionally `captions/text`.
        text_dim: width that the embeddings must have.

    Raises:
        DataError: the file is missing or damaged, or its content is not what data/README.md describes.
    """
    with NpzReader(path) as archive:
        archive.require([IDS_KEY, TEXT_KEY])
        n_queries = fields.check_embeddings(archive, TEXT_KEY, text_dim)
        archive.check_size(TEXT_KEY)
        ids = fields.read_ids(archive, n_queries)
        captions = [""] * n_queries
        if CAPTIONS_KEY in archive:
            captions = fields.read_strings(archive, CAPTIONS_KEY, n_queries, TEXT_KEY)
        text = np.empty((n_queries, text_dim), np.float32)
        fields.copy_vectors(archive, TEXT_KEY, text)
    return QueryEmbeddings(ids, text, captions)


def _build_cache(cache: Path, archive: NpzReader, captions_path: Path, text_dim: int, image_dim: int) -> None:
    """Check the inputs, cheap checks first, and write their cache.

    The cache is written beside its place and moved there when it is complete, so that neither a failure nor a second
    process ever shows a half-written one.
    """
    archive.require([TEXT_KEY, IMAGE_KEY, NAMES_KEY])
    n_captions = fields.check_embeddings(archive, TEXT_KEY, text_dim)
    n_images = fields.check_embeddings(archive, IMAGE_KEY, image_dim)
    for key in (IDS_KEY, CAPTIONS_KEY):
        if key in archive:
            fields.check_length(archive, key, n_captions, TEXT_KEY)
    names = fields.read_image_names(archive, n_images)
    targets, captions = _pairs(archive, captions_path, n_captions, names)
    cache.parent.mkdir(parents=True, exist_ok=True)
    _check_space(cache.parent, 4 * (n_captions * text_dim + n_images * image_dim))
    for leftover in cache.parent.glob(f".{cache.name}.*"):
        if time.time() - leftover.stat().st_mtime > LEFTOVER_AGE:  # of a process killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)
    temporary = cache.with_name(f".{cache.name}.{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        np.save(temporary / "targets.npy", targets)
        (temporary / "captions.json").write_text(json.dumps(captions), encoding="ascii")
        (temporary / "image_names.json").write_text(json.dumps(names), encoding="ascii")
        _write_vectors(temporary / "text.npy", archive, TEXT_KEY)
        _write_vectors(temporary / "images.npy", archive, IMAGE_KEY)
        _publish(temporary, cache)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _pairs(archive: NpzReader, captions_path: Path, n_captions: int, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """The (N,) int64 targets and the N texts, from captions.txt or, where that is missing, from the archive."""
    if captions_path.exists():
        rows = parse_captions(captions_path)
        if len(rows) != n_captions:
            raise DataError(
                f"{captions_path}: holds {len(rows)} captions but '{TEXT_KEY}' of {archive.path} has {n_captions} "
                "rows. One line a row, in the same order, is needed."
            )
        texts = [text for _, text in rows]
        if CAPTIONS_KEY in archive and archive.header(CAPTIONS_KEY).dtype.kind == "U":
            stored = fields.read_strings(archive, CAPTIONS_KEY, n_captions, TEXT_KEY)
            _require_same_order(captions_path, texts, stored)
        return match_captions([key for key, _ in rows], names, str(captions_path)), texts
    missing = [key for key in (LABEL_KEY, CAPTIONS_KEY) if key not in archive]
    if missing:
        raise DataError(
            f"{captions_path}: no such file, and {archive.path} lacks {' and '.join(missing)}, so captions cannot be "
            f"paired with images. Put {CAPTIONS_FILE} beside {TRAIN_FILE}; data/README.md describes it."
        )
    captions = fields.read_strings(archive, CAPTIONS_KEY, n_captions, TEXT_KEY)
    return fields.read_label_targets(archive, n_captions, len(names)), captions


def _require_same_order(captions_path: Path, texts: list[str], stored: list[str]) -> None:
    """Raise where captions.txt and the archive hold the same texts in different orders: one is not that of the rows.

    Texts that differ otherwise (cleaned, cut) are no sign of that.
    """
    moved = [row for row, (text, other) in enumerate(zip(texts, stored, strict=True)) if text.strip() != other.strip()]
    if moved and sorted(text.strip() for text in texts) == sorted(text.strip() for text in stored):
        raise DataError(
            f"{captions_path}: {len(moved)} of {len(texts)} captions stand in another row than in '{CAPTIONS_KEY}' of "
            f"the npz: {first_five(moved)} (rows count from 0). Put its lines in the order of '{TEXT_KEY}'."
        )


def _check_space(folder: Path, n_bytes: int) -> None:
    """A full disk kills the process at a write to a memory map (SIGBUS), without a word: ask beforehand."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise DataError(
            f"{folder}: the cache needs {n_bytes / 1e6:.0f} MB and the disk has {free / 1e6:.0f} MB left. "
            "Free some space, or set HELPERS_RUNS_DIR to a folder on another disk."
        )


def _write_vectors(path: Path, archive: NpzReader, key: str) -> None:
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=archive.header(key).shape)
    _reserve(path)
    fields.copy_vectors(archive, key, out)
    out.flush()


def _reserve(path: Path) -> None:
    """Take the disk blocks of a sparse file now, where the system can: a quota shows only here.

    Raises:
        DataError: there is no room for them.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    size = path.stat().st_size
    try:
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{path.parent.parent}: no room for {size / 1e6:.0f} MB of the cache ({error.strerror}). Free some "
                "space, or set HELPERS_RUNS_DIR to a folder on another disk."
            ) from error
        # Some file systems cannot reserve; writing there goes on as before.


def _publish(temporary: Path, cache: Path) -> None:
    try:
        os.replace(temporary, cache)
    except OSError:
        if not cache.is_dir():
            raise
        # Another process was faster; its cache has the same key and therefore the same content.


def _read_cache(cache: Path, fingerprint: str) -> PairedEmbeddings:
    def array(name: str) -> np.ndarray:
        return np.load(cache / name, mmap_mode="r", allow_pickle=False)

    def strings(name: str) -> list[str]:
        return json.loads((cache / name).read_text(encoding="ascii"))

    try:
        return PairedEmbeddings(
            text=array("text.npy"),
            images=array("images.npy"),
            targets=array("targets.npy"),
            captions=strings("captions.json"),
            image_names=strings("image_names.json"),
            fingerprint=fingerprint,
        )
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{cache}: this cache is damaged ({error}). Delete the folder; the next load makes it again."
        ) from error


def _cache_key(archive: NpzReader, captions_path: Path, captions_digest: str | None) -> str:
    """Name of the cache: stands for size, time and content of both files, at the cost of reading the small one.

    The zip's directory carries the CRC-32 of each array, so it changes with the content without being decompressed.
    """
    paths = [archive.path] + ([captions_path] if captions_digest else [])
    stats = [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return _digest(CACHE_VERSION, stats, archive.directory(), captions_digest)[:32]


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()
