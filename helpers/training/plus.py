"""The recipe `plus`: an ensemble of networks and closed forms, as `plus_search` chose them.

`plus_objective` is what the networks are trained on, `plus_choice` what is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.models import geometry
from helpers.models.kernel import KernelMap
from helpers.models.networks import Blend, EnsembleMLP
from helpers.system.devices import COLUMN_MULTIPLE, seed_all
from helpers.training.closed_forms import FITS
from helpers.training.history import EpochEntry
from helpers.training.loop import fit
from helpers.training.plus_choice import Choice, Networks, epochs_of_training
from helpers.training.plus_objective import PlusObjective, centred_images, networks_in
from helpers.training.settings import PlusConfig
from helpers.training.state import Progress

VERSION = 12
"""Of the recipe: raise it where the `plus` modules, or what they choose with (`cca`, `kernel`, `geometry`, `folds`,
`selection`) changes what it computes, beyond rounding, for data like those of the committed results."""
REFERENCE_DIM = 384
"""Input dimensions at which `PlusConfig.learning_rate` holds."""


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


def members_for(
    text_dim: int, image_dim: int, rank: int, settings: PlusConfig, kinds: Sequence[tuple[float, int]] = ((0.0, 0),)
) -> int:
    """Networks of all kinds in the ensemble: as many as `max_parameters` holds, up to `members`, and at least one.

    Room for the closed forms is kept, whether they are used or not.

    Args:
        rank: directions in which the networks write.
        kinds: whitening and residual blocks of each.
    """
    each, shared = 0, 0
    for whitening, blocks in kinds:
        hidden = hidden_for(settings, blocks)
        each = max(each, (text_dim + 1) * hidden + (hidden + 1) * (rank + 2 * blocks * hidden))
        shared += image_dim * rank + (text_dim**2 if whitening else 0)
    closed_forms = (text_dim + 1) * image_dim + settings.landmarks * (text_dim + image_dim)
    left = settings.max_parameters - closed_forms - shared
    return max(1, min(settings.members, left // each))


def derived(settings: PlusConfig, data: TrainingData) -> PlusConfig:
    """Settings with the batch size and the learning rate that this training split asks for."""
    return replace(
        settings,
        batch_size=batch_size_for(len(data.positive_of_all), settings.batch_size),
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
    kinds: Mapping[str, Networks],
    basis: np.ndarray | None = None,
) -> Blend:
    """Untrained networks from the seed of the settings, of equal weight, on the device of the data.

    Args:
        kinds: what the parts shall be, by name.
        basis: (dy, r), what `basis_for` gives where None.

    Raises:
        SplitError: all images have the same direction.
    """
    basis = basis_for(data, settings) if basis is None else basis
    seed_all(settings.seed)
    dims, rank = (data.text.shape[1], data.images.shape[1]), basis.shape[1]
    parts: dict[str, nn.Module] = {}
    for name, kind in kinds.items():
        hidden = hidden_for(settings, kind["blocks"])
        model = EnsembleMLP(*dims, hidden, settings.dropout, kind["members"], rank, kind["whitening"], kind["blocks"])
        model.basis.copy_(torch.from_numpy(basis))
        parts[name] = model
    return Blend(parts, dict.fromkeys(kinds, 1 / len(kinds))).to(data.device)


def build_chosen(data: TrainingData, settings: PlusConfig, choice: Choice) -> Blend:
    """The ensemble of a choice: its closed forms fitted on the training split, its networks not yet trained."""
    parts = dict(build_networks(data, settings, choice.networks).parts)
    for name in choice.weights:
        if name not in parts:
            parts[name] = FITS[name](data, choice.closed_forms[name]["setting"], settings.landmarks)
    return Blend({name: parts[name] for name in choice.weights}, choice.weights)


def trained_part(model: Blend) -> Blend:
    """The networks of an ensemble, with their own weights: what is trained."""
    networks = networks_in(model)
    total = sum(model.weights[name] for name in networks)
    return Blend(networks, {name: model.weights[name] / total for name in networks})


def shape_of(model: Blend, settings: PlusConfig, choice: Choice) -> dict[str, Any]:
    """What `models.build_model` asks for, beside the widths, to make the ensemble of a choice."""
    shape: dict[str, Any] = {"weights": choice.weights, "dropout": settings.dropout, "networks": {}}
    for name, networks in networks_in(model).items():
        kind = choice.networks[name]
        of_kind = {"hidden": hidden_for(settings, kind["blocks"]), "members": networks.members}
        shape["networks"][name] = of_kind | {"whitening": kind["whitening"], "blocks": kind["blocks"]}
        shape["rank"] = networks.basis.shape[1]
    if "kernel" in choice.weights:
        kernel = model.parts["kernel"]
        assert isinstance(kernel, KernelMap)
        shape["landmarks"] = len(kernel.landmarks)
    return shape


def train_plus(
    model: Blend, data: TrainingData, settings: PlusConfig, choice: Choice, progress: Progress | None = None
) -> list[EpochEntry]:
    """Train the networks of the ensemble as chosen; the last epoch's average is kept, whatever validation says.

    Each kind trains `longer` times the epochs that were best for one network, rounded up; see `loop.fit`, which returns
    the history of the networks alone.
    """
    kinds = {
        name: Networks(**{**kind, "epochs": epochs_of_training(settings, kind["epochs"])})
        for name, kind in choice.networks.items()
    }
    given = replace(derived(settings, data), epochs=max(kind["epochs"] for kind in kinds.values()))
    networks = trained_part(model)
    objective = PlusObjective(given, data, networks, kinds)
    return fit(networks, objective, "bigjump_plus", progress)
