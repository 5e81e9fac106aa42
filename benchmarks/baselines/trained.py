"""Methods that are trained: learning rate and epochs from a fold, then one training of that length."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

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
        version: raise it where the code behind `build` changes what it computes.
    """

    name: str
    settings: OptimiserConfig
    build: Build
    rate_factors: tuple[float, ...] = (1.0, 3.0)
    schedule: Callable[[int, int, OptimiserConfig], float] = learning_rate_factor
    version: int = field(default=1, kw_only=True)
    seeded: bool = field(default=True, init=False)

    def metadata(self) -> dict:
        names = {"schedule": self.schedule.__name__, "settings_of": type(self.settings).__name__}
        return {**names, "rate_factors": list(self.rate_factors), "version": self.version, **metadata_of(self.settings)}

    def tiny(self) -> Trained:
        return replace(self, settings=replace(self.settings, epochs=1, hidden=16, batch_size=128))

    def epochs(
        self, data: TrainingData, rate: float, seed: int, history: list[dict], last: int, label: str
    ) -> Generator[tuple[nn.Module, tqdm]]:
        """Train, and yield the model after every epoch, and the bar, which shows the epoch.

        Args:
            last: epoch, in the schedule of the settings. label: shown before the bar.
            history: {epoch, mrr} of the epochs before the present one, at least: what a training on all images may
                know of validation was seen in the search. Read as the training goes on.
        """
        seed_all(seed)
        model, objective = self.build(replace(self.settings, learning_rate=rate, seed=seed), data)
        settings, model = objective.settings, model.to(data.device)
        fit_standardisation(model, data.text)
        optimiser = make_optimiser(model, settings)
        steps = math.ceil(len(data.positive) / settings.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: self.schedule(step, steps, settings))
        rng, positive = np.random.default_rng(seed), data.positive.cpu().numpy()
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
        candidates = [
            self._search_rate(fold_data, rate, f"{self.name}, candidate {n} of {len(rates)}, learning rate {rate:g}")
            for n, rate in enumerate(rates, start=1)
        ]
        best = max(candidates, key=lambda tried: tried["fold_mrr"])  # the first of equals
        if not best["epochs"]:
            raise FloatingPointError(f"{self.name}: no learning rate gave a finite model; lower them.")
        return {**best, "candidates": candidates}

    def _search_rate(self, fold_data: TrainingData, rate: float, label: str) -> dict:
        """Train until the fold MRR no longer rises; the best epoch and its score; epoch 0 where none was finite."""
        history: list[dict] = []
        best = {"learning_rate": rate, "epochs": 0, "fold_mrr": 0.0}
        longest = self.settings.epochs
        with contextlib.closing(self.epochs(fold_data, rate, SEARCH_SEED, history, longest, label)) as trained:
            for model, bar in trained:
                mrr, epoch = validation_mrr(model, fold_data), len(history) + 1
                if math.isnan(mrr):  # diverged: what came before counts
                    break
                history.append({"epoch": epoch, "mrr": mrr})
                show(bar, {"epoch": f"{epoch}/{longest}", "mrr": f"{mrr:.3f}"})
                if mrr > best["fold_mrr"]:
                    best |= {"epochs": epoch, "fold_mrr": mrr}
                elif epoch - best["epochs"] >= patience(longest):
                    break
        return {**best, "history": history}

    def fit(self, data: TrainingData, chosen: dict, seed: int) -> Fitted:
        """Train for the chosen number of epochs under the schedule of the search, which is cut there."""
        last, label = chosen["epochs"], f"{self.name}, seed {seed}"
        if not 0 < last <= self.settings.epochs:
            raise ValueError(f"{self.name}: {last} epochs were chosen, of 1 to {self.settings.epochs}.")
        *_, (model, _) = self.epochs(data, chosen["learning_rate"], seed, chosen["history"], last, label)
        return fitted(model)


def fitted(model: nn.Module) -> Fitted:
    """A network as a translator."""
    model.eval()

    @torch.inference_mode()
    def predict(text: torch.Tensor) -> torch.Tensor:
        return torch.cat([model(block).float() for block in text.split(8192)])

    return Fitted(predict, cost.count_parameters(model))
