"""What encoded the captions of a run: read from its `encoders.json`, loaded, and copied with a saved translator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.data.pairs import ENCODERS_FILE
from helpers.errors import CheckpointError, shorten
from helpers.system.files import read_json, reading
from helpers.system.libraries import library

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FOLDER = "text_encoder"
IN_FOLDER = f"./{FOLDER}"
"""The model that `encoders.json` names where the text encoder lies beside it."""
OWN = "Encode the queries yourself, as the captions were, and give their vectors."


def encoders_of(folder: Path) -> dict[str, Any]:
    """The whole of `encoders.json`, empty where a folder has none."""
    path = folder / ENCODERS_FILE
    with reading(path, "damaged", "Copy it again from the data folder."):
        return dict(read_json(path)) if path.exists() else {}


def text_encoder_description(folder: Path) -> dict[str, Any]:
    """What encoded the captions of a run, or of a saved translator: the text part of its `encoders.json`.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / ENCODERS_FILE
    with reading(path, "does not say what encoded the captions", OWN):
        description = dict(read_json(path)["text"])
        description["kind"], int(description["dim"])
        if description.get("model") == IN_FOLDER:
            description["model"] = str(folder / FOLDER)
    return description


def load_sentence_transformer(description: Mapping[str, Any]) -> SentenceTransformer:
    """A new SentenceTransformer that encodes as the captions were.

    Raises:
        CheckpointError: the text encoder is none of sentence-transformers.
        EncoderError: it cannot be loaded, or has changed since.
        MissingLibraryError: sentence-transformers is not installed.
    """
    if (kind := description.get("kind")) != "sentence-transformers":
        raise CheckpointError(
            f"The captions were encoded by a text encoder of the kind {shorten(repr(kind))}: a SentenceTransformer can "
            "be made of one of the kind 'sentence-transformers' alone. save_pretrained and export_onnx take any."
        )
    from helpers.encoders import load_text_encoder

    library("sentence_transformers", "export")
    encoder: Any = load_text_encoder(description)  # the kind that has a `model`
    return encoder.model


def copy_text_encoder(description: Mapping[str, Any], folder: Path) -> str | None:
    """Write a text encoder into a folder, its weights as safetensors alone; the revision by which it is known there."""
    from helpers.encoders.sources import find_model, loading

    whole = load_sentence_transformer(description)
    with loading(str(folder)):  # it is quiet, and an error names the folder
        whole.save(str(folder), create_model_card=False)
    for path in folder.rglob("*.safetensors"):  # transformers makes files that only their owner can read
        path.chmod((folder / "modules.json").stat().st_mode & 0o666)
    return find_model(str(folder)).revision
