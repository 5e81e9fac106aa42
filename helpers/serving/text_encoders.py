"""What encoded the captions of a run: read from its `encoders.json`, loaded, and copied with a saved translator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.errors import CheckpointError
from helpers.serving.optional import library
from helpers.system.files import read_json, reading

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

ENCODERS, FOLDER = "encoders.json", "text_encoder"
IN_FOLDER = f"./{FOLDER}"
"""The model that `encoders.json` names where the text encoder lies beside it."""
OWN = "Encode the queries yourself, as the captions were, and give their vectors."


def encoders_of(folder: Path) -> dict[str, Any]:
    """The whole of `encoders.json`, empty where a folder has none."""
    path = folder / ENCODERS
    with reading(path, "damaged", "Copy it again from the data folder."):
        return dict(read_json(path)) if path.exists() else {}


def text_encoder_description(folder: Path) -> dict[str, Any]:
    """What encoded the captions of a run, or of a saved translator: the text part of its `encoders.json`.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / ENCODERS
    with reading(path, "does not say what encoded the captions", OWN):
        description = dict(read_json(path)["text"])
        description["kind"], int(description["dim"])
        if description.get("model") == IN_FOLDER:
            description["model"] = str(folder / FOLDER)
    return description


def load_sentence_transformer(description: Mapping[str, Any]) -> SentenceTransformer:
    """A new SentenceTransformer that encodes as the captions were, at unit length where they were brought to it.

    Raises:
        CheckpointError: the text encoder is none of sentence-transformers.
        MissingLibraryError: sentence-transformers is not installed.
    """
    if (kind := description.get("kind")) != "sentence-transformers":
        raise CheckpointError(
            f"The captions were encoded by a text encoder of the kind {kind!r}: a SentenceTransformer can be made of "
            "one of the kind 'sentence-transformers' alone. save_pretrained and export_onnx take any."
        )
    library("sentence_transformers", "export")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize

    from helpers.encoders import load_text_encoder

    whole = getattr(load_text_encoder(description), "model", None)
    assert isinstance(whole, SentenceTransformer)
    if description.get("normalised") and not isinstance(whole[-1], Normalize):
        whole.append(Normalize())
    return whole


def save_text_encoder(description: Mapping[str, Any], folder: Path) -> None:
    """Write a text encoder as sentence-transformers does, its weights as safetensors alone."""
    load_sentence_transformer(description).save(str(folder), create_model_card=False)
