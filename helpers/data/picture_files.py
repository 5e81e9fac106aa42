"""Picture files: found below a folder, named, and opened as plain RGB whatever they hold.

One rule for links, wherever pictures are encoded, shown or searched: a link is what it leads to, also outside the
folder. Who can put a link there can put the picture itself there, photos often lie on another disk, and a data folder's
`pictures.json` may name any folder anyway. Names are another matter: they come from files that others wrote, and one
that is absolute or holds `..` is refused, see `picture_path`. What a name leads to is only ever decoded as a picture.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from helpers.errors import PictureError, first_five

ENDINGS = frozenset(".avif .bmp .gif .jfif .jpe .jpeg .jpg .png .ppm .pgm .tif .tiff .webp".split())
"""What is taken for a picture, by the end of its name. Anything else in the folder is not looked at."""
PIXEL_LIMIT = 100_000_000
"""Pixels of a decoded picture: 300 MB in memory. A larger JPEG is decoded at a fraction of its size; a larger file of
another kind is refused, as a few kilobytes can hold gigabytes."""
GREY_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N")


def open_picture(path: str | os.PathLike[str], at_least: int | None = None) -> Image.Image:
    """A picture as RGB: turned by its EXIF, transparency on white, 16 bits scaled to 8, the first frame of several.

    Args:
        path: of the file.
        at_least: pixels of the shorter side that are enough. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size
            where that leaves as many, which takes a fraction of the time; None decodes it in full.

    Raises:
        PictureError: the file is missing, empty, no picture, cut off, damaged, or beyond `PIXEL_LIMIT`.
    """
    try:
        with Image.open(path) as opened:
            _draft(opened, at_least)
            if opened.width * opened.height > PIXEL_LIMIT:
                size = f"{opened.width} x {opened.height}"
                raise PictureError(f"{path}: {size} pixels, of which {PIXEL_LIMIT:,} may be decoded. Scale it down.")
            opened.load()
            return as_rgb(upright(opened))
    except PictureError:
        raise
    except FileNotFoundError:
        problem = "no such file"
    except Image.DecompressionBombError:
        problem = f"more pixels than the {PIXEL_LIMIT:,} that may be decoded"
    except UnidentifiedImageError:
        problem = _what_else(Path(path))
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
    except Exception as error:  # decoders of damaged files raise what they meet: none is worth the other pictures
        problem = f"is damaged ({type(error).__name__}: {error})"
    raise PictureError(f"{path}: {problem}")


def as_rgb(picture: Image.Image) -> Image.Image:
    """RGB of any mode: transparency lies on white, and greys of 16 bits or floats are scaled to 8 bits."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode in (*GREY_16_BIT, "I", "F"):
        return _scaled(picture).convert("RGB")
    if picture.has_transparency_data:
        layers = picture.convert("RGBA")
        ground = Image.new("RGBA", layers.size, "white")
        return Image.alpha_composite(ground, layers).convert("RGB")
    return picture.convert("RGB")


def upright(picture: Image.Image) -> Image.Image:
    """A picture as its EXIF turns it; as it is where its EXIF is damaged."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF raises what its parser happens to meet; the picture itself is whole
        return picture


def find_pictures(folder: str | os.PathLike[str]) -> tuple[list[str], dict[str, str]]:
    """The pictures below a folder, at any depth; what is hidden is skipped.

    Links are followed, see above. A linked folder is looked into under its own name, unless its pictures are found
    under another anyway, or it lies around this folder, which would go round in a circle.

    Returns:
        Names, posix paths relative to the folder, sorted; and of each subfolder that cannot be read, why.

    Raises:
        PictureError: there is no such folder, it cannot be read, or there is no picture in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise PictureError(f"{root}: {'is no folder' if root.exists() else 'no such folder'}. Pictures are needed.")
    names: list[str] = []
    unreadable: dict[str, str] = {}
    seen: set[str] = set()  # where each folder is in truth
    around = {str(place) for place in Path(os.path.realpath(root)).parents}
    own, linked = deque([""]), deque[str]()  # folders of their own first, so that none is taken for a link's
    while own or linked:
        at = own.popleft() if own else linked.popleft()
        place = os.path.realpath(root / at)
        if place in seen or place in around:
            continue
        seen.add(place)
        try:
            found = sorted(os.scandir(root / at), key=lambda entry: entry.name)
        except OSError as error:
            unreadable[at] = f"cannot be read ({error.strerror or error})"
            continue
        for entry in found:
            if entry.name.startswith((".", "__MACOSX")):
                continue
            name = f"{at}/{entry.name}" if at else entry.name
            if _is_folder(entry):
                (linked if entry.is_symlink() else own).append(name)
            elif os.path.splitext(entry.name)[1].lower() in ENDINGS:
                names.append(name)
    if "" in unreadable:
        raise PictureError(f"{root}: {unreadable['']}. Give a folder that you can read.")
    if not names:
        also = f" {len(unreadable)} folder(s) in it cannot be read: {first_five(unreadable)}." if unreadable else ""
        raise PictureError(f"{root}: holds no picture ({' '.join(sorted(ENDINGS))}).{also} Give the folder that does.")
    return sorted(names), unreadable


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # what a link leads to may not be looked at: said when it is opened
        return False


def picture_path(folder: str | os.PathLike[str], name: str) -> Path:
    """The file of a picture by its name; the file may be missing, or a link to anywhere.

    Raises:
        PictureError: the name is absolute, goes up, or is none.
    """
    parts, windows = PurePosixPath(name), PureWindowsPath(name)
    plain = not (parts.is_absolute() or windows.drive or windows.root) and ".." not in (*parts.parts, *windows.parts)
    if not plain or "\0" in name or parts == PurePosixPath("."):
        raise PictureError(f"{name!r}: no name of a picture below {folder}. Names are relative, without `..`.")
    return Path(folder, name)


def identity(folder: str | os.PathLike[str], name: str) -> str:
    """What tells a picture file from another, or from itself once it was changed: its name, size and time."""
    try:
        found = os.stat(os.path.join(folder, name))
    except OSError:  # a link to nothing
        return f"{name}\0gone"
    return f"{name}\0{found.st_size}\0{found.st_mtime_ns}"


def _draft(opened: Image.Image, at_least: int | None) -> None:
    """Have a JPEG decoded smaller, where it is far larger than is wanted, or than memory allows."""
    if opened.format != "JPEG":
        return
    if at_least is not None:
        opened.draft(None, (at_least, at_least))  # leaves both sides at least as long
    while (pixels := opened.width * opened.height) > PIXEL_LIMIT:
        opened.draft(None, (opened.width // 2, opened.height // 2))
        if opened.width * opened.height == pixels:  # at 1/8, the smallest
            break


def _scaled(picture: Image.Image) -> Image.Image:
    """Greys of more than 8 bits as 8: 65535 (floats: 1, or where they go beyond, their largest) becomes 255."""
    grey = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    largest = float(grey.max(initial=0.0))
    if picture.mode == "F":
        top = largest if largest > 1 else 1.0
    elif picture.mode == "I":
        top = 255.0 if largest <= 255 else max(largest, 65535.0)
    else:
        top = 65535.0
    return Image.fromarray((grey.clip(0, top) * (255 / top)).round().astype(np.uint8))


def _what_else(path: Path) -> str:
    """Why Pillow finds no picture in a file."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return f"is no picture that Pillow knows (it starts with {start!r})" if start else "is empty (0 bytes)"
