"""How each model of a run is made: found where it is stored, else fitted or trained with its defaults.

To add a model, add its architecture to `helpers.models` and its recipe to `RECIPES`; where it is a network, `STARTS`
says what its training begins with.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from helpers.data.training_data import TrainingData
from helpers.errors import CheckpointError
from helpers.models import storage
from helpers.models.build import BASELINES, build_model
from helpers.models.geometry import (
    AffineMap,
    CrossSpace,
    GeometryConfig,
    PairStatistics,
    fit_cross_space,
    pair_statistics,
)
from helpers.models.kernel import KernelMap
from helpers.models.networks import GeomLinear, GeomWithAdapter
from helpers.runs.run import Run, say
from helpers.system import processes
from helpers.system.devices import choose_device, device_name, matmul_dtype, seed_all
from helpers.system.files import read_json, reading, write_json
from helpers.system.locks import lock
from helpers.system.settings import as_dict
from helpers.training import closed_forms, loop, plus, plus_search
from helpers.training.folds import make_folds
from helpers.training.history import EpochEntry
from helpers.training.objectives import BaselineConfig, BigJumpConfig
from helpers.training.plus_choice import Choice
from helpers.training.settings import OptimiserConfig, PlusConfig
from helpers.training.state import Progress

GEOMETRY_POWERS = {"least_squares": 1.0, "procrustes": 0.0}
QUICK_PLUS: dict[str, Any] = {
    "fold_images": 100,
    "temperatures": (0.02, 0.033, 0.055),
    "epochs": 8,
    "members": 2,
    "landmarks": 2000,
}
"""Of the recipe plus and of the closed forms on the demo: one fold, three temperatures, eight epochs at most, two
networks and a third of the landmarks, so that the series takes minutes on two cores."""
History = list[EpochEntry]


@dataclass(frozen=True)
class Recipe:
    """How a row of the leaderboard is made.

    Attributes:
        notebook: where a reader finds it.
        kind: of its settings.
        defaults: settings where nobody chose any.
        make: fits or trains the row and stores it.
    """

    notebook: str
    kind: type
    defaults: Callable[[Run], Any]
    make: Callable[[Run, str, Any], object]


class Start(NamedTuple):
    """What the training of a network begins with.

    Attributes:
        model: untrained. shape: of its architecture, beside the widths.
        fit: trains it, with a `Progress`.
        chosen: what is stored with it. basis: what else has to be the same where an interrupted training goes on.
    """

    model: nn.Module
    shape: dict[str, Any]
    fit: Callable[[Progress], History]
    chosen: dict[str, Any]
    basis: dict[str, Any]


def training_statistics(run: Run, fit_on: str) -> PairStatistics:
    """Means and covariances of the training split alone; see `geometry.pair_statistics`.

    Of several processes each reads its own captions.
    """
    captions = run.split.train_captions[processes.owner(run.split.train_caption_image) == processes.rank()]
    return pair_statistics(run.data.text, run.data.images, run.data.targets, fit_on, captions)


def fit_geometry(run: Run, settings: GeometryConfig) -> CrossSpace:
    """The family of closed forms, from the training split alone."""
    return fit_cross_space(training_statistics(run, settings.fit_on), settings.eps)


def save_geometry(run: Run, fitted: CrossSpace, settings: GeometryConfig) -> None:
    """Store the rows `least_squares` and `procrustes` of a fitted family."""
    for name, power in GEOMETRY_POWERS.items():
        _store_affine(run, name, fitted.affine(power), run.metadata(settings, power=power))


def _store_affine(run: Run, name: str, affine: AffineMap, metadata: dict[str, Any]) -> None:
    _say_what_is_replaced(run, name, metadata)
    model = GeomLinear(run.data.text_dim, run.data.image_dim)
    model.set_affine(affine.matrix, affine.bias)
    _store(run, name, model, metadata)


def _store(run: Run, name: str, model: nn.Module, metadata: dict[str, Any]) -> None:
    """Store a model, from the first of several processes; afterwards all find it."""
    if processes.is_first():
        storage.save_model(run.directory, name, model, metadata)
    processes.barrier()


def _make_geometry(run: Run, name: str, settings: GeometryConfig) -> None:
    """Both classics, which come from one decomposition: where one is there already, with its settings."""
    for other in GEOMETRY_POWERS:
        if processes.first_tells(partial(run.has, other)):
            settings = GeometryConfig(**run.stored(other)["settings"])
    save_geometry(run, fit_geometry(run, settings), settings)


def plus_defaults(run: Run, **given: Any) -> PlusConfig:
    """The defaults of the recipe plus, shorter on the demo data (see `QUICK_PLUS`), but for what is given."""
    return PlusConfig(**((QUICK_PLUS if run.config.is_demo else {}) | given))


def save_closed_form(run: Run, name: str, settings: PlusConfig) -> tuple[Any, float]:
    """Fit `cca` or `kernel` on the training split, with the setting that its folds choose, and store the row.

    Args:
        settings: say how the folds are made, as for the recipe plus, and how many landmarks the kernel has.

    Returns:
        The setting, see `cca.GRID` and `kernel.GRID`, and its mean MRR on the folds.
    """
    data = run.training_data
    found = processes.first_tells(lambda: closed_forms.SEARCHES[name](make_folds(_whole(run), settings)))
    model = closed_forms.FITS[name](data, found["setting"], settings.landmarks)
    metadata = run.metadata(settings, setting=found["setting"], fold_mrr=found["mrr"], folds=_folds_of(settings))
    if isinstance(model, KernelMap):
        metadata["architecture"] |= {"landmarks": len(model.landmarks)}
    _store(run, name, model, metadata)
    return found["setting"], found["mrr"]


def _whole(run: Run) -> TrainingData:
    """All training data, for a search on folds, which the first of several processes does by itself."""
    return run.training_data if run.training_data.deal is None else run.read_training_data()


def _folds_of(settings: PlusConfig) -> dict[str, Any]:
    """What determines the folds of a training split, and what a closed form's search takes from them."""
    return {name: getattr(settings, name) for name in ("seed", "fold_ratio", "fold_images")}


def _known(run: Run, settings: PlusConfig) -> dict[str, closed_forms.Found]:
    """Closed forms of the run whose setting the same folds have chosen."""
    stored = {name: run.stored(name) for name in settings.closed_forms if run.has(name)}
    return {
        name: {"setting": metadata["setting"], "mrr": metadata["fold_mrr"]}
        for name, metadata in stored.items()
        if metadata.get("folds") == _folds_of(settings)
    }


def train(run: Run, name: str, settings: Any, resume: bool = True) -> History:
    """Train a network of a run from its seed, or go on with an interrupted training; store it, return its history.

    Args:
        name: `linear`, `mlp1`, `mlp2`, `bigjump` or `bigjump_plus`.
        settings: a `BaselineConfig`, `BigJumpConfig` or `PlusConfig`.
        resume: False deletes what an interrupted training left.

    Raises:
        RunInUseError: another process trains it.
    """
    if name == "bigjump":
        find_or_make(run, *GEOMETRY_POWERS)
    products, unfinished = _products(settings, run.training_data.device), _unfinished(run, name)
    path = unfinished / "state.safetensors"
    with lock(run.directory, name) if processes.is_first() else contextlib.nullcontext():
        if not resume and processes.is_first():
            shutil.rmtree(unfinished, ignore_errors=True)
        processes.barrier()
        _say_what_is_replaced(run, name, run.metadata(settings, products=products))
        start = STARTS[name](run, name, settings)
        if path.exists():
            same = "data, split, settings and device are the same"
            say(f"{name}: an interrupted training was found; it goes on if {same}.")
        history = start.fit(Progress(path, run.metadata(settings, products=products, **start.basis, **start.chosen)))
        metadata = run.metadata(settings, history=history, products=products, **start.chosen)
        metadata["architecture"] |= start.shape
        _store(run, name, start.model, metadata)
        if processes.is_first():  # only now: until the model is stored, the training is not over
            shutil.rmtree(unfinished, ignore_errors=True)
    return history


def _start_baseline(run: Run, name: str, settings: BaselineConfig) -> Start:
    shape = {"hidden": settings.hidden, "dropout": settings.dropout}
    seed_all(settings.seed)
    model = build_model(name, run.data.text_dim, run.data.image_dim, **shape)
    return Start(model, shape, partial(loop.train_baseline, model, run.training_data, settings, name), {}, {})


def _start_bigjump(run: Run, name: str, settings: BigJumpConfig) -> Start:
    """From the stored Procrustes map, which is part of where the training starts: another one, another training."""
    shape: dict[str, Any] = {"hidden": settings.hidden, "dropout": settings.dropout}
    procrustes, stored = storage.load_model(run.directory, "procrustes")  # before the seed, since building it draws
    seed_all(settings.seed)
    model = GeomWithAdapter(run.data.text_dim, run.data.image_dim, **shape)
    model.geometry.load_state_dict(procrustes.state_dict())
    fit = partial(loop.train_bigjump, model, run.training_data, settings)
    return Start(model, shape, fit, {}, {"geometry": stored["settings"]})


def _start_plus(run: Run, name: str, settings: PlusConfig) -> Start:
    """With what the folds choose, which is kept until the model is stored: a resumed training searches no more."""
    data = run.training_data
    choice = Choice(**processes.first_tells(lambda: _chosen(run, name, settings)))
    model = plus.build_chosen(data, settings, choice)
    shape = plus.shape_of(model, settings, choice)
    fit = partial(plus.train_plus, model, data, settings, choice)
    return Start(model, shape, fit, {"choice": vars(choice), "version": plus.VERSION}, {})


def _chosen(run: Run, name: str, settings: PlusConfig) -> dict[str, Any]:
    """What the folds choose, or chose for a training of the same metadata that was interrupted."""
    data, path = _whole(run), _unfinished(run, name) / "choice.json"
    basis = run.metadata(settings, products=_products(settings, data.device), version=plus.VERSION)
    kept: dict[str, Any] = {}
    if path.exists():
        with reading(path, "not a readable choice", "Delete it, or train with resume=False."):
            kept = dict(read_json(path))
    if kept.get("metadata") != json.loads(json.dumps(basis)):
        kept = {"metadata": basis, "choice": vars(plus_search.search(data, settings, _known(run, settings)))}
        write_json(path, kept)
    return dict(kept["choice"])


def _unfinished(run: Run, name: str) -> Path:
    """The folder of what a training keeps until its model is stored."""
    return storage.model_path(run.directory, name).with_name(f".{name}")


def _products(settings: OptimiserConfig, device: torch.device) -> list[str]:
    """Device, product type and, where there are several, number of processes.

    A training that went on with others would be neither the one nor the other.
    """
    several = [f"{processes.size()} processes"] if processes.size() > 1 else []
    return [device_name(device), str(matmul_dtype(device, settings.mixed_precision)), *several]


STARTS: dict[str, Callable[[Run, str, Any], Start]] = {
    **dict.fromkeys(BASELINES, _start_baseline),
    "bigjump": _start_bigjump,
    "bigjump_plus": _start_plus,
}
RECIPES: dict[str, Recipe] = {
    **dict.fromkeys(GEOMETRY_POWERS, Recipe("02", GeometryConfig, lambda _: GeometryConfig(), _make_geometry)),
    **dict.fromkeys(closed_forms.FITS, Recipe("02", PlusConfig, plus_defaults, save_closed_form)),
    **dict.fromkeys(BASELINES, Recipe("03", BaselineConfig, lambda _: BaselineConfig(), train)),
    "bigjump": Recipe("04", BigJumpConfig, lambda _: BigJumpConfig(), train),
    "bigjump_plus": Recipe("04", PlusConfig, plus_defaults, train),
}


def find_or_make(run: Run, *names: str) -> None:
    """Make with its defaults each model that the run lacks; of those it has, say what differs from the defaults.

    Args:
        names: rows of the leaderboard; all where none is given.
    """
    for name, recipe in RECIPES.items():
        if names and name not in names:
            continue
        if processes.first_tells(partial(run.has, name)):
            _tell_differences(run, name, recipe.defaults(run))
        else:
            lacks = f"not in {run.directory.name}/ for this data and split, by this version of its recipe"
            say(f"{name}: {lacks}; made now, with the defaults of notebook {recipe.notebook}.")
            recipe.make(run, name, recipe.defaults(run))


def _say_what_is_replaced(run: Run, name: str, metadata: dict[str, Any]) -> None:
    """One line where the run holds a model of that name that was made of or with something else than this one."""
    stored: dict[str, Any] = {}
    with contextlib.suppress(CheckpointError):  # a damaged one is replaced too
        stored = run.stored(name)
    if not stored:
        return
    why = [what for key, what in (("data", "other data"), ("split", "another split")) if stored[key] != metadata[key]]
    now, before = metadata["settings"], stored["settings"]
    keys = sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
    why += [f"{key} = {before.get(key)!r}, now {now.get(key)!r}" for key in keys]
    if "products" in stored and stored["products"] != metadata["products"]:
        why.append(f"trained on {' with '.join(stored['products'])}")
    if why:
        say(f"{name}: replaces the one in {run.directory.name}/, which was made otherwise: {'; '.join(why)}.")


def _tell_differences(run: Run, name: str, defaults: Any) -> None:
    usual, stored, found = as_dict(defaults), run.stored(name), f"{name}: found in {run.directory.name}/"
    other = [f"{key} = {value!r}" for key, value in stored["settings"].items() if usual.get(key) != value]
    if other:
        say(f"{found}, made with other settings than the defaults: {', '.join(other)}.")
    if "products" in stored:  # of a training
        given = replace(defaults, mixed_precision=stored["settings"]["mixed_precision"])
        if stored["products"] != _products(given, choose_device()):
            say(f"{found}, trained elsewhere, on {' with '.join(stored['products'])}.")
