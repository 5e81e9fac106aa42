"""A translator in a folder of its own, to keep, copy and hand on.

The folder is a run with one model, in the formats of a run, so that whatever reads a run reads it too:

    config.json                    which model it is, its widths, the digest of its weights, the run's leaderboard
    models/NAME.safetensors        weights
    hubness.safetensors            the query bank, for `search(hubness=True)`
    dot_product.safetensors        the correction, for `for_dot_product`
    leaderboard.json               the row of this model
    encoders.json, text_encoder/   what encodes a query as the captions were, for `search_text`
    README.md                      the model card: results, data, licences
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from torch import nn

from helpers.data.pairs import ENCODERS_FILE
from helpers.errors import CheckpointError, first_five, shorten
from helpers.evaluation import dot_product, hubness
from helpers.models import storage
from helpers.models.build import ROWS, build_model
from helpers.serving.model_card import card
from helpers.serving.text_encoders import (
    FOLDER,
    IN_FOLDER,
    copy_text_encoder,
    encoders_of,
    text_encoder_description,
)
from helpers.system.files import LEFTOVER_AGE, atomic_write, read_json, read_tensors, reading, write_json
from helpers.system.paths import absolute

CONFIG, CARD = "config.json", "README.md"
LEADERBOARD, TEST_LEADERBOARD = "leaderboard.json", "test_leaderboard.json"
OURS = {
    *(CONFIG, CARD, ENCODERS_FILE, FOLDER, LEADERBOARD, "models"),
    *(hubness.QUERY_BANK_FILE, dot_product.FILE),
}
"""What `save` writes: a folder that holds anything else is never replaced."""
FORMAT = 1
NEW, BEFORE = ".new", ".before"
"""Ends of the names beside a folder under which its successor is made and it is put aside; the same number in both."""
SWAP = 0.2
"""Seconds, within which a process that is alive has renamed both."""
LIBRARY = "embedding-translation"
REMEDY = "Save it again with save_pretrained."


class Options(NamedTuple):
    """What `Translator.save_pretrained` takes beside the folder."""

    overwrite: bool = False
    with_text_encoder: bool | None = None
    data: str | None = None
    licence: str | None = None


def save(folder: str | Path, run: Path, name: str, model: nn.Module, options: Options) -> Path:
    """Write a model of a run, and what it needs, into a folder of its own; see `Translator.save_pretrained`.

    Args:
        run: the folder that the model was loaded from: a run's, or one that `save` wrote.
        name, model: the row of the leaderboard, and its network, whose weights must be those in `run`.
    """
    target = absolute(folder)
    source = storage.model_path(run, name)
    with _new_folder(target, options.overwrite) as new:
        with reading(source, f"not a readable model {name!r}", "Load the translator again."):
            storage.model_path(new, name).parent.mkdir()
            atomic_write(storage.model_path(new, name), lambda temporary: shutil.copyfile(source, temporary))
            _require_same(read_tensors(storage.model_path(new, name))[0], model)
        _copy_judged(run, new, name)
        config = describe(run, name, options.data, options.licence)
        if own := [row for row in config["leaderboard"] if row["model"] == name]:
            write_json(new / LEADERBOARD, own)
        encoders = _copy_encoders(run, new, options.with_text_encoder)
        write_json(new / CONFIG, config)
        text = card(config, encoders, hubness_known=(new / hubness.QUERY_BANK_FILE).exists())
        atomic_write(new / CARD, lambda temporary: temporary.write_text(text, "utf-8", "replace"))
    return target


def write_model(folder: Path, name: str, model: nn.Module, architecture: Mapping[str, Any]) -> None:
    """Write a model and its `config.json` alone into a folder, file by file: what `checked` and `storage` read."""
    storage.save_model(folder, name, model, {"architecture": dict(architecture)})
    write_json(folder / CONFIG, _identity(folder, name, architecture))


def checked(folder: str | Path) -> tuple[Path, str]:
    """A folder that `save` or `write_model` wrote, and the model in it, whose files were found to be as written.

    Raises:
        CheckpointError: no such folder, none of a translator, of a newer format, or damaged.
    """
    path = absolute(folder)
    if not path.exists():
        _put_back(path)
    if not (path / CONFIG).is_file() or (path / "modules.json").exists():
        raise CheckpointError(f"{path}: {_what_else(path)}")
    with reading(path / CONFIG, "not the config of a translator", REMEDY):
        config = read_json(path / CONFIG)
        if config["library"] != LIBRARY:
            raise ValueError(f"library is {shorten(repr(config['library']))}, not {LIBRARY!r}")
        if config["format"] != FORMAT:
            raise ValueError(f"format {shorten(repr(config['format']))} where this version reads {FORMAT}")
        name = config["model"]
        if name not in ROWS or ROWS[name].build is None:
            raise ValueError(f"there is no model {shorten(repr(name))}")
    weights = storage.model_path(path, name)
    with reading(weights, "not the weights that were saved", REMEDY):
        if storage.weights_digest(path, name) not in (None, config["weights"]):
            raise ValueError("their digest differs")
        _require_shapes(weights, name, config["architecture"])
    return path, name


def describe(run: Path, name: str, data: str | None = None, licence: str | None = None) -> dict[str, Any]:
    """What `config.json` says of a model of a run; a saved translator keeps what its folder says.

    Raises:
        CheckpointError: a file of the run is damaged, or its leaderboard judged other weights of the model.
    """
    metadata = storage.load_metadata(run, name) or {}
    config = {
        **_identity(run, name, metadata.get("architecture", {})),
        "leaderboard": _rows(run, LEADERBOARD, name),
        "test_leaderboard": _rows(run, TEST_LEADERBOARD, name),
        "data": _data_of(run),
        "fingerprint": metadata.get("data"),
        "licence": None,
    }
    if (run / CONFIG).exists():
        with reading(run / CONFIG, "not the config of a translator", REMEDY):
            earlier = dict(read_json(run / CONFIG))
            config |= {key: earlier[key] for key in ("leaderboard", "test_leaderboard", "data", "licence")}
    given = {"data": data, "licence": licence}
    return config | {key: value for key, value in given.items() if value is not None}


def _identity(folder: Path, name: str, architecture: Mapping[str, Any]) -> dict[str, Any]:
    try:
        ours = version(LIBRARY)
    except PackageNotFoundError:  # a checkout that is only on the path
        ours = "unknown"
    return {
        "library": LIBRARY,
        "version": ours,
        "format": FORMAT,
        "model": name,
        "architecture": dict(architecture),
        "weights": storage.weights_digest(folder, name),
    }


@contextlib.contextmanager
def _new_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `target` to fill, which takes its place once it is complete; without it, `target` is as it was.

    Raises:
        CheckpointError: `target` holds files, and is no saved translator or `overwrite` is False; or the disk is full.
    """
    _put_back(target)
    _require_replaceable(target, overwrite)
    number = uuid.uuid4().hex
    new, before = (target.with_name(f".{target.name}.{number}{end}") for end in (NEW, BEFORE))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in _beside(target, NEW):  # of a process that was killed
            if time.time() - leftover.stat().st_mtime > LEFTOVER_AGE:
                shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir()
        yield new
        _require_replaceable(target, overwrite)  # another process may have been faster
        if target.exists():
            os.rename(target, before)
        try:
            os.rename(new, target)
        except BaseException:  # Ctrl+C too
            if before.exists() and not target.exists():
                os.rename(before, target)
            raise
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        remedy = "What was there before is intact. Free some space, or give a folder that you can write."
        raise CheckpointError(f"{target}: cannot be written ({error.strerror or error}). {remedy}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _put_back(target: Path) -> None:
    """Mend what a process left that was killed while it replaced `target`: nothing is lost, and nothing lies around.

    Killed between its two renames, it left no `target` and what was there under another name: that is put back. Killed
    after them, it left what it had replaced: that is removed.
    """
    replaced = _beside(target, BEFORE)
    if replaced and not target.exists():
        time.sleep(SWAP)  # a process that is alive is done by then
    for before in replaced:  # looked for first: where `target` is there now, it has been replaced or put back since
        with contextlib.suppress(OSError):
            if (target / CONFIG).is_file():
                shutil.rmtree(before)
            elif not target.exists():
                os.rename(before, target)
                shutil.rmtree(before.with_name(before.name.removesuffix(BEFORE) + NEW), ignore_errors=True)


def _beside(target: Path, end: str) -> list[Path]:
    """What lies beside a folder under the names of `_new_folder`; the number tells it from what is beside others."""
    return list(target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 32}{end}"))


def _require_replaceable(target: Path, overwrite: bool) -> None:
    try:
        held = sorted(path.name for path in target.iterdir()) if target.exists() or target.is_symlink() else []
    except OSError as error:
        raise CheckpointError(f"{target}: no folder that can be read ({error.strerror}). Choose another.") from error
    if target.is_symlink():
        raise CheckpointError(f"{target}: a link. Give the folder itself.")
    if not held:
        return
    if foreign := sorted(set(held) - OURS):
        others = f"holds {len(foreign)} file(s) that are no part of a saved translator: {first_five(foreign)}"
        raise CheckpointError(f"{target}: {others}. Choose another folder; nothing was changed.")
    if not overwrite:
        raise CheckpointError(f"{target}: holds a translator. Choose another folder, or overwrite=True replaces it.")


def _require_same(stored: Mapping[str, torch.Tensor], model: nn.Module) -> None:
    """What is on the disk must be what is in memory: the query bank and the leaderboard speak of the stored weights."""
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    keys = stored.keys() | state.keys()
    changed = [key for key in keys if key not in state or key not in stored or not torch.equal(stored[key], state[key])]
    if changed:
        raise ValueError(f"{len(changed)} tensor(s) in memory are others: {first_five(sorted(changed))}")


def _copy_judged(run: Path, new: Path, name: str) -> None:
    """What notebook 05 left for this model, where it ran."""
    if (run / hubness.QUERY_BANK_FILE).exists():
        bank = hubness.load_query_bank(run, name)
        hubness.save_query_bank(new, bank.text, bank.own, {name: bank.beta})
    if (run / dot_product.FILE).exists():
        dot_product.save(new, {name: dot_product.load(run, name)})


def _rows(run: Path, file: str, name: str) -> list[dict[str, Any]]:
    """The rows of a run's leaderboard that speak of the weights that are there; none where it has no leaderboard."""
    path = run / file
    if not path.exists():
        return []
    with reading(path, "no readable leaderboard", "Run notebook 05 again."):
        rows = [dict(row) for row in read_json(path)]
        kept = [r for r in rows if not r.get("weights") or r["weights"] == storage.weights_digest(run, r["model"])]
        if any(row["model"] == name for row in rows) and not any(row["model"] == name for row in kept):
            raise ValueError(f"it judged other weights of {name}")
    return kept


def _data_of(run: Path) -> str | None:
    """What a run says of its data: the name of the folder, never its path, which is nobody else's business."""
    if not (run / "run.json").exists():
        return None
    with reading(run / "run.json", "damaged", "Run a notebook of the series, which writes it."):
        config = read_json(run / "run.json")["config"]
        return Path(config["data_dir"]).name if config.get("data_dir") else f"profile {config['profile']}"


def _copy_encoders(run: Path, new: Path, with_text_encoder: bool | None) -> dict[str, Any]:
    """Copy `encoders.json`, and the text encoder itself where it is asked for or is a folder of this machine."""
    if not (run / ENCODERS_FILE).exists() and not with_text_encoder:
        return {}
    description, encoders = text_encoder_description(run), encoders_of(run)
    if with_text_encoder is None:
        with_text_encoder = Path(str(description.get("model"))).is_dir()
    if with_text_encoder:
        revision = copy_text_encoder(description, new / FOLDER)
        encoders["text"] = {**description, "model": IN_FOLDER, "revision": revision}
    elif encoders["text"].get("model") == IN_FOLDER:
        encoders["text"] = description  # it stays where it is
    write_json(new / ENCODERS_FILE, encoders)
    return encoders


def _require_shapes(weights: Path, name: str, architecture: Mapping[str, Any]) -> None:
    """Compare the header of the weights with the architecture before anything of that size is held in memory."""
    with safetensors.safe_open(weights, framework="pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  (no mapping)
    if read_tensors(weights, names=())[1]["architecture"] != architecture:
        raise ValueError("their architecture is not that of the config")
    try:
        with torch.device("meta"):
            model = build_model(name, **architecture)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # PyTorch's are long, and of several lines
        raise ValueError(f"no architecture of {name}: {shorten(str(error).partition(chr(10))[0])}") from error
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        raise ValueError(f"{len(wrong)} tensor(s) do not fit the architecture: {first_five(wrong)}")


def _what_else(path: Path) -> str:
    """What a folder without a config is, and the way out."""
    if not path.is_dir():
        return "no such folder. A folder that save_pretrained wrote is needed; names on a hub are not looked up."
    if (path / "modules.json").exists():
        return "a SentenceTransformer, which SentenceTransformer(folder, trust_remote_code=True) reads."
    if (path / "models").is_dir():
        return "a run, which Translator.load reads; save_pretrained makes a folder of one of its models."
    return f"holds no {CONFIG}. A folder that save_pretrained wrote is needed."
