"""From a folder of pictures and a file of captions to the data folder that the series reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from helpers.data.captions import lookalike, match_captions
from helpers.data.folder import Blocks, write_data_folder
from helpers.data.importers import read_captions
from helpers.data.pairs import ENCODERS_FILE, TRAIN_FILE, UNPRINTABLE
from helpers.data.picture_files import find_pictures, open_picture
from helpers.encoders.ahead import ahead
from helpers.encoders.images import ImageEncoder, load_image_encoder
from helpers.encoders.presets import PRESETS
from helpers.encoders.shards import Shard, shards_of
from helpers.encoders.text import TextEncoder, load_text_encoder
from helpers.errors import ConfigError, DataError, EncoderError, PictureError, first_five
from helpers.system.bars import encoding_bar
from helpers.system.files import write_json

WORK = ".encoding"
"""In the data folder while it is made: the shards. It goes when all is written."""
LEFT_OUT_FILE = "left_out.json"
COUNTS = ("pictures", "captions", "captions_left_out", "without_caption")
PICTURES_A_SHARD, CAPTIONS_A_SHARD = 512, 2048
"""What a killed call has to do again at most: some seconds of either, and hundreds of files for a million."""
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
    """

    folder: Path
    pictures: int
    captions: int
    left_out: dict[str, str]
    captions_left_out: int
    without_caption: int
    seconds: float
    new: bool

    def report(self) -> str:
        """What a person wants to know, in a few lines."""
        lines = [f"{self.folder}: {self.pictures} pictures and {self.captions} captions ({self.seconds:.0f} s)"]
        if not self.new:
            lines = [f"{self.folder}: done before: {self.pictures} pictures and {self.captions} captions"]
        if self.left_out:
            shown = first_five(f"{name} ({reason})" for name, reason in self.left_out.items())
            lines.append(f"left out: {len(self.left_out)} picture(s), see {LEFT_OUT_FILE}: {shown}")
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
    root, folder = (Path(path).expanduser().absolute() for path in (images, out))
    chosen = _descriptions(preset, text_model, image_model, pooling)
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size = {batch_size}: at least 1 is needed.")
    names = find_pictures(root)
    given = _read(Path(captions).expanduser().absolute(), root, names)
    text = load_text_encoder(chosen["text"], device, precision)
    image = load_image_encoder(chosen["images"], device, precision)
    encoders = {"text": text.describe(), "images": image.describe(), "preset": chosen["preset"]}
    files = [_identity(root, name) for name in names]
    digest = _digest(encoders, files, given)
    with _alone(folder) as work:
        if done := _done(folder, work, digest, overwrite):
            return replace(done, seconds=time.perf_counter() - started)
        how = json.dumps([encoders["images"], batch_size, str(getattr(image, "device", ""))])
        shards = list(shards_of(work, "pictures", how, files, PICTURES_A_SHARD))
        _encode_pictures(root, names, shards, image, batch_size)
        left_out = {names[row]: reason for shard in shards for row, reason in shard.left_out().items()}
        kept = [row for row, name in enumerate(names) if name not in left_out]
        if not kept:
            why = first_five(f"{name} ({reason})" for name, reason in left_out.items())
            raise PictureError(f"{root}: none of the {len(names)} pictures can be encoded: {why}")
        described = np.isin(given.rows, kept)
        texts = [text for text, keep in zip(given.texts, described, strict=True) if keep]
        if not texts:
            raise DataError(f"{captions}: each of its captions describes a picture that cannot be encoded, see above.")
        how = json.dumps([encoders["text"], batch_size, str(getattr(text, "device", ""))])
        text_shards = list(shards_of(work, "captions", how, texts, CAPTIONS_A_SHARD))
        _encode_texts(texts, text_shards, text, batch_size)
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
        )
        _write_left_out(result)
        write_data_folder(
            folder,
            text=Blocks((len(texts), text.dim), np.float32, _vectors(text_shards)),
            images=Blocks((len(kept), image.dim), np.float32, _vectors(shards)),
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


def _identity(root: Path, name: str) -> str:
    """What tells a picture file from another, or from itself once it was changed."""
    try:
        found = (root / name).stat()
    except OSError:  # a link to nothing
        return f"{name}\0gone"
    return f"{name}\0{found.st_size}\0{found.st_mtime_ns}"


def _digest(encoders: Mapping[str, Any], files: Sequence[str], given: _Captions) -> str:
    content = [encoders, list(files), given.texts, given.rows.tolist(), given.split, list(given.missing)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """The folder of the shards, for this process alone; it goes where nothing was raised.

    Raises:
        EncoderError: another process encodes into the folder, or it cannot be written.
    """
    work = folder / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        held = FileLock(work / "lock")
        held.acquire(timeout=0)
    except Timeout:
        raise EncoderError(f"{folder}: another process encodes into it. Wait until it is done.") from None
    except OSError as error:
        raise EncoderError(f"{folder}: cannot be written ({error.strerror}). Give another --out.") from error
    try:
        yield work
    except BaseException:
        held.release()
        with contextlib.suppress(OSError):  # nothing was begun: no empty folder is left behind
            if not any(work.glob("*.safetensors")):
                shutil.rmtree(work)
                folder.rmdir()
        raise
    held.release()
    shutil.rmtree(work, ignore_errors=True)


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
        return Encoded(folder, **counts, left_out=_read_left_out(folder), seconds=0.0, new=False)
    if same or overwrite:
        return None
    raise EncoderError(
        f"{folder}: holds a {TRAIN_FILE} of other pictures, captions or encoders. Give another --out, or --overwrite."
    )


def encode_pictures(root: Path, names: Sequence[str], encoder: ImageEncoder) -> tuple[np.ndarray, dict[str, str]]:
    """Vectors of a folder's pictures in memory, as `encode_folder` makes them.

    Returns:
        (kept, dim) float32 in the order of the names, and why each other picture has none, by its name.
    """
    with _looking(root, names, range(len(names)), encoder, encoder.batch) as (seen, tell):
        vectors, left_out = _encode_next(len(names), seen, encoder, encoder.batch, tell)
    return vectors, {names[row]: reason for row, reason in left_out.items()}


def _encode_pictures(
    root: Path, names: Sequence[str], shards: Sequence[Shard], encoder: ImageEncoder, batch_size: int | None
) -> None:
    """Make the shards that are missing."""
    wanted = [shard for shard in shards if not shard.is_there()]
    rows = [row for shard in wanted for row in range(shard.first, shard.last)]
    size = batch_size or encoder.batch
    with _looking(root, names, rows, encoder, size) as (seen, tell):
        for shard in wanted:
            shard.write(*_encode_next(shard.size, seen, encoder, size, tell))


Seen = Iterator[torch.Tensor | PictureError]
"""What the network sees of one picture after the other, or why it can see none."""


@contextlib.contextmanager
def _looking(
    root: Path, names: Sequence[str], rows: Sequence[int], encoder: ImageEncoder, size: int
) -> Iterator[tuple[Seen, Callable[[int], object]]]:
    """The pictures of some rows, made ready by threads ahead of a network that takes `size`, and what moves a bar."""
    width = 2 * encoder.sees

    def see(row: int) -> torch.Tensor | PictureError:
        path = root / names[row]
        if UNPRINTABLE.search(names[row]):
            return PictureError("its name is not UTF-8")
        try:
            return encoder.prepare(open_picture(path, at_least=width))
        except PictureError as error:
            return PictureError(str(error).removeprefix(f"{path}: "))
        except (ValueError, TypeError, ArithmeticError, MemoryError) as error:
            return PictureError(f"cannot be scaled ({type(error).__name__}: {error})")

    threads = encoder.readers
    with (
        warnings.catch_warnings(),
        encoding_bar("pictures", len(names), len(names) - len(rows)) as bar,
        _memory(size),
    ):
        warnings.filterwarnings("ignore", module="PIL")  # of what is odd in a file; what cannot be read is listed
        yield ahead(see, rows, 2 * size + threads, threads), bar.update


def _encode_next(
    count: int, seen: Seen, encoder: ImageEncoder, size: int, tell: Callable[[int], object]
) -> tuple[np.ndarray, dict[int, str]]:
    """The vectors of the next pictures, and why others have none; the batches depend on these pictures alone."""
    vectors: list[np.ndarray] = [np.zeros((0, encoder.dim), np.float32)]
    left_out: dict[int, str] = {}
    batch: list[torch.Tensor] = []
    items: list[int] = []

    def encode() -> None:
        made = encoder.encode_prepared(batch)
        good = _sound(made)
        left_out.update((items[row], "its vector has no direction") for row in np.flatnonzero(~good).tolist())
        vectors.append(made[good])
        batch.clear()
        items.clear()

    for item in range(count):
        one = next(seen)
        if isinstance(one, PictureError):
            left_out[item] = str(one)
        else:
            batch.append(one)
            items.append(item)
        if len(batch) == size:
            encode()
        tell(1)
    if batch:
        encode()
    return np.concatenate(vectors), left_out


def _encode_texts(texts: Sequence[str], shards: Sequence[Shard], encoder: TextEncoder, batch_size: int | None) -> None:
    """Make the shards that are missing."""
    wanted = [shard for shard in shards if not shard.is_there()]
    done = len(texts) - sum(shard.size for shard in wanted)
    with encoding_bar("captions", len(texts), done) as bar, _memory(batch_size or 256):
        for shard in wanted:
            made = encoder.encode(texts[shard.first : shard.last], batch_size)
            bad = np.flatnonzero(~_sound(made)).tolist()
            shard.write(made, {row: repr(texts[shard.first + row]) for row in bad})
            bar.update(shard.size)


def _sound(vectors: np.ndarray) -> np.ndarray:
    """(N,) whether a vector has a direction."""
    return np.isfinite(vectors).all(1) & vectors.any(1)


@contextlib.contextmanager
def _memory(batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        smaller = max(1, batch_size // 2)
        raise EncoderError(
            f"the device has no memory for {batch_size} at a time. Use --batch-size {smaller}, or --device cpu."
        ) from error


def _vectors(shards: Sequence[Shard]) -> Iterator[np.ndarray]:
    for shard in shards:
        if len(vectors := shard.vectors()):
            yield vectors


def _write_left_out(result: Encoded) -> None:
    path = result.folder / LEFT_OUT_FILE
    if result.left_out:
        write_json(path, {"pictures": result.left_out, "captions": result.captions_left_out})
    else:
        path.unlink(missing_ok=True)


def _read_left_out(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / LEFT_OUT_FILE).read_text(encoding="utf-8"))["pictures"])
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def where_from(root: Path, folder: Path) -> str:
    """The pictures' folder as pictures.json has it: relative where both lie together, so that they move together."""
    root, folder = root.resolve(), folder.resolve()
    if root.is_relative_to(folder.parent):
        return Path(os.path.relpath(root, folder)).as_posix()
    return str(root)
