"""The recipe `plus` as the notebooks train it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from benchmarks.baselines.method import SEARCH_SEED, Fitted, metadata_of
from benchmarks.baselines.trained import fitted
from helpers.data.training_data import TrainingData
from helpers.training import plus, plus_search
from helpers.training.settings import PlusConfig


@dataclass(frozen=True)
class Plus:
    """`helpers.training.plus` as a method of the comparison, see `Method`.

    Attributes:
        settings: of the recipe; the seed is that of the run.
        version: of the recipe; see `plus.VERSION`.
    """

    name: str
    settings: PlusConfig
    version: int = field(default=plus.VERSION, kw_only=True)
    seeded: bool = field(default=True, init=False)

    def metadata(self) -> dict:
        return {"version": self.version, **metadata_of(self.settings)}

    def tiny(self) -> Plus:
        return replace(self, settings=replace(self.settings, epochs=1, hidden=16, members=2))

    def search(self, fold_data: TrainingData, train: TrainingData) -> dict:
        """The recipe splits the training images itself, as often as their number asks for."""
        return vars(plus_search.search(train, replace(self.settings, seed=SEARCH_SEED)))

    def fit(self, data: TrainingData, chosen: dict, seed: int) -> Fitted:
        settings = replace(self.settings, seed=seed)
        choice = plus.Choice(**chosen)
        model = plus.build_chosen(data, settings, choice)
        # The history of the training wants something to validate on; the recipe does not look at it.
        shown = {
            "val_text": data.text[:1],
            "val_images": data.images[data.positive[:1]],
            "val_positive": data.positive[:1] * 0,
        }
        plus.train_plus(model, replace(data, **shown), settings, choice)
        return fitted(model)
