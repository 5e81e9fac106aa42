"""Embeddings that exist already: checked, paired with their captions and images, and written as a data folder.

Rows are paired by names wherever there are names. Where only the order can tell, it must be the one order that is
possible; a guess would pair captions with the wrong images, and nothing would fail.
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
    """

    folder: Path
    n_captions: int
    n_images: int
    text_dim: int
    image_dim: int
    has_split: bool
    without_caption: int
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        without = f", of which {self.without_caption:,} have no caption" if self.without_caption else ""
        split = "; with its own split" if self.has_split else ""
        missing = f"; {len(self.missing):,} have no picture in the folder: {first_five(self.missing)}"
        return (
            f"{self.folder}: {self.n_captions:,} captions ({self.text_dim}) of {self.n_images:,} images "
            f"({self.image_dim}){without}{split}{missing if self.missing else ''}"
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
    paths = [Path(path).expanduser().absolute() for path in ([sources] if isinstance(sources, str | Path) else sources)]
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
    return Imported(folder, *sizes, paired.split is not None, without, [] if shown is None else shown.missing())


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
    """

    texts: list[str]
    rows: np.ndarray
    names: list[str]
    split: list[str] | None
    chosen: np.ndarray | None = None


def _pair(
    first: Source, last: Source, text: Vectors, images: Vectors, captions: str | Path | None, names: str | Path | None
) -> _Paired:
    """Pair rows by names, by rows that the file tells, or by the order where it can be but one."""
    said, known = _captions(first, captions), _names(first, last, names)
    n_captions, n_images = text.shape[0], images.shape[0]
    if said is not None and len(said.texts) != n_captions:
        raise DataError(
            f"{text.where}: {n_captions} rows for {len(said.texts)} captions. One for each caption is needed, in the "
            "order of the captions."
        )
    if known is not None and len(known) != n_images:
        raise DataError(f"{images.where}: {n_images} rows for {len(known)} names of images. Name each row, in order.")
    if said is None:
        texts = first.texts(columns.TEXT_ARRAYS) or [f"row {row}" for row in range(n_captions)]
        told = first.numbers(columns.ROW_ARRAYS)
        if told is None and n_captions != n_images:
            raise DataError(
                f"{text.where}: {n_captions} rows for {n_images} images, and nothing says which image each caption "
                "describes. Give the captions file, in the order of the rows."
            )
        rows = np.arange(n_captions) if told is None else told
        return _Paired(texts, rows, known or [str(row) for row in range(n_images)], last.texts(columns.SPLIT_ARRAYS))
    described = np.unique(said.image)
    if known is None:
        return _by_order(said, described, images)
    row_of = np.full(len(said.images), -1)
    where = str(captions or first.path)
    row_of[described] = match_captions([said.images[image] for image in described], known, where)
    split = None
    if said.split is not None:
        # An image that no caption names trains nothing as `train`; elsewhere it would change the gallery of the split.
        split = ["train"] * n_images
        for image in described:
            split[row_of[image]] = said.split[image]
    return _Paired(said.texts, row_of[said.image], known, split)


def _captions(first: Source, path: str | Path | None) -> Captions | None:
    """Captions of a file, or of the table that has their vectors; None where there are none with images."""
    if path is not None:
        return read_captions(path)
    if first.table is None:
        return None
    image, texts, split = first.table.caption_columns()
    if not texts:
        return None
    if image is None:
        places = table_records(first.table, texts[0], texts, split)
        return collect(first.path, "row", (Record(r.place, r.place, r.texts, r.split) for r in places))
    return collect(first.path, "row", table_records(first.table, image, texts, split))


def _names(first: Source, last: Source, path: str | Path | None) -> list[str] | None:
    """Names of the image vectors, in their order; None where they are not told."""
    if path is not None:
        return read_names(Path(path).expanduser().absolute())
    if last.table is None:
        return last.texts(columns.NAME_ARRAYS)
    image, texts, _ = last.table.caption_columns()
    if image is None or last is first or texts:  # a row is a caption, whose image others may describe too
        return None
    found = [value for batch in last.table.batches([image]) for value in batch.column(0).to_pylist()]
    return [name_of(value) for value in found]


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


def _by_order(said: Captions, described: np.ndarray, images: Vectors) -> _Paired:
    """Pair by the order of rows: one image vector a caption, or one an image in an order that can be but one."""
    n_captions, n_rows = len(said.texts), images.shape[0]
    if n_rows == n_captions:
        first = np.unique(said.image, return_index=True)[1]  # of the captions of each image that is described
        _check_alike(images, said.image)
        order = np.argsort(first)
        position = np.empty(len(said.images), np.int64)
        position[described[order]] = np.arange(len(described))
        kept = described[order]
        names = [said.images[image] for image in kept]
        split = None if said.split is None else [said.split[image] for image in kept]
        return _Paired(said.texts, position[said.image], names, split, first[order])
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
    return _Paired(said.texts, said.image, said.images, said.split)


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
