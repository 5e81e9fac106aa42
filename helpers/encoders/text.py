"""Encoders of text, by the library sentence-transformers: any of its models, by name or from a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from helpers.encoders.sources import choose, find_model, loading, need, versions
from helpers.errors import EncoderError
from helpers.system.devices import autocast, exact_float32
from helpers.system.libraries import library

BATCH = {"cpu": 32, "cuda": 256}
"""Texts at a time: on a CPU more only wait for the longest among them, on a GPU fewer leave it idle."""


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    dim: int

    def encode(self, texts: Sequence[str], batch_size: int | None = None) -> np.ndarray:
        """(N, dim) float32."""

    def describe(self) -> dict[str, Any]:
        """What `load_text_encoder` needs to make the same encoder again, with the versions that made it."""


class SentenceEncoder:
    """A model of sentence-transformers.

    Attributes:
        model: the `SentenceTransformer`, in evaluation mode. dim: width of its vectors.
    """

    def __init__(self, description: Mapping[str, Any], device: str | None = None, precision: str | None = None) -> None:
        name = need(description, "model")
        self._given = dict(description)
        self._source = find_model(name, description.get("revision"))
        self.device, self.dtype = choose(device, precision)
        with loading(name):
            sentence_transformers = library("sentence_transformers", "encode")
            self.model = sentence_transformers.SentenceTransformer(
                self._source.place,
                device=str(self.device),
                revision=self._source.hub_revision,
                local_files_only=self._source.on_disk,
                model_kwargs={"dtype": torch.float32},
            ).eval()
        if longest := description.get("max_length"):
            self.model.max_seq_length = longest
        width = getattr(self.model, "get_embedding_dimension", None) or self.model.get_sentence_embedding_dimension
        self.dim = int(width())
        if description.get("dim") not in (None, self.dim):
            raise EncoderError(
                f"{name}: its vectors have {self.dim} numbers, where {description['dim']} are recorded: it is another "
                "model now. Encode the data again."
            )

    def encode(self, texts: Sequence[str], batch_size: int | None = None) -> np.ndarray:
        """Vectors of texts, in their order; the batches are made of texts of like length.

        Args:
            texts: N texts; beyond the model's `max_length` they are cut.
            batch_size: texts at a time; the device's own where None.

        Returns:
            (N, dim) float32.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        size = batch_size or BATCH.get(self.device.type, 32)
        vectors = self._encode(texts, size, self.dtype)
        if self.dtype != torch.float32 and len(lost := np.flatnonzero(~np.isfinite(vectors).all(1))):
            vectors[lost] = self._encode([texts[row] for row in lost], size, torch.float32)
        return vectors

    def _encode(self, texts: list[str], batch_size: int, dtype: torch.dtype) -> np.ndarray:
        with exact_float32(), autocast(self.device, dtype):
            vectors = self.model.encode(texts, batch_size=batch_size, show_progress_bar=False)
        return np.array(vectors, dtype=np.float32)

    def describe(self) -> dict[str, Any]:
        modules = {type(module).__name__: module for module in self.model}
        config = getattr(getattr(modules.get("Transformer"), "auto_model", None), "config", None)
        prompt = self.model.prompts.get(self.model.default_prompt_name) if self.model.default_prompt_name else None
        return {
            "kind": "sentence-transformers",
            "model": self._source.name,
            "revision": self._source.settled(getattr(config, "_commit_hash", None)),
            "pooling": _pooling(modules.get("Pooling")),
            "normalised": "Normalize" in modules,
            "max_length": self.model.max_seq_length,
            "prompt": prompt or None,
            "precision": str(self.dtype).removeprefix("torch."),
            "dim": self.dim,
            "licence": self._given.get("licence") or _licence(self.model),
            "versions": versions("sentence-transformers", "transformers", "tokenizers", "torch"),
        }


def load_text_encoder(
    description: Mapping[str, Any], device: str | None = None, precision: str | None = None
) -> TextEncoder:
    """The encoder that a description names: the "text" part of a data folder's encoders.json, or of a preset.

    Args:
        description: at least "model", a folder or a name; "kind", if given, is "sentence-transformers".
        device: such as "cpu" or "cuda:1"; where None, `HELPERS_DEVICE` or the best that is there.
        precision: "float32", "float16" or "bfloat16"; where None, float16 on a GPU and float32 elsewhere.

    Raises:
        EncoderError: nothing says which encoder it was, it cannot be loaded, or it has changed since.
        MissingLibraryError: sentence-transformers is not installed.
    """
    kind = description.get("kind", "sentence-transformers")
    if kind == "unknown":
        raise EncoderError(
            "which encoder made the caption embeddings is not recorded, since they were brought ready-made: a query in "
            'words cannot be encoded. Write its "model" under "text" into encoders.json, or encode with helpers.encode.'
        )
    if kind != "sentence-transformers":
        raise EncoderError(f"text encoder of kind {kind!r}: only sentence-transformers is known.")
    return SentenceEncoder(description, device, precision)


def _pooling(module: Any) -> str | None:
    if module is None:
        return None
    name = getattr(module, "pooling_mode", None)
    return str(name) if name is not None else str(module.get_pooling_mode_str())


def _licence(model: Any) -> str | None:
    licence = getattr(getattr(model, "model_card_data", None), "license", None)
    return str(licence) if licence else None
