"""What a user calls after training: translate queries, search a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from helpers.data.pairs import ENCODERS_FILE
from helpers.data.vectors import normalise
from helpers.errors import CheckpointError, DataError, first_five
from helpers.evaluation import dot_product, hubness
from helpers.models import storage
from helpers.models.build import predict
from helpers.serving import onnx_export, popularity, pretrained, sentence_transformer, text_encoders
from helpers.serving.exact_search import Vectors, as_array, best_rows, checked_block, checked_k
from helpers.system.devices import exact_float32
from helpers.system.files import read_json, reading
from helpers.system.paths import absolute

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from helpers.encoders import TextEncoder


def _best_model(run: Path) -> str:
    """The model with the best MRR of a run's leaderboard, which must have judged the weights that are there now."""
    path = run / "leaderboard.json"
    if not path.exists() and run.is_dir():
        raise CheckpointError(
            f"{path}: no such file; notebook 05 writes it at the end. Wait until the series has finished, run it again "
            "where it stopped, or name a model."
        )
    with reading(path, "no readable leaderboard", "Run notebook 05, or name a model."):
        rows = {row["model"]: row for row in read_json(path)}
        best = max((name for name in rows if name != "chance"), key=lambda name: rows[name]["mrr"])
    judged = {name: row["weights"] for name, row in rows.items() if row.get("weights")}
    changed = [name for name, digest in judged.items() if storage.weights_digest(run, name) != digest]
    if changed:
        raise CheckpointError(
            f"{path}: {', '.join(changed)} changed since it was written. Run notebook 05 again, or name a model."
        )
    return best


_OWN = "Encode the queries yourself, as the captions were, and give their vectors to `search`."


class Translator:
    """A trained map from text embeddings to the image space.

    Vectors may be arrays, memory maps, lists or PyTorch tensors, of any real type (float16, bfloat16, float64 ...):
    everything is computed in float32, whatever autocast, default type or default device the caller has set.

    PyTorch's threads do not survive a fork: start the workers of a server by spawn, or load the translator in each.

    Attributes:
        name: the leaderboard row that it is.
        text_dim, image_dim: widths of input and output.
    """

    def __init__(
        self, name: str, model: nn.Module, text_dim: int, image_dim: int, loaded: tuple[Path, str | None] | None = None
    ) -> None:
        self.name, self.model, self.text_dim, self.image_dim = name, model.eval(), text_dim, image_dim
        self._loaded = loaded  # the run's folder, and the digest of the weights that were read

    @classmethod
    @exact_float32()
    def load(cls, run: str | Path, model: str | None = None) -> Translator:
        """Load a model of a run: the best of its leaderboard by MRR, or the row `model`.

        Args:
            run: a run's folder, such as `runs/demo`.

        Raises:
            CheckpointError: no leaderboard, a damaged one or one of other weights, no such model, or damaged weights.
        """
        run = absolute(run)
        if model is None:
            model = _best_model(run)
        digest = storage.weights_digest(run, model)
        network, metadata = storage.load_model(run, model)
        shape = metadata["architecture"]
        return cls(model, network, shape["text_dim"], shape["image_dim"], (run, digest))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Translator:
        """Load what `save_pretrained` wrote, from a folder on this machine.

        Raises:
            CheckpointError: no such folder, none of a translator, or a damaged one.
        """
        return cls.load(*pretrained.checked(folder))

    @property
    def loaded_weights(self) -> tuple[Path, str | None] | None:
        """The folder it was loaded from and the digest of the weights that were read; None if it was made in memory."""
        return self._loaded

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """What encoded the captions of its run, loaded at first use (extra `encode`).

        Raises:
            CheckpointError: it came from no folder, or the folder does not say what encoded the captions.
        """
        if self._loaded is None:
            raise CheckpointError(f"This translator was not loaded from a folder, so no text encoder is known. {_OWN}")
        path = self._loaded[0] / ENCODERS_FILE
        description = text_encoders.text_encoder_description(self._loaded[0])
        kind, width = description["kind"], description["dim"]
        if kind == "unknown":
            raise CheckpointError(f"{path}: what encoded the captions is unknown: the vectors were brought. {_OWN}")
        from helpers.encoders import load_text_encoder

        encoder = load_text_encoder(description)
        if not width == encoder.dim == self.text_dim:
            raise CheckpointError(
                f"{path}: the text encoder gives {encoder.dim} numbers a text (the file says {width}), but {self.name} "
                f"translates {self.text_dim}. {_OWN}"
            )
        return encoder

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Texts as (N, dx) float32, encoded as the captions of its run were; see `text_encoder`.

        Raises:
            DataError: texts hold no words; an encoder has a vector for those too, which finds pictures by chance.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if blank := [row for row, text in enumerate(texts) if not text.strip()]:
            raise DataError(
                f"{len(blank)} of {len(texts)} quer{'y' if len(texts) == 1 else 'ies'} without words: number "
                f"{first_five(row + 1 for row in blank)}. Give some words to look for."
            )
        if not texts:
            return np.empty((0, self.text_dim), dtype=np.float32)
        return np.asarray(self.text_encoder.encode(texts), dtype=np.float32)

    @exact_float32()
    def raw(self, x: Vectors) -> np.ndarray:
        """Translate (N, dx) to (N, dy) float32 at the model's own length; one query (dx,) to (dy,).

        Raises:
            ValueError: wrong shape, NaN or Inf, or numbers so large that their translations are.
        """
        x = as_array(x, "queries")
        if x.shape == (self.text_dim,):
            return self.raw(x[None])[0]
        if x.ndim != 2 or x.shape[1] != self.text_dim:
            wanted = f"(N, {self.text_dim}) or ({self.text_dim},)"
            raise ValueError(f"Queries have shape {x.shape}; {self.name} needs {wanted}.")
        with np.errstate(over="ignore", under="ignore"):
            x = x.astype(np.float32, copy=False)
        bad = np.flatnonzero(~np.isfinite(x).all(1))
        if len(bad):
            message = f"{len(bad)} of {len(x)} queries are not finite in float32, first rows: {bad[:5].tolist()}."
            raise ValueError(message)
        if not len(x):
            return np.empty((0, self.image_dim), dtype=np.float32)
        translated = predict(self.model, x)
        bad = np.flatnonzero(~np.isfinite(translated).all(1))
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(x)} queries are too large to translate, first rows: {bad[:5].tolist()}."
            )
        return translated

    @exact_float32()
    def translate(self, x: Vectors) -> np.ndarray:
        """Translate (N, dx) to unit vectors (N, dy) float32, one query (dx,) to (dy,); raises as `raw` does."""
        return normalise(torch.from_numpy(self.raw(x))).numpy()

    def for_dot_product(self, x: Vectors) -> np.ndarray:
        """Translate (N, dx) to (N, dy) float32 for dot products with image vectors as long as they are.

        Unit vectors less a fixed vector of the run, see `dot_product.correction`; for cosines, use `translate`.

        Raises:
            CheckpointError: the run has no correction for these weights (notebook 05 writes it), or others by now.
            ValueError: as `raw`.
        """
        return self.translate(x) - dot_product.load(self._folder(), self.name)

    def _folder(self) -> Path:
        if self._loaded is None:
            raise CheckpointError("This translator was not loaded from a run: its folder is needed.")
        run, digest = self._loaded
        if storage.weights_digest(run, self.name) != digest:
            path = storage.model_path(run, self.name)
            raise CheckpointError(f"{path}: not the weights that were loaded. Load the translator again.")
        return run

    @exact_float32()
    def popularity(self, gallery: Vectors) -> np.ndarray:
        """How much each gallery image attracts captions of other images: (M,) float32 in units of cosine.

        From the run's query bank of training captions; see `hubness.attention`. It depends on the gallery alone, so
        for many searches of one gallery it is computed once and handed to `search`.

        Raises:
            CheckpointError: the run has no query bank for these weights (notebook 05 writes it), or others by now.
            ValueError: wrong shape of the gallery, or NaN, Inf or rows of zeros in it.
        """
        gallery, bank = self._checked_gallery(gallery), self.query_bank()
        return popularity.measured(bank, self.raw(bank.text), gallery)

    def query_bank(self) -> hubness.QueryBank:
        """The training captions of its run by which popularity is measured.

        Raises:
            CheckpointError: the run has no query bank for these weights (notebook 05 writes it), or others by now.
        """
        return hubness.load_query_bank(self._folder(), self.name)

    def _checked_gallery(self, gallery: Vectors) -> np.ndarray:
        """The gallery as an array, of the right shape."""
        gallery = as_array(gallery, "gallery's vectors")
        if gallery.ndim != 2 or gallery.shape[1] != self.image_dim or not len(gallery):
            raise ValueError(f"The gallery has shape {gallery.shape}; (M, {self.image_dim}) with M > 0 is needed.")
        return gallery

    @exact_float32()
    def search(
        self, x: Vectors, gallery: Vectors, k: int = 10, hubness: bool | np.ndarray = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best gallery rows for each query, by cosine, best first.

        Rows that are copies of one another may come in any order: their scores can differ in the last bit.
        A gallery that is searched again and again is worth a `PictureIndex`.

        Args:
            x: (N, dx) queries, or one (dx,). gallery: (M, dy) image embeddings of any length. k: capped at M.
            hubness: True lowers the scores of images that attract training captions beyond their share, and raises
                those of images that attract few: far better ranks where the gallery is of the kind that the captions
                describe (docs/method.md). An array (M,) is what `popularity` gave for this gallery before.

        Returns:
            Indices (N, k) int64 and cosine scores (N, k) float32, less the popularity where it is asked for; both (k,)
            for one query.

        Raises:
            ValueError: wrong shapes, NaN or Inf in queries, gallery or popularity, rows of zeros in the gallery, or a k
                that is no integer of at least 1.
            CheckpointError: hubness is True and the run has no query bank; notebook 05 writes it.
        """
        gallery = self._checked_gallery(gallery)
        k = min(checked_k(k), len(gallery))
        offsets = self.offsets(gallery, hubness)
        queries = torch.from_numpy(self.translate(x))
        index, scores = best_rows(
            torch.atleast_2d(queries),
            lambda left: normalise(torch.from_numpy(checked_block(gallery, left))),
            offsets,
            k,
        )
        return (index, scores) if queries.ndim == 2 else (index[0], scores[0])

    def search_text(
        self, texts: str | Sequence[str], gallery: Vectors, k: int = 10, hubness: bool | np.ndarray = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, for texts, which are encoded as the captions of its run were.

        Args:
            texts: N texts, or one, whose results are (k,).

        Raises:
            CheckpointError: as `text_encoder`.
            ValueError: as `search`.
        """
        found = self.encode([texts] if isinstance(texts, str) else texts)
        return self.search(found[0] if isinstance(texts, str) else found, gallery, k, hubness)

    def offsets(self, gallery: Vectors, given: bool | np.ndarray) -> torch.Tensor:
        """(M,) float32, what `search` subtracts from the scores of a gallery; raises as `search` does."""
        gallery = self._checked_gallery(gallery)
        if isinstance(given, (bool, np.bool_)):
            given = self.popularity(gallery) if given else np.zeros(len(gallery), dtype=np.float32)
        return popularity.checked(given, len(gallery))

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        with_text_encoder: bool | None = None,
        data: str | None = None,
        licence: str | None = None,
    ) -> Path:
        """Write this translator into a folder of its own, with all that `search`, hubness reduction and text need.

        Weights are safetensors; README.md is a model card with the run's leaderboard. The folder is complete or not
        there at all. Returns its path.

        Args:
            overwrite: replace a translator that was saved there; a folder that holds other files is never replaced.
            with_text_encoder: copy the text encoder's weights too; None copies them where they are a folder on this
                machine, which nobody else could load by its name.
            data, licence: for the card: what it was trained on, and the licence of these weights, such as "mit".

        Raises:
            CheckpointError: the folder cannot be replaced or written, or the run's files were damaged or changed since.
        """
        how = pretrained.Options(overwrite, with_text_encoder, data, licence)
        return pretrained.save(folder, self._folder(), self.name, self.model, how)

    def export_onnx(self, path: str | Path) -> Path:
        """Write an ONNX file: `text_embedding` float32 (batch, dx) in, `image_embedding` float32 (batch, dy) out.

        The output is what `translate` gives, unit vectors; any batch. It is compared with PyTorch before it is written:
        ONNX Runtime's numbers are within 1e-4. Returns the path.

        Raises:
            MissingLibraryError: the extra `export` is not installed.
            CheckpointError: the file cannot be written, or would be larger than 2 GB.
        """
        return onnx_export.export(path, self.name, self.model, self.text_dim)

    def as_sentence_transformer(self) -> SentenceTransformer:
        """A SentenceTransformer of the run's text encoder and this translator: `encode("a dog")` is an image vector.

        Its `save` writes a folder that `SentenceTransformer(folder, trust_remote_code=True)` reads wherever this
        package is installed. It is a copy: what happens to it changes nothing here.

        Raises:
            CheckpointError: the run does not say what encoded its captions, or it was no SentenceTransformer.
            MissingLibraryError: the extra `export` is not installed.
        """
        return sentence_transformer.compose(self._folder(), self.name, self.model, self.text_dim)
