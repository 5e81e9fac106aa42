"""The recipe `plus`: an ensemble trained on InfoNCE over the training images, as `plus_search` chose.

The loss sees each image less the mean of all: for the rank of an image nothing changes, since every score of a caption
moves alike, but the gradient no longer fights the large common offset of an image encoder's space. And it sees the
principal directions that hold nearly all of the rest: the networks write in that basis, which saves a third of the
work.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import torch

from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.errors import SplitError
from helpers.models import cca, geometry
from helpers.models.networks import EnsembleMLP
from helpers.system.devices import COLUMN_MULTIPLE, seed_all
from helpers.training import losses
from helpers.training.history import EpochEntry
from helpers.training.loop import fit
from helpers.training.objectives import Objective
from helpers.training.same_text import SameText
from helpers.training.settings import PlusConfig
from helpers.training.state import Progress

VERSION = 9
"""Of the recipe: raise it where this module, `plus_search`, or what they choose with (`cca`, `geometry`,
`folds`) changes what it computes, beyond rounding, for data like those of the committed results."""
CLEAR_GAIN = 0.005
"""Share of the MRR by which an epoch or a candidate of a search must be better to count as progress."""
REFERENCE_DIM = 384
"""Input dimensions at which `PlusConfig.learning_rate` holds."""


class PlusObjective(Objective[PlusConfig, EnsembleMLP]):
    """InfoNCE of each member over fresh samples of the training images, and a running average of the weights.

    The t-th step's weights enter the average in proportion to t^power, so that the window is a share of the training
    so far, whatever the number of steps (Karras et al., 2024). The average is what validation sees.
    """

    capturable = True

    def __init__(
        self, settings: PlusConfig, data: TrainingData, model: EnsembleMLP, temperature: float, searching: bool
    ) -> None:
        super().__init__(settings, data)
        images = centred_images(data)  # (M, dy)
        self.negative_bank = (images @ model.basis).to(self.dtype)  # (M, r)
        self.temperature = temperature * float(images.square().sum(1).mean().sqrt())
        self.keeps_last, self.searching = not searching, searching
        self.same_text = SameText.of(data) if settings.exclude_same_text else None
        self.model, self.average = model, copy.deepcopy(model)
        # On a GPU, where a replayed step cannot ask the host; MPS has no float64, which the share below wants.
        counter = data.device if data.device.type == "cuda" else "cpu"
        self.updates = torch.zeros((), dtype=torch.long, device=counter)

    def predict(self, model: EnsembleMLP, rows: torch.Tensor) -> torch.Tensor:
        """Every member's own translation (K, B, r), in the basis."""
        return model.member_outputs(self.data.text[rows])

    def terms(self, prediction: torch.Tensor, positive: torch.Tensor, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The mean over members of their InfoNCE, against one draw of negatives."""
        bank, share = self.negative_bank, self.settings.negative_share
        weights = losses.sampled_weights(len(bank), positive, share)
        drawn = (self.dtype, weights, losses.most_drawn(len(bank), len(positive), share))
        excluded = None if self.same_text is None else self.same_text.excluded(rows, positive)
        if positive.device.type == "cpu":  # a member's block of scores fits the caches
            of = (bank, positive, self.temperature, *drawn, excluded)
            return {"infonce": torch.stack([losses.bank_infonce(member, *of) for member in prediction]).mean()}
        together, members = prediction.flatten(0, 1), len(prediction)  # (K B, r)
        if excluded is not None:
            excluded = excluded.repeat(members, 1)
        positives = positive.repeat(members)  # (K B,)
        return {"infonce": losses.bank_infonce(together, bank, positives, self.temperature, *drawn, excluded)}

    @torch.no_grad()
    def end_step(self, positive: torch.Tensor) -> None:
        self.updates += 1
        averages, weights = ([p.detach() for p in of.parameters()] for of in (self.average, self.model))
        power = self.settings.average_power + 1
        if self.updates.is_cuda:
            share = (1 - (1 - 1 / self.updates.double()) ** power).float()
            torch._foreach_lerp_(averages, weights, [share] * len(weights))
        else:
            torch._foreach_lerp_(averages, weights, 1 - (1 - 1 / int(self.updates)) ** power)

    def judged(self, model: EnsembleMLP) -> EnsembleMLP:
        self.average.standardise.load_state_dict(model.standardise.state_dict())
        return self.average

    def is_over(self, history: Sequence[EpochEntry]) -> bool:
        """In a search: nothing clearly better for `patience` epochs, or a quarter of all epochs if that is more.

        A plateau rises by chance now and then, so a gain below `CLEAR_GAIN` does not prolong the search.
        """
        best, at = 0.0, 0
        for entry in history:
            if entry["mrr"] > (1 + CLEAR_GAIN) * best:
                best, at = entry["mrr"], entry["epoch"]
        return self.searching and len(history) - at >= max(self.settings.patience, len(history) // 4)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        return {"updates": self.updates, **self.average.state_dict()}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.updates.copy_(tensors["updates"])
        self.average.load_state_dict({name: tensor for name, tensor in tensors.items() if name != "updates"})


def centred_images(data: TrainingData) -> torch.Tensor:
    """Training images (M, dy) at unit length, less their mean.

    Raises:
        SplitError: all have the same direction.
    """
    images = normalise(data.images)
    images = images - images.mean(0)
    if float(images.square().sum(1).mean()) < 1e-12:  # float32 leaves a rest where the vectors are equal
        raise SplitError(f"All {len(images)} training images have the same direction: nothing tells them apart.")
    return images


class Curve(TypedDict):
    """A candidate of the search, and its mean MRR over the folds by epoch."""

    temperature: float
    whitening: float
    mrr: list[float]


class WeightPoint(TypedDict):
    """A weight of the closed form in the mean, and the mean MRR over the folds with it."""

    weight: float
    mrr: float


@dataclass(frozen=True)
class Choice:
    """What cross-validation folds of the training images chose.

    Attributes:
        temperature: in units of the spread of the unit image vectors.
        whitening: power of the whitening of the input; with 0 it is standardised alone.
        epochs: passes over the training captions that were best for one network.
        mrr: of one network alone, mean over the folds at that point; a fold's gallery is smaller than the real.
        curves: one for each candidate.
        cca_setting: of the closed form, see `cca.GRID`.
        cca_mrr: of the closed form alone, mean over the folds.
        cca_weight: its share in the ensemble's mean; 0 leaves it out.
        cca_curve: a point for each weight that was tried; see `plus_search`.
    """

    temperature: float
    whitening: float
    epochs: int
    mrr: float
    curves: list[Curve]
    cca_setting: cca.Setting
    cca_mrr: float
    cca_weight: float
    cca_curve: list[WeightPoint]


def batch_size_for(n_captions: int, at_most: int) -> int:
    """Captions a step: sixteen steps an epoch or more, as long as that leaves 128 captions a step."""
    return int(min(at_most, max(128, n_captions // 16), n_captions))


def learning_rate_for(text_dim: int, at_reference: float) -> float:
    """AdamW's rate: inversely proportional to the number of inputs.

    Inputs are standardised and each of Adam's steps has about the size of the rate in every weight, so what a step
    changes in a hidden unit grows with the number of inputs (Yang et al., 2021). At most three times the reference:
    with very few inputs the output layer, which has as many inputs as ever, sets the limit.
    """
    return at_reference * min(3.0, REFERENCE_DIM / text_dim)


def members_for(text_dim: int, image_dim: int, rank: int, settings: PlusConfig) -> int:
    """MLPs in the ensemble: as many as `max_parameters` holds, up to `members`, and at least one.

    Room for the closed form and for the whitening is kept, whether they are used or not.

    Args:
        rank: directions in which the networks write.
    """
    each = (text_dim + 1) * settings.hidden + (settings.hidden + 1) * rank
    left = settings.max_parameters - (text_dim + 1) * image_dim - text_dim**2 - image_dim * rank
    return max(1, min(settings.members, left // each))


def derived(settings: PlusConfig, data: TrainingData) -> PlusConfig:
    """Settings with the batch size and the learning rate that this training split asks for."""
    return replace(
        settings,
        batch_size=batch_size_for(len(data.text), settings.batch_size),
        learning_rate=learning_rate_for(data.text.shape[1], settings.learning_rate),
    )


def basis_for(data: TrainingData, settings: PlusConfig) -> np.ndarray:
    """Basis (dy, r) in which the networks write: principal directions of the unit training images, and their mean's.

    Raises:
        SplitError: all images have the same direction.
    """
    centred_images(data)  # rounding alone would make a basis of equal vectors
    images = normalise(data.images).cpu().numpy()
    return geometry.principal_basis(images, settings.basis_share, COLUMN_MULTIPLE)


def build_ensemble(
    data: TrainingData,
    settings: PlusConfig,
    members: int | None = None,
    whitening: float = 0.0,
    cca_weight: float = 0.0,
    cca_setting: cca.Setting | None = None,
    basis: np.ndarray | None = None,
) -> EnsembleMLP:
    """An untrained ensemble from the seed of the settings, on the device of the data.

    Its closed form is fitted here, where `cca_weight` is not 0.

    Args:
        members: as many as `members_for` says where None.
        basis: (dy, r), what `basis_for` gives where None.

    Raises:
        SplitError: all images have the same direction.
    """
    basis = basis_for(data, settings) if basis is None else basis
    dims, rank = (data.text.shape[1], data.images.shape[1]), basis.shape[1]
    if members is None:
        members = members_for(*dims, rank, settings)
    seed_all(settings.seed)
    model = EnsembleMLP(*dims, settings.hidden, settings.dropout, members, rank, cca_weight, whitening)
    model.basis.copy_(torch.from_numpy(basis))
    if cca_setting is not None and cca_weight:
        (affine,) = cca.maps(data, [cca_setting])
        model.cca.set_affine(affine.matrix, affine.bias)
    return model.to(data.device)


def build_chosen(data: TrainingData, settings: PlusConfig, choice: Choice) -> EnsembleMLP:
    """The untrained ensemble of a choice, of as many members as `members_for` says."""
    return build_ensemble(data, settings, None, choice.whitening, choice.cca_weight, choice.cca_setting)


def train_plus(
    model: EnsembleMLP, data: TrainingData, settings: PlusConfig, choice: Choice, progress: Progress | None = None
) -> list[EpochEntry]:
    """Train the ensemble as chosen; the last epoch's average is kept, whatever validation says. See `loop.fit`.

    Its epochs are `longer` times those of the search, rounded up.
    """
    given = replace(derived(settings, data), epochs=math.ceil(settings.longer * choice.epochs - 1e-9))
    objective = PlusObjective(given, data, model, choice.temperature, searching=False)
    return fit(model, objective, "bigjump_plus", progress)
