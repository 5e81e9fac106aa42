"""A gallery of pictures that is searched again and again: made once, saved, loaded in a moment, exported.

Hubness reduction is folded into the vectors (see `helpers.serving.folding`), so that one index serves searches with it
and without.

`flat` is exact and needs no other library. The other kinds ask faiss (extra `search`) for candidates, whose exact
scores are then computed from the vectors themselves, which stay on the disk: every score that is returned is exact,
and what an approximate index can do wrong is to miss a picture. docs/search.md measures how often.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from helpers.data.vectors import normalise
from helpers.errors import CheckpointError, DataError, first_five
from helpers.models import storage
from helpers.serving import exact_search, index_export, index_files
from helpers.serving.candidates import Candidates
from helpers.serving.exact_search import Vectors, as_array, best_rows, checked_block, checked_k
from helpers.serving.folding import folded
from helpers.serving.index_export import Format
from helpers.serving.index_files import Kind, Parts
from helpers.serving.popularity import PopularityBeside
from helpers.serving.translator import Translator
from helpers.system.devices import exact_float32
from helpers.system.paths import absolute

if TYPE_CHECKING:
    from helpers.data.pictures import Pictures

RESCORED = 32
"""Queries whose candidates are scored at a time: some megabytes."""
_PLACES = {"folder", "sprite"}
"""What says where pictures are, see `helpers.data.pictures`."""


class PictureIndex:
    """Pictures by their vectors, for one model: `search`, `search_text`, `why`, `add`, `save`, `export`.

    Attributes:
        kind: how it is searched, see the module.
        names: of the M pictures, all different.
        vectors: (M, dy) float32 of unit length.
        popularity: (M,) float32, what hubness reduction subtracts; zeros where it was built without.
        hubness: whether it was built with hubness reduction.
        captions: one of each picture, for people to read; empty where there is none.
        made_of: what its maker wants to compare later, such as the digest of the data.
    """

    def __init__(self, parts: Parts, translator: Translator | None) -> None:
        """Use `PictureIndex.build` or `PictureIndex.load`."""
        self.names, self.vectors, self.popularity = parts.names, parts.vectors, parts.popularity
        self.captions = parts.captions or [""] * len(parts.names)
        self._bank_texts, self._about, self._candidates = parts.bank, parts.about, parts.candidates
        self._translator = translator

    @classmethod
    @exact_float32()
    def build(
        cls,
        translator: Translator,
        gallery: Vectors,
        names: Sequence[str],
        pictures_location: Mapping[str, Any] | str | Path | None = None,
        kind: Kind = "flat",
        hubness: bool | np.ndarray = True,
        *,
        captions: Sequence[str] = (),
        bank_captions: Sequence[str] = (),
        made_of: Mapping[str, Any] | None = None,
    ) -> PictureIndex:
        """Make an index of a gallery, in memory.

        Args:
            translator: whose queries it will be asked.
            gallery: (M, dy) image embeddings of any length.
            names: of the M pictures, all different.
            pictures_location: where the pictures are, as `pictures.json` has it, or their folder.
            kind: `flat` is exact; `hnsw`, `ivfpq`, `int8` and `binary` need faiss.
            hubness: whether to measure the popularity of each picture, which needs the run's query bank; or an array
                (M,), what `Translator.popularity` gave for this gallery.
            captions: one of each picture, or none at all.
            bank_captions: texts of the run's query bank in its order, for `why`.
            made_of: JSON values, kept as they are.

        Raises:
            DataError: names that do not fit the gallery, or repeat; a kind that is unknown, or needs a larger gallery.
            ValueError: a gallery of another shape, with NaN, Inf or rows of zeros.
            CheckpointError: hubness is True and the run has no query bank; notebook 05 writes it.
            MissingLibraryError: the kind needs faiss.
        """
        if kind not in get_args(Kind):
            raise DataError(f"kind = {kind!r}: no kind of index. There are: {', '.join(get_args(Kind))}.")
        gallery = as_array(gallery, "gallery's vectors")
        popularity = translator.offsets(gallery, hubness).numpy()
        vectors, names = _unit(gallery), _checked_names(names, len(gallery))
        if len(captions) not in (0, len(names)):
            raise DataError(f"{len(captions)} captions for {len(names)} pictures: one each is needed, or none.")
        about = {
            "format": index_files.FORMAT,
            "kind": kind,
            "model": translator.name,
            "weights": _weights(translator),
            "text_dim": translator.text_dim,
            "image_dim": translator.image_dim,
            "hubness": not (isinstance(hubness, (bool, np.bool_)) and not hubness),
            "built": len(names),
            "pictures": _location(pictures_location),
            "made_of": dict(made_of or {}),
        }
        candidates = None
        if kind != "flat":
            width = vectors.shape[1] + 1
            candidates = Candidates.build(
                kind, len(vectors), width, lambda rows: folded(vectors[rows], -popularity[rows])
            )
        parts = Parts(about, names, vectors, popularity, list(captions), list(bank_captions), candidates)
        return cls(parts, translator)

    @classmethod
    def load(cls, folder: str | Path, translator: Translator | None = None) -> PictureIndex:
        """Load a saved index; its vectors are mapped into memory.

        Load only from folders that you trust: an approximate kind is read by faiss, native code that trusts what it
        reads. What can be checked beforehand is: the digest and size of every file, kind, width and number of vectors.
        `flat` reads numbers alone.

        Args:
            translator: the model that it was built with; where None it is loaded from its run when it is first needed.

        Raises:
            CheckpointError: missing, damaged, of another version of this package, or built for other weights.
        """
        folder = absolute(folder)
        while True:
            named = index_files.named_files(folder)
            try:
                index = cls(index_files.read(folder), None)
                index._check_weights(folder, translator)
                return index
            except CheckpointError:
                # Else another process has replaced the files while they were read.
                if index_files.named_files(folder) == named:
                    raise

    def save(self, folder: str | Path) -> Path:
        """Write the index to a folder: readers see what was there before, or all of this.

        Raises:
            CheckpointError: it cannot be written; what was there before is intact.
        """
        folder = absolute(folder)
        loaded = self._translator.loaded_weights if self._translator is not None else None
        about = {**self._about, "run": str(loaded[0]) if loaded is not None else self._about.get("run")}
        captions = self.captions if any(self.captions) else []
        parts = Parts(about, self.names, self.vectors, self.popularity, captions, self._bank_texts, self._candidates)
        index_files.write(folder, parts)
        return folder

    def __len__(self) -> int:
        return len(self.names)

    @property
    def kind(self) -> Kind:
        return self._about["kind"]

    @property
    def hubness(self) -> bool:
        return bool(self._about["hubness"])

    @property
    def made_of(self) -> dict[str, Any]:
        return self._about["made_of"]

    @property
    def location(self) -> dict[str, Any] | None:
        """Where the pictures are, as `pictures.json` has it."""
        return self._about["pictures"]

    @property
    def model(self) -> str:
        """The name of the model whose queries it answers."""
        return self._about["model"]

    @property
    def translator(self) -> Translator:
        """The model whose queries it answers.

        Raises:
            CheckpointError: its run is gone, or has other weights by now.
        """
        if self._translator is None:
            run = self._about.get("run")
            if run is None:
                raise CheckpointError(
                    f"This index was built with a translator that came from no folder ({self.model}). Give it to "
                    "`PictureIndex.load`, or search with translated vectors."
                )
            translator = Translator.load(run, self.model)
            self._check(translator)
            self._translator = translator
        return self._translator

    @cached_property
    def pictures(self) -> Pictures | None:
        """The pictures themselves, of the rows that it was built with.

        None where nobody said where they are, or where their folder or sprite is gone: see `location` and `missing`.

        Raises:
            DataError: what is there is no folder, or no sprite that holds them.
        """
        if self.location is None or not any(os.path.exists(str(self.location.get(key))) for key in _PLACES):
            return None
        from helpers.data.pictures import Pictures

        return Pictures(self.location, self.names[: self._about["built"]])

    def missing(self, rows: Sequence[int]) -> list[str]:
        """Names of those of the rows whose pictures are not where they were when the index was built."""
        if self.location is None:
            return []
        expected = [row for row in dict.fromkeys(rows) if row < self._about["built"]]
        there = self.pictures
        return [self.names[row] for row in expected if there is None or not os.path.isfile(_file(there, row))]

    @exact_float32()
    def search(
        self, queries: Vectors, k: int = 10, hubness: bool | None = None, *, translated: bool | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best pictures for each query, best first; by a flat index exactly what `Translator.search` finds.

        Args:
            queries: (N, dx) text embeddings, or (N, dy) translated ones; one query may be (dx,) or (dy,).
            k: capped at the number of pictures.
            hubness: whether popularity is subtracted; None where it is if the index was built with it.
            translated: which of the two the queries are; None tells by their width, and takes them for text
                embeddings where both widths are the same.

        Returns:
            Rows (N, k) int64 and scores (N, k) float32; both (k,) for one query.

        Raises:
            ValueError: queries of another shape, with NaN or Inf, or (translated) rows of zeros; a k that is no integer
                of at least 1; hubness True where the index was built without.
            CheckpointError: as `translator`.
        """
        k = min(checked_k(k), len(self))
        reduce = self._reduces(hubness)
        unit = self._unit_queries(queries, translated)
        rows, scores = self._search(np.atleast_2d(unit), k, reduce)
        return (rows, scores) if unit.ndim == 2 else (rows[0], scores[0])

    def search_text(
        self, texts: str | Sequence[str], k: int = 10, hubness: bool | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, for texts; one text gives results of shape (k,).

        Raises:
            CheckpointError: it is not known what encoded the captions of its run; see `Translator.text_encoder`.
        """
        if isinstance(texts, str):
            return self.search(self.translator.encode([texts])[0], k, hubness, translated=False)
        return self.search(self.translator.encode(texts), k, hubness, translated=False)

    def folded(self, queries: Vectors, hubness: bool | None = None, *, translated: bool | None = None) -> np.ndarray:
        """Queries (N, dy + 1) for what `export` writes: [q, 1] with hubness reduction, [q, 0] without; see `search`."""
        return folded(self._unit_queries(queries, translated), np.float32(self._reduces(hubness)))

    @exact_float32()
    def why(self, row: int, n: int = 5) -> list[tuple[str, float]]:
        """The n training captions nearest to a picture, with their cosines: what the model takes it for.

        From the run's query bank (12,000 training captions at most), by which popularity is measured too.

        Raises:
            CheckpointError: the index was built without these captions, or its run is gone.
            IndexError: there is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"There is no row {row} among {len(self)} pictures.")
        bank = self._bank
        if len(self._bank_texts) != len(bank):
            raise CheckpointError(
                "This index was built without the texts of its run's query bank. Build it with `bank_captions`."
            )
        scores = bank @ self._tensor[row]
        found: dict[str, float] = {}
        for place in scores.argsort(descending=True).tolist():
            if len(found) == n:
                break
            found.setdefault(self._bank_texts[place], float(scores[place]))
        return list(found.items())

    @exact_float32()
    def add(self, gallery: Vectors, names: Sequence[str], captions: Sequence[str] = ()) -> None:
        """Add pictures, in memory; no score of any other picture changes. `save` keeps them.

        Their popularity is what they attract beside the gallery that the index was built with: exactly that of a
        picture there of which they are copies. The first call measures that gallery, the others are quick.

        Args:
            gallery: (C, dy) image embeddings of any length, or one (dy,).
            names: of the C pictures; none of them is in the index.

        Raises:
            DataError: names that do not fit, repeat, or are there already.
            ValueError: a gallery of another shape, with NaN, Inf or rows of zeros.
            CheckpointError: popularity cannot be measured since the run is gone, or has other weights by now.
        """
        gallery = np.atleast_2d(as_array(gallery, "gallery's vectors"))
        if gallery.ndim != 2 or gallery.shape[1] != self._about["image_dim"]:
            raise ValueError(f"The gallery has shape {gallery.shape}; (C, {self._about['image_dim']}) is needed.")
        vectors, names = _unit(gallery), _checked_names(names, len(gallery), self.names)
        if len(captions) not in (0, len(names)):
            raise DataError(f"{len(captions)} captions for {len(names)} pictures: one each is needed, or none.")
        popularity = self._beside.of(vectors) if self.hubness else np.zeros(len(vectors), np.float32)
        if self._candidates is not None:
            self._candidates.add(folded(vectors, -popularity))
        self.vectors = np.concatenate([self.vectors, vectors])
        self.__dict__.pop("_tensor", None)
        self.popularity = np.concatenate([self.popularity, popularity])
        self.names = [*self.names, *names]
        self.captions = [*self.captions, *(captions or [""] * len(names))]

    def export(self, folder: str | Path, format: Format = "parquet") -> Path:  # noqa: A002
        """Write the folded vectors for a vector database: distance inner product, queries as `folded` gives them.

        `parquet` writes `pictures.parquet` with columns row, name and vector (dy + 1 float32); `npy` writes
        `vectors.npy` (M, dy + 1) and `names.json`. `export.json` says what they are.

        Raises:
            DataError: another format, or the files cannot be written.
            MissingLibraryError: parquet needs pyarrow.
        """
        about = {"model": self.model, "weights": self._about["weights"], "hubness": self.hubness}
        return index_export.export(folder, format, self.names, self.vectors, self.popularity, about)

    def _reduces(self, hubness: bool | None) -> bool:
        if hubness and not self.hubness:
            raise ValueError("This index was built without hubness reduction: build it with hubness=True.")
        return self.hubness if hubness is None else bool(hubness)

    def _check_weights(self, folder: Path, translator: Translator | None) -> None:
        """Take the translator if its weights are those that the index was built with; without one, ask its run."""
        run, ours = self._about["run"], self._about["weights"]
        if translator is not None:
            self._check(translator)
            self._translator = translator
        elif run is not None and storage.weights_digest(Path(run), self.model) not in (None, ours):
            problem = f"built for other weights of {self.model} than its run has. {index_files.REBUILD}"
            raise CheckpointError(f"{folder / index_files.INDEX_FILE}: {problem}")

    def _check(self, translator: Translator) -> None:
        if (translator.name, _weights(translator)) != (self.model, self._about["weights"]):
            raise CheckpointError(
                f"The index was built for other weights of {self.model} than those of this {translator.name}. "
                "Build it again."
            )

    def _unit_queries(self, queries: Vectors, translated: bool | None) -> np.ndarray:
        """(N, dy) or (dy,) of unit length."""
        array = as_array(queries, "queries")
        text_dim, image_dim = self._about["text_dim"], self._about["image_dim"]
        width = array.shape[-1] if array.ndim in (1, 2) else None
        if translated is None:
            translated = width == image_dim != text_dim
        if not translated:
            if width != text_dim:
                wanted = f"(N, {text_dim}) of texts or (N, {image_dim}) of translations"
                raise ValueError(f"Queries have shape {array.shape}; {wanted} are needed.")
            return self.translator.translate(array)
        if width != image_dim:
            raise ValueError(f"Translated queries have shape {array.shape}; (N, {image_dim}) is needed.")
        with np.errstate(over="ignore", under="ignore"):
            array = np.array(array, dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(np.atleast_2d(array)).all(1) | ~np.atleast_2d(array).any(1))
        if len(bad):
            raise ValueError(f"{len(bad)} translated queries are zero or not finite, first rows: {bad[:5].tolist()}.")
        return normalise(torch.from_numpy(array)).numpy()

    def _search(self, unit: np.ndarray, k: int, reduce: bool) -> tuple[np.ndarray, np.ndarray]:
        if self._candidates is None:
            return self._search_exactly(unit, k, reduce)
        asked = self._candidates.find(folded(unit, np.float32(reduce)), k)
        rows, scores = self._rescored(unit, asked, k, reduce)
        short = np.flatnonzero(rows[:, -1] < 0)  # fewer candidates than results
        if len(short):
            rows[short], scores[short] = self._search_exactly(unit[short], k, reduce)
        return rows, scores

    def _search_exactly(self, unit: np.ndarray, k: int, reduce: bool) -> tuple[np.ndarray, np.ndarray]:
        offsets = torch.from_numpy(np.array(self.popularity) if reduce else np.zeros(len(self), np.float32))
        queries, block = torch.from_numpy(unit), exact_search.GALLERY_BLOCK
        return best_rows(queries, lambda left: self._tensor[left : left + block], offsets, k)

    def _rescored(self, unit: np.ndarray, asked: np.ndarray, k: int, reduce: bool) -> tuple[np.ndarray, np.ndarray]:
        """The k best of the candidates (N, C) by their exact scores; rows of -1 where there are fewer."""
        rows = np.full((len(unit), k), -1, dtype=np.int64)
        scores = np.full((len(unit), k), -np.inf, dtype=np.float32)
        for left in range(0, len(unit), RESCORED):
            some = asked[left : left + RESCORED]  # (n, C)
            vectors = self._tensor[torch.from_numpy(some)]  # (n, C, dy); -1 is the last row, which is ruled out below
            queries = torch.from_numpy(unit[left : left + RESCORED])[:, :, None]  # (n, dy, 1)
            exact = torch.bmm(vectors, queries)[:, :, 0]
            if reduce:
                exact -= torch.from_numpy(self.popularity[some])
            exact[torch.from_numpy(some < 0)] = -torch.inf
            best = exact.topk(min(k, some.shape[1]), dim=1)
            part = slice(left, left + len(some)), slice(0, best.values.shape[1])
            rows[part] = np.take_along_axis(some, best.indices.numpy(), axis=1)
            scores[part] = best.values.numpy()
        return rows, scores

    @cached_property
    def _tensor(self) -> torch.Tensor:
        """`vectors`, without a copy."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is read-only: nothing here writes
            return torch.from_numpy(self.vectors)

    @cached_property
    def _bank(self) -> torch.Tensor:
        """The run's query bank (Q, dy), translated, of unit length."""
        return torch.from_numpy(self.translator.translate(self.translator.query_bank().text))

    @cached_property
    def _beside(self) -> PopularityBeside:
        """Measures what is added, beside the gallery that the index was built with."""
        return PopularityBeside(self.translator.query_bank(), self._bank, self.vectors[: self._about["built"]])


def _unit(gallery: np.ndarray) -> np.ndarray:
    """(M, dy) float32 of unit length, in memory."""
    vectors = np.empty(gallery.shape, dtype=np.float32)
    for left in range(0, len(gallery), exact_search.GALLERY_BLOCK):
        block = normalise(torch.from_numpy(checked_block(gallery, left)))
        vectors[left : left + len(block)] = block.numpy()
    return vectors


def _checked_names(names: Sequence[str], n: int, there: Sequence[str] = ()) -> list[str]:
    names = [str(name) for name in names]
    if len(names) != n:
        raise DataError(f"{len(names)} names for {n} pictures: one each is needed.")
    seen, repeated = set(there), []
    for name in names:
        if name in seen:
            repeated.append(name)
        seen.add(name)
    if repeated:
        raise DataError(
            f"{len(repeated)} name(s) of pictures are there already: {first_five(repeated)}. Give each another name."
        )
    return names


def _weights(translator: Translator) -> str | None:
    """What tells the weights of a translator from others."""
    if translator.loaded_weights is not None:
        return translator.loaded_weights[1]
    digest = hashlib.sha256()
    for name, tensor in sorted(translator.model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return f"in memory: {digest.hexdigest()}"


def _file(pictures: Pictures, row: int) -> str:
    """The file of a picture; none where its name leads out of the folder by now."""
    try:
        return str(pictures.file(row))
    except DataError:
        return ""


def _location(given: Mapping[str, Any] | str | Path | None) -> dict[str, Any] | None:
    """Where pictures are, as `pictures.json` has it, with an absolute path."""
    if given is None:
        return None
    location = dict(given) if isinstance(given, Mapping) else {"folder": str(given)}
    for key in _PLACES & set(location):
        location[key] = str(absolute(location[key]))
    return json.loads(json.dumps(location))
