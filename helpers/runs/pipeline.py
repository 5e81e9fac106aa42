"""What the notebooks share: open a run, and find or make what an earlier notebook would have left."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from helpers.system.settings import field_names
from helpers.system.settings import as_dict
from helpers.data import training_data
from helpers.data.duplicates import duplicate_groups
from helpers.data.pairs import PairedEmbeddings, load_paired
from helpers.data.split import Split, make_split, save_split
from helpers.data.synthetic import write_demo
from helpers.errors import CheckpointError
from helpers.evaluation import metrics
from helpers.models import cca, storage
from helpers.models.geometry import CrossSpace, GeometryConfig, PairStatistics, fit_cross_space, pair_statistics
from helpers.models.build import build_model, predict
from helpers.runs.settings import RunConfig
from helpers.system import files, settings
from helpers.system.devices import choose_device, device_name, matmul_dtype, prefer_exact, seed_all
from helpers.system.locks import training_lock
from helpers.training import cca_search, loop, plus, plus_search
from helpers.training.folds import make_folds
from helpers.training.settings import BaselineConfig, BigJumpConfig, OptimiserConfig, PlusConfig
from helpers.training.state import Progress

GEOMETRY_POWERS = {"least_squares": 1.0, "procrustes": 0.0}
BASELINES = ("linear", "mlp1", "mlp2")
QUICK_PLUS = {"fold_images": 100, "temperatures": (0.02, 0.033), "epochs": 8}
"""Of the recipe plus, and of the cross-validation folds of weighted CCA, on demo data: one fold in place of five, two
temperatures, and eight epochs where the search would take 20 to 40, so that the series stays short. Weighted CCA does
nearly all of it there in any case: with the whole training `plus` leads it by 0.006, with this one by 0.001."""


@dataclass(frozen=True)
class Run:
    """The data of a run, its split, and the folder of its artefacts.

    Attributes:
        groups: (M,) images of one group were kept on one side of the split; None where each stands for itself.
    """

    config: RunConfig
    data: PairedEmbeddings
    split: Split
    groups: np.ndarray | None = None

    @property
    def directory(self) -> Path:
        return self.config.run_dir

    @property
    def gallery(self) -> np.ndarray:
        """(G, dy) validation images."""
        return self.data.images[self.split.val_images]

    def metadata(self, settings: object, **more: object) -> dict:
        """What is stored with a model: enough to rebuild it and to tell whether it belongs to this data and split."""
        return {
            "architecture": {"text_dim": self.data.text_dim, "image_dim": self.data.image_dim},
            "data": self.data.fingerprint,
            "split": self.split.digest,
            "settings": as_dict(settings),
            **more,
        }

    def holds(self, name: str) -> bool:
        """Whether the run holds a model `name`, trained on this very data and split."""
        metadata = storage.load_metadata(self.directory, name)
        return metadata is not None and (metadata["data"], metadata["split"]) == (self.data.fingerprint, self.split.digest)

    def has(self, name: str) -> bool:
        """Whether it holds that model as this version of its recipe trains it."""
        if not self.holds(name):
            return False
        return name != "bigjump_plus" or stored_metadata(self, name).get("version") == plus.VERSION


def say(message: str) -> None:
    """A line for the reader that is no result: on stderr, so that compared outputs do not depend on it."""
    print(message, file=sys.stderr, flush=True)


def open_run(settings: RunConfig) -> Run:
    """Load and validate the data of a run (writing the demo data on first use), and split it.

    The split is recomputed rather than read: it takes milliseconds (with groups of near-duplicates about what one
    product of all images with one another takes) and cannot be stale.
    """
    prefer_exact()
    if settings.profile == "demo" and settings.data_dir is None:
        write_demo(settings.data_path, text_dim=settings.text_dim, image_dim=settings.image_dim)
    data = load_paired(settings.data_path, text_dim=settings.text_dim, image_dim=settings.image_dim)
    groups = duplicate_groups(data.images) if settings.group_duplicates else None
    split = make_split(
        data.targets, data.n_images, settings.val_ratio, settings.split_seed, settings.test_ratio, groups
    )
    return Run(settings, data, split, groups)


def save_run(run: Run) -> None:
    """Write the split and what it was made from to the run's folder."""
    save_split(run.directory / "split.npz", run.split)
    metadata = {"config": as_dict(run.config), "data": run.data.fingerprint, "split": run.split.digest}
    files.write_json(run.directory / "run.json", metadata)


def training_statistics(run: Run, fit_on: str) -> PairStatistics:
    """Means and covariances of the training split alone; see `geometry.pair_statistics`."""
    return pair_statistics(run.data.text, run.data.images, run.data.targets, fit_on, run.split.train_captions)


def fit_geometry(run: Run, settings: GeometryConfig) -> CrossSpace:
    """The closed forms, from the training split alone."""
    return fit_cross_space(training_statistics(run, settings.fit_on), settings.eps)


def stored_ranks(run: Run, name: str) -> np.ndarray:
    """(V,) ranks of the images of the validation captions under a stored model: full gallery, by cosine."""
    device = choose_device()
    model, _ = storage.load_model(run.directory, name)
    predictions = torch.from_numpy(predict(model.to(device), run.data.text, run.split.val_captions)).to(device)
    return metrics.ranks(predictions, run.gallery, torch.from_numpy(run.split.caption_to_gallery))


def stored_mrr(run: Run, name: str) -> float:
    """MRR of a stored model on the validation split; see `stored_ranks`."""
    return float(np.mean(1 / stored_ranks(run, name)))


def save_geometry(run: Run, fitted: CrossSpace, settings: GeometryConfig) -> dict[str, nn.Module]:
    """Store the rows `least_squares` and `procrustes` of a fitted family, and return them."""
    models = {}
    for name, power in GEOMETRY_POWERS.items():
        models[name] = build_model(name, run.data.text_dim, run.data.image_dim)
        affine = fitted.affine(power)
        models[name].set_affine(affine.matrix, affine.bias)
        storage.save_model(run.directory, name, models[name], run.metadata(settings, power=power))
    return models


def plus_defaults(run: Run) -> PlusConfig:
    """The defaults of the recipe plus, shorter on the demo data; see `QUICK_PLUS`."""
    of_demo_data = run.config.profile == "demo" and run.config.data_dir is None
    return PlusConfig(**(QUICK_PLUS if of_demo_data else {}))


def save_cca(run: Run, settings: PlusConfig) -> tuple[cca.Setting, float]:
    """Fit weighted CCA on the training split, with the setting that its cross-validation folds choose, and store the row `cca`.

    Args:
        settings: say how the cross-validation folds are made, as for the recipe plus.

    Returns:
        The setting, see `cca.GRID`, and its mean MRR on the cross-validation folds.
    """
    data = device_data(run)
    setting, fold_mrr = cca_search.best_setting(make_folds(data, settings))
    (affine,) = cca.maps(data, [setting])
    model = build_model("cca", run.data.text_dim, run.data.image_dim)
    model.set_affine(affine.matrix, affine.bias)
    storage.save_model(run.directory, "cca", model, run.metadata(settings, setting=setting, fold_mrr=fold_mrr))
    return setting, fold_mrr


def train_and_save_baseline(
    run: Run, name: str, settings: BaselineConfig, data: training.TrainingData, resume: bool = True
) -> list[dict]:
    """Train one baseline from its seed (or go on with an interrupted training), store it, and return its history.

    Raises:
        RunInUseError: another process trains it.
    """
    with training_lock(run.directory, name):
        seed_all(settings.seed)
        shape = {"hidden": settings.hidden, "dropout": settings.dropout}
        model = build_model(name, run.data.text_dim, run.data.image_dim, **shape)
        progress = _progress(run, name, settings, resume, data)
        history = loop.train_baseline(model, data, settings, name, progress)
        return _save_trained(run, name, model, settings, shape, history, progress)


def train_and_save_bigjump(
    run: Run, settings: BigJumpConfig, data: training.TrainingData, resume: bool = True
) -> list[dict]:
    """Train BigJump from the stored Procrustes map (or go on with an interrupted training), and store it.

    Raises:
        RunInUseError: another process trains it.
    """
    ensure_geometry(run)
    with training_lock(run.directory, "bigjump"):
        start, _ = storage.load_model(run.directory, "procrustes")
        seed_all(settings.seed)
        shape = {"hidden": settings.hidden, "dropout": settings.dropout}
        model = build_model("bigjump", run.data.text_dim, run.data.image_dim, **shape)
        model.geometry.load_state_dict(start.state_dict())
        # The geometry is part of where the training starts: with another one it is another training.
        geometry = storage.load_metadata(run.directory, "procrustes")["settings"]
        progress = _progress(run, "bigjump", settings, resume, data, geometry=geometry)
        history = loop.train_bigjump(model, data, settings, progress)
        return _save_trained(run, "bigjump", model, settings, shape, history, progress)


def train_and_save_plus(run: Run, settings: PlusConfig, data: training.TrainingData, resume: bool = True) -> list[dict]:
    """Let the training split choose the settings of the recipe plus, train the ensemble (or go on), and store it.

    The choice is kept beside the model until the training is over, so that a resumed one does not search again.

    Raises:
        RunInUseError: another process trains it.
    """
    with training_lock(run.directory, "bigjump_plus"):
        return _train_and_save_plus(run, settings, data, resume)


def _train_and_save_plus(run: Run, settings: PlusConfig, data: training.TrainingData, resume: bool) -> list[dict]:
    path = storage.model_path(run.directory, "bigjump_plus").with_suffix(".choice.json")
    metadata = json.loads(json.dumps(run.metadata(settings, products=_products(settings, data.device), version=plus.VERSION)))
    choice = _stored_choice(path, metadata) if resume and path.exists() else None
    if choice is None:
        choice = plus_search.search(data, settings)
        files.write_json(path, {"metadata": metadata, "choice": vars(choice)})
    model = plus.build_chosen(data, settings, choice)
    shape = {"hidden": settings.hidden, "dropout": settings.dropout, "members": model.members}
    shape |= {"rank": model.basis.shape[1], "cca_weight": choice.cca_weight, "whitening": choice.whitening}
    progress = _progress(run, "bigjump_plus", settings, resume, data, choice=vars(choice), version=plus.VERSION)
    history = plus.train_plus(model, data, settings, choice, progress)
    found = {"choice": vars(choice), "version": plus.VERSION}
    _save_trained(run, "bigjump_plus", model, settings, shape, history, progress, **found)
    path.unlink(missing_ok=True)
    return history


def _stored_choice(path: Path, metadata: dict) -> plus.Choice | None:
    """What an interrupted training had chosen, where the file is readable and belongs to the same `metadata`."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        same = stored["metadata"] == metadata and stored["choice"].keys() == set(field_names(plus.Choice))
        return plus.Choice(**stored["choice"]) if same else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        say(f"{path}: not readable; the search begins anew.")
        return None


def _products(settings: OptimiserConfig, device: torch.device) -> list[str]:
    """Device and product type: a training that went on with others would be neither the one nor the other."""
    return [device_name(device), str(matmul_dtype(device, settings.mixed_precision))]


def _progress(
    run: Run, name: str, settings: OptimiserConfig, resume: bool, data: training.TrainingData, **more: object
) -> Progress:
    path = storage.model_path(run.directory, name).with_suffix(".progress.safetensors")
    if resume and path.exists():
        say(f"{name}: an interrupted training was found; it goes on if data, split, settings and device are the same.")
    return Progress(path, run.metadata(settings, products=_products(settings, data.device), **more), resume)


def _save_trained(
    run: Run,
    name: str,
    model: nn.Module,
    settings: object,
    shape: dict,
    history: list[dict],
    progress: Progress,
    **more: object,
) -> list[dict]:
    metadata = run.metadata(settings, history=history, products=progress.metadata["products"], **more)
    metadata["architecture"] |= shape
    storage.save_model(run.directory, name, model, metadata)
    progress.clear()  # only now: until the model is stored, the training is not over
    return history


def device_data(run: Run, device: torch.device | None = None) -> training.TrainingData:
    """Both sides of the split on the device that training uses."""
    return training_data.training_data(run.data.text, run.data.images, run.split, device or choose_device(), run.groups)


def _ensure(run: Run, names: tuple[str, ...], make: Callable[[str], object], notebook: str, defaults: object) -> None:
    """Make what the run does not hold; of what it does, say what differs from the `defaults` on this device."""
    place = f"{run.directory.name}/"
    for name in names:
        if not run.has(name):
            lacks = "by this version of its recipe" if run.holds(name) else "for this data and split"
            say(f"{name}: not in {place} {lacks}; made now, with the defaults of {notebook}.")
            make(name)
            continue
        usual, metadata = as_dict(defaults), stored_metadata(run, name)
        other = [f"{key} = {value!r}" for key, value in metadata["settings"].items() if usual.get(key) != value]
        if other:
            say(f"{name}: found in {place}, made with other settings than the defaults: {', '.join(other)}.")
        if "products" in metadata:  # of a training
            given = replace(defaults, mixed_precision=metadata["settings"]["mixed_precision"])
            here = _products(given, choose_device())
            if metadata["products"] != here:
                say(f"{name}: found in {place}, trained elsewhere, on {' with '.join(metadata['products'])}.")


def ensure_geometry(run: Run) -> None:
    """Find the two classics in the run, or fit them with the defaults of notebook 02.

    Where one of them is there, the other is fitted with its settings: both come from one decomposition.
    """
    names = tuple(GEOMETRY_POWERS)
    there = [name for name in names if run.has(name)]
    settings = GeometryConfig(**stored_metadata(run, there[0])["settings"]) if there else GeometryConfig()
    _ensure(run, names, lambda _: save_geometry(run, fit_geometry(run, settings), settings), "02", GeometryConfig())


def ensure_cca(run: Run) -> None:
    """Find weighted CCA in the run, or fit it as notebook 02 does."""
    settings = plus_defaults(run)
    _ensure(run, ("cca",), lambda _: save_cca(run, settings), "02", settings)


def ensure_baselines(run: Run) -> None:
    """Find the baselines in the run, or train them with the defaults of notebook 03."""
    settings = BaselineConfig()
    _ensure(run, BASELINES, lambda name: train_and_save_baseline(run, name, settings, device_data(run)), "03", settings)


def ensure_bigjump(run: Run) -> None:
    """Find BigJump in the run, or train it with the defaults of notebook 04."""
    settings = BigJumpConfig()
    _ensure(run, ("bigjump",), lambda _: train_and_save_bigjump(run, settings, device_data(run)), "04", settings)


def ensure_plus(run: Run) -> None:
    """Find the ensemble of the recipe plus in the run, or train it with `plus_defaults`."""
    settings = plus_defaults(run)
    _ensure(
        run, ("bigjump_plus",), lambda _: train_and_save_plus(run, settings, device_data(run)), "04, plus", settings
    )


def stored_metadata(run: Run, name: str) -> dict:
    """The facts of a stored model: architecture, settings, history, and what else was kept with it."""
    return storage.load_metadata(run.directory, name)


def stored_choice(run: Run) -> plus.Choice:
    """What the cross-validation folds chose for the stored ensemble of the recipe plus.

    Raises:
        CheckpointError: the recipe of another version stored it, which chose other things.
    """
    stored = stored_metadata(run, "bigjump_plus")["choice"]
    if differing := stored.keys() ^ set(field_names(plus.Choice)):
        path = storage.model_path(run.directory, "bigjump_plus")
        names = ", ".join(sorted(differing))
        raise CheckpointError(
            f"{path}: trained by another version of the recipe plus, whose choice differs in {names}. Delete it and "
            "train again."
        )
    return plus.Choice(**stored)


def stored_history(run: Run, name: str) -> list[dict]:
    """One dict an epoch of a stored model's training; see `loop.fit`."""
    return stored_metadata(run, name)["history"]
