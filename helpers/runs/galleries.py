"""What an index of pictures is built from: a run's own images, another data folder, or a folder of pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from helpers.data.cache import read_cache, write_cache
from helpers.data.pairs import ENCODERS_FILE, PICTURES_FILE, PairedEmbeddings, load_pairs
from helpers.data.picture_files import find_pictures, identity
from helpers.data.pictures import Pictures
from helpers.errors import CheckpointError, DataError, PictureError, first_five
from helpers.runs.run import Run, say
from helpers.serving.translator import Translator
from helpers.system.files import read_json, reading
from helpers.system.paths import absolute, expanded

INDEX_DIR = "index"
"""Folder in a run's folder: what is made there can be made again, so no manifest lists it."""
_KEPT = ("vectors", "names", "made_of", "encoder")
"""What is kept of a folder of pictures that was encoded: of what state of it, and by which encoder."""
_ENCODED_BY = ("model", "kind", "pooling", "preprocessing")
"""What tells one image encoder from another, whose vectors are not to be compared with its own."""


@dataclass(frozen=True)
class Gallery:
    """What an index is built from.

    Attributes:
        vectors: gives the (M, dy) image embeddings; only called where the index has to be built.
        names: gives the names of the M pictures. captions: gives one of each, or none.
        pictures: where the pictures are, as `pictures.json` has it.
        made_of: what tells this gallery from others and from its earlier states.
        folder: of its index within the run's, beside those of other models and kinds.
    """

    vectors: Callable[[], np.ndarray]
    names: Callable[[], Sequence[str]]
    made_of: dict[str, Any]
    captions: Callable[[], Sequence[str]] = field(default=tuple)
    pictures: dict[str, Any] | None = None
    folder: str = ""


def image_encoder_of(folder: Path) -> dict[str, Any]:
    """What made the image vectors of a run or a data folder; of kind "unknown" where it does not say.

    Raises:
        CheckpointError: its `encoders.json` is damaged.
    """
    path = folder / ENCODERS_FILE
    if not path.exists():
        return {"kind": "unknown"}
    with reading(path, "does not say what encoded the images", "Write the data folder again."):
        description = dict(read_json(path)["images"])
        return description | {"kind": str(description["kind"])}


def data_folder(data_dir: str | Path) -> Callable[[Path, Translator], Gallery]:
    """The images of another data folder, as a gallery for `open_index`; encoded as the run's images were."""
    path = absolute(data_dir)

    def gallery(folder: Path, translator: Translator) -> Gallery:
        data = load_pairs(path, text_dim=translator.text_dim, image_dim=translator.image_dim)
        ours, theirs = image_encoder_of(folder), image_encoder_of(path)
        differ = [key for key in _ENCODED_BY if ours.get(key) != theirs.get(key)]
        if differ and "unknown" not in (ours["kind"], theirs["kind"]):
            by = [" ".join(str(one.get(key)) for key in dict.fromkeys(["model", *differ])) for one in (theirs, ours)]
            raise DataError(
                f"{path}: its images were encoded by {by[0]}, those of the run by {by[1]}. "
                "Encode them with the run's preset."
            )
        return _gallery_of(data, path, _short_digest(str(path)))

    return gallery


def picture_folder(images: str | Path) -> Callable[[Path, Translator], Gallery]:
    """A folder of pictures as a gallery for `open_index`: encoded once by the run's image encoder, and kept.

    Pictures that cannot be encoded are named and left out.
    """
    path = absolute(images)

    def gallery(folder: Path, translator: Translator) -> Gallery:
        description = image_encoder_of(folder)
        if description["kind"] == "unknown":
            raise CheckpointError(
                f"{folder / ENCODERS_FILE}: does not say what encoded the images of the run. Encode the pictures "
                "yourself, as those were, and give the data folder with --data-dir."
            )
        kept = folder / INDEX_DIR / f"{_short_digest(str(path))}.encoded"
        encoded: list[dict[str, Any]] = []
        by = _short_digest(str(description), 32)
        try:
            names, unreadable = find_pictures(path)
            digest = _short_digest(str([str(path), [identity(path, name) for name in names], description]), 32)
        except PictureError:  # gone, such as with a disk: what was encoded before is searched
            before = read_cache(kept, _KEPT)
            if before is None or before["encoder"] != [by]:
                raise
            names, digest, unreadable = before["names"], before["made_of"][0], {}
        if unreadable:
            say(f"{len(unreadable)} folder(s) cannot be read and are not searched: {first_five(unreadable)}")

        def stored() -> dict[str, Any]:
            if not encoded:
                found = read_cache(kept, _KEPT)
                if found is None or found["made_of"] != [digest]:
                    vectors, read = _encode(path, names, description, translator.image_dim)
                    arrays = {"vectors": ("F32", vectors.shape, [vectors])}
                    texts = {"names": read, "made_of": [digest], "encoder": [by]}
                    try:
                        found = write_cache(kept, arrays, texts)
                    except DataError as error:  # such as another user's run: search them all the same
                        say(str(error))
                        found = {"vectors": vectors, "names": read}
                encoded.append(found)
            return encoded[0]

        place = {"folder": str(path)}
        return Gallery(
            lambda: stored()["vectors"],
            lambda: stored()["names"],
            {"pictures": digest},
            pictures=place,
            folder=_short_digest(str(path)),
        )

    return gallery


def own_gallery(run: Run) -> Gallery:
    """The images of a run's own data."""
    return _gallery_of(run.data, run.config.data_path)


def _gallery_of(data: PairedEmbeddings, path: Path, folder: str = "") -> Gallery:
    def captions() -> list[str]:
        first = dict(zip(reversed(data.targets.tolist()), reversed(data.captions), strict=True))
        return [first.get(row, "") for row in range(data.n_images)]

    made_of = {"gallery": data.fingerprint}
    names = data.image_names
    return Gallery(lambda: data.images, lambda: names, made_of, captions, _location(path, names), folder)


def _location(data_dir: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """Where the pictures are, or were: what is gone can be searched, but not shown."""
    try:
        pictures = Pictures.of(data_dir, names)
    except DataError:
        if (location := _gone(data_dir)) is None:
            raise
        return location
    return None if pictures is None else pictures.location


def _gone(data_dir: Path) -> dict[str, Any] | None:
    """The place that `pictures.json` names, where nothing is there; None where something is, or it names none."""
    try:
        location = dict(read_json(data_dir / PICTURES_FILE))
        key = "folder" if "folder" in location else "sprite"
        place = data_dir / expanded(location[key])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return None if os.path.lexists(place) else {**location, key: str(place)}


def _encode(
    folder: Path, names: Sequence[str], description: dict[str, Any], image_dim: int
) -> tuple[np.ndarray, list[str]]:
    """Vectors (M, dy) of the pictures that can be encoded, and their names."""
    from helpers.encoders import encode_pictures, load_image_encoder

    encoder = load_image_encoder(description)
    if encoder.dim != image_dim:
        raise CheckpointError(
            f"The image encoder gives {encoder.dim} numbers a picture, the model expects {image_dim}."
        )
    vectors, left_out = encode_pictures(folder, names, encoder)
    if left_out:
        reasons = first_five(f"{name} ({reason})" for name, reason in left_out.items())
        say(f"{len(left_out)} picture(s) cannot be encoded and are left out: {reasons}")
    if not len(vectors):
        raise DataError(f"{folder}: none of its {len(names)} pictures can be encoded.")
    return vectors, [name for name in names if name not in left_out]


def _short_digest(text: str, length: int = 12) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
