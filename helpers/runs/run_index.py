"""The index of a run: found by the run's name, built once, and kept in its folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from helpers.data.pairs import TRAIN_FILE
from helpers.errors import CheckpointError, DataError, first_five
from helpers.evaluation import hubness as hubness_reduction
from helpers.runs.galleries import INDEX_DIR, Gallery, own_gallery
from helpers.runs.run import RUN_FILE, Run, read_run, say
from helpers.runs.settings import RunConfig
from helpers.serving.index import PictureIndex
from helpers.serving.index_files import Kind
from helpers.serving.translator import Translator
from helpers.system import paths
from helpers.system.files import read_json, reading
from helpers.system.locks import in_turn

LOCK_FILE = ".lock"
"""In the folder of the indexes of a run: one process at a time builds there."""


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
    One process at a time builds there: a second one waits, and takes what the first has built. Pictures that are no
    longer where they were stop nothing; a line says so.

    A saved index of an approximate kind is read by faiss, native code: open only runs that you trust.

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
    chosen = own_gallery(run) if gallery is None else gallery(folder, translator)
    bank = _file_digest(folder / hubness_reduction.QUERY_BANK_FILE) if hubness else None
    made_of = {"run": run.data.fingerprint, "split": run.split.digest, "bank": bank, **chosen.made_of}
    parts = translator.name, kind, chosen.folder, "" if hubness else "cosine"
    place = folder / INDEX_DIR / "-".join(part for part in parts if part)

    def saved() -> PictureIndex | None:
        index = PictureIndex.load(place, translator) if place.exists() else None
        if index is None or (index.made_of, index.hubness, index.location) != (made_of, hubness, chosen.pictures):
            return None
        return index

    def build() -> PictureIndex:
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

    index = None
    with contextlib.suppress(CheckpointError):  # it is told below, if nobody has mended it by then
        index = saved()
    if index is None:
        lock_file = folder / INDEX_DIR / LOCK_FILE
        with in_turn(lock_file, lambda: say(f"{lock_file.parent}: another process builds an index; waiting for it.")):
            try:
                index = saved()
            except CheckpointError as error:
                say(f"{error} Built again now.")
            index = index or build()
    if index.location is not None and index.pictures is None:
        say(missing_line(index, f"all {len(index):,} pictures"))
    return index


def missing_line(index: PictureIndex, which: str) -> str:
    """What to say of pictures that are no longer where they were: where that was, and what to do."""
    location = index.location or {}
    place = location.get("folder") or location.get("sprite")
    return (
        f"{place}: {which} are missing there; found all the same, but not shown. Put them back, or say where they are "
        "now: in pictures.json of the data folder, or with --images where that was given."
    )


def _bank_captions(run: Run, translator: Translator) -> list[str]:
    """The texts of the run's query bank, for `PictureIndex.why`; none where the bank is not of this split."""
    rows = hubness_reduction.sample(run.split.train_captions)
    bank = translator.query_bank().text
    return [run.data.captions[row] for row in rows] if np.array_equal(bank, run.data.text[rows]) else []


def _file_digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
