"""The recipe `plus`: an ensemble trained on InfoNCE over the training images, as `plus_search` chose.

The loss sees each image less the mean of all: for the rank of an image nothing changes, since every score of a caption
moves alike, but the gradient no longer fights the large common offset of an image encoder's space. And it sees the
principal directions that hold nearly all of the rest: the networks write in that basis, which saves a third of the
work.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.errors import SplitError
from helpers.models import geometry
from helpers.models.kernel import KernelMap
from helpers.models.networks import Blend, EnsembleMLP
from helpers.system.devices import COLUMN_MULTIPLE, seed_all
from helpers.training import losses
from helpers.training.closed_forms import FITS, Found
from helpers.training.history import EpochEntry
from helpers.training.loop import fit
from helpers.training.objectives import Objective
from helpers.training.same_text import SameText
from helpers.training.selection import Step
from helpers.training.settings import PlusConfig
from helpers.training.state import Progress

VERSION = 11
"""Of the recipe: raise it where this module, `plus_search`, or what they choose with (`cca`, `kernel`, `geometry`,
`folds`, `selection`) changes what it computes, beyond rounding, for data like those of the committed results."""
CLEAR_GAIN = 0.005
"""Share of the MRR by which an epoch or a candidate of a search must be better to count as progress."""
BEHIND = 0.02
"""Share of the MRR by which a candidate that is given up is behind the leading one, at least."""
REFERENCE_DIM = 384
"""Input dimensions at which `PlusConfig.learning_rate` holds."""


class PlusObjective(Objective[PlusConfig, EnsembleMLP]):
    """InfoNCE of each member over fresh samples of the training images, and a running average of the weights.

    Args:
        searching: training ends where it gets no better, see `is_over`; else it goes on to the last epoch.
        leader: in a search, the MRR by epoch of the candidate that leads.
        ends: in a search, when there is no time left, by `time.monotonic`.

    The t-th step's weights enter the average in proportion to t^power, so that the window is a share of the training
    so far, whatever the number of steps (Karras et al., 2024). The average is what validation sees.
    """

    capturable = True

    def __init__(
        self,
        settings: PlusConfig,
        data: TrainingData,
        model: EnsembleMLP,
        temperature: float,
        searching: bool,
        leader: Sequence[float] = (),
        ends: float = math.inf,
    ) -> None:
        super().__init__(settings, data)
        self.leader, self.ends = leader, ends
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

        A plateau rises by chance now and then, so a gain below `CLEAR_GAIN` does not prolong the search. It ends at
        once where the leading candidate is out of reach, see `out_of_reach`, or the time is up.
        """
        if not self.searching:
            return False
        if time.monotonic() > self.ends or out_of_reach([entry["mrr"] for entry in history], self.leader):
            return True
        best, at = 0.0, 0
        for entry in history:
            if entry["mrr"] > (1 + CLEAR_GAIN) * best:
                best, at = entry["mrr"], entry["epoch"]
        return len(history) - at >= max(self.settings.patience, len(history) // 4)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        return {"updates": self.updates, **self.average.state_dict()}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.updates.copy_(tensors["updates"])
        self.average.load_state_dict({name: tensor for name, tensor in tensors.items() if name != "updates"})


def out_of_reach(mrr: Sequence[float], leader: Sequence[float]) -> bool:
    """Whether a candidate is so far behind the leading one that no more time should be spent on it.

    It is `BEHIND` or more behind at the same epoch, from the third on, and each epoch closes less than a third of
    what lacks.

    Args:
        mrr, leader: of the candidate and of the leading one, by epoch.
    """
    epoch = len(mrr)
    if not 3 <= epoch <= len(leader):
        return False
    before, now = (1 - mrr[at] / leader[at] for at in (epoch - 2, epoch - 1))
    return now >= BEHIND and now > before * 2 / 3


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
    """A candidate of the search, and its mean MRR over the folds by epoch; a hopeless one was given up early."""

    temperature: float
    whitening: float
    blocks: int
    mrr: list[float]


@dataclass(frozen=True)
class Choice:
    """What cross-validation folds of the training images chose.

    Attributes:
        temperature: in units of the spread of the unit image vectors.
        whitening: power of the whitening of the networks' input; with 0 it is standardised alone.
        blocks: residual blocks of a network; 0 is one hidden layer.
        epochs: passes over the training captions that were best for one network.
        mrr: of one network alone, mean over the folds at that point; a fold's gallery is smaller than the real.
        curves: one for each candidate.
        closed_forms: of `cca` and `kernel`, the setting that ranks best, and its mean MRR over the folds, with few
            landmarks.
        alone: mean MRR over the folds of the networks and of each closed form, as they are weighed.
        weights: of the networks and of the closed forms that join them, of sum 1.
        path: how the weights were found, see `selection.choose_weights`.
        members: networks to train.
        left_out: what the budget had no time for.
    """

    temperature: float
    whitening: float
    blocks: int
    epochs: int
    mrr: float
    curves: list[Curve]
    closed_forms: dict[str, Found]
    alone: dict[str, float]
    weights: dict[str, float]
    path: list[Step]
    members: int
    left_out: list[str]

    @property
    def together(self) -> float:
        """Mean MRR over the folds of the weighted mean."""
        return max(step["mrr"] for step in self.path)


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


def hidden_for(settings: PlusConfig, blocks: int) -> int:
    """Width of a network's hidden layers: a deep one takes as long as a flat one at about half the width."""
    return settings.hidden // 2 if blocks else settings.hidden


def members_for(text_dim: int, image_dim: int, rank: int, settings: PlusConfig, blocks: int = 0) -> int:
    """Networks in the ensemble: as many as `max_parameters` holds, up to `members`, and at least one.

    Room for the closed forms and for the whitening is kept, whether they are used or not.

    Args:
        rank: directions in which the networks write.
    """
    hidden = hidden_for(settings, blocks)
    each = (text_dim + 1) * hidden + (hidden + 1) * (rank + 2 * blocks * hidden)
    closed_forms = (text_dim + 1) * image_dim + settings.landmarks * (text_dim + image_dim)
    left = settings.max_parameters - closed_forms - text_dim**2 - image_dim * rank
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


def build_networks(
    data: TrainingData,
    settings: PlusConfig,
    members: int,
    whitening: float = 0.0,
    blocks: int = 0,
    basis: np.ndarray | None = None,
) -> EnsembleMLP:
    """Untrained networks from the seed of the settings, on the device of the data.

    Args:
        basis: (dy, r), what `basis_for` gives where None.

    Raises:
        SplitError: all images have the same direction.
    """
    basis = basis_for(data, settings) if basis is None else basis
    seed_all(settings.seed)
    dims, hidden = (data.text.shape[1], data.images.shape[1]), hidden_for(settings, blocks)
    model = EnsembleMLP(*dims, hidden, settings.dropout, members, basis.shape[1], whitening, blocks)
    model.basis.copy_(torch.from_numpy(basis))
    return model.to(data.device)


def build_chosen(data: TrainingData, settings: PlusConfig, choice: Choice) -> Blend:
    """The ensemble of a choice: its closed forms fitted on the training split, its networks not yet trained."""
    parts: dict[str, nn.Module] = {}
    for name in choice.weights:
        if name == "networks":
            parts[name] = build_networks(data, settings, choice.members, choice.whitening, choice.blocks)
        else:
            parts[name] = FITS[name](data, choice.closed_forms[name]["setting"], settings.landmarks)
    return Blend(parts, choice.weights)


def networks_of(model: Blend) -> EnsembleMLP:
    """What is trained of an ensemble."""
    networks = model.parts["networks"]
    assert isinstance(networks, EnsembleMLP)  # they always have a weight
    return networks


def shape_of(model: Blend, settings: PlusConfig, choice: Choice) -> dict[str, Any]:
    """What `models.build_model` asks for, beside the widths, to make the ensemble of a choice."""
    networks = networks_of(model)
    shape: dict[str, Any] = {"weights": choice.weights, "dropout": settings.dropout, "whitening": choice.whitening}
    shape |= {"hidden": hidden_for(settings, choice.blocks), "blocks": choice.blocks}
    shape |= {"members": networks.members, "rank": networks.basis.shape[1]}
    if "kernel" in choice.weights:
        kernel = model.parts["kernel"]
        assert isinstance(kernel, KernelMap)
        shape["landmarks"] = len(kernel.landmarks)
    return shape


def epochs_of_training(settings: PlusConfig, epochs: int) -> int:
    """Epochs of the ensemble where so many were best for one network."""
    return math.ceil(settings.longer * epochs - 1e-9)


def train_plus(
    model: Blend, data: TrainingData, settings: PlusConfig, choice: Choice, progress: Progress | None = None
) -> list[EpochEntry]:
    """Train the networks of the ensemble as chosen; the last epoch's average is kept, whatever validation says.

    They train `longer` times the epochs that were best for one, rounded up; see `loop.fit`, which returns the history
    of the networks alone.
    """
    given = replace(derived(settings, data), epochs=epochs_of_training(settings, choice.epochs))
    networks = networks_of(model)
    objective = PlusObjective(given, data, networks, choice.temperature, searching=False)
    return fit(networks, objective, "bigjump_plus", progress)
