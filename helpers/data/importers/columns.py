"""Which column of a table, or key of a record, holds what: the names that known data sets use."""

from __future__ import annotations

import re
from collections.abc import Iterable

IMAGE = (
    "file_name filename image_file image_filename image_name image_path filepath file_path file path image images img "
    "img_path photo picture name key image_id img_id id"
).split()
"""Names of the column of image files, the surest first: some tables have an `id` beside a `file_name`."""
TEXT = "caption captions text texts sentence sentences description comment raw title".split()
NUMBERED_TEXT = re.compile(r"(caption|text|sentence|description|comment)[_ -]?\d+")
"""Columns of tables that hold each caption of an image in a column of its own."""
SPLIT = ["split"]
SPLITS = {"train": "train", "training": "train", "restval": "restval"}
SPLITS |= dict.fromkeys(("val", "valid", "validation", "dev"), "val") | dict.fromkeys(("test", "testing"), "test")
"""How data sets call their splits, and what `images/split` calls them."""
TEXT_VECTORS = (
    "captions/embeddings text_embeddings text_embedding caption_embeddings caption_embedding text_features text_embeds "
    "text_emb txt_emb caption_emb text texts captions caption txt x"
).split()
IMAGE_VECTORS = (
    "images/embeddings image_embeddings image_embedding img_embeddings img_embedding image_features image_embeds "
    "image_emb img_emb image images img y"
).split()
VECTORS = "embeddings embedding emb vectors vector features arr_0".split()
"""Names of vectors in a file of one side alone."""
NAME_ARRAYS = ["images/names", *IMAGE[:6], "image_names", "names", "filenames", "file_names", "paths", "image_paths"]
IMAGE_ID_ARRAYS, ID_ARRAYS = "image_ids image_id img_ids img_id".split(), "ids id keys key".split()
"""Numbers or texts by which images are known; the second may as well be the captions' own."""
TEXT_ARRAYS = ["captions/text", *TEXT]
ROW_COLUMNS = "captions/image caption_image image_index image_idx image_row".split()
ROW_ARRAYS = [*ROW_COLUMNS, "targets", "target"]
"""Of the row of each caption's image; as columns of a table, the last two may as well be labels of a class."""
SPLIT_ARRAYS = ["images/split", "split", "splits"]
"""Names of arrays, or columns, of texts and rows beside vectors."""


def find(wanted: Iterable[str], present: Iterable[str]) -> str | None:
    """The name in `present` that comes first in `wanted`, whatever its case and blanks; None where there is none."""
    by_key = {" ".join(name.lower().split()).replace(" ", "_"): name for name in reversed(list(present))}
    return next((by_key[key] for key in wanted if key in by_key), None)


def find_all(wanted: Iterable[str], present: Iterable[str]) -> list[str]:
    """All names in `present` that are in `wanted`, in the order of `wanted`."""
    left = list(present)
    return [name for key in wanted if (name := find([key], left)) is not None]


def find_texts(present: Iterable[str]) -> list[str]:
    """Columns that hold captions: one by its name, or several that are numbered."""
    names = list(present)
    if (one := find(TEXT, names)) is not None:
        return [one]
    return [name for name in names if NUMBERED_TEXT.fullmatch(name.strip().lower())]
