"""Pictures that were added to a run through the page: one file each, so that picture and vector always agree."""

from __future__ import annotations

import hashlib
import io
import re
import time
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from helpers.data.picture_files import as_rgb, upright
from helpers.errors import CheckpointError, RequestError
from helpers.system.files import read_tensors, reading, write_tensors

if TYPE_CHECKING:
    from PIL import Image

MAX_BYTES = 20 * 2**20
"""Of an uploaded file: more than any phone's photograph."""
MAX_PIXELS = 60_000_000
"""Of an uploaded picture. Decoded it takes 3 bytes a pixel, however small the file is."""
MAX_UPLOADS = 10_000
"""Pictures that can be added to one run; more belong into a data folder, which `helpers.encode` makes."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""No other decoder is let at a stranger's bytes."""
_KEPT_SIDE, _KEPT_QUALITY = 1024, 90
_AT_MOST = f"at most {MAX_PIXELS / 1e6:.0f} are taken."
_SUFFIX = ".upload"  # safetensors, under a name that no run's manifest takes for a result


@dataclass(frozen=True)
class Upload:
    """A picture that was added.

    Attributes:
        name: what its file was called; a label, never a path.
        vector: (dy,) float32, by the run's own image encoder.
        jpeg: the picture, at most 1,024 pixels wide and high.
        digest: SHA-256 of the file that was uploaded.
    """

    name: str
    vector: np.ndarray
    jpeg: bytes
    digest: str


class Uploads:
    """The added pictures of a run, oldest first.

    Args:
        folder: holds one file a picture; made with the first.
        encoder: what tells the image encoder from others. Pictures that another one encoded are left alone.
        width: of its vectors.
    """

    def __init__(self, folder: Path, encoder: str, width: int) -> None:
        self.folder, self.encoder = folder, encoder
        self.items: list[Upload] = []
        for path in sorted(folder.glob(f"[!.]*{_SUFFIX}")):
            try:
                with reading(path, "not a readable upload", "Delete it and add the picture again."):
                    tensors, metadata = read_tensors(path)
                    if metadata["encoder"] != encoder:
                        continue
                    vector, jpeg = tensors["vector"].numpy(), tensors["jpeg"].numpy().tobytes()
                    if vector.shape != (width,) or not np.isfinite(vector).all() or not vector.any():
                        raise ValueError(f"its vector of shape {vector.shape} is none of {width} numbers")
                    self.items.append(Upload(str(metadata["name"]), vector, jpeg, str(metadata["digest"])))
            except CheckpointError as error:
                warnings.warn(str(error), stacklevel=2)

    def __len__(self) -> int:
        return len(self.items)

    def find(self, digest: str) -> int | None:
        """The position of a file that was added before."""
        return next((place for place, item in enumerate(self.items) if item.digest == digest), None)

    def add(self, upload: Upload) -> None:
        """Write one more picture, whole or not at all.

        Raises:
            CheckpointError: it cannot be written.
        """
        # By time, so that the order is kept; and unique where two pages of one run are open.
        path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
        tensors = {
            "vector": torch.from_numpy(upload.vector),
            "jpeg": torch.frombuffer(bytearray(upload.jpeg), dtype=torch.uint8),
        }
        write_tensors(path, tensors, {"name": upload.name, "digest": upload.digest, "encoder": self.encoder})
        self.items.append(upload)


def digest(content: bytes) -> str:
    """SHA-256 (hex) of a file."""
    return hashlib.sha256(content).hexdigest()


def plain_name(name: str) -> str:
    """A file's name as a label: no folders, nothing that cannot be printed, at most 80 characters."""
    base = re.split(r"[/\\]", name)[-1]
    return "".join(character for character in base if character.isprintable()).strip()[:80] or "picture"


def decode(content: bytes, name: str) -> Image.Image:
    """An uploaded file as an RGB picture, upright and on white.

    Raises:
        RequestError: it is empty, too large, no picture, broken, or of a format that is not taken.
    """
    from PIL import Image

    if not content:
        raise RequestError(400, f"{name}: the file is empty.")
    if len(content) > MAX_BYTES:
        raise RequestError(413, f"{name}: {size(len(content))}; at most {size(MAX_BYTES)} are taken.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:  # reads no more than the header
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise RequestError(413, f"{name}: {width * height / 1e6:,.0f} megapixels; {_AT_MOST}")
            picture.load()  # a file that was cut short fails here
            return as_rgb(upright(picture))
    except RequestError:
        raise
    except Image.DecompressionBombError:  # Pillow's own limit, which is above ours
        raise RequestError(413, f"{name}: hundreds of megapixels; {_AT_MOST}") from None
    except Image.UnidentifiedImageError:
        taken = ", ".join(FORMATS).replace("WEBP", "WebP")
        raise RequestError(415, f"{name}: not a picture of a format that is taken ({taken}).") from None
    except Exception as error:
        raise RequestError(422, f"{name}: the picture is damaged ({str(error) or type(error).__name__}).") from None


def as_jpeg(picture: Image.Image) -> bytes:
    """What is kept of an upload: drawn anew, so nothing of the file but its pixels."""
    small = picture.copy()
    small.thumbnail((_KEPT_SIDE, _KEPT_SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_KEPT_QUALITY)
    return stream.getvalue()


def size(n_bytes: int) -> str:
    """`20 MB`."""
    return f"{n_bytes / 2**20:,.0f} MB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:,.0f} KB"
