"""Search with a run: its index of pictures, made once, and the command line `python -m helpers.search`."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from helpers.data.cache import read_cache, write_cache
from helpers.data.pairs import ENCODERS_FILE, TRAIN_FILE, PairedEmbeddings, load_pairs
from helpers.data.picture_files import find_pictures, identity
from helpers.data.pictures import Pictures
from helpers.errors import CheckpointError, DataError, first_five
from helpers.evaluation import hubness as hubness_reduction
from helpers.runs.run import RUN_FILE, Run, read_run, say
from helpers.runs.settings import RunConfig
from helpers.serving.index import Kind, PictureIndex
from helpers.serving.page import Found, write_page
from helpers.serving.translator import Translator
from helpers.system import paths
from helpers.system.console import run_command
from helpers.system.files import read_json, reading

INDEX_DIR = "index"
"""Folder in a run's folder: what is made there can be made again, so no manifest lists it."""
_ENCODED_BY = ("model", "kind", "pooling", "preprocessing")
"""What tells one image encoder from another, whose vectors are not to be compared with its own."""


@dataclass(frozen=True)
class Gallery:
    """What an index is built from.

    Attributes:
        vectors: gives the (M, dy) image embeddings; only called where the index has to be built.
        names: gives the names of the M pictures. captions: gives one of each, or none.
        pictures: where the pictures are, as `pictures.json` has it.
        made_of: what tells this gallery from others and from its earlier states.
        folder: of its index within the run's, beside those of other models and kinds.
    """

    vectors: Callable[[], np.ndarray]
    names: Callable[[], Sequence[str]]
    made_of: dict[str, Any]
    captions: Callable[[], Sequence[str]] = field(default=tuple)
    pictures: dict[str, Any] | None = None
    folder: str = ""


def run_folder(run: str | Path) -> Path:
    """The folder of a run, given by its name under `runs/` or by its path.

    Raises:
        CheckpointError: there is no such run; the message says which there are.
    """
    named = paths.expanded(run)
    for folder in (paths.runs_dir() / named, named.absolute()):
        if os.path.isfile(folder / RUN_FILE):  # Path's own raises where a name is too long, such as a sentence
            return folder
    there = sorted(path.parent.name for path in paths.runs_dir().glob(f"*/{RUN_FILE}"))
    remedy = f"There are: {first_five(there)}." if there else "Run the series first: python -m helpers.series"
    raise CheckpointError(f"{run}: neither a run in {paths.runs_dir()} nor the folder of one. {remedy}")


def data_of(folder: Path, moved_to: str | Path | None = None) -> Run:
    """The data and the split that the run in a folder was made from.

    Args:
        moved_to: where the data folder may be now, if it is no longer where the run found it.

    Raises:
        CheckpointError: `run.json` is missing or damaged, or the data are others by now.
        DataError: the data are gone, or not as they must be.
    """
    path = folder / RUN_FILE
    with reading(path, "damaged", "Run the series again."):
        origin = read_json(path)
        config, made_of = dict(origin["config"]), (origin["data"], origin["split"])
    place = RunConfig(**config)
    if not place.is_demo and not (place.data_path / TRAIN_FILE).exists():
        there = None if moved_to is None else paths.absolute(moved_to)
        if there is None or not (there / TRAIN_FILE).exists():
            raise DataError(
                f"{place.data_path / TRAIN_FILE}: no such file, and run {folder.name} was made from it. Put it back, "
                "or say where its folder is now with --data-dir."
            )
        config["data_dir"] = str(there)
    run = read_run({}, **config)
    if made_of != (run.data.fingerprint, run.split.digest):
        raise CheckpointError(f"{path}: {run.config.data_path} holds other data than the run was made from. Run again.")
    return run


def open_index(
    folder: str | Path,
    model: str | None = None,
    kind: Kind = "flat",
    hubness: bool = True,
    gallery: Callable[[Path, Translator], Gallery] | None = None,
    moved_to: str | Path | None = None,
) -> PictureIndex:
    """The index of a run's own pictures, or of another gallery: as it was saved, or built and saved now.

    It is kept in the run's folder, under `index/`, and used again while model, query bank and pictures are the same.

    Args:
        folder: of the run, see `run_folder`.
        model: a row of the leaderboard; the best where None.
        hubness: whether hubness reduction is folded in, so that a search may have it or not.
        gallery: what else to search, see `data_folder` and `picture_folder`.
        moved_to: see `data_of`.

    Raises:
        CheckpointError: a part of the run is missing or damaged.
        DataError: the data are gone, or do not fit the model.
    """
    folder = paths.absolute(folder)
    translator = Translator.load(folder, model)
    run = data_of(folder, moved_to)
    chosen = _own_gallery(run) if gallery is None else gallery(folder, translator)
    bank = _file_digest(folder / hubness_reduction.QUERY_BANK_FILE) if hubness else None
    made_of = {"run": run.data.fingerprint, "split": run.split.digest, "bank": bank, **chosen.made_of}
    parts = translator.name, kind, chosen.folder, "" if hubness else "cosine"
    place = folder / INDEX_DIR / "-".join(part for part in parts if part)
    if place.exists():
        try:
            index = PictureIndex.load(place, translator)
            if (index.made_of, index.hubness) == (made_of, hubness) and index.location == chosen.pictures:
                return index
        except CheckpointError as error:
            say(f"{error} Built again now.")
    names = chosen.names()
    say(f"{translator.name}: an index of {len(names):,} pictures is built once and kept in {place}.")
    index = PictureIndex.build(
        translator,
        chosen.vectors(),
        names,
        chosen.pictures,
        kind,
        hubness,
        captions=chosen.captions(),
        bank_captions=_bank_captions(run, translator) if hubness else (),
        made_of=made_of,
    )
    try:
        index.save(place)
    except CheckpointError as error:  # such as another user's run: search it all the same
        say(str(error))
    return index


def image_encoder_of(folder: Path) -> dict[str, Any]:
    """What made the image vectors of a run or a data folder; of kind "unknown" where it does not say.

    Raises:
        CheckpointError: its `encoders.json` is damaged.
    """
    path = folder / ENCODERS_FILE
    if not path.exists():
        return {"kind": "unknown"}
    with reading(path, "does not say what encoded the images", "Write the data folder again."):
        description = dict(read_json(path)["images"])
        return description | {"kind": str(description["kind"])}


def data_folder(data_dir: str | Path) -> Callable[[Path, Translator], Gallery]:
    """The images of another data folder, as a gallery for `open_index`; encoded as the run's images were."""
    path = paths.absolute(data_dir)

    def gallery(folder: Path, translator: Translator) -> Gallery:
        data = load_pairs(path, text_dim=translator.text_dim, image_dim=translator.image_dim)
        ours, theirs = image_encoder_of(folder), image_encoder_of(path)
        differ = [key for key in _ENCODED_BY if ours.get(key) != theirs.get(key)]
        if differ and "unknown" not in (ours["kind"], theirs["kind"]):
            by = [" ".join(str(one.get(key)) for key in dict.fromkeys(["model", *differ])) for one in (theirs, ours)]
            raise DataError(
                f"{path}: its images were encoded by {by[0]}, those of the run by {by[1]}. "
                "Encode them with the run's preset."
            )
        return _gallery_of(data, path, _short_digest(str(path)))

    return gallery


def picture_folder(images: str | Path) -> Callable[[Path, Translator], Gallery]:
    """A folder of pictures as a gallery for `open_index`: encoded once by the run's image encoder, and kept.

    Pictures that cannot be encoded are named and left out.
    """
    path = paths.absolute(images)

    def gallery(folder: Path, translator: Translator) -> Gallery:
        names, unreadable = find_pictures(path)
        if unreadable:
            say(f"{len(unreadable)} folder(s) cannot be read and are not searched: {first_five(unreadable)}")
        description = image_encoder_of(folder)
        if description["kind"] == "unknown":
            raise CheckpointError(
                f"{folder / ENCODERS_FILE}: does not say what encoded the images of the run. Encode the pictures "
                "yourself, as those were, and give the data folder with --data-dir."
            )
        files = [identity(path, name) for name in names]
        made_of = {"pictures": _short_digest(str([str(path), files, description]), 32)}
        kept = folder / INDEX_DIR / f"{_short_digest(str(path))}.encoded"
        encoded: list[dict[str, Any]] = []

        def stored() -> dict[str, Any]:
            if not encoded:
                found = read_cache(kept, ("vectors", "names", "made_of"))
                if found is None or found["made_of"] != [made_of["pictures"]]:
                    vectors, read = _encode(path, names, description, translator.image_dim)
                    arrays = {"vectors": ("F32", vectors.shape, [vectors])}
                    try:
                        found = write_cache(kept, arrays, {"names": read, "made_of": [made_of["pictures"]]})
                    except DataError as error:  # such as another user's run: search them all the same
                        say(str(error))
                        found = {"vectors": vectors, "names": read}
                encoded.append(found)
            return encoded[0]

        place = {"folder": str(path)}
        return Gallery(
            lambda: stored()["vectors"],
            lambda: stored()["names"],
            made_of,
            pictures=place,
            folder=_short_digest(str(path)),
        )

    return gallery


def main(arguments: Sequence[str] | None = None) -> int:
    """Search as the command line asks for; returns the exit status."""
    options = parse_arguments(arguments)
    return run_command(lambda: search(options))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of `python -m helpers.search`."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.search",
        description="Find pictures by words: print the best, and write a page that shows them.",
        epilog='Example: python -m helpers.search demo "birthday party" -k 12',
    )
    parser.add_argument("run", metavar="RUN", help="name of a run in runs/, or its folder")
    parser.add_argument("queries", metavar="WORDS", nargs="*", help="what to look for; quote it. Several are several")
    parser.add_argument("-k", type=int, default=12, help="pictures to find (default 12)")
    parser.add_argument("--model", metavar="NAME", help="row of the leaderboard (default: the best)")
    parser.add_argument("--no-hubness", action="store_true", help="rank by cosine alone, without hubness reduction")
    parser.add_argument("--index", choices=get_args(Kind), default="flat", help="kind of index (default: flat, exact)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--images", metavar="DIR", help="search the pictures of this folder in place of the run's own")
    where.add_argument(
        "--data-dir", metavar="DIR", help="search the images of this data folder; also the run's own, moved"
    )
    parser.add_argument("--out", metavar="FILE", help="the page (default: search.html in the run's folder)")
    parser.add_argument("--export", metavar="DIR", help="write the vectors for a vector database")
    parser.add_argument("--format", choices=("parquet", "npy"), default="parquet", help="of --export (default parquet)")
    options = parser.parse_args(arguments)
    if not options.queries and not options.export:
        parser.error("give some words to look for, or --export")
    if options.k < 1:
        parser.error(f"-k {options.k}: 1 or more are needed")
    return options


def search(options: argparse.Namespace) -> None:
    """Print what is found, and write the page and the export.

    Raises:
        UserError: whatever the user can mend.
    """
    folder = run_folder(options.run)
    gallery = None
    if options.images or options.data_dir:
        gallery = picture_folder(options.images) if options.images else data_folder(options.data_dir)
    hubness = not options.no_hubness
    if not hubness:  # an index with popularity answers both; without a query bank one without it has to do
        with_bank = (folder / hubness_reduction.QUERY_BANK_FILE).exists()
        index = open_index(folder, options.model, options.index, with_bank, gallery, options.data_dir)
    else:
        index = open_index(folder, options.model, options.index, True, gallery, options.data_dir)
    if options.export:
        say(f"Exported to {index.export(options.export, options.format)}")
    if not options.queries:
        return
    if options.k > len(index):
        say(f"-k {options.k}: the gallery has {len(index):,} pictures; all of them are listed.")
    rows, scores = index.search_text(options.queries, options.k, hubness)
    found = [
        Found(query, some.tolist(), values.tolist())
        for query, some, values in zip(options.queries, rows, scores, strict=True)
    ]
    for one in found:
        print(_text(index, one))
    how = "cosine less popularity (hubness reduction)" if hubness else "cosine"
    note = f"{len(index):,} pictures · model {index.model} · score: {how} · run {folder.name}"
    print(f"\n{write_page(options.out or folder / 'search.html', index, found, note)}", flush=True)


def _text(index: PictureIndex, found: Found) -> str:
    """A query and its hits, one a line: rank, score, name, caption."""
    width = max(len(index.names[row]) for row in found.rows)
    lines = [f"{found.query}"]
    for rank, (row, score) in enumerate(zip(found.rows, found.scores, strict=True), 1):
        lines.append(f"{rank:4d}  {score:6.3f}  {index.names[row]:<{width}}  {index.captions[row]}".rstrip())
    return "\n".join(line.replace("\n", " ") for line in lines)


def _own_gallery(run: Run) -> Gallery:
    return _gallery_of(run.data, run.config.data_path)


def _gallery_of(data: PairedEmbeddings, path: Path, folder: str = "") -> Gallery:
    def captions() -> list[str]:
        first = dict(zip(reversed(data.targets.tolist()), reversed(data.captions), strict=True))
        return [first.get(row, "") for row in range(data.n_images)]

    made_of = {"gallery": data.fingerprint}
    names = data.image_names
    return Gallery(lambda: data.images, lambda: names, made_of, captions, _location(path, names), folder)


def _location(data_dir: Path, names: Sequence[str]) -> dict[str, Any] | None:
    pictures = Pictures.of(data_dir, names)
    return None if pictures is None else pictures.location


def _bank_captions(run: Run, translator: Translator) -> list[str]:
    """The texts of the run's query bank, for `PictureIndex.why`; none where the bank is not of this split."""
    rows = hubness_reduction.sample(run.split.train_captions)
    bank = translator.query_bank().text
    return [run.data.captions[row] for row in rows] if np.array_equal(bank, run.data.text[rows]) else []


def _encode(
    folder: Path, names: Sequence[str], description: dict[str, Any], image_dim: int
) -> tuple[np.ndarray, list[str]]:
    """Vectors (M, dy) of the pictures that can be encoded, and their names."""
    from helpers.encoders import encode_pictures, load_image_encoder

    encoder = load_image_encoder(description)
    if encoder.dim != image_dim:
        raise CheckpointError(
            f"The image encoder gives {encoder.dim} numbers a picture, the model expects {image_dim}."
        )
    vectors, left_out = encode_pictures(folder, names, encoder)
    if left_out:
        reasons = first_five(f"{name} ({reason})" for name, reason in left_out.items())
        say(f"{len(left_out)} picture(s) cannot be encoded and are left out: {reasons}")
    if not len(vectors):
        raise DataError(f"{folder}: none of its {len(names)} pictures can be encoded.")
    return vectors, [name for name in names if name not in left_out]


def _file_digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _short_digest(text: str, length: int = 12) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
