"""How a variant is made: BigJump with settings, start or objective changed, a baseline, or a closed form.

Each gives `metadata(shared)`, everything that determines its result beside data and seed, and
`train(fold, seed, shared)`; `shared` are settings that all trainings of a call have in common, such as a smaller number
of epochs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from torch import nn

from benchmarks.ablation.hooks import LastEpoch, LastEpochCombined
from benchmarks.baselines.method import metadata_of
from helpers.data.training_data import TrainingData
from helpers.models import geometry
from helpers.models.build import build_model
from helpers.models.geometry import GeometryConfig
from helpers.system.devices import seed_all
from helpers.system.settings import field_names
from helpers.training.loop import fit
from helpers.training.objectives import BaselineConfig, BigJumpConfig, BigJumpObjective
from helpers.training.settings import OptimiserConfig

Shared = Mapping[str, float]


class Fold:
    """The training split of a problem, with the closed forms that are fitted on it once.

    Attributes:
        data: as given; its validation split serves the rule that freezes A again, and nothing else.
    """

    def __init__(self, data: TrainingData) -> None:
        self.data = data

    @property
    def widths(self) -> tuple[int, int]:
        return self.data.text.shape[1], self.data.images.shape[1]

    @cached_property
    def space(self) -> geometry.CrossSpace:
        return geometry.fit_cross_space(geometry.pair_statistics(*self.data.pairs), GeometryConfig().eps)

    def start(self, name: str, seed: int) -> geometry.AffineMap:
        """Where a training starts: `procrustes`, `least_squares`, `random` or `mean`.

        `random` is drawn with the Frobenius norm of the Procrustes map, `mean` is A = 0; both send the mean caption to
        the mean image, as the closed forms do.
        """
        if name in ("procrustes", "least_squares"):
            return self.space.affine(float(name == "least_squares"))
        matrix = np.zeros(self.widths[::-1])
        if name == "random":
            matrix = np.random.default_rng(seed).standard_normal(self.widths[::-1])
            matrix *= np.linalg.norm(self.space.affine().matrix) / np.linalg.norm(matrix)
        statistics = self.space.statistics
        return geometry.AffineMap(matrix, statistics.mean_y - matrix @ statistics.mean_x)


class Variant(Protocol):
    """What the ablations ask of a variant.

    Attributes:
        name: of its rows. seeded: whether a seed changes the result.
    """

    name: str
    seeded: bool

    def metadata(self, shared: Shared) -> dict:
        """Everything that determines a result beside data and seed, as JSON values."""

    def train(self, fold: Fold, seed: int, shared: Shared) -> tuple[nn.Module, list[dict]]:
        """The model after its last epoch, and its history (empty for a closed form)."""


def _without_seed(settings: OptimiserConfig) -> dict:
    return {name: value for name, value in metadata_of(settings).items() if name != "seed"}


def _known(settings: type, shared: Shared) -> dict:
    return {name: value for name, value in shared.items() if name in field_names(settings)}


@dataclass(frozen=True)
class BigJump:
    """BigJump at the published defaults but for what is named here; see `Variant`.

    Attributes:
        overrides: of `BigJumpConfig`.
        start: see `Fold.start`.
        objective: a subclass of `hooks.LastEpoch`.
        products: gives a context to train in; `objective` must tell it apart, since it is no part of the metadata.
        version: raise it where the code of `start` or `objective` changes what it computes.
    """

    name: str
    overrides: Mapping[str, object] = field(default_factory=dict)
    start: str = "procrustes"
    objective: type[BigJumpObjective] = LastEpoch
    products: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    version: int = 1
    seeded: bool = field(default=True, init=False)

    def settings(self, shared: Shared) -> BigJumpConfig:
        return BigJumpConfig(**{**_known(BigJumpConfig, shared), **self.overrides})

    def metadata(self, shared: Shared) -> dict:
        kind = {"start": self.start, "objective": self.objective.__name__, "version": self.version}
        return {**kind, **_without_seed(self.settings(shared))}

    def train(self, fold: Fold, seed: int, shared: Shared) -> tuple[nn.Module, list[dict]]:
        settings = replace(self.settings(shared), seed=seed)
        seed_all(seed)
        model = build_model("bigjump", *fold.widths, hidden=settings.hidden, dropout=settings.dropout)
        affine = fold.start(self.start, seed)
        model.geometry.set_affine(affine.matrix, affine.bias)
        with self.products():
            return model, fit(model.to(fold.data.device), self.objective(settings, fold.data), self.name)


@dataclass(frozen=True)
class Baseline:
    """A baseline of the helpers with its own published loss; see `Variant`. Its name is that of its architecture."""

    name: str
    version: int = 1
    seeded: bool = field(default=True, init=False)

    def metadata(self, shared: Shared) -> dict:
        return {"version": self.version, **_without_seed(BaselineConfig(**_known(BaselineConfig, shared)))}

    def train(self, fold: Fold, seed: int, shared: Shared) -> tuple[nn.Module, list[dict]]:
        settings = BaselineConfig(**_known(BaselineConfig, shared), seed=seed)
        seed_all(seed)
        model = build_model(self.name, *fold.widths, hidden=settings.hidden, dropout=settings.dropout)
        return model, fit(model.to(fold.data.device), LastEpochCombined(settings, fold.data), self.name)


@dataclass(frozen=True)
class ClosedForm:
    """A member of the family between Procrustes (`power` 0) and least squares (1); see `Variant`."""

    name: str
    power: float
    version: int = 1
    seeded: bool = field(default=False, init=False)

    def metadata(self, shared: Shared) -> dict:
        return {"power": self.power, "eps": GeometryConfig().eps, "version": self.version}

    def train(self, fold: Fold, seed: int, shared: Shared) -> tuple[nn.Module, list[dict]]:
        affine = fold.space.affine(self.power)
        model = build_model("procrustes", *fold.widths)
        model.set_affine(affine.matrix, affine.bias)
        return model.to(fold.data.device), []
