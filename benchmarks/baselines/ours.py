"""The recipe `plus` and the kernel map, as the notebooks make them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from benchmarks.baselines.method import SEARCH_SEED, Fitted, metadata_of
from benchmarks.baselines.trained import fitted
from helpers.data.training_data import TrainingData
from helpers.training import closed_forms, plus, plus_search
from helpers.training.plus_choice import Choice
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
        return replace(self, settings=replace(self.settings, epochs=1, hidden=16, members=2, landmarks=50))

    def search(self, fold_data: TrainingData, train: TrainingData) -> dict:
        """The recipe splits the training images itself, as often as their number asks for."""
        return vars(plus_search.search(train, replace(self.settings, seed=SEARCH_SEED)))

    def fit(self, data: TrainingData, chosen: dict, seed: int) -> Fitted:
        settings = replace(self.settings, seed=seed)
        choice = Choice(**chosen)
        model = plus.build_chosen(data, settings, choice)
        # The history of the training wants something to validate on; the recipe does not look at it.
        shown = {
            "val_text": data.text[:1],
            "val_images": data.images[data.positive[:1]],
            "val_positive": data.positive[:1] * 0,
        }
        plus.train_plus(model, replace(data, **shown), settings, choice)
        return fitted(model)


@dataclass(frozen=True)
class KernelCCA:
    """`helpers.models.kernel` as a method of the comparison, see `Method`.

    Attributes:
        landmarks: captions that the kernel compares with.
        version: raise it where the map or its search changes what it computes.
    """

    name: str
    landmarks: int = PlusConfig().landmarks
    version: int = field(default=2, kw_only=True)
    seeded: bool = field(default=False, init=False)

    def metadata(self) -> dict:
        grid = [list(values) for values in (closed_forms.GAMMAS, closed_forms.RIDGES, closed_forms.IMAGE_EPS)]
        return {"version": self.version, "landmarks": self.landmarks, "grid": grid}

    def tiny(self) -> KernelCCA:
        return replace(self, landmarks=50)

    def search(self, fold_data: TrainingData, train: TrainingData) -> dict:
        found = closed_forms.best_kernel([fold_data])
        return {"setting": found["setting"], "fold_mrr": found["mrr"]}

    def fit(self, data: TrainingData, chosen: dict, seed: int) -> Fitted:
        return fitted(closed_forms.fit_kernel(data, chosen["setting"], self.landmarks))
