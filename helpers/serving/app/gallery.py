"""The pictures of a run and those that were added, searched by any of its models."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.errors import RequestError, UserError
from helpers.models.build import ROWS
from helpers.models.storage import model_path
from helpers.serving.app import uploads
from helpers.serving.app.uploads import Upload, Uploads
from helpers.system.files import read_json, reading

if TYPE_CHECKING:
    from helpers.encoders import ImageEncoder
    from helpers.serving.index import PictureIndex

MAX_QUERY = 500
"""Characters of a query; text encoders read at most some hundred words."""
MAX_K = 100
WHY = 5
"""Training captions that explain a hit."""
EXAMPLES = 4
"""Queries that the page offers."""
_KEPT_INDEXES = 3
"""Indexes held at a time, each as large as the vectors of all images."""
_KEPT_QUERIES, _KEPT_THUMBNAILS = 64, 1024


@dataclass(frozen=True)
class Model:
    """A row of the leaderboard that can be searched with."""

    name: str
    label: str
    mrr: float


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Attributes:
        row: its place in the index. name: of its file. caption: the first that describes it; empty where none does.
        score: its cosine with the query, less its popularity where that is asked for.
        added: through the page.
    """

    row: int
    name: str
    caption: str
    score: float
    added: bool


class Gallery:
    """All that the page shows of one run; may be called from several threads, one of which computes at a time.

    Args:
        run: a run's folder.
        open_index: gives the index of one model of the run, its own pictures in it and no others.
        image_encoder: gives the encoder that made the run's image vectors; raises `UserError` where there is none.
        description: of that encoder; pictures that another one encoded are left out.
    """

    def __init__(
        self,
        run: Path,
        open_index: Callable[[str], PictureIndex],
        image_encoder: Callable[[], ImageEncoder],
        description: Mapping[str, Any],
    ) -> None:
        self.run, self._open_index, self._make_encoder = run, open_index, image_encoder
        self.models = _models(run)
        self._computing = threading.RLock()  # encoders and models have the cores to themselves
        self._indexes: OrderedDict[str, PictureIndex] = OrderedDict()
        self._image_encoder: ImageEncoder | None = None
        first = open_index(self.best)
        self.n_own, self._width = first.vectors.shape
        self._translator, self._pictures, self._corrects = first.translator, first.pictures, first.hubness
        self._names, self._captions = list(first.names), list(first.captions)
        self._uploads = Uploads(run / "uploads", _digest(description), self._width)
        self._keep(self.best, first)
        self._thumbnail = lru_cache(_KEPT_THUMBNAILS)(self._make_thumbnail)
        self._embed = lru_cache(_KEPT_QUERIES)(self._encode_query)

    @property
    def best(self) -> str:
        """The model with the best MRR."""
        return max(self.models.values(), key=lambda model: model.mrr).name

    def __len__(self) -> int:
        return self.n_own + len(self._uploads)

    def about(self) -> dict[str, Any]:
        """What the page needs to know before the first query."""
        return {
            "run": self.run.name,
            "models": [vars(model) for model in self.models.values()],
            "best": self.best,
            "hubness": self._corrects,
            "pictures": self.n_own,
            "added": len(self._uploads),
            "examples": self._examples(),
            "limits": {
                "k": MAX_K,
                "query": MAX_QUERY,
                "bytes": uploads.MAX_BYTES,
                "pixels": uploads.MAX_PIXELS,
            },
        }

    def _examples(self) -> list[str]:
        """Captions of the run to begin with: short ones, from all over its pictures."""
        short = [text for text in dict.fromkeys(self._captions) if re.fullmatch(r"[\w'-]+( [\w'-]+){1,7}\.?", text)]
        places = np.linspace(0, len(short) - 1, EXAMPLES + 2).astype(int)[1:-1]
        return list(dict.fromkeys(short[place] for place in places)) if short else []

    def warm_up(self) -> None:
        """Load what the first query needs."""
        self.search("a picture", self.best, 1)

    def search(self, query: str, model: str, k: int, hubness: bool | None = None) -> list[Hit]:
        """The k best pictures for a query, best first.

        Args:
            hubness: whether popularity is subtracted; None where the run can.

        Raises:
            RequestError: nothing to search for, or what is outside the limits; an unknown model.
        """
        query = " ".join(query.split())
        if not query:
            raise RequestError(400, "Type some words first.")
        if len(query) > MAX_QUERY:
            raise RequestError(400, f"The query has {len(query)} characters; at most {MAX_QUERY} are taken.")
        if not 1 <= k <= MAX_K:
            raise RequestError(400, f"k = {k}: between 1 and {MAX_K} pictures can be shown.")
        if hubness and not self._corrects:
            raise RequestError(409, "This run cannot correct for hubness: run notebook 05, then start the page again.")
        with self._computing:
            rows, scores = self._index(self._known(model)).search(self._embed(query), k, hubness, translated=False)
        return [self._hit(row, score) for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True)]

    def why(self, row: int, model: str) -> list[tuple[str, float]]:
        """The training captions nearest to a picture under a model, each with its cosine.

        Raises:
            RequestError: no such picture or model.
        """
        self._check_row(row)
        with self._computing:
            return [(text, float(score)) for text, score in self._index(self._known(model)).why(row, WHY)]

    def thumbnail(self, row: int, side: int) -> bytes:
        """A picture of the index as JPEG, PNG or WebP, about `side` pixels wide.

        Raises:
            RequestError: no such picture, or its file is gone.
        """
        self._check_row(row)
        return self._thumbnail(row, side)

    def add(self, content: bytes, name: str) -> tuple[Hit, bool]:
        """Add an uploaded file to the index of every model; one that was added before stays one.

        Returns:
            The picture, and whether it is new.

        Raises:
            RequestError: the file is no picture that can be taken, or the run has no image encoder.
        """
        name, digest = uploads.plain_name(name), uploads.digest(content)
        with self._computing:
            if (place := self._uploads.find(digest)) is not None:
                return self._hit(self.n_own + place), False
            if len(self._uploads) >= uploads.MAX_UPLOADS:
                raise RequestError(409, f"{uploads.MAX_UPLOADS} pictures were added: make a data folder of them.")
            picture = uploads.decode(content, name)
            encoder = self._encoder()
            try:
                vector = np.asarray(encoder.encode([picture]), dtype=np.float32)
            except UserError as error:  # such as a picture of one row of pixels
                raise RequestError(422, f"{name}: cannot be encoded ({error})") from error
            if vector.shape != (1, self._width):
                raise RequestError(
                    409, f"The image encoder gives {vector.shape[-1]} numbers, the run has {self._width}."
                )
            if not np.isfinite(vector).all() or not vector.any():
                raise RequestError(422, f"{name}: the image encoder gives no direction for this picture.")
            upload = Upload(name, vector[0], uploads.as_jpeg(picture), digest)
            self._uploads.add(upload)
            try:
                for index in self._indexes.values():
                    _add(index, [upload])
            except Exception:
                self._indexes.clear()  # they may differ by now; loaded again, each has all that was added
                raise
            return self._hit(len(self) - 1), True

    def _hit(self, row: int, score: float = 1.0) -> Hit:
        if row >= self.n_own:
            return Hit(row, self._uploads.items[row - self.n_own].name, "", score, True)
        return Hit(row, self._names[row], self._captions[row], score, False)

    def _known(self, model: str) -> str:
        if model not in self.models:
            raise RequestError(404, f"No model is called {model[:40]!r}. There are: {', '.join(self.models)}.")
        return model

    def _check_row(self, row: int) -> None:
        if not 0 <= row < len(self):
            raise RequestError(404, f"There is no picture {row}.")

    def _index(self, model: str) -> PictureIndex:
        """The index of a model, added pictures included; the least recently used ones are let go."""
        if model not in self._indexes:
            index = self._open_index(model)
            if index.names != self._names:  # rows would be those of other pictures
                raise RequestError(409, "The run holds other pictures by now: start the page again.")
            self._keep(model, index)
        self._indexes.move_to_end(model)
        return self._indexes[model]

    def _keep(self, model: str, index: PictureIndex) -> None:
        if len(self._uploads):
            _add(index, self._uploads.items)
        self._indexes[model] = index
        while len(self._indexes) > _KEPT_INDEXES:
            self._indexes.popitem(last=False)

    def _encode_query(self, query: str) -> np.ndarray:
        """(1, dx): all models of a run read the same text encoder's vectors."""
        return self._translator.encode([query])

    def _encoder(self) -> ImageEncoder:
        if self._image_encoder is None:
            try:
                self._image_encoder = self._make_encoder()
            except UserError as error:
                raise RequestError(409, f"No picture can be added to this run: {error}") from error
        return self._image_encoder

    def _make_thumbnail(self, row: int, side: int) -> bytes:
        if row >= self.n_own:
            return self._uploads.items[row - self.n_own].jpeg
        if self._pictures is None:
            raise RequestError(404, "The run's pictures are gone, or its data folder does not say where they are.")
        try:
            return self._pictures.thumbnail(row, side)
        except (UserError, OSError, ValueError) as error:
            raise RequestError(404, f"{self._names[row]}: cannot be shown ({type(error).__name__}).") from error


def _models(run: Path) -> dict[str, Model]:
    """The models of a run's leaderboard that are stored, the best first.

    Raises:
        CheckpointError: no readable leaderboard.
    """
    path = run / "leaderboard.json"
    with reading(path, "no readable leaderboard", "Run notebook 05, or the whole series."):
        rows = sorted(((row["model"], float(row["mrr"])) for row in read_json(path)), key=lambda row: -row[1])
        found = {
            name: Model(name, ROWS[name].label if name in ROWS else name, mrr)
            for name, mrr in rows
            if name != "chance" and model_path(run, name).exists()
        }
        if not found:
            raise ValueError("no model of it is stored")
    return found


def _add(index: PictureIndex, added: Sequence[Upload]) -> None:
    """Names in an index are all different, those of uploaded files need not be."""
    index.add(np.stack([upload.vector for upload in added]), [f"uploads/{upload.digest}" for upload in added])


def _digest(description: Mapping[str, Any]) -> str:
    """What tells one encoder from another."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
