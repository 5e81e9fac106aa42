"""From a folder of pictures and a file of captions to the data folder that the series reads.

What is to be encoded, what has been left out and what is recorded; `encoding` does the encoding.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.data.captions import lookalike, match_captions
from helpers.data.folder import Blocks, write_data_folder
from helpers.data.importers import read_captions
from helpers.data.pairs import ENCODERS_FILE, TRAIN_FILE
from helpers.data.picture_files import find_pictures, identity
from helpers.encoders.encoding import caption_shards, picture_shards
from helpers.encoders.images import load_image_encoder
from helpers.encoders.presets import PRESETS
from helpers.encoders.shards import vectors_of, working_folder
from helpers.encoders.text import load_text_encoder
from helpers.errors import ConfigError, DataError, EncoderError, PictureError, first_five
from helpers.system.files import write_json
from helpers.system.paths import absolute

LEFT_OUT_FILE = "left_out.json"
COUNTS = ("pictures", "captions", "captions_left_out", "without_caption")
ENCODED = "encoded"
"""In encoders.json: a digest of the pictures, captions and encoders, by which the same call finds its work done."""


@dataclass(frozen=True)
class Encoded:
    """What became of a folder of pictures.

    Attributes:
        folder: the data folder. pictures, captions: in it.
        left_out: why a picture is not in it, by name; one that a caption names and the folder lacks is missing.
        captions_left_out: captions of such pictures.
        without_caption: pictures in it that no caption describes; they are in the gallery alone.
        seconds: that this call took. new: False where an earlier call had done it all.
        unreadable: why a subfolder could not be looked into, by name; nobody knows what pictures it holds.
    """

    folder: Path
    pictures: int
    captions: int
    left_out: dict[str, str]
    captions_left_out: int
    without_caption: int
    seconds: float
    new: bool
    unreadable: dict[str, str] = field(default_factory=dict)

    def report(self) -> str:
        """What a person wants to know, in a few lines."""
        lines = [f"{self.folder}: {self.pictures} pictures and {self.captions} captions ({self.seconds:.0f} s)"]
        if not self.new:
            lines = [f"{self.folder}: done before: {self.pictures} pictures and {self.captions} captions"]
        if self.left_out:
            lines.append(f"left out: {len(self.left_out)} picture(s), see {LEFT_OUT_FILE}: {_reasons(self.left_out)}")
        if self.unreadable:
            found = _reasons(self.unreadable)
            lines.append(f"not looked into: {len(self.unreadable)} folder(s), see {LEFT_OUT_FILE}: {found}")
        if self.captions_left_out:
            lines.append(f"left out with them: {self.captions_left_out} caption(s)")
        if self.without_caption:
            lines.append(f"{self.without_caption} picture(s) have no caption: they can be found, and train nothing")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Captions:
    """Captions of pictures that are there.

    Attributes:
        texts: N. rows: (N,) of the picture that each describes. split: of each picture, or None.
        missing: why of each picture that captions name and the folder lacks. lost: how many captions do.
    """

    texts: list[str]
    rows: np.ndarray
    split: list[str] | None
    missing: dict[str, str]
    lost: int


def encode_folder(
    images: str | Path,
    captions: str | Path,
    out: str | Path,
    preset: str = "small",
    *,
    text_model: str | None = None,
    image_model: str | None = None,
    pooling: str | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    precision: str | None = None,
    overwrite: bool = False,
) -> Encoded:
    """Encode pictures and captions into a data folder. Killed at any time, the same call goes on and ends the same.

    Args:
        images: folder of pictures, at any depth. captions: file that `read_captions` reads.
        out: the data folder, made where it is missing.
        preset: one of `PRESETS`, for what the next two leave open.
        text_model: of sentence-transformers, a name or a folder. image_model: of transformers, a name or a folder;
            `timm:NAME` is one of timm, and `efficientnet-lite0` that of the wheels.
        pooling: of the image model, see `POOLINGS`; its own where None.
        device, precision: see `load_image_encoder`. batch_size: pictures, and captions, at a time; else the device's.
        overwrite: whether `out` may hold another encoding, which goes when this one is written.

    Raises:
        UserError: anything that the caller can mend, in one line; what is encoded so far is kept.
    """
    started = time.perf_counter()
    root, folder = (absolute(path) for path in (images, out))
    chosen = _descriptions(preset, text_model, image_model, pooling)
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size = {batch_size}: at least 1 is needed.")
    names, unreadable = find_pictures(root)
    given = _read(absolute(captions), root, names)
    text = load_text_encoder(chosen["text"], device, precision)
    image = load_image_encoder(chosen["images"], device, precision)
    encoders = {"text": text.describe(), "images": image.describe(), "preset": chosen["preset"]}
    files = [identity(root, name) for name in names]
    digest = _digest(encoders, files, given, unreadable)
    with working_folder(folder) as work:
        if done := _done(folder, work, digest, overwrite):
            return replace(done, seconds=time.perf_counter() - started)
        shards = picture_shards(work, root, names, files, image, batch_size)
        left_out = {names[row]: reason for shard in shards for row, reason in shard.left_out().items()}
        kept = [row for row, name in enumerate(names) if name not in left_out]
        if not kept:
            raise PictureError(f"{root}: none of the {len(names)} pictures can be encoded: {_reasons(left_out)}")
        described = np.isin(given.rows, kept)
        texts = [text for text, keep in zip(given.texts, described, strict=True) if keep]
        if not texts:
            raise DataError(f"{captions}: each of its captions describes a picture that cannot be encoded, see above.")
        text_shards = caption_shards(work, texts, text, batch_size)
        lost = [reason for shard in text_shards for reason in shard.left_out().values()]
        if lost:
            raise EncoderError(f"{captions}: {len(lost)} caption(s) have no vector: {first_five(lost)}")
        rows = np.searchsorted(kept, given.rows[described])
        result = Encoded(
            folder=folder,
            pictures=len(kept),
            captions=len(texts),
            left_out=left_out | given.missing,
            captions_left_out=given.lost + int((~described).sum()),
            without_caption=len(kept) - len(np.unique(rows)),
            seconds=0.0,
            new=True,
            unreadable=unreadable,
        )
        _write_left_out(result)
        write_data_folder(
            folder,
            text=Blocks((len(texts), text.dim), np.float32, vectors_of(text_shards)),
            images=Blocks((len(kept), image.dim), np.float32, vectors_of(shards)),
            caption_image=rows,
            captions=texts,
            names=[names[row] for row in kept],
            split=None if given.split is None else [given.split[row] for row in kept],
            encoders=encoders | {ENCODED: {"digest": digest} | {name: getattr(result, name) for name in COUNTS}},
            pictures={"folder": where_from(root, folder)},
        )
    return replace(result, seconds=time.perf_counter() - started)


def _descriptions(preset: str, text_model: str | None, image_model: str | None, pooling: str | None) -> dict[str, Any]:
    """The encoders that are asked for, and the preset, where both are its own."""
    if preset not in PRESETS:
        raise ConfigError(f"preset = {preset!r}: {', '.join(PRESETS)} are known.")
    text, images = dict(PRESETS[preset]["text"]), dict(PRESETS[preset]["images"])
    if text_model is not None:
        text = {"kind": "sentence-transformers", "model": text_model}
    if image_model is not None:
        kind, _, name = (
            image_model.partition(":") if image_model.startswith("timm:") else ("transformers", "", image_model)
        )
        images = {"kind": "efficientnet-lite" if name == "efficientnet-lite0" else kind, "model": name}
    if pooling is not None:
        images["pooling"] = pooling
    own = text_model is None and image_model is None and pooling in (None, PRESETS[preset]["images"].get("pooling"))
    return {"text": text, "images": images, "preset": preset if own else None}


def _read(path: Path, root: Path, names: Sequence[str]) -> _Captions:
    """The captions whose picture is there, in the order of the file."""
    given = read_captions(path)
    known = {shorten(name) for name in names for shorten in (str, _base, _stem)}
    there = np.array([not known.isdisjoint((name, _base(name), _stem(name))) for name in given.images])
    present = [name for name, is_there in zip(given.images, there, strict=True) if is_there]
    # Where no name fits, all of them are matched, for the error that says what is wrong with them.
    rows = np.full(len(there), -1)
    rows[there | ~there.any()] = match_captions(present or given.images, names, str(path), str(root))
    kept = np.flatnonzero(there[given.image])
    split = None
    if given.split is not None:
        split = ["train"] * len(names)  # of a picture that the file does not name, which trains nothing
        for row, part in zip(rows.tolist(), given.split, strict=True):
            if row >= 0:
                split[row] = part
    absent = sorted(name for name, is_there in zip(given.images, there, strict=True) if not is_there)
    missing = {name: " ".join(["missing", lookalike([name], names, str(root))]).rstrip() for name in absent}
    texts = [given.texts[row] for row in kept]
    return _Captions(texts, rows[given.image[kept]], split, missing, len(given.texts) - len(texts))


def _base(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _stem(name: str) -> str:
    base = _base(name)
    return base.rpartition(".")[0] or base


def _reasons(left_out: Mapping[str, str]) -> str:
    return first_five(f"{name} ({reason})" for name, reason in left_out.items())


def _digest(encoders: Mapping[str, Any], files: Sequence[str], given: _Captions, unreadable: Mapping[str, str]) -> str:
    content = [encoders, list(files), given.texts, given.rows.tolist(), given.split, list(given.missing)]
    if unreadable:
        content.append(list(unreadable))
    total = hashlib.sha256()
    for part in json.JSONEncoder(sort_keys=True).iterencode(content):  # `dumps` would hold it all at once
        total.update(part.encode())
    return total.hexdigest()


def _done(folder: Path, work: Path, digest: str, overwrite: bool) -> Encoded | None:
    """What an earlier call has made of the same, or None where there is work to do.

    Raises:
        EncoderError: the folder holds other data, and may not be overwritten.
    """
    if not (folder / TRAIN_FILE).exists():
        return None
    try:
        recorded = json.loads((folder / ENCODERS_FILE).read_text(encoding="utf-8"))[ENCODED]
        counts = {name: int(recorded[name]) for name in COUNTS}
        same = recorded["digest"] == digest
    except (OSError, ValueError, LookupError, TypeError):
        same = False
    if same and not any(work.glob("*.safetensors")):  # else it was killed after the last shard
        left_out, unreadable = _read_left_out(folder)
        return Encoded(folder, **counts, left_out=left_out, seconds=0.0, new=False, unreadable=unreadable)
    if same or overwrite:
        return None
    raise EncoderError(
        f"{folder}: holds a {TRAIN_FILE} of other pictures, captions or encoders. Give another --out, or --overwrite."
    )


def _write_left_out(result: Encoded) -> None:
    path = result.folder / LEFT_OUT_FILE
    if result.left_out or result.unreadable:
        folders = {"folders": result.unreadable} if result.unreadable else {}
        write_json(path, {"pictures": result.left_out, "captions": result.captions_left_out} | folders)
    else:
        path.unlink(missing_ok=True)


def _read_left_out(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Pictures and folders, each with the reason."""
    try:
        written = json.loads((folder / LEFT_OUT_FILE).read_text(encoding="utf-8"))
        return dict(written["pictures"]), dict(written.get("folders", {}))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}, {}


def where_from(root: Path, folder: Path) -> str:
    """The pictures' folder as pictures.json has it: relative where both lie together, so that they move together."""
    root, folder = root.resolve(), folder.resolve()
    if root.is_relative_to(folder.parent):
        return Path(os.path.relpath(root, folder)).as_posix()
    return str(root)
