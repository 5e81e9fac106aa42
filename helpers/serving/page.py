"""What was found, as one HTML file that holds its pictures and needs neither network nor scripts."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import DataError
from helpers.serving.index import PictureIndex
from helpers.system.files import atomic_write
from helpers.system.paths import absolute

if TYPE_CHECKING:
    from helpers.data.pictures import Pictures

THUMBNAIL = 256
"""Pixels of a picture's side: a screen's card at twice its density."""
_STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --faint: #6e6e73; --page: #fbfbfa; --card: #fff; --line: #e3e3e0 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f2f2f0; --faint: #a0a0a5; --page: #18181a; --card: #232326; --line: #38383c }
}
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif }
h1 { font-size: 1.7rem; margin: 2.5rem 0 1rem; overflow-wrap: anywhere } h1:first-child { margin-top: 0 }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)) }
li { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; overflow: hidden }
.picture { display: flex; align-items: center; justify-content: center; height: 11rem; background: #fff;
  color: #6e6e73 }
.picture img { width: 100%; height: 100%; object-fit: contain }
.words { padding: .6rem .75rem .75rem; overflow-wrap: anywhere }
.words b { font-variant-numeric: tabular-nums } .words span { color: var(--faint); font-size: .85rem }
.words span.score { float: right; font-variant-numeric: tabular-nums } .words p { margin: .25rem 0 0 }
footer { color: var(--faint); margin-top: 2.5rem; font-size: .85rem }
"""


@dataclass(frozen=True)
class Found:
    """One query and its hits, best first.

    Attributes:
        query: its words. rows, scores: (k,) each, as plain numbers.
    """

    query: str
    rows: Sequence[int]
    scores: Sequence[float]


def write_page(path: str | Path, index: PictureIndex, found: Sequence[Found], note: str = "") -> Path:
    """Write the page, whole or not at all. Every text in it is escaped, whoever wrote it.

    Args:
        note: a line at its end, such as which model and which gallery.

    Raises:
        DataError: the file cannot be written.
    """
    path = absolute(path)
    text = page(index, found, note)
    try:
        # A name of a file may hold what UTF-8 does not.
        atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="replace"))
    except OSError as error:
        raise DataError(f"{path}: the page cannot be written ({error.strerror or error}).") from error
    return path


def page(index: PictureIndex, found: Sequence[Found], note: str = "") -> str:
    """The page's HTML; see `write_page`."""
    title = escape(found[0].query if len(found) == 1 else f"{len(found)} searches")
    parts = "\n".join(_section(index, one) for one in found)
    # Nothing is loaded and nothing runs, even if an escape were forgotten.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
{parts}
<footer>{escape(note)}</footer>
</body>
</html>
"""


def _section(index: PictureIndex, found: Found) -> str:
    return f"<h1>{escape(found.query)}</h1>\n<ol>\n{chr(10).join(_cards(index, found))}\n</ol>"


def _cards(index: PictureIndex, found: Found) -> Iterator[str]:
    pictures = index.pictures
    for rank, (row, score) in enumerate(zip(found.rows, found.scores, strict=True), 1):
        name, caption = escape(index.names[row]), escape(index.captions[row])
        shown = _picture(index, pictures, row, caption or name)
        words = f'<b>{rank}</b> <span class="score">{score:.3f}</span>'
        words += f"<p>{caption}</p>" if caption else ""
        yield (f'<li><div class="picture">{shown}</div><div class="words">{words}<span>{name}</span></div></li>')


def _picture(index: PictureIndex, pictures: Pictures | None, row: int, label: str) -> str:
    """An image element, or words where there is no picture to show; `label` is escaped already."""
    if index.missing([row]):
        return "picture missing"
    if pictures is None or row >= len(pictures):
        return "no picture"
    try:
        content = base64.b64encode(pictures.thumbnail(row, THUMBNAIL)).decode("ascii")
    except (DataError, OSError):  # one broken file is no reason to show none
        return "cannot be shown"
    return f'<img src="data:{pictures.media_type};base64,{content}" alt="{label}">'
