"""Embeddings that exist already: checked, paired with their captions and images, and written as a data folder.

Rows are paired by rows that a file tells, or by names, wherever there are any. Where only the order can tell, it must
be the one order that is possible, and what it was taken for is said: a wrong guess would pair captions with the wrong
images, and nothing would fail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from helpers.data.captions import match_captions, read_text
from helpers.data.folder import write_data_folder
from helpers.data.importers import columns
from helpers.data.importers.captions import Captions, Record, collect, name_of, read_captions, table_records
from helpers.data.importers.vectors import Source, Vectors, open_source
from helpers.data.pictures import Pictures
from helpers.errors import DataError, first_five
from helpers.system.paths import absolute

ALIKE = 0.99
"""Cosine that two vectors of one image have at least, whatever batch each was encoded in."""
CHECKED = 1000
"""Images of which vectors are compared: enough to see that rows are in another order, few enough for memory."""


@dataclass(frozen=True)
class Imported:
    """What was written.

    Attributes:
        folder: of the data.
        n_captions, n_images: rows. text_dim, image_dim: widths.
        has_split: whether the data have a split of their own.
        without_caption: images that no caption describes; they are searched, and nothing is learnt from them.
        missing: names of images whose picture is not where `pictures` says; they are found, and cannot be shown.
        by_position: which row was taken for which, where nothing but their order says it; empty where something does.
    """

    folder: Path
    n_captions: int
    n_images: int
    text_dim: int
    image_dim: int
    has_split: bool
    without_caption: int
    missing: list[str] = field(default_factory=list)
    by_position: str = ""

    def __str__(self) -> str:
        without = f", of which {self.without_caption:,} have no caption" if self.without_caption else ""
        split = "; with its own split" if self.has_split else ""
        missing = f"; {len(self.missing):,} have no picture in the folder: {first_five(self.missing)}"
        return (
            f"{self.folder}: {self.n_captions:,} captions ({self.text_dim}) of {self.n_images:,} images "
            f"({self.image_dim}){without}{split}{missing if self.missing else ''}"
            + (f"\n{self.by_position}" if self.by_position else "")
        )


def import_embeddings(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    captions: str | Path | None = None,
    names: str | Path | None = None,
    pictures: Mapping[str, Any] | None = None,
    encoders: Mapping[str, Any] | None = None,
) -> Imported:
    """Make a data folder of embeddings that exist already.

    Args:
        sources: one file or folder with the vectors of captions and of images, or two: captions first. Formats: .npy,
            .npz, .safetensors, parquet (a file or a folder of files), a dataset that `save_to_disk` wrote.
        out: the data folder to write.
        captions: file that `read_captions` knows, in the order of the caption vectors; not needed where a table or an
            npz has the captions itself.
        names: file with the name of one image a line, in the order of the image vectors; needed where the order of
            the captions does not tell it.
        pictures: where the pictures are, see data/README.md.
        encoders: what made the vectors, where it is known, see data/README.md.

    Raises:
        DataError: a file is not what it must be, or rows cannot be paired for certain; the message says what is needed.
    """
    paths = [absolute(path) for path in ([sources] if isinstance(sources, str | Path) else sources)]
    if len(paths) not in (1, 2):
        raise DataError(f"{len(paths)} sources of embeddings: give one that holds both sides, or captions and images.")
    opened = [open_source(path) for path in paths]
    first, last, alone = opened[0], opened[-1], len(opened) == 2
    text = first.find(columns.TEXT_VECTORS, "captions", alone)
    images = last.find(columns.IMAGE_VECTORS, "images", alone)
    if text is images:
        raise DataError(f"{text.where}: is taken for captions and for images. Give one file of each.")
    paired = _pair(first, last, text, images, captions, names)
    folder = write_data_folder(
        out,
        text=text.blocks(),
        images=images.blocks(paired.chosen),
        caption_image=paired.rows,
        captions=paired.texts,
        names=paired.names,
        split=paired.split,
        encoders=encoders or _unknown(text, images),
        pictures=pictures,
    )
    without = len(paired.names) - len(np.unique(paired.rows))
    sizes = len(paired.texts), len(paired.names), text.shape[1], images.shape[1]
    shown = Pictures.of(folder, paired.names)
    missing = [] if shown is None else shown.missing()
    return Imported(folder, *sizes, paired.split is not None, without, missing, paired.by_position)


def _unknown(text: Vectors, images: Vectors) -> dict[str, Any]:
    """What is known of encoders that nobody has told of: their width."""
    either = (("text", text), ("images", images))
    return {name: {"kind": "unknown", "dim": vectors.shape[1]} for name, vectors in either} | {"preset": None}


@dataclass(frozen=True)
class _Paired:
    """Which captions describe which image vectors.

    Attributes:
        texts, rows: (N,) captions, and the row of `names` that each describes.
        names, split: (M,) of the images.
        chosen: (M,) rows of the image vectors that are kept, ascending; all where None.
        by_position: see `Imported`.
    """

    texts: list[str]
    rows: np.ndarray
    names: list[str]
    split: list[str] | None
    chosen: np.ndarray | None = None
    by_position: str = ""


def _pair(
    first: Source, last: Source, text: Vectors, images: Vectors, captions: str | Path | None, names: str | Path | None
) -> _Paired:
    """Pair rows by rows that a source tells, by names, or by the order where it can be but one."""
    n_captions, n_images = text.shape[0], images.shape[0]
    known = _names(first, last, names, n_captions, n_images)
    if known is not None and len(known) != n_images:
        raise DataError(f"{images.where}: {n_images} rows for {len(known)} names of images. Name each row, in order.")
    said, texts, split = _captions(first, captions)
    if texts is None:
        texts = first.texts(columns.TEXT_ARRAYS) or [f"row {row}" for row in range(n_captions)]
    elif len(texts) != n_captions:
        raise DataError(
            f"{text.where}: {n_captions} rows for {len(texts)} captions. One for each caption is needed, in the "
            "order of the captions."
        )
    elif captions is not None:
        _check_order(first, captions, texts)
    told = None
    if first.table is None or first is not last:  # a row of one table holds a caption and its image
        told = first.numbers(columns.ROW_ARRAYS if first.table is None else columns.ROW_COLUMNS)
    keys = _keys(first, last, known, n_captions, n_images) if said is None else None
    if keys is not None and len(keys) == n_captions:
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        said = Captions(list(numbers), np.array([numbers[key] for key in keys], np.int64), texts)
    elif keys is not None and told is None:
        raise DataError(
            f"{text.where}: {n_captions} rows for {len(keys)} names of their images. Name the image of each row."
        )
    if told is not None:
        return _by_rows(*told, first, last, said, texts, known, n_images)
    if said is not None:
        return _by_order(said, first, last, images) if known is None else _by_name(said, known, captions or first.path)
    if n_captions != n_images:
        raise DataError(
            f"{text.where}: {n_captions} rows for {n_images} images, and nothing says which image each caption "
            "describes. Give the captions file, in the order of the rows, or the rows of their images (caption_image)."
        )
    rows, row_names = np.arange(n_captions), known or [str(row) for row in range(n_images)]
    return _Paired(texts, rows, row_names, split or _split(last), by_position=_each(n_captions, first, last))


def _each(n_pairs: int, first: Source, last: Source) -> str:
    """What pairing row by row takes for true; nothing where each row of a table holds a caption and its image."""
    if first is last and first.table is not None:
        return ""
    return f"caption i describes image i, by position: {n_pairs:,} pairs"


def _split(last: Source) -> list[str] | None:
    """The split of the image vectors, where their source has one."""
    found = last.texts(columns.SPLIT_ARRAYS)
    return None if found is None else [columns.SPLITS.get(part.strip().lower(), part) for part in found]


def _by_name(said: Captions, known: list[str], where: str | Path) -> _Paired:
    """Pair by the names of images, which captions and image vectors both have."""
    described = np.unique(said.image)
    row_of = np.full(len(said.images), -1)
    row_of[described] = match_captions([said.images[image] for image in described], known, str(where))
    split = None
    if said.split is not None:
        # An image that no caption names trains nothing as `train`; elsewhere it would change the gallery of the split.
        split = ["train"] * len(known)
        for image in described:
            split[row_of[image]] = said.split[image]
    return _Paired(said.texts, row_of[said.image], known, split)


def _by_rows(
    array: str,
    rows: np.ndarray,
    first: Source,
    last: Source,
    said: Captions | None,
    texts: list[str],
    known: list[str] | None,
    n_images: int,
) -> _Paired:
    """Pair by the row of its image that a source tells of each caption; names, where there are any, must agree."""
    where = f"{first.path}: '{array}'"
    if len(rows) != len(texts):
        raise DataError(f"{where} has {len(rows)} rows of images for {len(texts)} captions. One for each is needed.")
    if len(outside := np.flatnonzero((rows < 0) | (rows >= n_images))):
        raise DataError(
            f"{where} has {len(outside)} row(s) outside of 0, ..., {n_images - 1}, the rows of the images: "
            f"{first_five(outside)} (rows count from 0). Count them from 0."
        )
    if said is None:
        return _Paired(texts, rows, known or [str(row) for row in range(n_images)], _split(last))
    if known is not None:
        named = _by_name(said, known, first.path)
        differ, split = np.flatnonzero(named.rows != rows), named.split
    else:
        row_of, image_of = np.full(len(said.images), -1), np.full(n_images, -1)
        row_of[said.image[::-1]], image_of[rows[::-1]] = rows[::-1], said.image[::-1]  # of several, the first counts
        differ = np.flatnonzero((row_of[said.image] != rows) | (image_of[rows] != said.image))
        known = [said.images[image] if image >= 0 else str(row) for row, image in enumerate(image_of)]
        of = said.split
        split = None if of is None else [of[image] if image >= 0 else "train" for image in image_of]
    if len(differ):
        raise DataError(
            f"{where}: of {len(differ)} caption(s) it tells another image than the names do: {first_five(differ)} "
            "(rows count from 0). Leave out what is wrong, the array or the names."
        )
    return _Paired(texts, rows, known, split or _split(last))


def _captions(first: Source, path: str | Path | None) -> tuple[Captions | None, list[str] | None, list[str] | None]:
    """Captions with the names of their images; where these are not told, texts and the split of each; else nothing."""
    if path is not None:
        said = read_captions(path)
        return said, said.texts, None
    if first.table is None:
        return None, None, None
    image, texts, split = first.table.caption_columns()
    if not texts:
        return None, None, None
    if image is not None:
        said = collect(first.path, "row", table_records(first.table, image, texts, split))
        return said, said.texts, None
    places = table_records(first.table, texts[0], texts, split)
    said = collect(first.path, "row", (Record(r.place, r.place, r.texts, r.split) for r in places))
    return None, said.texts, said.split


def _check_order(first: Source, path: str | Path, texts: list[str]) -> None:
    """Whether texts that lie beside the caption vectors are in the order of the captions file, if they are the same."""
    stored = [text.strip() for text in first.texts(columns.TEXT_ARRAYS) or []]
    moved = [row for row, (one, other) in enumerate(zip(texts, stored, strict=False)) if one != other]
    if moved and sorted(texts) == sorted(stored):
        raise DataError(
            f"{path}: {len(moved)} of {len(texts)} captions stand in another row than beside the vectors of "
            f"{first.path}: {first_five(moved)} (rows count from 0). Put its lines in the order of the vectors."
        )


def _names(first: Source, last: Source, path: str | Path | None, n_captions: int, n_images: int) -> list[str] | None:
    """Names of the image vectors, in their order; None where they are not told."""
    if path is not None:
        return read_names(absolute(path))
    if last.table is None:
        found = last.all_texts([*columns.NAME_ARRAYS, *columns.IMAGE_ID_ARRAYS, *columns.ID_ARRAYS])
        if first is last and n_captions != n_images:  # those of the captions' images, see `_keys`
            found = [names for names in found if len(names) != n_captions]
        fitting = [names for names in found if len(names) == n_images]
        return next(iter(fitting or found), None)
    image, texts, _ = last.table.caption_columns()
    if image is None or last is first or texts:  # a row is a caption, whose image others may describe too
        return None
    found = [value for batch in last.table.batches([image]) for value in batch.column(0).to_pylist()]
    return [name_of(value) for value in found]


def _keys(first: Source, last: Source, known: list[str] | None, n_captions: int, n_images: int) -> list[str] | None:
    """The name or number of each caption's image, as it lies beside the caption vectors; None where none does."""
    if first.table is not None:
        image, texts, _ = first.table.caption_columns()
        if image is None or texts:
            return None
        return [name_of(value) for batch in first.table.batches([image]) for value in batch.column(0).to_pylist()]
    found = first.all_texts([*columns.NAME_ARRAYS, *columns.IMAGE_ID_ARRAYS])
    if first is last or any(len(names) == n_captions for names in found):
        found = [names for names in found if len(names) == n_captions]
    if first is last and n_captions == n_images:  # they name the rows of both sides
        found = []
    # Plain numbers are the images' where both sides have the same ones; else the captions may have their own.
    found += [ids for ids in first.all_texts(columns.ID_ARRAYS) if first is not last and set(ids) == set(known or ())]
    return next(iter(found), None)


def read_names(path: Path) -> list[str]:
    """Names of images, one a line, or a JSON list of them.

    Raises:
        DataError: the file is missing, not UTF-8, or has an empty line within.
    """
    content = read_text(path)
    if content.lstrip().startswith("["):
        try:
            values = json.loads(content)
        except ValueError as error:
            raise DataError(f"{path}: is no JSON ({error}). Give one name a line, or a JSON list of names.") from error
    else:
        values = content.replace("\r\n", "\n").removesuffix("\n").split("\n")
    names = [name_of(value) for value in values]
    if empty := [place for place, name in enumerate(names, start=1) if not name]:
        raise DataError(
            f"{path}: {len(empty)} name(s) are empty: {first_five(empty)} (counted from 1). Name each image."
        )
    return names


def _by_order(said: Captions, first: Source, last: Source, images: Vectors) -> _Paired:
    """Pair by the order of rows: one image vector a caption, or one an image in an order that can be but one."""
    described = np.unique(said.image)
    n_captions, n_rows = len(said.texts), images.shape[0]
    if n_rows == n_captions:
        foremost = np.unique(said.image, return_index=True)[1]  # of the captions of each image that is described
        _check_alike(images, said.image)
        order = np.argsort(foremost)
        position = np.empty(len(said.images), np.int64)
        position[described[order]] = np.arange(len(described))
        kept = described[order]
        names = [said.images[image] for image in kept]
        split = None if said.split is None else [said.split[image] for image in kept]
        by_position = _each(n_captions, first, last)
        return _Paired(said.texts, position[said.image], names, split, foremost[order], by_position)
    if n_rows != len(said.images):
        raise DataError(
            f"{images.where}: {n_rows} rows for {n_captions} captions of {len(said.images)} images. One row a caption "
            "or one an image is needed; or give the names of the rows (one a line)."
        )
    if said.images != sorted(said.images):
        raise DataError(
            f"{images.where}: {n_rows} rows for as many images, which the captions name in another order than that of "
            "the alphabet: the order of the rows cannot be told. Give the names of the rows (one a line)."
        )
    by_position = f"image i is the i-th of the captions' images in alphabetical order, by position: {n_rows:,} images"
    return _Paired(said.texts, said.image, said.images, said.split, by_position=by_position)


def _check_alike(images: Vectors, image: np.ndarray) -> None:
    """Whether rows of one image have (nearly) one vector: where they do not, rows stand in another order."""
    firsts: dict[int, tuple[int, np.ndarray]] = {}
    again = np.flatnonzero(np.bincount(image) > 1)[:CHECKED]
    wanted, row, other = np.isin(image, again), 0, []
    for block in images.read():
        for at in np.flatnonzero(wanted[row : row + len(block)]):
            vector = block[at].astype(np.float64)
            vector /= max(float(np.linalg.norm(vector)), 1e-300)
            before, known = firsts.setdefault(int(image[row + at]), (row + int(at), vector))
            if known @ vector < ALIKE:
                other.append(f"{before} and {row + at}")
        row += len(block)
    if other:
        raise DataError(
            f"{images.where}: {len(other)} pair(s) of rows belong to one image by the captions, and have different "
            f"vectors: {first_five(other)} (rows count from 0). Put the rows in the order of the captions, or give the "
            "names of the rows (one a line)."
        )
