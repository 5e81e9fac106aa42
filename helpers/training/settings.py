"""Settings of each training, with the published defaults."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from helpers.system.settings import (
    Count,
    Fraction,
    NotNegative,
    Positive,
    PositiveShare,
    Share,
    Whole,
    require,
    settings,
)

Ascending = Annotated[tuple[Share, ...], Field(strict=False, min_length=1)]


@settings
class OptimiserConfig:
    """What the training loop itself needs, for every network alike.

    Attributes:
        epochs: passes over the training captions.
        batch_size: captions a step.
        learning_rate: of AdamW, for the main parameter group.
        weight_decay: decoupled, on matrices only.
        warmup_epochs: linear warm-up, in epochs.
        final_lr_ratio: the cosine schedule ends at this share of the learning rate.
        clip_norm: bound on the norm of the whole gradient.
        captions_per_image: captions that the sampler draws of an image for one batch; 1 is plain shuffling.
        mixed_precision: bfloat16 products where the device has them.
        seed: of initialisation, shuffling and dropout.
    """

    epochs: Count = 25
    batch_size: Count = 512
    learning_rate: Positive = 2e-4
    weight_decay: NotNegative = 0.01
    warmup_epochs: NotNegative = 1.0
    final_lr_ratio: Share = 0.1
    clip_norm: Positive = 1.0
    captions_per_image: Count = 1
    mixed_precision: bool = True
    seed: Whole = 42


@settings
class PlusConfig(OptimiserConfig):
    """The recipe `plus`: an ensemble trained on InfoNCE over the training images, its settings chosen on folds.

    What depends on the data is derived from the training split alone: temperature, whitening, number of epochs and the
    share of a closed form (`models.cca`) by cross-validation folds of the training images; learning rate, batch size
    and number of members by `plus.learning_rate_for`, `plus.batch_size_for` and `plus.members_for`.

    Attributes:
        epochs: of the search, at most.
        longer: the ensemble trains so many times the epochs that the search found best for one network: the mean of
            several overfits later (benchmarks/results/accuracy_search.json).
        batch_size: at most; see `plus.batch_size_for`.
        learning_rate: at 384 input dimensions; see `plus.learning_rate_for`.
        final_lr_ratio: 1, a constant rate, so that every epoch of the search could have been the last.
        hidden: width of a member's hidden layer.
        dropout: after the hidden activation.
        members: MLPs in the ensemble, at most; see `plus.members_for`.
        max_parameters: of the whole ensemble.
        temperatures: candidates, ascending, in units of the root mean square distance of the unit image vectors from
            their mean.
        whitenings: candidate powers of the whitening of the input, ascending; see `models.Whiten`. The first is left
            for a clear gain alone.
        cca_weights: candidate shares of the closed form in the ensemble's mean, ascending. The first is left for a
            clear gain alone; with (0,) there is no closed form.
        basis_share: the networks write in the principal directions of the unit image vectors that hold this share of
            their variance, and in that of their mean.
        negative_share: share of the training images drawn as negatives at each step. A quarter of them trains as well
            as all do, in less time (benchmarks/results/accuracy_search.json).
        average_power: weights are averaged over training, the t-th step's with weight proportional to t^power.
        fold_ratio: share of the training images that a fold holds out.
        fold_images: images that the folds hold out together, at least (ten folds at most).
        patience: the search stops where the last so many epochs, or a quarter of them all if that is more, brought
            nothing clearly better.
    """

    epochs: Count = 60
    longer: Positive = 1.5
    learning_rate: Positive = 7e-4
    weight_decay: NotNegative = 0.05
    warmup_epochs: NotNegative = 0.5
    final_lr_ratio: Share = 1.0
    hidden: Count = 2048
    dropout: Fraction = 0.5
    members: Count = 6
    max_parameters: Count = 25_000_000
    temperatures: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)] = (0.02, 0.033, 0.055, 0.09, 0.15)
    whitenings: Ascending = (0.0, 0.5)
    cca_weights: Ascending = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
    basis_share: PositiveShare = 0.95
    negative_share: PositiveShare = 0.25
    average_power: Positive = 6.0
    fold_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.1
    fold_images: Count = 500
    patience: Count = 2

    def __post_init__(self) -> None:
        for name in ("temperatures", "whitenings", "cca_weights"):
            values = getattr(self, name)
            require(values == tuple(sorted(values)), f"{name} = {values}: ascending values are needed.")
