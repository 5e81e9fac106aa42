"""A gallery of pictures that is searched again and again: made once, saved, loaded in a moment, exported.

Hubness reduction is folded into the vectors. A picture g attracts more captions than its share by its popularity p (see
`helpers.evaluation.hubness`), and its corrected score for a query q is q . g - p. Stored as [g, -p] and asked with
[q, 1], that is one inner product, which any vector database computes; asked with [q, 0], it is the cosine. So one index
serves both.

`flat` is exact and needs no other library. The other kinds ask faiss (extra `search`) for candidates, whose exact
scores are then computed from the vectors themselves, which stay on the disk: every score that is returned is exact,
and what an approximate index can do wrong is to miss a picture. docs/search.md measures how often.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from helpers.data.cache import Tensor, read_cache, write_cache
from helpers.data.vectors import GALLERY_BLOCK, normalise
from helpers.errors import CheckpointError, DataError, first_five
from helpers.evaluation import hubness as hubness_reduction
from helpers.models import storage
from helpers.serving.candidates import Candidates
from helpers.serving.translator import GALLERY_BLOCK as SEARCH_BLOCK
from helpers.serving.translator import Translator, Vectors, as_array, best_rows, checked_block, checked_k
from helpers.system.devices import exact_float32
from helpers.system.files import LEFTOVER_AGE, atomic_write, read_json, reading, write_json
from helpers.system.libraries import library
from helpers.system.paths import absolute

if TYPE_CHECKING:
    from helpers.data.pictures import Pictures

Kind = Literal["flat", "hnsw", "ivfpq", "int8", "binary"]
FORMAT = 1
"""Of a saved index: raise it when what the files hold changes."""
INDEX_FILE = "index.json"
UNIT = 1e-3
"""How far from 1 the length of a stored vector may be; float32 rounds by a thousandth of that."""
RESCORED = 32
"""Queries whose candidates are scored at a time: some megabytes."""
_FIELDS: dict[str, tuple[type, ...]] = {
    "kind": (str,),
    "model": (str,),
    "weights": (str, type(None)),
    "text_dim": (int,),
    "image_dim": (int,),
    "hubness": (bool,),
    "built": (int,),
    "pictures": (dict, type(None)),
    "made_of": (dict,),
    "run": (str, type(None)),
    "files": (dict,),
}
"""What `index.json` holds beside the format."""
_REBUILD = "Delete the folder and build the index again."


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

    def __init__(
        self,
        kind: Kind,
        names: list[str],
        vectors: np.ndarray,
        popularity: np.ndarray,
        about: dict[str, Any],
        candidates: Candidates | None,
        texts: Mapping[str, list[str]],
        translator: Translator | None,
    ) -> None:
        """Use `PictureIndex.build` or `PictureIndex.load`."""
        self.kind, self.names, self.vectors, self.popularity = kind, names, vectors, popularity
        self.captions = texts["captions"] or [""] * len(names)
        self._bank_texts, self._about, self._candidates = texts["bank"], about, candidates
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
            "format": FORMAT,
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
                kind, len(vectors), width, lambda rows: _folded(vectors[rows], -popularity[rows])
            )
        texts = {"captions": list(captions), "bank": list(bank_captions)}
        return cls(kind, names, vectors, popularity, about, candidates, texts, translator)

    @classmethod
    def load(cls, folder: str | Path, translator: Translator | None = None) -> PictureIndex:
        """Load a saved index; its vectors are mapped into memory.

        Args:
            translator: the model that it was built with; where None it is loaded from its run when it is first needed.

        Raises:
            CheckpointError: missing, damaged, of another version of this package, or built for other weights.
        """
        folder = absolute(folder)
        while True:
            named = _named_files(folder)
            try:
                return cls._load(folder, translator)
            except CheckpointError:
                if _named_files(folder) == named:  # else another process has replaced the files while they were read
                    raise

    @classmethod
    def _load(cls, folder: Path, translator: Translator | None) -> PictureIndex:
        path = folder / INDEX_FILE
        with reading(path, "not a readable index of pictures", _REBUILD):
            about = read_json(path)
            version = about["format"]
        if version != FORMAT:
            raise CheckpointError(f"{path}: format {version!r}, but this version reads {FORMAT}. {_REBUILD}")
        with reading(path, "not a readable index of pictures", _REBUILD):
            for key, kinds in _FIELDS.items():
                if not isinstance(about[key], kinds):
                    raise ValueError(f"{key} is {about[key]!r}")
            files = {part: _checked_file(folder, file) for part, file in about.pop("files").items()}
            run = about.pop("run")
            kind, built, width = about["kind"], about["built"], about["image_dim"]
            stored = read_cache(files["vectors"], ("vectors", "popularity", "names", "captions", "bank"))
            if stored is None:
                raise ValueError(f"{files['vectors'].name} is not what this package writes")
            vectors, popularity, names = stored["vectors"], stored["popularity"], stored["names"]
            n = len(names)
            if kind not in get_args(Kind) or vectors.shape != (n, width) or popularity.shape != (n,):
                raise ValueError("its parts do not fit one another")
            if not 0 < built <= n or len(stored["captions"]) not in (0, n) or len(set(names)) != n:
                raise ValueError("its names do not fit its vectors")
            if not np.isfinite(popularity).all():
                raise ValueError("a popularity is not finite")
            for left in range(0, n, GALLERY_BLOCK):
                lengths = np.linalg.norm(vectors[left : left + GALLERY_BLOCK], axis=1)
                if not (abs(lengths - 1) < UNIT).all():
                    raise ValueError(f"a vector among rows {left} to {left + len(lengths)} is not of unit length")
            candidates = None if kind == "flat" else Candidates.load(kind, files["candidates"], n, width + 1)
        about["run"] = str((folder / run).resolve()) if run is not None else None
        index = cls(kind, names, vectors, popularity, about, candidates, stored, None)
        if translator is not None:
            index._check(translator)
            index._translator = translator
        elif run is not None and storage.weights_digest(Path(about["run"]), about["model"]) not in (
            None,
            about["weights"],
        ):
            raise CheckpointError(f"{path}: built for other weights of {about['model']} than its run has. {_REBUILD}")
        return index

    def save(self, folder: str | Path) -> Path:
        """Write the index to a folder: readers see what was there before, or all of this.

        Raises:
            CheckpointError: it cannot be written; what was there before is intact.
        """
        folder = absolute(folder)
        before, names = _named_files(folder), {"vectors": f"{uuid.uuid4().hex}.safetensors"}
        arrays: dict[str, Tensor] = {
            "vectors": ("F32", self.vectors.shape, _blocks(self.vectors)),
            "popularity": ("F32", self.popularity.shape, [np.ascontiguousarray(self.popularity)]),
        }
        captions = self.captions if any(self.captions) else []
        texts = {"names": self.names, "captions": captions, "bank": self._bank_texts}
        try:
            write_cache(folder / names["vectors"], arrays, texts)
            if self._candidates is not None:
                names["candidates"] = f"{uuid.uuid4().hex}.faiss"
                atomic_write(folder / names["candidates"], self._candidates.write)
            files = {part: _described(folder / name) for part, name in names.items()}
            write_json(folder / INDEX_FILE, {**self._about, "run": self._run_from(folder), "files": files})
        except (OSError, DataError) as error:
            for name in names.values():
                with contextlib.suppress(OSError):
                    (folder / name).unlink(missing_ok=True)
            raise CheckpointError(f"{folder}: the index cannot be written ({error}).") from error
        _remove(folder, before - set(names.values()), set(names.values()))
        return folder

    def __len__(self) -> int:
        return len(self.names)

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
        """The pictures themselves, of the rows that it was built with; None where nobody said where they are."""
        if self._about["pictures"] is None:
            return None
        from helpers.data.pictures import Pictures

        return Pictures(self._about["pictures"], self.names[: self._about["built"]])

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
        return _folded(self._unit_queries(queries, translated), np.float32(self._reduces(hubness)))

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
        popularity = self._popularity_beside(vectors) if self.hubness else np.zeros(len(vectors), np.float32)
        if self._candidates is not None:
            self._candidates.add(_folded(vectors, -popularity))
        self.vectors = np.concatenate([self.vectors, vectors])
        self.__dict__.pop("_tensor", None)
        self.popularity = np.concatenate([self.popularity, popularity])
        self.names = [*self.names, *names]
        self.captions = [*self.captions, *(captions or [""] * len(names))]

    def export(self, folder: str | Path, format: Literal["parquet", "npy"] = "parquet") -> Path:  # noqa: A002
        """Write the folded vectors for a vector database: distance inner product, queries as `folded` gives them.

        `parquet` writes `pictures.parquet` with columns row, name and vector (dy + 1 float32); `npy` writes
        `vectors.npy` (M, dy + 1) and `names.json`. `export.json` says what they are.

        Raises:
            DataError: another format, or the files cannot be written.
            MissingLibraryError: parquet needs pyarrow.
        """
        folder = absolute(folder)
        if format not in ("parquet", "npy"):
            raise DataError(f"format = {format!r}: `parquet` or `npy` is needed.")
        about = {
            "metric": "inner product",
            "vector": "[unit image vector, -popularity]",
            "query": "[unit translated text vector, 1], or 0 in place of 1 for cosines without hubness reduction",
            "rows": len(self),
            "width": self.vectors.shape[1] + 1,
            "model": self.model,
            "weights": self._about["weights"],
            "hubness": self.hubness,
        }
        try:
            if format == "parquet":
                self._write_parquet(folder / "pictures.parquet")
            else:
                atomic_write(folder / "vectors.npy", self._write_npy)
                write_json(folder / "names.json", self.names)
            write_json(folder / "export.json", about)
        except OSError as error:
            raise DataError(f"{folder}: the export cannot be written ({error.strerror or error}).") from error
        return folder

    def _write_npy(self, path: Path) -> None:
        shape = len(self), self.vectors.shape[1] + 1
        with path.open("wb") as file:  # a memory map on a full disk would kill the process
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for left in range(0, len(self), GALLERY_BLOCK):
                file.write(self._folded_block(left).data)

    def _write_parquet(self, path: Path) -> None:
        arrow, parquet = library("pyarrow", "search"), library("pyarrow.parquet", "search")
        width = self.vectors.shape[1] + 1
        kind = arrow.list_(arrow.float32(), width)
        schema = arrow.schema([("row", arrow.int64()), ("name", arrow.string()), ("vector", kind)])

        def write(temporary: Path) -> None:
            with parquet.ParquetWriter(temporary, schema) as writer:
                for left in range(0, len(self), GALLERY_BLOCK):
                    block = self._folded_block(left)
                    rows = arrow.array(np.arange(left, left + len(block)))
                    names = arrow.array(self.names[left : left + len(block)], arrow.string())
                    vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(block.ravel()), width)
                    writer.write_table(arrow.table([rows, names, vectors], schema=schema))

        atomic_write(path, write)

    def _folded_block(self, left: int) -> np.ndarray:
        rows = slice(left, left + GALLERY_BLOCK)
        return _folded(self.vectors[rows], -self.popularity[rows])

    def _reduces(self, hubness: bool | None) -> bool:
        if hubness and not self.hubness:
            raise ValueError("This index was built without hubness reduction: build it with hubness=True.")
        return self.hubness if hubness is None else bool(hubness)

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
        asked = self._candidates.find(_folded(unit, np.float32(reduce)), k)
        rows, scores = self._rescored(unit, asked, k, reduce)
        short = np.flatnonzero(rows[:, -1] < 0)  # fewer candidates than results
        if len(short):
            rows[short], scores[short] = self._search_exactly(unit[short], k, reduce)
        return rows, scores

    def _search_exactly(self, unit: np.ndarray, k: int, reduce: bool) -> tuple[np.ndarray, np.ndarray]:
        offsets = torch.from_numpy(np.array(self.popularity) if reduce else np.zeros(len(self), np.float32))

        return best_rows(torch.from_numpy(unit), lambda left: self._tensor[left : left + SEARCH_BLOCK], offsets, k)

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
    def _attention(self) -> hubness_reduction.Attention:
        """What the query bank makes of the gallery that the index was built with."""
        bank = self.translator.query_bank()
        built = self.vectors[: self._about["built"]]
        return hubness_reduction.attention(self._bank, built, bank.beta, own=bank.own)

    def _popularity_beside(self, vectors: np.ndarray) -> np.ndarray:
        """(C,) popularity of new unit vectors (C, dy) beside the gallery that the index was built with."""
        bank = self.translator.query_bank()
        return hubness_reduction.popularity_beside(self._bank, vectors, bank.beta, self._attention, bank.own).numpy()

    def _run_from(self, folder: Path) -> str | None:
        """Where the run is, seen from the folder of the index, so that both can be moved together."""
        loaded = self._translator.loaded_weights if self._translator is not None else None
        run = str(loaded[0]) if loaded is not None else self._about.get("run")
        if run is None:
            return None
        try:
            return PurePath(os.path.relpath(run, folder)).as_posix()
        except ValueError:  # another drive of Windows
            return str(run)


def _unit(gallery: np.ndarray) -> np.ndarray:
    """(M, dy) float32 of unit length, in memory."""
    vectors = np.empty(gallery.shape, dtype=np.float32)
    for left in range(0, len(gallery), SEARCH_BLOCK):
        vectors[left : left + SEARCH_BLOCK] = normalise(torch.from_numpy(checked_block(gallery, left))).numpy()
    return vectors


def _folded(vectors: np.ndarray, last: np.ndarray | np.float32) -> np.ndarray:
    """(N, d + 1) float32: one more coordinate."""
    out = np.empty((*vectors.shape[:-1], vectors.shape[-1] + 1), dtype=np.float32)
    out[..., :-1], out[..., -1] = vectors, last
    return out


def _blocks(vectors: np.ndarray) -> Any:
    return (
        np.ascontiguousarray(vectors[left : left + GALLERY_BLOCK]) for left in range(0, len(vectors), GALLERY_BLOCK)
    )


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


def _location(given: Mapping[str, Any] | str | Path | None) -> dict[str, Any] | None:
    """Where pictures are, as `pictures.json` has it, with an absolute path."""
    if given is None:
        return None
    location = dict(given) if isinstance(given, Mapping) else {"folder": str(given)}
    for key in {"folder", "sprite"} & set(location):
        location[key] = str(absolute(location[key]))
    return json.loads(json.dumps(location))


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}


def _checked_file(folder: Path, described: Mapping[str, Any]) -> Path:
    """A file of the index, which must be the one that was written: faiss trusts what it reads."""
    name = described["name"]
    if PurePath(name).name != name or name.startswith("."):
        raise ValueError(f"{name!r} is no name of a file of its own")
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{name} is not there")
    if _described(path) != dict(described):
        raise ValueError(f"{name} is not the file that was written: {path.stat().st_size} bytes")
    return path


def _named_files(folder: Path) -> set[str]:
    """The files that a saved index names; none where there is no index, or no readable one."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError):
        return {str(file["name"]) for file in read_json(folder / INDEX_FILE)["files"].values()}
    return set()


def _remove(folder: Path, replaced: set[str], kept: set[str]) -> None:
    """Files of the index that was replaced, and what a process that was killed left."""
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.faiss")):
        with contextlib.suppress(OSError):  # Windows keeps what another process has open
            old = time.time() - path.stat().st_mtime > LEFTOVER_AGE
            if path.name not in kept and (path.name in replaced or old):
                path.unlink()
