"""Caption files: one line a caption, split once, and matched to images by name.

A caption file looks like CSV and is not: captions hold stray quotes and commas, so no CSV reader may touch it.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from helpers.errors import DataError, first_five
from helpers.system.paths import absolute

_SEPARATOR = re.compile(r"[|,\t]")
_NUMBER = re.compile(r"#\d+$")  # of a caption among those of its image, as some caption files have it: a.jpg#0
_UNMATCHED, _AMBIGUOUS = -1, -2
# Header lines that data sets have: words for the image, for the number of a caption among its image's, for its text.
_IMAGE = {"image", "image_name", "image_id", "image_path", "file_name", "filename", "file", "path", "name", "id"}
_COUNT = {"comment_number", "caption_number", "caption_id", "sentence_id", "sentid", "number", "id"}
_TEXT = {"caption", "comment", "text", "sentence", "description", "title", "raw"}
# A numbered caption, as Flickr30k has them: `1.jpg| 0| A dog`. One line of that file lacks its second separator.
_NUMBERED = re.compile(r"([^|,\t]*)([|,\t])\s*(\d+)\s*\2(.*)", re.DOTALL)
_LACKING = re.compile(r"([^|,\t]*)(\|)\s*(\d+)\s+(.*)", re.DOTALL)


def parse_captions(path: str | Path) -> list[tuple[str, str]]:
    """Split every line of a captions file once, at its first `|`, `,` or tab. Quotes mean nothing.

    Where a header, or every line, has the number of the caption between image and text, as Flickr30k's file has it,
    that number is left out.

    Args:
        path: text, see `read_text`, one caption a line; CRLF and a header line of a known data set are allowed.

    Returns:
        (image name or id, caption) per line; the first field without surrounding blanks, the caption untouched (a
        numbered one without surrounding blanks).

    Raises:
        DataError: the file is missing or not UTF-8, holds no caption, or lines are empty, have no separator, no
            first field or no text; the message gives the count and the first five line numbers, counted from 1.
    """
    path = absolute(path)
    # Only "\n" ends a line: str.splitlines would also cut captions at U+2028, \x0b, \x1c and others.
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    if lines[-1] == "":
        lines.pop()
    first, numbered = _layout(lines)
    fields = [_split(line, numbered) for line in lines]
    problems: dict[str, list[int]] = {}
    rows = []
    for number, parts in enumerate(fields[first:], start=first + 1):
        problem = _line_problem(parts)
        if problem:
            problems.setdefault(problem, []).append(number)
        else:
            rows.append((parts[0].strip(), parts[1]))
    if problems:
        found = "; ".join(f"{len(at)} line(s) {kind}: {first_five(at)}" for kind, at in problems.items())
        raise DataError(f"{path}: {found} (line numbers count from 1). Each line must be 'image,caption'.")
    if not rows:
        raise DataError(f"{path}: holds no caption. One line 'image,caption' a caption is needed.")
    return rows


def captions_of_rows(path: Path, n_rows: int, stored: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
    """The captions of a file that has one line for each row of embeddings, in their order.

    Args:
        path: of the captions file.
        n_rows: N.
        stored: the N texts that the archive of the embeddings has of its own, if any. Texts that differ (cleaned, cut)
            are no sign of anything; the same texts in different orders are: one of them is not that of the rows.

    Returns:
        N first fields (image names) and N captions.

    Raises:
        DataError: as `parse_captions`; not N captions; or the stored texts in another order.
    """
    names, texts = map(list, zip(*parse_captions(path), strict=True))
    if len(texts) != n_rows:
        hint = f" If line 1 ({names[0]!r}, {texts[0]!r}) is a header, delete it." if len(texts) == n_rows + 1 else ""
        raise DataError(
            f"{path}: holds {len(texts)} captions but 'captions/embeddings' of the npz has {n_rows} rows. One line a "
            f"row, in the same order, is needed.{hint}"
        )
    given, others = ([text.strip() for text in either] for either in (texts, stored or texts))
    moved = [row for row, (text, other) in enumerate(zip(given, others, strict=True)) if text != other]
    if moved and sorted(given) == sorted(others):
        raise DataError(
            f"{path}: {len(moved)} of {n_rows} captions stand in another row than in 'captions/text' of the npz: "
            f"{first_five(moved)} (rows count from 0). Put its lines in the order of 'captions/embeddings'."
        )
    return names, texts


def read_bytes(path: Path) -> bytes:
    """The content of a captions file.

    Raises:
        DataError: the file is missing or unreadable.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). A captions file is needed.") from error


def read_text(path: Path) -> str:
    """The text of a file: UTF-8, or UTF-16 where it has a mark, as spreadsheets save it; no mark is left in it.

    Raises:
        DataError: the file is missing, unreadable, or in another encoding.
    """
    raw = read_bytes(path)
    # UTF-32's mark begins with that of UTF-16.
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not raw.startswith(codecs.BOM_UTF32_LE)
    encoding = "utf-16" if marked else "utf-8"
    try:
        text = raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line} is not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
    return text if "\n" in text else text.replace("\r", "\n")  # as spreadsheets end lines for the Macintosh


def match_captions(
    keys: Sequence[str], image_names: Sequence[str], where: str, held_by: str = "images/names"
) -> np.ndarray:
    """Find the image of each caption by its name: in full, else without folders, else also without extension.

    Both sides are shortened alike, case is kept, and a key is settled at the first level at which it is found.

    Args:
        keys: N first fields of caption lines.
        image_names: M names.
        where: the file that an error names.
        held_by: what an error calls the place of the image names.

    Returns:
        (N,) int64 rows of `image_names`.

    Raises:
        DataError: keys match no image, or several, or keys of several files one image (`a/1.jpg` and `b/1.jpg`, where
            only one of them was embedded); with the count and the first five, rows counted from 0.
    """
    settled: dict[str, int] = {}
    pending = set(keys)
    verbatim = not pending.isdisjoint(image_names)
    for shorten in (str, _base_name, _stem):
        rows: dict[str, int] = {}
        for row, name in enumerate(image_names):
            short = shorten(name)
            rows[short] = _AMBIGUOUS if short in rows else row
        settled.update((key, rows[shorten(key)]) for key in pending if shorten(key) in rows)
        pending.difference_update(settled)
        if not pending:
            break
    _report_joined(settled, image_names if verbatim else None, where, held_by)
    targets = np.fromiter((settled.get(key, _UNMATCHED) for key in keys), np.int64, len(keys))
    more = ""
    if pending:
        more = f" {lookalike(sorted(pending), image_names, held_by)}".rstrip()
        if len(pending) == len(set(keys)):
            more += f" It holds {first_five(map(repr, image_names))}."
    _report_captions(targets, _UNMATCHED, f"name an image that {held_by} does not hold", keys, where, held_by, more)
    _report_captions(targets, _AMBIGUOUS, "fit several images", keys, where, held_by)
    return targets


def _report_joined(settled: dict[str, int], image_names: Sequence[str] | None, where: str, held_by: str) -> None:
    """Raise where shortening has given one image the captions of several files.

    Args:
        image_names: where some keys are names in full: then another file than the image's own is another image.
    """
    keys_of: dict[int, set[str]] = {}
    for key, row in settled.items():
        if row != _AMBIGUOUS:
            keys_of.setdefault(row, set() if image_names is None else {image_names[row]}).add(key)
    if joined := sorted(sorted(keys) for keys in keys_of.values() if _differ(keys)):
        cases = first_five(" and ".join(map(repr, keys)) for keys in joined)
        raise DataError(
            f"{where}: {len(joined)} image(s) would take the captions of several names: {cases}. Write the names as "
            f"they stand in {held_by}."
        )


def _differ(keys: set[str]) -> bool:
    """Whether keys with one stem name more than one file.

    `1`, `1.jpg`, `1.jpg#0`, `Images/1.jpg` and `data/Images/1.jpg` may all be the same.
    """
    plain = [_NUMBER.sub("", key.replace("\\", "/")) for key in keys]
    longest = max((key.rpartition("/")[0] for key in plain), key=len)
    folders = (key.rpartition("/")[0] for key in plain)
    endings = {_base_name(key).removeprefix(_stem(key)) for key in plain} - {""}
    return len(endings) > 1 or not all(f"/{longest}/".endswith(f"/{folder}/") for folder in folders if folder)


def _base_name(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _stem(name: str) -> str:
    base = _base_name(name)
    return base.rpartition(".")[0] or base


def lookalike(keys: Sequence[str], image_names: Sequence[str], held_by: str) -> str:
    """Of the first key that looks like an image's name and is not: which characters differ."""

    def look(name: str) -> str:
        return "".join(unicodedata.normalize("NFKC", _base_name(name)).casefold().split())

    def called(character: str) -> str:
        return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()

    names = {look(name): name for name in image_names}
    for key in keys:
        if (name := names.get(look(key))) is not None:
            only = [", ".join(map(called, sorted(set(one) - set(other)))) for one, other in ((key, name), (name, key))]
            differing = " against ".join(part or "nothing" for part in only)
            return f"{key!r} looks like {name!r} of {held_by}, but has {differing}."
    return ""


def _report_captions(
    targets: np.ndarray, value: int, problem: str, keys: Sequence[str], where: str, held_by: str, more: str = ""
) -> None:
    rows = np.flatnonzero(targets == value)
    if len(rows):
        cases = first_five(f"row {row} {keys[row]!r}" for row in rows.tolist())
        raise DataError(
            f"{where}: {len(rows)} caption(s) {problem}: {cases} (rows count from 0).{more} Write the names as they "
            f"stand in {held_by}."
        )


def _layout(lines: list[str]) -> tuple[int, bool]:
    """How many header lines there are, 0 or 1, and whether captions are numbered between image and text."""
    columns = [column.strip().lower() for column in _SEPARATOR.split(lines[0])] if lines else []
    if len(columns) in (2, 3) and columns[0] in _IMAGE and columns[-1] in _TEXT:
        if len(columns) == 2:
            return 1, False
        if columns[1] in _COUNT:
            return 1, True
    found = [_NUMBERED.fullmatch(line) for line in lines if "|" in line]
    numbers = {match[3] for match in found if match}
    nearly_all = len(lines) - sum(match is not None for match in found) <= len(lines) // 100
    return 0, "0" in numbers and nearly_all and all(_NUMBERED.fullmatch(x) or _LACKING.fullmatch(x) for x in lines)


def _split(line: str, numbered: bool) -> list[str]:
    """Image and caption of a line; one part alone where it has no separator."""
    if numbered and (found := _NUMBERED.fullmatch(line) or _LACKING.fullmatch(line)):
        return [found[1], found[4].strip()]
    return _SEPARATOR.split(line, maxsplit=1)


def _line_problem(parts: list[str]) -> str | None:
    if len(parts) == 1:
        return "without a separator" if parts[0].strip() else "empty"
    if not parts[0].strip():
        return "without an image name or id"
    return None if parts[1].strip() else "without caption text"
