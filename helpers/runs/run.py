"""A run: its data, its split, its folder, and the models that are stored there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from helpers.data.duplicates import Grouped, duplicate_groups
from helpers.data.pairs import ENCODERS_FILE, PairedEmbeddings, load_pairs
from helpers.data.split import Split, make_split
from helpers.data.training_data import TrainingData
from helpers.errors import DataError
from helpers.evaluation import metrics
from helpers.evaluation.settings import EvaluationConfig
from helpers.models import storage
from helpers.models.build import predict
from helpers.models.geometry import GeometryConfig
from helpers.runs.settings import RunConfig
from helpers.system import processes
from helpers.system.devices import choose_device, prefer_exact
from helpers.system.files import atomic_write, write_json
from helpers.system.settings import as_dict, field_names, require, settings_of, unknown_name
from helpers.training import plus
from helpers.training.history import EpochEntry
from helpers.training.objectives import BaselineConfig, BigJumpConfig
from helpers.training.plus_choice import Choice

T = TypeVar("T")
RUN_FILE = "run.json"
STAGES = {"02": (GeometryConfig,), "03": (BaselineConfig,), "04": (BigJumpConfig,), "05": (EvaluationConfig,)}
"""The settings that a notebook has beside `RunConfig`, which all share."""


@dataclass(frozen=True)
class Run:
    """The data of a run, its split, and the folder of its artefacts.

    Attributes:
        groups: (M,) images of one group were kept in one split; None where each stands for itself.
        overrides: settings of any stage, by name, other than what the notebook names itself.
    """

    config: RunConfig
    data: PairedEmbeddings
    split: Split
    groups: np.ndarray | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return self.config.run_dir

    @property
    def gallery(self) -> np.ndarray:
        """(G, dy) validation images."""
        return self.data.images[self.split.val_images]

    @property
    def near_duplicates(self) -> Grouped | None:
        """The groups that were kept in one split each; None where images were not grouped."""
        return None if self.groups is None else Grouped.of(self.groups)

    @cached_property
    def training_data(self) -> TrainingData:
        """The training and validation splits on the device that training uses; see `read_training_data`."""
        return self.read_training_data()

    def read_training_data(self) -> TrainingData:
        """As `training_data`, and not kept; of several processes each has its part, within `by_itself` all."""
        data = self.data
        return TrainingData.of(data.text, data.images, self.split, choose_device(), self.groups, data.captions)

    def settings(self, kind: type[T], **given: Any) -> T:
        """Settings of one stage: the given values, and those of the run's overrides that the stage has.

        Raises:
            ConfigError: a value is of another type or out of its range.
        """
        return kind(**{**given, **settings_of(kind, self.overrides)})

    def metadata(self, settings: object, **more: object) -> dict[str, Any]:
        """What is stored with a model: enough to rebuild it and to tell whether it belongs to this data and split."""
        return {
            "architecture": {"text_dim": self.data.text_dim, "image_dim": self.data.image_dim},
            "data": self.data.fingerprint,
            "split": self.split.digest,
            "settings": as_dict(settings),
            **more,
        }

    def stored(self, name: str) -> dict[str, Any]:
        """The metadata of a stored model: architecture, settings, history, and what else was kept; empty if absent."""
        return storage.load_metadata(self.directory, name) or {}

    def has(self, name: str) -> bool:
        """Whether the run holds a model `name`, made from this very data and split by this version of its recipe."""
        found, version = self.stored(name), plus.VERSION if name == "bigjump_plus" else None
        made_of = found.get("data"), found.get("split"), found.get("version")
        return made_of == (self.data.fingerprint, self.split.digest, version)

    def history(self, name: str) -> list[EpochEntry]:
        """One entry an epoch of a stored model's training; see `training.fit`."""
        return self.stored(name)["history"]

    def choice(self) -> Choice:
        """What the cross-validation folds chose for the stored ensemble of the recipe plus."""
        return Choice(**self.stored("bigjump_plus")["choice"])

    def model(self, name: str) -> nn.Module:
        """A stored model, on the device that training uses."""
        return storage.load_model(self.directory, name)[0].to(choose_device())

    def ranks(self, name: str) -> np.ndarray:
        """(V,) ranks of the images of the validation captions under a stored model: full gallery, by cosine."""
        translated = predict(self.model(name), self.data.text, self.split.val_captions)
        positive = torch.from_numpy(self.split.caption_to_gallery)
        return metrics.ranks(torch.from_numpy(translated).to(choose_device()), self.gallery, positive)

    def mrr(self, name: str) -> float:
        """MRR of a stored model on the validation split; see `ranks`."""
        return float(np.mean(1 / self.ranks(name)))

    def origin(self) -> dict[str, Any]:
        """What its data and its split were made from."""
        found = self.near_duplicates
        return {
            "config": as_dict(self.config),
            "data": self.data.fingerprint,
            "split": self.split.digest,
            "near_duplicates": None if found is None else vars(found),
        }

    def save(self) -> None:
        """Write `origin` to the run's folder."""
        write_json(self.directory / RUN_FILE, self.origin())


def say(message: str) -> None:
    """A line for the reader that is no result: on stderr, so that compared outputs do not depend on it.

    Of several processes the first says it.
    """
    if processes.is_first():
        print(message, file=sys.stderr, flush=True)


def open_run(overrides: Mapping[str, Any], **given: Any) -> Run:
    """As `read_run`; then copy into the run's folder what made the vectors, so that its queries are encoded alike."""
    run = processes.first_before_others(lambda: read_run(overrides, **given))  # the others find its cache
    if not processes.is_first():
        return run
    source, copy = run.config.data_path / ENCODERS_FILE, run.directory / ENCODERS_FILE
    content = source.read_bytes() if source.exists() else None
    if content is None:
        copy.unlink(missing_ok=True)  # of other data, which this folder held before
    elif not copy.exists() or copy.read_bytes() != content:
        atomic_write(copy, lambda temporary: temporary.write_bytes(content))
    return run


def read_run(overrides: Mapping[str, Any], **given: Any) -> Run:
    """Load and validate the data of a run, and split it as it says or by ratios.

    The split is recomputed rather than read: it takes milliseconds (with groups of near-duplicates about what one
    product of all images with one another takes) and cannot be stale.

    Args:
        overrides: settings of any stage by their names; those of `RunConfig` count here.
        given: settings of `RunConfig`.

    Raises:
        ConfigError: a name that no stage knows, or a value out of its range.
        DataError: the data are not as they must be.
        SplitError: a split would be empty, or near-duplicates are to be grouped in data that have their own split.
    """
    known = {name for kinds in ((RunConfig,), *STAGES.values()) for kind in kinds for name in field_names(kind)}
    for name in overrides:
        require(name in known, unknown_name(name, known))
    config = RunConfig(**{**given, **settings_of(RunConfig, overrides)})
    prefer_exact()
    if config.is_demo and not config.data_path.is_dir():
        raise DataError(
            f"{config.data_path}: the demo data are not here; they come with a checkout of the project, not with the "
            "installed package. Run it there, or give data of your own (data_dir; --data-dir on the command line)."
        )
    text_dim, image_dim = config.widths
    data = load_pairs(config.data_path, text_dim=text_dim, image_dim=image_dim)
    groups = duplicate_groups(data.images) if config.group_duplicates else None
    ratios = config.val_ratio, config.split_seed, config.test_ratio
    split = make_split(
        data.targets, data.n_images, *ratios, groups, data.given_split if config.split == "own" else None
    )
    run = Run(config, data, split, groups, overrides)
    if run.near_duplicates is not None:
        say(f"{run.near_duplicates}; each group stays in one split")
    return run
