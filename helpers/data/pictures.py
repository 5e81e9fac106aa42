"""The pictures behind image vectors: a folder of files, or one sprite that holds them all as tiles.

A data folder says where they are in `pictures.json`: `{"folder": "photos"}`, whose files bear the names in
`images/names`, or `{"sprite": "sprite.webp", "size": 64, "columns": 44}`, whose tile r (counted by rows) is image r.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from helpers.data.pairs import PICTURES_FILE
from helpers.data.picture_files import PIXEL_LIMIT, open_picture, picture_path
from helpers.errors import ConfigError, DataError, first_five
from helpers.system.paths import absolute, expanded

_FORMS = '{"folder": "photos"} or {"sprite": "sprite.webp", "size": 64, "columns": 44}'
JPEG_QUALITY = 85  # of thumbnails; PIL's own 75 shows blocks around edges


class Pictures:
    """The picture of each image row, from a folder or a sprite. `Pictures.of` reads where they are.

    Attributes:
        names: of the images, as `images/names` has them.
        location: what `pictures.json` says, its path absolute: enough to open the same pictures from elsewhere.
    """

    def __init__(self, location: Mapping[str, Any], names: Sequence[str], base: str | Path = ".") -> None:
        """Check where the pictures are. `base` is the folder that a relative path starts from.

        Raises:
            DataError: the location is of neither form, what it names is not there, or the sprite does not hold them.
        """
        self.names = list(names)
        found = _checked(location, absolute(base))
        self._path: Path = found["path"]
        if found["kind"] == "folder":
            self._size = self._columns = 0
            self.location: dict[str, Any] = {"folder": str(self._path)}
        else:
            self._size, self._columns = found["size"], found["columns"]
            self.location = {"sprite": str(self._path), "size": self._size, "columns": self._columns}
            self._check_sprite()

    @classmethod
    def of(cls, data_dir: str | Path, names: Sequence[str]) -> Pictures | None:
        """The pictures of a data folder; None where it has no `pictures.json`.

        Raises:
            DataError: as for `Pictures`; or the file is no JSON.
        """
        path = absolute(data_dir) / PICTURES_FILE
        try:
            location = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                f"{path}: not readable as JSON ({error}). It says where the pictures are: {_FORMS}."
            ) from error
        try:
            return cls(location, names, path.parent)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def __len__(self) -> int:
        return len(self.names)

    @property
    def media_type(self) -> str:
        """Of thumbnails: tiles are drawings, which JPEG would smear, and files mostly photos, which PNG would bloat."""
        return "image/png" if self._size else "image/jpeg"

    def image(self, row: int) -> Image.Image:
        """The picture of an image row, as RGB: turned as its EXIF says, on white where it is transparent.

        Raises:
            DataError: its name is none of a picture below the folder, or its file is missing or broken.
            IndexError: there is no such row.
        """
        row = self._row(row)
        if self._size:
            y, x = divmod(row, self._columns)
            box = x * self._size, y * self._size, (x + 1) * self._size, (y + 1) * self._size
            return self._sprite.crop(box)
        return _open(self.file(row))

    def thumbnail(self, row: int, size: int = 128) -> bytes:
        """The picture of an image row in a square of `size` pixels, never enlarged, as a file of `media_type`."""
        row, file = self._row(row), io.BytesIO()
        picture = self.image(row) if self._size else _open(self.file(row), at_least=size)
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)
        if self._size:
            picture.save(file, "PNG")
        else:
            picture.save(file, "JPEG", quality=JPEG_QUALITY)
        return file.getvalue()

    def file(self, row: int) -> Path:
        """The file of an image row; of a sprite, the sprite.

        Raises:
            PictureError: the name of the row is none of a picture below the folder, see `picture_path`.
        """
        name = self.names[self._row(row)]
        return self._path if self._size else picture_path(self._path, name)

    def missing(self) -> list[str]:
        """Names whose file is not there, or that are none, see `picture_path`; none for a sprite."""
        return [] if self._size else [name for name in self.names if not self._is_there(name)]

    def _is_there(self, name: str) -> bool:
        try:
            return picture_path(self._path, name).is_file()
        except (DataError, OSError):
            return False

    def _row(self, row: int) -> int:
        """A plain index from 0; a negative one would be a silent mistake of a ranking."""
        if not 0 <= (row := int(row)) < len(self.names):
            raise IndexError(f"There is no image row {row} among {len(self.names)}.")
        return row

    def _check_sprite(self) -> None:
        """By its header alone: a sprite is decoded where its first tile is asked for."""
        try:
            with Image.open(self._path) as sprite:
                width, height = sprite.size
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{self._path}: not readable as a picture ({error}).") from error
        if width * height > PIXEL_LIMIT:
            raise DataError(f"{self._path}: {width} x {height} pixels, of which {PIXEL_LIMIT:,} may be decoded.")
        tiles = self._columns * (height // self._size)
        if width != self._columns * self._size or height % self._size or tiles < len(self.names):
            wanted = f"{self._columns} tiles of {self._size} pixels a row, in rows enough for {len(self.names)} images"
            raise DataError(f"{self._path}: is {width} x {height} pixels, which is not {wanted}.")

    @cached_property
    def _sprite(self) -> Image.Image:
        return _open(self._path)


def save_sprite(pictures: Sequence[Image.Image], path: str | Path, size: int, columns: int) -> dict[str, Any]:
    """Write pictures as the tiles of one lossless WebP, and return what `pictures.json` says of it.

    Tiles that a last row has left over are white.
    """
    rows = -(-len(pictures) // columns)
    sprite = Image.new("RGB", (columns * size, rows * size), "white")
    for index, picture in enumerate(pictures):
        y, x = divmod(index, columns)
        tile = picture.convert("RGB")
        tile.thumbnail((size, size), Image.Resampling.LANCZOS)
        sprite.paste(tile, (x * size + (size - tile.width) // 2, y * size + (size - tile.height) // 2))
    sprite.save(path, "WEBP", lossless=True, quality=75, method=4)  # more effort: a twentieth smaller, in 20 x the time
    return {"sprite": Path(path).name, "size": size, "columns": columns}


def contact_sheet(pictures: Sequence[Image.Image], columns: int, size: int = 96, gap: int = 8) -> Image.Image:
    """Pictures side by side on white, `columns` in a row, each inside a square of `size` pixels."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (size + gap) - gap, max(rows, 1) * (size + gap) - gap), "white")
    for index, picture in enumerate(pictures):
        y, x = divmod(index, columns)
        fitted = ImageOps.contain(picture, (size, size), Image.Resampling.LANCZOS)
        at = x * (size + gap) + (size - fitted.width) // 2, y * (size + gap) + (size - fitted.height) // 2
        sheet.paste(fitted, at)
    return sheet


def _checked(location: Any, base: Path) -> dict[str, Any]:
    """Kind, path and layout of what `pictures.json` says."""
    if not isinstance(location, Mapping) or len({"folder", "sprite"} & set(location)) != 1:
        raise DataError(f"Either a folder or a sprite is needed: {_FORMS}.")
    kind = "folder" if "folder" in location else "sprite"
    value = location[kind]
    if not isinstance(value, str) or not value or "\0" in value:
        raise DataError(f"{kind} = {value!r}: a path is needed, as in {_FORMS}.")
    try:
        path = base / expanded(value)
    except ConfigError as error:
        raise DataError(f"{kind} = {value!r}: {error}") from error
    if kind == "folder":
        if not os.path.isdir(path):  # Path's own raises where a name is too long
            raise DataError(f"{path}: no such folder of pictures. Give the folder's place after `folder`.")
        return {"kind": kind, "path": path}
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such sprite.")
    layout = {key: location.get(key) for key in ("size", "columns")}
    wrong = [key for key, number in layout.items() if type(number) is not int or not 0 < number <= 65536]
    if wrong:
        raise DataError(f"{first_five(wrong)}: whole numbers above 0 are needed, as in {_FORMS}.")
    return {"kind": kind, "path": path, **layout}


def _open(path: Path, at_least: int | None = None) -> Image.Image:
    if not os.path.lexists(path):
        raise DataError(f"{path}: no such picture. Put it there, or correct the folder in {PICTURES_FILE}.")
    return open_picture(path, at_least)
