"""Methods that are trained: learning rate and epochs from a fold, then one training of that length."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from benchmarks.baselines.heads import Heads
from benchmarks.baselines.method import SEARCH_SEED, Fitted, metadata_of
from helpers.data.training_data import TrainingData
from helpers.evaluation import cost
from helpers.models.networks import fit_standardisation
from helpers.system.bars import show, training_bar
from helpers.system.devices import seed_all
from helpers.training.loop import (
    epoch_order,
    learning_rate_factor,
    make_optimiser,
    micro_unfreeze,
    run_epoch,
    validation_mrr,
)
from helpers.training.settings import OptimiserConfig

Setting = dict[str, float]
Build = Callable[[OptimiserConfig, TrainingData], tuple[nn.Module, object]]


def patience(epochs: int) -> int:
    """Epochs without a better fold MRR after which a search stops."""
    return max(3, round(0.2 * epochs))


@dataclass(frozen=True)
class Trained:
    """A method of the comparison, see `Method`.

    Attributes:
        settings: of the training; `epochs` is the most that may be chosen, and what the schedules span.
        build: (settings, data) to a model and its objective, which has the interface of `helpers.training.objectives`.
        rate_factors: learning rates to try, in units of the settings' own.
        schedule: share of the learning rate at (step, steps an epoch, settings).
        optimiser: of (model, settings).
        variants: settings to try beside the learning rates, each as {name: value}; every rate is tried with each.
        version: raise it where the code behind `build` changes what it computes.
    """

    name: str
    settings: OptimiserConfig
    build: Build
    rate_factors: tuple[float, ...] = (1.0, 3.0)
    schedule: Callable[[int, int, OptimiserConfig], float] = learning_rate_factor
    optimiser: Callable[[nn.Module, OptimiserConfig], torch.optim.Optimizer] = make_optimiser
    variants: tuple[Setting, ...] = ({},)
    version: int = field(default=1, kw_only=True)
    seeded: bool = field(default=True, init=False)

    def metadata(self) -> dict:
        names = {"schedule": self.schedule.__name__, "settings_of": type(self.settings).__name__}
        if self.optimiser is not make_optimiser:
            names["optimiser"] = self.optimiser.__name__
        searched = {"rate_factors": list(self.rate_factors)}
        if self.variants != ({},):
            searched["variants"] = list(self.variants)
        return {**names, **searched, "version": self.version, **metadata_of(self.settings)}

    def tiny(self) -> Trained:
        small = tuple({name: min(value, 16) for name, value in variant.items()} for variant in self.variants[-2:])
        return replace(self, settings=replace(self.settings, epochs=1, hidden=16, batch_size=128), variants=small)

    def epochs(
        self, data: TrainingData, settings: OptimiserConfig, history: list[dict], last: int, label: str
    ) -> Generator[tuple[nn.Module, tqdm]]:
        """Train, and yield the model after every epoch, and the bar, which shows the epoch.

        Args:
            settings: with learning rate and seed.
            last: epoch, in the schedule of the settings. label: shown before the bar.
            history: {epoch, mrr} of the epochs before the present one, at least: what a training on all images may
                know of validation was seen in the search. Read as the training goes on.
        """
        seed_all(settings.seed)
        model, objective = self.build(settings, data)
        settings, model = objective.settings, model.to(data.device)
        fit_standardisation(model, data.text)
        optimiser = self.optimiser(model, settings)
        steps = math.ceil(len(data.positive) / settings.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: self.schedule(step, steps, settings))
        rng, positive = np.random.default_rng(settings.seed), data.positive.cpu().numpy()
        with training_bar(label, last * steps) as bar:
            try:
                for epoch in range(1, last + 1):
                    model.train()
                    micro_unfreeze(model, settings, epoch, history[: epoch - 1])
                    objective.start_epoch(epoch)
                    order = torch.from_numpy(epoch_order(positive, settings.captions_per_image, rng)).to(data.device)
                    run_epoch(model, objective, optimiser, schedule, order, bar)
                    show(bar, {"epoch": f"{epoch}/{last}"})
                    yield model, bar
            finally:
                bar.total = bar.n  # all that there was to do, where it ended early
                bar.refresh()

    def search(self, fold_data: TrainingData, train: TrainingData) -> dict:
        rates = [factor * self.settings.learning_rate for factor in self.rate_factors]
        tries = list(itertools.product(rates, self.variants))
        candidates = []
        for n, (rate, variant) in enumerate(tries, start=1):
            with_variant = "".join(f", {name} {value:g}" for name, value in variant.items())
            label = f"{self.name}, candidate {n} of {len(tries)}, learning rate {rate:g}{with_variant}"
            candidates.append(self._search_one(fold_data, rate, variant, label))
        best = max(candidates, key=lambda tried: tried["fold_mrr"])  # the first of equals
        if not best["epochs"]:
            raise FloatingPointError(f"{self.name}: no learning rate gave a finite model; lower them.")
        return {**best, "candidates": candidates}

    def _search_one(self, fold_data: TrainingData, rate: float, variant: Setting, label: str) -> dict:
        """Train until the fold MRR no longer rises; the best epoch and its score; epoch 0 where none was finite."""
        history: list[dict] = []
        best = {"learning_rate": rate, "epochs": 0, "fold_mrr": 0.0} | ({"variant": variant} if variant else {})
        longest, settings = self.settings.epochs, self._settings(rate, variant, SEARCH_SEED)
        with contextlib.closing(self.epochs(fold_data, settings, history, longest, label)) as trained:
            for model, bar in trained:
                mrr, epoch = validation_mrr(model, _as_judged(model, fold_data)), len(history) + 1
                if math.isnan(mrr):  # diverged: what came before counts
                    break
                history.append({"epoch": epoch, "mrr": mrr})
                show(bar, {"epoch": f"{epoch}/{longest}", "mrr": f"{mrr:.3f}"})
                if mrr > best["fold_mrr"]:
                    best |= {"epochs": epoch, "fold_mrr": mrr}
                elif epoch - best["epochs"] >= patience(longest):
                    break
        return {**best, "epochs_tried": len(history), "epochs_allowed": longest, "history": history}

    def _settings(self, rate: float, variant: Setting, seed: int) -> OptimiserConfig:
        return replace(self.settings, **variant, learning_rate=rate, seed=seed)

    def fit(self, data: TrainingData, chosen: dict, seed: int) -> Fitted:
        """Train for the chosen number of epochs under the schedule of the search, which is cut there."""
        last, label = chosen["epochs"], f"{self.name}, seed {seed}"
        if not 0 < last <= self.settings.epochs:
            raise ValueError(f"{self.name}: {last} epochs were chosen, of 1 to {self.settings.epochs}.")
        settings = self._settings(chosen["learning_rate"], chosen.get("variant", {}), seed)
        *_, (model, _) = self.epochs(data, settings, chosen["history"], last, label)
        return fitted(model)


def _as_judged(model: nn.Module, data: TrainingData) -> TrainingData:
    """The data with the validation gallery where the model compares captions with it."""
    if not (isinstance(model, Heads) and model.two_sided):
        return data
    with torch.inference_mode():
        return replace(data, val_images=model.eval().gallery(data.val_images))


def fitted(model: nn.Module) -> Fitted:
    """A network as a translator, or as a two-sided method where it has a head for images."""
    model.eval()

    @torch.inference_mode()
    def predict(text: torch.Tensor) -> torch.Tensor:
        return torch.cat([model(block).float() for block in text.split(8192)])

    gallery = torch.inference_mode()(model.gallery) if isinstance(model, Heads) and model.two_sided else None
    return Fitted(predict, cost.count_parameters(model), gallery)
