"""Pictures and captions through the networks, batch by batch: into shards on disk, or a folder's into memory.

Threads open the pictures ahead of the network. Only shards that are missing are made, and the batches of a shard depend
on its items alone, so a killed call goes on and ends with the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from helpers.data.pairs import UNPRINTABLE
from helpers.data.picture_files import open_picture, picture_path
from helpers.encoders.ahead import ahead
from helpers.encoders.images import ImageEncoder
from helpers.encoders.shards import Shard, shards_of
from helpers.encoders.text import TextEncoder
from helpers.errors import EncoderError, PictureError
from helpers.system.bars import encoding_bar

PICTURES_A_SHARD, CAPTIONS_A_SHARD = 512, 2048
"""What a killed call has to do again at most: some seconds of either, and hundreds of files for a million."""


def encode_pictures(root: Path, names: Sequence[str], encoder: ImageEncoder) -> tuple[np.ndarray, dict[str, str]]:
    """Vectors of a folder's pictures in memory, as `encode_folder` makes them.

    Returns:
        (kept, dim) float32 in the order of the names, and why each other picture has none, by its name.
    """
    with _looking(root, names, range(len(names)), encoder, encoder.batch) as (seen, tell):
        vectors, left_out = _encode_next(len(names), seen, encoder, encoder.batch, tell)
    return vectors, {names[row]: reason for row, reason in left_out.items()}


def picture_shards(
    work: Path,
    root: Path,
    names: Sequence[str],
    items: Sequence[str],
    encoder: ImageEncoder,
    batch_size: int | None = None,
) -> list[Shard]:
    """Shards of a folder's pictures; those that are missing are made.

    Args:
        work: folder of the shards. root: of the pictures.
        names: M, as `find_pictures` has them. items: M, the `identity` of each.
        batch_size: pictures at a time; the encoder's own where None.

    Raises:
        EncoderError: a shard cannot be written, or the device has no memory for the batch.
    """
    shards = list(shards_of(work, "pictures", _made_by(encoder, batch_size), items, PICTURES_A_SHARD))
    wanted = [shard for shard in shards if not shard.is_there()]
    rows = [row for shard in wanted for row in range(shard.first, shard.last)]
    size = batch_size or encoder.batch
    with _looking(root, names, rows, encoder, size) as (seen, tell):
        for shard in wanted:
            shard.write(*_encode_next(shard.size, seen, encoder, size, tell))
    return shards


def caption_shards(
    work: Path, texts: Sequence[str], encoder: TextEncoder, batch_size: int | None = None
) -> list[Shard]:
    """Shards of captions; those that are missing are made.

    Args:
        work: folder of the shards. texts: N. batch_size: captions at a time; the encoder's own where None.

    Raises:
        EncoderError: as `picture_shards`.
    """
    shards = list(shards_of(work, "captions", _made_by(encoder, batch_size), texts, CAPTIONS_A_SHARD))
    wanted = [shard for shard in shards if not shard.is_there()]
    done = len(texts) - sum(shard.size for shard in wanted)
    with encoding_bar("captions", len(texts), done) as bar, _memory(batch_size or 256):
        for shard in wanted:
            made = encoder.encode(texts[shard.first : shard.last], batch_size)
            bad = np.flatnonzero(~_sound(made)).tolist()
            shard.write(made, {row: repr(texts[shard.first + row]) for row in bad})
            bar.update(shard.size)
    return shards


def _made_by(encoder: ImageEncoder | TextEncoder, batch_size: int | None) -> str:
    """All that vectors depend on but the items."""
    return json.dumps([encoder.describe(), batch_size, str(getattr(encoder, "device", ""))])


Seen = Iterator[torch.Tensor | PictureError]
"""What the network sees of one picture after the other, or why it can see none."""


@contextlib.contextmanager
def _looking(
    root: Path, names: Sequence[str], rows: Sequence[int], encoder: ImageEncoder, size: int
) -> Iterator[tuple[Seen, Callable[[int], object]]]:
    """The pictures of some rows, made ready by threads ahead of a network that takes `size`, and what moves a bar."""
    width = 2 * encoder.sees

    def see(row: int) -> torch.Tensor | PictureError:
        name = names[row]
        if UNPRINTABLE.search(name):
            return PictureError("its name is not UTF-8")
        try:
            return encoder.prepare(open_picture(picture_path(root, name), at_least=width))
        except PictureError as error:
            return PictureError(str(error).removeprefix(f"{root / name}: "))
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
