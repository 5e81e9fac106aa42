"""An index of pictures on the disk: whole or not at all, and checked when it is read.

A folder with `index.json` (what it is, and a SHA-256 of each file), vectors and texts in the layout of safetensors, and
for an approximate kind a file of faiss.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

import numpy as np

from helpers.data.cache import Tensor, read_cache, write_cache
from helpers.data.vectors import GALLERY_BLOCK
from helpers.errors import CheckpointError, DataError
from helpers.serving.candidates import Candidates
from helpers.system.files import LEFTOVER_AGE, atomic_write, read_json, reading, write_json

Kind = Literal["flat", "hnsw", "ivfpq", "int8", "binary"]
FORMAT = 1
"""Of a saved index: raise it when what the files hold changes."""
INDEX_FILE = "index.json"
UNIT = 1e-3
"""How far from 1 the length of a stored vector may be; float32 rounds by a thousandth of that."""
_FIELDS: dict[str, tuple[type, ...]] = {
    "kind": (str,),
    "model": (str,),
    "weights": (str, type(None)),
    "text_dim": (int,),
    "image_dim": (int,),
    "hubness": (bool,),
    "built": (int,),
    "pictures": (dict, type(None)),
    "made_of": (dict,),
    "run": (str, type(None)),
    "files": (dict,),
}
"""What `index.json` holds beside the format."""
REBUILD = "Delete the folder and build the index again."


@dataclass
class Parts:
    """What an index is made of.

    Attributes:
        about: the rest of `index.json`; `run` in it is an absolute path, or None.
        names: of the M pictures. captions: one of each, or none.
        vectors: (M, dy) float32 of unit length. popularity: (M,) float32.
        bank: texts of the run's query bank, or none.
        candidates: None for the kind `flat`.
    """

    about: dict[str, Any]
    names: list[str]
    vectors: np.ndarray
    popularity: np.ndarray
    captions: list[str]
    bank: list[str]
    candidates: Candidates | None


def read(folder: Path) -> Parts:
    """The index of a folder, its vectors mapped into memory.

    A file of faiss is read by native code, see `Candidates.load`.

    Raises:
        CheckpointError: missing, damaged, or of another version of this package.
    """
    path = folder / INDEX_FILE
    with reading(path, "not a readable index of pictures", REBUILD):
        about = read_json(path)
        version = about["format"]
    if version != FORMAT:
        raise CheckpointError(f"{path}: format {version!r}, but this version reads {FORMAT}. {REBUILD}")
    with reading(path, "not a readable index of pictures", REBUILD):
        for key, kinds in _FIELDS.items():
            if not isinstance(about[key], kinds):
                raise ValueError(f"{key} is {about[key]!r}")
        files = {part: _checked_file(folder, file) for part, file in about.pop("files").items()}
        kind, built, width = about["kind"], about["built"], about["image_dim"]
        stored = read_cache(files["vectors"], ("vectors", "popularity", "names", "captions", "bank"))
        if stored is None:
            raise ValueError(f"{files['vectors'].name} is not what this package writes")
        vectors, popularity, names = stored["vectors"], stored["popularity"], stored["names"]
        n = len(names)
        if kind not in get_args(Kind) or vectors.shape != (n, width) or popularity.shape != (n,):
            raise ValueError("its parts do not fit one another")
        if not 0 < built <= n or len(stored["captions"]) not in (0, n) or len(set(names)) != n:
            raise ValueError("its names do not fit its vectors")
        if not np.isfinite(popularity).all():
            raise ValueError("a popularity is not finite")
        for left in range(0, n, GALLERY_BLOCK):
            lengths = np.linalg.norm(vectors[left : left + GALLERY_BLOCK], axis=1)
            if not (abs(lengths - 1) < UNIT).all():
                raise ValueError(f"a vector among rows {left} to {left + len(lengths)} is not of unit length")
        candidates = None if kind == "flat" else Candidates.load(kind, files["candidates"], n, width + 1)
    if about["run"] is not None:
        about["run"] = str((folder / about["run"]).resolve())
    return Parts(about, names, vectors, popularity, stored["captions"], stored["bank"], candidates)


def write(folder: Path, parts: Parts) -> None:
    """Write an index to a folder: readers see what was there before, or all of this.

    Raises:
        CheckpointError: it cannot be written; what was there before is intact.
    """
    names, run = {"vectors": f"{uuid.uuid4().hex}.safetensors"}, parts.about["run"]
    arrays: dict[str, Tensor] = {
        "vectors": ("F32", parts.vectors.shape, _blocks(parts.vectors)),
        "popularity": ("F32", parts.popularity.shape, [np.ascontiguousarray(parts.popularity)]),
    }
    texts = {"names": parts.names, "captions": parts.captions, "bank": parts.bank}
    try:
        write_cache(folder / names["vectors"], arrays, texts)
        if parts.candidates is not None:
            names["candidates"] = f"{uuid.uuid4().hex}.faiss"
            atomic_write(folder / names["candidates"], parts.candidates.write)
        files = {part: _described(folder / name) for part, name in names.items()}
        before = named_files(folder)  # only now: another process may have replaced the index while this one wrote
        about = {**parts.about, "run": None if run is None else _seen_from(folder, run), "files": files}
        write_json(folder / INDEX_FILE, about)
    except (OSError, DataError) as error:
        for name in names.values():
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        raise CheckpointError(f"{folder}: the index cannot be written ({error}).") from error
    _remove(folder, before - set(names.values()), set(names.values()))


def named_files(folder: Path) -> set[str]:
    """The files that a saved index names; none where there is no index, or no readable one."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError):
        return {str(file["name"]) for file in read_json(folder / INDEX_FILE)["files"].values()}
    return set()


def _seen_from(folder: Path, run: str) -> str:
    """Where a run is, seen from the folder of its index, so that both can be moved together."""
    try:
        return PurePath(os.path.relpath(run, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return run


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    for left in range(0, len(vectors), GALLERY_BLOCK):
        yield np.ascontiguousarray(vectors[left : left + GALLERY_BLOCK])


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}


def _checked_file(folder: Path, described: Mapping[str, Any]) -> Path:
    """A file of the index, which must be the one that was written: faiss trusts what it reads."""
    name = described["name"]
    if PurePath(name).name != name or name.startswith("."):
        raise ValueError(f"{name!r} is no name of a file of its own")
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{name} is not there")
    if _described(path) != dict(described):
        raise ValueError(f"{name} is not the file that was written: {path.stat().st_size} bytes")
    return path


def _remove(folder: Path, replaced: set[str], kept: set[str]) -> None:
    """Files of the index that was replaced, and what a process that was killed left."""
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.faiss")):
        with contextlib.suppress(OSError):  # Windows keeps what another process has open
            old = time.time() - path.stat().st_mtime > LEFTOVER_AGE
            if path.name not in kept and (path.name in replaced or old):
                path.unlink()
