"""Methods that are trained: learning rate and epochs from a fold, then one training of that length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from benchmarks.baselines.method import SEARCH_SEED, Fitted, metadata_of
from helpers.data.training_data import TrainingData
from helpers.evaluation import cost
from helpers.models.networks import fit_standardisation
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

    def epochs(self, data: TrainingData, rate: float, seed: int, history: list[dict]) -> Iterator[nn.Module]:
        """Train, and yield the model after every epoch.

        Args:
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
        for epoch in range(1, settings.epochs + 1):
            model.train()
            micro_unfreeze(model, settings, epoch, history[: epoch - 1])
            objective.start_epoch(epoch)
            order = torch.from_numpy(epoch_order(positive, settings.captions_per_image, rng)).to(data.device)
            with tqdm(disable=True) as bar:
                run_epoch(model, objective, optimiser, schedule, order, bar)
            yield model

    def search(self, fold_data: TrainingData, train: TrainingData) -> dict:
        candidates = [
            self._search_rate(fold_data, factor * self.settings.learning_rate) for factor in self.rate_factors
        ]
        best = max(candidates, key=lambda tried: tried["fold_mrr"])  # the first of equals
        if not best["epochs"]:
            raise FloatingPointError(f"{self.name}: no learning rate gave a finite model; lower them.")
        return {**best, "candidates": candidates}

    def _search_rate(self, fold_data: TrainingData, rate: float) -> dict:
        """Train until the fold MRR no longer rises; the best epoch and its score; epoch 0 where none was finite."""
        history: list[dict] = []
        best = {"learning_rate": rate, "epochs": 0, "fold_mrr": 0.0}
        for model in self.epochs(fold_data, rate, SEARCH_SEED, history):
            mrr, epoch = validation_mrr(model, fold_data), len(history) + 1
            if math.isnan(mrr):  # diverged: what came before counts
                break
            history.append({"epoch": epoch, "mrr": mrr})
            if mrr > best["fold_mrr"]:
                best |= {"epochs": epoch, "fold_mrr": mrr}
            elif epoch - best["epochs"] >= patience(self.settings.epochs):
                break
        return {**best, "history": history}

    def fit(self, data: TrainingData, chosen: dict, seed: int) -> Fitted:
        """Train for the chosen number of epochs under the schedule of the search, which is cut there."""
        trainings = self.epochs(data, chosen["learning_rate"], seed, chosen["history"])
        for epoch, model in enumerate(trainings, start=1):
            if epoch == chosen["epochs"]:
                return fitted(model)
        raise ValueError(f"{self.name}: {chosen['epochs']} epochs were chosen, more than the settings allow.")


def fitted(model: nn.Module) -> Fitted:
    """A network as a translator."""
    model.eval()

    @torch.inference_mode()
    def predict(text: torch.Tensor) -> torch.Tensor:
        return torch.cat([model(block).float() for block in text.split(8192)])

    return Fitted(predict, cost.count_parameters(model))
