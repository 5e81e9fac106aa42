"""The model card of a translator: how it is used, how good it is, and whose it is, as Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.models.build import ROWS
from helpers.serving.text_encoders import FOLDER, IN_FOLDER

LONGEST = 400
"""Characters of a value on the card: a licence may take a sentence."""
_COLUMNS = (
    ("MRR", "mrr", ".3f"),
    ("R@1", "recall_at_1", ".3f"),
    ("R@10", "recall_at_10", ".3f"),
    ("MRR, hubness reduced", "hubness_mrr", ".3f"),
    ("parameters", "parameters", ",d"),
)
_USE = """from helpers import Translator

translator = Translator.from_pretrained("this-folder")
vectors = translator.translate(captions)  # (N, {text_dim}) -> unit vectors (N, {image_dim})
rows, scores = translator.search(captions, images, k=10{hubness})  # images (M, {image_dim}): best first"""
_USE_TEXT = """
rows, scores = translator.search_text(["a dog"], images, k=10)  # encoded as the captions were"""
USE_SENTENCE_TRANSFORMER = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this-folder", trust_remote_code=True)  # the code: embedding-translation, installed
vector = model.encode("a dog")  # a unit vector ({image_dim},) to compare with those of images"""


def card(config: Mapping[str, Any], encoders: Mapping[str, Any], *, hubness_known: bool, use: str | None = None) -> str:
    """The text of README.md, for whoever finds the folder: what it is, how it is used, how good it is, whose it is.

    Args:
        config: as `pretrained.describe` gives it. encoders: the content of `encoders.json`, empty where it is unknown.
        hubness_known: whether the query bank is in the folder. use: the example; that of a saved translator where None.
    """
    widths, row = config["architecture"], ROWS[config["model"]]
    text, images = (_encoder(encoders.get(part)) for part in ("text", "images"))
    licence = config.get("licence")
    library = config["library"]
    head = {"library_name": library, "tags": ["text-to-image-retrieval", "sentence-similarity", library]}
    if licence:
        head["license"] = licence
    if use is None:
        use = _USE + (_USE_TEXT if encoders else "")
    sections = [
        "---\n" + "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items()) + "\n---",
        f"# {row.label}: from captions to images",
        f"Translates embeddings of captions ({text}; {widths['text_dim']} numbers) into the space of image embeddings "
        f"({images}; {widths['image_dim']} numbers), where a caption finds its image by cosine.",
        f"Made by {library} {config['version']}.",
        "## Use",
        "```python\n" + use.format(**widths, hubness=", hubness=True" if hubness_known else "") + "\n```",
        "## Results",
        *_results(config),
        "## Data and licences",
        "\n".join(
            (
                f"* Trained on: {_line(config.get('data') or 'not stated')}"
                + (f" (fingerprint `{_line(config['fingerprint'])}`)." if config.get("fingerprint") else "."),
                f"* Text encoder: {text}; licence: {_licence(encoders.get('text'))}.",
                f"* Image encoder: {images}; licence: {_licence(encoders.get('images'))}.",
                f"* These weights; licence: {_line(licence or 'not stated')}. They were learned from the data above.",
            )
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _results(config: Mapping[str, Any]) -> Iterator[str]:
    parts = {"validation": config.get("leaderboard"), "test": config.get("test_leaderboard")}
    if not any(parts.values()):
        yield "Not judged."
    for part, rows in parts.items():
        if rows:
            yield f"Every {part} caption of the run ranks all {part} images by cosine; this model in bold:"
            yield _table(rows, config["model"])
    if any(parts.values()):
        yield "MRR is the mean of 1 / rank; R@k the share of captions whose image is among the first k."


def _table(rows: Sequence[Mapping[str, Any]], chosen: str) -> str:
    lines = [["model", *(heading for heading, _, _ in _COLUMNS)], ["---"] * (1 + len(_COLUMNS))]
    for row in rows:
        name = str(row["model"])
        label = _line(ROWS[name].label if name in ROWS else name)
        cells = [_cell(row.get(key), spec) for _, key, spec in _COLUMNS]
        lines.append([f"**{label}**" if name == chosen else label, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object, spec: str) -> str:
    try:
        return "-" if value is None else format(value, spec)
    except (TypeError, ValueError):
        return _line(value)


def _encoder(description: object) -> str:
    """The name of an encoder, and a hub's revision where one is known."""
    if not isinstance(description, Mapping) or not description.get("model"):
        return "an encoder that is not stated"
    model, at = str(description["model"]), str(description.get("revision") or "")
    shown = Path(model).name if os.path.isabs(model) else model  # the rest of a path is nobody else's business
    name = f"the one in `{FOLDER}/`" if model == IN_FOLDER else f"`{_line(shown)}`"
    return f"{name} at {_line(at)}" if at and ":" not in at else name  # others are digests, and wheels of ours


def _licence(description: object) -> str:
    known = description.get("licence") if isinstance(description, Mapping) else None
    return _line(known or "not stated")


def _line(value: object) -> str:
    """A value on one line of Markdown, whatever a file holds."""
    return " ".join(str(value).replace("|", "/").replace("`", "'").split())[:LONGEST]
