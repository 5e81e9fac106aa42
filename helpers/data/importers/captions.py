"""Captions as other people write them: one function reads every format, and says what it is if it cannot.

`captions.txt` (lines that are no CSV), CSV and TSV with a header, JSON lines as Hugging Face's imagefolder has them,
lists of JSON records, COCO's captions, Karpathy's splits, and parquet. What a file holds is recognised by its content.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.data.captions import parse_captions, read_text
from helpers.data.importers import columns, tables
from helpers.data.pairs import LONGEST_TEXT, UNPRINTABLE
from helpers.errors import DataError, first_five
from helpers.system.paths import absolute

METADATA_FILES = "metadata.jsonl", "metadata.csv", "metadata.parquet", "captions.txt"
"""What is looked for where a folder is given: the first three are Hugging Face's imagefolder's."""
PICTURE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)
_NUMBER = re.compile(r"#\d+$")


@dataclass(frozen=True)
class Captions:
    """Captions, and the images that they describe.

    Attributes:
        images: M names, each once, in the order in which the file first has them; `/` divides folders.
        image: (N,) int64, the row of `images` that each caption describes. Images without a caption are allowed.
        texts: N captions, in the file's order, without blanks at their ends.
        split: M of `train`, `restval`, `val` and `test`, where the file says so.
    """

    images: list[str]
    image: np.ndarray
    texts: list[str]
    split: list[str] | None = None


@dataclass(frozen=True)
class Record:
    """What a file says of one image in one place.

    Attributes:
        place: in the file, as an error names it.
        image: its name. texts: captions. split: None where nothing is said of it. Any value that a file may hold.
    """

    place: str
    image: object
    texts: object
    split: object = None


def read_captions(path: str | Path) -> Captions:
    """Read captions of any known format.

    Args:
        path: of the file, or of a folder that holds one of `METADATA_FILES`.

    Raises:
        DataError: the file is missing, of no known format, or holds records without image, without text, or of more
            than one split; the message names the file, the kind of place, the count and the first five.
    """
    path = absolute(path)
    if os.path.isdir(path):
        found = [name for name in METADATA_FILES if (path / name).exists()]
        if not found:
            raise DataError(f"{path}: holds none of {', '.join(METADATA_FILES)}. Give the captions file itself.")
        path /= found[0]
    kind, records = _open(path)
    return collect(path, kind, records)


def collect(path: Path, kind: str, records: Iterable[Record]) -> Captions:
    """Captions of records, once each has what it needs.

    Args:
        path: the file that an error names. kind: what its places are called, such as `line`.
    """
    rows: dict[str, int] = {}
    splits: dict[str, str] = {}
    image: list[int] = []
    texts: list[str] = []
    problems: dict[str, list[str]] = {}
    n_records = 0
    for record in records:
        n_records += 1
        name, said = name_of(record.image), _texts(record.texts)
        if not name:
            problems.setdefault("without the name of an image", []).append(record.place)
        elif said is None or not all(said):
            problems.setdefault("with an empty caption, or one that is no text", []).append(record.place)
        elif any(UNPRINTABLE.search(text) or len(text) > LONGEST_TEXT for text in (name, *said)):
            problems.setdefault(f"with NUL, half a surrogate pair or over {LONGEST_TEXT} characters", []).append(
                record.place
            )
        else:
            row = rows.setdefault(name, len(rows))
            texts += said
            image += [row] * len(said)
            if record.split is not None:
                split = columns.SPLITS.get(str(record.split).strip().lower(), "")
                if not split:
                    problems.setdefault("of a split that is not train, val or test", []).append(record.place)
                elif splits.setdefault(name, split) != split:
                    problems.setdefault("that put an image into a second split", []).append(record.place)
    if not problems and splits and len(splits) < len(rows):
        problems["(images) without a split, which others have"] = [name for name in rows if name not in splits]
    if problems:
        cases = "; ".join(f"{len(places)} {kind}(s) {what}: {first_five(places)}" for what, places in problems.items())
        raise DataError(f"{path}: {cases}. Mend or leave out these, then read it again.")
    if not texts:
        raise DataError(f"{path}: holds no caption in {n_records} {kind}(s). One or more are needed.")
    return Captions(list(rows), np.array(image, np.int64), texts, [splits[name] for name in rows] if splits else None)


def name_of(value: object) -> str:
    """A name of an image as a relative path with `/`; empty where the value is none."""
    if isinstance(value, Mapping):  # as Hugging Face's datasets keep a picture
        value = value.get("path") or value.get("file_name")
    if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
        return ""
    return re.sub(r"^(\./)+", "", str(value).strip().replace("\\", "/"))


def _texts(value: object) -> list[str] | None:
    """Captions of a value: one text, several, or several records with a text each; None where it is none of them."""
    if isinstance(value, str):
        return [value.strip()]
    if isinstance(value, Mapping):
        key = columns.find(("raw", *columns.TEXT), [str(name) for name in value])
        value = None if key is None else value[key]
        return [value.strip()] if isinstance(value, str) else None
    if not isinstance(value, list | tuple):
        return None
    found = [_texts(item) for item in value]
    return [text for texts in found for text in texts or [""]]


def _open(path: Path) -> tuple[str, Iterable[Record]]:
    """What the places of a file are called, and its records."""
    ending = path.suffix.lower()
    with _opened(path) as file:
        magic = file.read(4)
    if magic == tables.PARQUET_MAGIC:
        return "row", _parquet(path)
    content = read_text(path)
    start = content.lstrip()[:1]
    if ending in (".jsonl", ".ndjson"):
        return "line", _json_lines(path, content)
    if ending == ".json" or (start in ("{", "[") and ending != ".txt"):
        return "record", _json(path, content)
    layout = _csv_layout(content)
    if ending in (".csv", ".tsv", ".tab") or (layout and _is_csv(content)):
        if layout is None:
            first = content.partition("\n")[0]
            raise _unknown_columns(path, re.split("[,\t;|]", first.strip()))
        return "line", _csv(path, content, *layout)
    pairs = parse_captions(path)
    numbered = all(_NUMBER.search(name) for name, _ in pairs)  # a.jpg#0: the number of a caption, not of an image
    return "line", (Record("", _NUMBER.sub("", name) if numbered else name, text) for name, text in pairs)


def _opened(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). A captions file is needed.") from error


def _is_csv(content: str) -> bool:
    """Whether a file without an ending that says so is CSV: it has quotes, and is just what a CSV writer makes of it.

    Lines of `captions.txt` that hold stray quotes or commas without quotes are not.
    """
    lines = content.replace("\r\n", "\n").removesuffix("\n")
    if '"' not in lines:
        return False
    made = io.StringIO()
    try:
        csv.writer(made, lineterminator="\n").writerows(csv.reader(io.StringIO(lines, newline=""), strict=True))
    except csv.Error:
        return False
    return made.getvalue().removesuffix("\n") == lines


def _csv_layout(content: str) -> tuple[str, list[str], bool] | None:
    """What divides cells, the cells of the first line, and whether they are names of columns.

    None where they are neither names of an image's and a caption's column, nor a picture file and its caption.
    """
    first = content.partition("\n")[0]
    found = []
    for mark in ",\t;|":
        with contextlib.suppress(csv.Error):  # it is longer than any cell may be, or no CSV
            found += [(mark, next(csv.reader([first], delimiter=mark), []))] if mark in first else []
    for mark, cells in found:
        if columns.find(columns.IMAGE, cells) and columns.find_texts(cells):
            return mark, cells, True
    pictures = ((mark, cells, False) for mark, cells in found if len(cells) == 2 and PICTURE.search(cells[0].strip()))
    return next(pictures, None)


def _csv(path: Path, content: str, mark: str, names: list[str], header: bool) -> Iterator[Record]:
    image, texts, split = _places(names) if header else (0, [1], None)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=mark, strict=True)
    wrong, place = [], 1
    try:
        for number, cells in enumerate(reader):
            start, place = place, reader.line_num + 1
            if (header and not number) or not "".join(cells).strip():
                continue
            if len(cells) != len(names):
                wrong.append(f"{start} ({len(cells)} cells)")
                continue
            told = [text for column in texts for text in _listed(cells[column])]
            if len(texts) > 1:  # a caption less than others have
                told = [text for text in told if text.strip()]
            yield Record(str(start), cells[image], told, None if split is None else cells[split])
    except csv.Error as error:
        raise DataError(
            f"{path}: line {place}: {error}. Quotes must stand around a whole cell, and twice within it. If quotes "
            "mean nothing in this file, call it captions.txt: one line 'image,caption' a caption."
        ) from error
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} line(s) of other than {len(names)} cells: {first_five(wrong)}. Put captions that "
            f"hold {mark!r} into quotes; or call the file captions.txt, if each line is 'image,caption' unquoted."
        )


def _places(names: list[str]) -> tuple[int, list[int], int | None]:
    image, split = columns.find(columns.IMAGE, names), columns.find(columns.SPLIT, names)
    assert image is not None
    texts = [names.index(name) for name in columns.find_texts(names)]
    return names.index(image), texts, None if split is None else names.index(split)


def _listed(cell: str) -> list[str]:
    """A cell, or the texts of a JSON list in it, as some tables keep the captions of an image together."""
    if cell.startswith("[") and cell.rstrip().endswith("]"):
        try:
            values = json.loads(cell)
        except ValueError:
            return [cell]
        if values and all(isinstance(value, str) for value in values):
            return values
    return [cell]


def _unknown_columns(path: Path, names: Iterable[str]) -> DataError:
    return DataError(
        f"{path}: no column for the image and the caption is known among: {first_five(names)}. Name them, such as "
        f"file_name and caption. Known: {', '.join(columns.IMAGE)}; {', '.join(columns.TEXT)}."
    )


def _json_lines(path: Path, content: str) -> Iterator[Record]:
    numbered = [(number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    values = []
    for number, line in numbered:
        try:
            values.append((str(number), json.loads(line)))
        except (ValueError, RecursionError) as error:
            reason = f"line {number} is no JSON ({error})"
            raise DataError(f"{path}: {reason}. One record a line is needed, as json.dumps writes it.") from error
    return _records(path, values)


def _records(path: Path, values: list[tuple[str, Any]]) -> Iterator[Record]:
    """Records of a list of JSON objects, each with its place."""
    other = [place for place, value in values if not isinstance(value, dict)]
    if other or not values:
        raise DataError(
            f"{path}: {len(other)} of {len(values)} record(s) are no JSON objects: {first_five(other)}. Each must be "
            'like {"file_name": "1.jpg", "caption": "A dog"}.'
        )
    names = list(dict.fromkeys(name for _, value in values for name in value))
    image, texts, split = (
        columns.find(columns.IMAGE, names),
        columns.find_texts(names),
        columns.find(columns.SPLIT, names),
    )
    if image is None or not texts:
        raise _unknown_columns(path, names)
    for place, value in values:
        told = [value[name] for name in texts if name in value] if len(texts) > 1 else value.get(texts[0])
        yield Record(place, value.get(image), told, None if split is None else value.get(split))


def _json(path: Path, content: str) -> Iterator[Record]:
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines by another name
            return _json_lines(path, content)
        raise DataError(f"{path}: is no JSON ({error}). Copy or export it again.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON that can be read ({error}). Copy or export it again.") from error
    if isinstance(value, list):
        return _records(path, [(str(place), item) for place, item in enumerate(value)])
    images = value.get("images") if isinstance(value, dict) else None
    if isinstance(images, list) and all(isinstance(item, dict) for item in images):
        if isinstance(value.get("annotations"), list):
            return _coco(path, images, value["annotations"])
        if any("sentences" in item for item in images):
            return _karpathy(images)
    if isinstance(value, dict) and columns.find(columns.IMAGE[:8], value) and columns.find_texts(value):
        return _records(path, [("1", value)])  # JSON lines of one line
    if isinstance(value, dict) and value and all(map(_is_text, value.values())):
        return (Record(repr(name), name, texts) for name, texts in value.items())
    raise DataError(
        f"{path}: is JSON of no known kind. Known: COCO's captions (images, annotations), Karpathy's split (images "
        'with sentences), a list of records like {"file_name": "1.jpg", "caption": "A dog"}, and {"1.jpg": ["A dog"]}.'
    )


def _is_text(value: object) -> bool:
    """Whether a value is a text or a list of texts."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))


def _coco(path: Path, images: list[dict], annotations: list[Any]) -> Iterator[Record]:
    """COCO's captions: images and captions stand apart, and share a number."""
    for what, items, key in (("images", images, "id"), ("annotations", annotations, "image_id")):
        odd = [i for i, item in enumerate(items) if isinstance(item, dict) and isinstance(item.get(key), list | dict)]
        if odd:
            raise DataError(f"{path}: {len(odd)} of {what} have no number or text as {key!r}: {first_five(odd)}.")
    names = {image.get("id"): image.get("file_name") for image in images}
    texts: dict[Any, list[Any]] = {key: [] for key in names}
    if len(names) < len(images):
        raise DataError(
            f"{path}: {len(images) - len(names)} of {len(images)} images have the id of another. Each needs its own."
        )
    described = [item for item in annotations if isinstance(item, dict) and "caption" in item]
    if len(described) < len(annotations):
        missing = [
            place for place, item in enumerate(annotations) if not (isinstance(item, dict) and "caption" in item)
        ]
        raise DataError(
            f"{path}: {len(missing)} of {len(annotations)} annotations have no 'caption': {first_five(missing)}. Give "
            "the file of captions (captions_….json), not that of instances or key points."
        )
    lost = [item.get("id", place) for place, item in enumerate(described) if item.get("image_id") not in names]
    if lost:
        raise DataError(
            f"{path}: {len(lost)} annotation(s) describe an image that 'images' does not list: {first_five(lost)} (by "
            "their id). Leave them out, or list their images."
        )
    for item in described:
        texts[item["image_id"]].append(item["caption"])
    return (Record(f"image {key}", names[key], told) for key, told in texts.items())


def _karpathy(images: list[dict]) -> Iterator[Record]:
    """Karpathy's splits of Flickr8k, Flickr30k and COCO; `filepath` is a file's folder, where there are several."""
    for place, image in enumerate(images):
        name = image.get("filename")
        if isinstance(name, str) and isinstance(image.get("filepath"), str) and image["filepath"].strip("/\\"):
            name = f"{image['filepath'].rstrip('/')}/{name}"
        yield Record(f"images[{place}]", name, image.get("sentences", []), image.get("split"))


def _parquet(path: Path) -> Iterator[Record]:
    table = tables.Table.open(path)
    image, texts, split = table.caption_columns()
    if image is None or not texts:
        raise _unknown_columns(path, table.names)
    return table_records(table, image, texts, split)


def table_records(table: tables.Table, image: str, texts: list[str], split: str | None) -> Iterator[Record]:
    """Records of a table, row by row."""
    place = 0
    for batch in table.batches([image, *texts, *([] if split is None else [split])]):
        for row in batch.to_pylist():
            told = [row[name] for name in texts if row[name] is not None] if len(texts) > 1 else row[texts[0]]
            yield Record(str(place), row[image], told, None if split is None else row[split])
            place += 1
