"""How each model of a run is made: found where it is stored, else fitted or trained with its defaults.

To add a model, add its architecture to `helpers.models` and its recipe to `RECIPES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from helpers.models import cca, storage
from helpers.models.build import BASELINES, build_model
from helpers.models.geometry import (
    AffineMap,
    CrossSpace,
    GeometryConfig,
    PairStatistics,
    fit_cross_space,
    pair_statistics,
)
from helpers.models.networks import GeomLinear, GeomWithAdapter
from helpers.runs.run import Run, say
from helpers.system.devices import choose_device, device_name, matmul_dtype, seed_all
from helpers.system.files import write_json
from helpers.system.locks import lock
from helpers.system.settings import as_dict
from helpers.training import cca_search, loop, plus, plus_search
from helpers.training.folds import make_folds
from helpers.training.history import EpochEntry
from helpers.training.objectives import BaselineConfig, BigJumpConfig
from helpers.training.settings import OptimiserConfig, PlusConfig
from helpers.training.state import Progress

GEOMETRY_POWERS = {"least_squares": 1.0, "procrustes": 0.0}
QUICK_PLUS: dict[str, Any] = {"fold_images": 100, "temperatures": (0.02, 0.033), "epochs": 8}
"""Of the recipe plus, and of the folds of weighted CCA, on demo data: one fold in place of five, two temperatures, and
eight epochs where the search would take 20 to 40, so that the series stays short. Weighted CCA does nearly all of it
there in any case: with the whole training `plus` leads it by 0.006, with this one by 0.001."""
History = list[EpochEntry]


@dataclass(frozen=True)
class Recipe:
    """How some rows of the leaderboard are made.

    Attributes:
        rows: names of the models.
        notebook: where a reader finds it.
        defaults: settings where nobody chose any.
        make: fits or trains one of the rows and stores it.
    """

    rows: tuple[str, ...]
    notebook: str
    defaults: Callable[[Run], Any]
    make: Callable[[Run, str, Any], object]


def training_statistics(run: Run, fit_on: str) -> PairStatistics:
    """Means and covariances of the training split alone; see `geometry.pair_statistics`."""
    return pair_statistics(run.data.text, run.data.images, run.data.targets, fit_on, run.split.train_captions)


def fit_geometry(run: Run, settings: GeometryConfig) -> CrossSpace:
    """The family of closed forms, from the training split alone."""
    return fit_cross_space(training_statistics(run, settings.fit_on), settings.eps)


def save_geometry(run: Run, fitted: CrossSpace, settings: GeometryConfig) -> None:
    """Store the rows `least_squares` and `procrustes` of a fitted family."""
    for name, power in GEOMETRY_POWERS.items():
        _store_affine(run, name, fitted.affine(power), run.metadata(settings, power=power))


def _store_affine(run: Run, name: str, affine: AffineMap, metadata: dict[str, Any]) -> None:
    model = GeomLinear(run.data.text_dim, run.data.image_dim)
    model.set_affine(affine.matrix, affine.bias)
    storage.save_model(run.directory, name, model, metadata)


def _make_geometry(run: Run, name: str, settings: GeometryConfig) -> None:
    """Both classics, which come from one decomposition: where one is there already, with its settings."""
    for other in GEOMETRY_POWERS:
        if run.has(other):
            settings = GeometryConfig(**run.stored(other)["settings"])
    save_geometry(run, fit_geometry(run, settings), settings)


def plus_defaults(run: Run) -> PlusConfig:
    """The defaults of the recipe plus, shorter on the demo data; see `QUICK_PLUS`."""
    return PlusConfig(**QUICK_PLUS) if run.config.is_demo else PlusConfig()


def save_cca(run: Run, settings: PlusConfig) -> tuple[cca.Setting, float]:
    """Fit weighted CCA on the training split, with the setting that its folds choose, and store the row `cca`.

    Args:
        settings: say how the folds are made, as for the recipe plus.

    Returns:
        The setting, see `cca.GRID`, and its mean MRR on the folds.
    """
    data = run.training_data
    setting, fold_mrr = cca_search.best_setting(make_folds(data, settings))
    (affine,) = cca.maps(data, [setting])
    _store_affine(run, "cca", affine, run.metadata(settings, setting=setting, fold_mrr=fold_mrr))
    return setting, fold_mrr


def train(run: Run, name: str, settings: Any, resume: bool = True) -> History:
    """Train a network of a run from its seed, or go on with an interrupted training; store it, return its history.

    Args:
        name: `linear`, `mlp1`, `mlp2`, `bigjump` or `bigjump_plus`.
        settings: a `BaselineConfig`, `BigJumpConfig` or `PlusConfig`.

    Raises:
        RunInUseError: another process trains it.
    """
    if name == "bigjump":
        find_or_make(run, *GEOMETRY_POWERS)
    with lock(run.directory, name):
        if name == "bigjump":
            return _train_bigjump(run, name, settings, resume)
        if name == "bigjump_plus":
            return _train_plus(run, name, settings, resume)
        return _train_baseline(run, name, settings, resume)


def _train_baseline(run: Run, name: str, settings: BaselineConfig, resume: bool) -> History:
    seed_all(settings.seed)
    shape: dict[str, Any] = {"hidden": settings.hidden, "dropout": settings.dropout}
    model = build_model(name, run.data.text_dim, run.data.image_dim, **shape)
    progress = _progress(run, name, settings, resume)
    history = loop.train_baseline(model, run.training_data, settings, name, progress)
    return _store(run, name, model, settings, shape, history, progress)


def _train_bigjump(run: Run, name: str, settings: BigJumpConfig, resume: bool) -> History:
    """From the stored Procrustes map, which is part of where the training starts: another one, another training."""
    start, stored = storage.load_model(run.directory, "procrustes")
    seed_all(settings.seed)
    shape: dict[str, Any] = {"hidden": settings.hidden, "dropout": settings.dropout}
    model = GeomWithAdapter(run.data.text_dim, run.data.image_dim, **shape)
    model.geometry.load_state_dict(start.state_dict())
    progress = _progress(run, name, settings, resume, geometry=stored["settings"])
    history = loop.train_bigjump(model, run.training_data, settings, progress)
    return _store(run, name, model, settings, shape, history, progress)


def _train_plus(run: Run, name: str, settings: PlusConfig, resume: bool) -> History:
    """With what the folds choose, which is kept beside the model until it is stored: a resumed one searches no more."""
    data, path = run.training_data, storage.model_path(run.directory, name).with_suffix(".choice.json")
    basis = run.metadata(settings, products=_products(settings, run.training_data.device), version=plus.VERSION)
    choice = _kept_choice(path, basis) if resume else None
    if choice is None:
        choice = plus_search.search(data, settings)
        write_json(path, {"metadata": basis, "choice": vars(choice)})
    found = {"choice": vars(choice), "version": plus.VERSION}
    model = plus.build_chosen(data, settings, choice)
    shape = {"hidden": settings.hidden, "dropout": settings.dropout, "members": model.members}
    shape |= {"rank": model.basis.shape[1], "cca_weight": choice.cca_weight, "whitening": choice.whitening}
    progress = _progress(run, name, settings, resume, **found)
    history = plus.train_plus(model, data, settings, choice, progress)
    _store(run, name, model, settings, shape, history, progress, **found)
    path.unlink(missing_ok=True)
    return history


def _kept_choice(path: Path, basis: dict[str, Any]) -> plus.Choice | None:
    """What an interrupted training had chosen, where the file is readable and was made on the same basis."""
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return plus.Choice(**kept["choice"]) if kept["metadata"] == json.loads(json.dumps(basis)) else None
    except (OSError, ValueError, KeyError, TypeError):
        say(f"{path}: not readable; the search begins anew.")
        return None


def _products(settings: OptimiserConfig, device: torch.device) -> list[str]:
    """Device and product type: a training that went on with others would be neither the one nor the other."""
    return [device_name(device), str(matmul_dtype(device, settings.mixed_precision))]


def _progress(run: Run, name: str, settings: OptimiserConfig, resume: bool, **more: object) -> Progress:
    path = storage.model_path(run.directory, name).with_suffix(".progress.safetensors")
    if resume and path.exists():
        say(f"{name}: an interrupted training was found; it goes on if data, split, settings and device are the same.")
    products = _products(settings, run.training_data.device)
    return Progress(path, run.metadata(settings, products=products, **more), resume)


def _store(
    run: Run,
    name: str,
    model: nn.Module,
    settings: OptimiserConfig,
    shape: dict[str, Any],
    history: History,
    progress: Progress,
    **more: object,
) -> History:
    metadata = run.metadata(settings, history=history, products=progress.metadata["products"], **more)
    metadata["architecture"] |= shape
    storage.save_model(run.directory, name, model, metadata)
    progress.clear()  # only now: until the model is stored, the training is not over
    return history


RECIPES = (
    Recipe(tuple(GEOMETRY_POWERS), "02", lambda _: GeometryConfig(), _make_geometry),
    Recipe(("cca",), "02", plus_defaults, lambda run, _, settings: save_cca(run, settings)),
    Recipe(BASELINES, "03", lambda _: BaselineConfig(), train),
    Recipe(("bigjump",), "04", lambda _: BigJumpConfig(), train),
    Recipe(("bigjump_plus",), "04", plus_defaults, train),
)


def find_or_make(run: Run, *names: str) -> None:
    """Make with its defaults each model that the run lacks; of those it has, say what differs from the defaults.

    Args:
        names: rows of the leaderboard; all where none is given.
    """
    for recipe in RECIPES:
        defaults = recipe.defaults(run)
        for name in recipe.rows:
            if name in names or not names:
                _find_or_make(run, name, recipe, defaults)


def _find_or_make(run: Run, name: str, recipe: Recipe, defaults: Any) -> None:
    place = f"{run.directory.name}/"
    if not run.has(name):
        lacks = "by this version of its recipe" if run.holds(name) else "for this data and split"
        say(f"{name}: not in {place} {lacks}; made now, with the defaults of notebook {recipe.notebook}.")
        recipe.make(run, name, defaults)
        return
    usual, stored = as_dict(defaults), run.stored(name)
    other = [f"{key} = {value!r}" for key, value in stored["settings"].items() if usual.get(key) != value]
    if other:
        say(f"{name}: found in {place}, made with other settings than the defaults: {', '.join(other)}.")
    if "products" in stored:  # of a training
        given = replace(defaults, mixed_precision=stored["settings"]["mixed_precision"])
        if stored["products"] != _products(given, choose_device()):
            say(f"{name}: found in {place}, trained elsewhere, on {' with '.join(stored['products'])}.")
