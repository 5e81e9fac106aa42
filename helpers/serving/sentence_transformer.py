"""A translator as the last module of a SentenceTransformer: text in, unit vectors of the image space out.

    model = Translator.load("runs/demo").as_sentence_transformer()
    model.save("text-to-image")
    SentenceTransformer("text-to-image", trust_remote_code=True).encode("a dog")  # in another program

Programs that only know SentenceTransformer (LangChain, MTEB, vector databases) use it as any text encoder.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from helpers.data.pairs import ENCODERS_FILE
from helpers.data.vectors import normalise
from helpers.errors import CheckpointError
from helpers.models import storage
from helpers.serving import model_card, pretrained, text_encoders

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FEATURE = "sentence_embedding"
"""The key under which modules of a SentenceTransformer hand on what they made of a text."""


class TranslatorModule(nn.Module):
    """A module as sentence-transformers calls, saves and loads it, by the names of its methods.

    It derives from no class of that library, so that this module needs it only where a model is made or loaded.

    Attributes:
        name: the row of the leaderboard. architecture: what `build_model` takes.
    """

    def __init__(self, name: str, model: nn.Module, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        self.name, self.model, self.architecture = name, model, dict(architecture)

    def forward(self, features: dict[str, torch.Tensor], **kwargs: Any) -> dict[str, torch.Tensor]:
        x = features[FEATURE]  # (B, dx), in whatever type the text encoder computes
        with torch.autocast(x.device.type, enabled=False):
            features[FEATURE] = normalise(self.model(x.float()))  # (B, dy)
        return features

    def get_embedding_dimension(self) -> int:
        return int(self.architecture["image_dim"])

    get_sentence_embedding_dimension = get_embedding_dimension  # its name before version 6

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write weights (safetensors, whatever is asked for) and config; called by `SentenceTransformer.save`."""
        pretrained.write_model(Path(output_path), self.name, self.model, self.architecture)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> TranslatorModule:
        """Read what `save` wrote; called by `SentenceTransformer(folder)`.

        Raises:
            CheckpointError: the folder is missing or damaged.
        """
        from sentence_transformers.util import load_dir_path

        found = load_dir_path(
            model_name_or_path, subfolder, token, cache_folder, revision=revision, local_files_only=local_files_only
        )
        folder, name = pretrained.checked(found or Path(model_name_or_path) / subfolder)
        model, metadata = storage.load_model(folder, name)
        return cls(name, model, metadata["architecture"])

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> TranslatorModule:
        """Move to another device, never to another type: `model.half()` is for the text encoder, the large part.

        In float16 the rounding of what all captions share would be larger than what tells them apart.
        """
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def compose(folder: Path, name: str, model: nn.Module, text_dim: int) -> SentenceTransformer:
    """The text encoder of a run with the translator behind it; see `Translator.as_sentence_transformer`.

    Args:
        folder: of the run, or of a saved translator, with `encoders.json` and the stored model.
    """
    description = text_encoders.text_encoder_description(folder)
    whole = text_encoders.load_sentence_transformer(description)
    width = whole.get_embedding_dimension() if hasattr(whole, "get_embedding_dimension") else text_dim
    if width != text_dim or whole.truncate_dim is not None:
        raise CheckpointError(
            f"{folder / ENCODERS_FILE}: {description['model']} gives {width} numbers, and {name} was trained "
            f"on {text_dim}. It is not what encoded the captions."
        )
    metadata = storage.load_metadata(folder, name)
    assert metadata is not None
    whole.append(TranslatorModule(name, copy.deepcopy(model).to(whole.device), metadata["architecture"]).eval())
    whole.similarity_fn_name = "cosine"
    # Where a loaded model keeps its README, which `save` writes again; without it the card is a form.
    known, use = text_encoders.encoders_of(folder), model_card.USE_SENTENCE_TRANSFORMER
    card = model_card.card(pretrained.describe(folder, name), known, hubness_known=False, use=use)
    setattr(whole, "_model_card_text", card)  # noqa: B010  (its type is that of None)
    return whole
