"""Settings of each training, with the published defaults."""

from __future__ import annotations

from typing import Annotated, Literal

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

TEMPERATURES = (0.005, 0.01, 0.02, 0.033, 0.055, 0.09, 0.15)
Ascending = Annotated[tuple[Share, ...], Field(strict=False, min_length=1)]


@settings
class OptimiserConfig:
    """What the training loop itself needs, for every network alike."""

    epochs: Count = 25  # passes over the training captions
    batch_size: Count = 512  # captions a step
    learning_rate: Positive = 2e-4  # of AdamW, for the main parameter group
    weight_decay: NotNegative = 0.01  # decoupled, on matrices only
    warmup_epochs: NotNegative = 1.0  # linear warm-up, in epochs
    final_lr_ratio: Share = 0.1  # the cosine schedule ends at this share of the learning rate
    clip_norm: Positive = 1.0  # bound on the norm of the whole gradient
    captions_per_image: Count = 1  # captions that the sampler draws of an image for one batch; 1 is plain shuffling
    mixed_precision: bool = True  # bfloat16 products where the device has them
    seed: Whole = 42  # of initialisation, shuffling and dropout


@settings
class PlusConfig(OptimiserConfig):
    """The recipe `plus`: an ensemble trained on InfoNCE over the training images, its settings chosen on folds.

    What depends on the data is derived from the training split alone: temperature, whitening, depth, number of epochs,
    and which closed forms (`models.cca`, `models.kernel`) join with which weight, by cross-validation folds of the
    training images; learning rate, batch size and number of members by `plus.learning_rate_for`,
    `plus.batch_size_for` and `plus.members_for`.
    """

    epochs: Count = 300  # of the search, at most; it ends where it gets no better
    # The ensemble trains so many times the epochs that the search found best for one network: the mean of several
    # overfits later (benchmarks/results/accuracy_search.json).
    longer: Positive = 1.5
    batch_size: Count = 512  # at most; see `plus.batch_size_for`
    learning_rate: Positive = 7e-4  # at 384 input dimensions; see `plus.learning_rate_for`
    weight_decay: NotNegative = 0.05
    warmup_epochs: NotNegative = 0.5
    final_lr_ratio: Share = 1.0  # 1, a constant rate, so that every epoch of the search could have been the last
    hidden: Count = 2048  # width of a member's hidden layer
    dropout: Fraction = 0.5  # after the hidden activation
    members: Count = 4  # networks in the ensemble, at most; see `plus.members_for`
    max_parameters: Count = 40_000_000  # of the whole ensemble
    # Candidates, ascending, in units of the root mean square distance of the unit image vectors from their mean.
    temperatures: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)] = TEMPERATURES
    # Candidate powers of the whitening of the input, ascending; see `models.Whiten`. The first is left for a clear gain
    # alone.
    whitenings: Ascending = (0.0, 0.5)
    # Candidate numbers of residual blocks in a network, ascending. The first is left for a clear gain alone.
    blocks: Annotated[tuple[Whole, ...], Field(strict=False, min_length=1)] = (0, 1)
    # Closed forms that may join the networks in the mean.
    closed_forms: Annotated[tuple[Literal["cca", "kernel"], ...], Field(strict=False)] = ("cca", "kernel")
    landmarks: Count = 6000  # captions that the kernel compares with, at most; see `closed_forms.landmarks_for`
    budget: Positive | None = None  # minutes for search and training together; None for no limit
    # The networks write in the principal directions of the unit image vectors that hold this share of their variance,
    # and in that of their mean.
    basis_share: PositiveShare = 0.95
    # Share of the training images drawn as negatives at each step. A quarter of them trains as well as all do, in less
    # time (benchmarks/results/accuracy_search.json).
    negative_share: PositiveShare = 0.25
    exclude_same_text: bool = False  # the images that a caption's very text describes elsewhere are no negatives of it
    # Weights are averaged over training, the t-th step's with weight proportional to t^power.
    average_power: Positive = 6.0
    fold_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of the training images that a fold holds out
    fold_images: Count = 500  # images that the folds hold out together, at least (ten folds at most)
    # The search stops where the last so many epochs, or a quarter of them all if that is more, brought nothing clearly
    # better.
    patience: Count = 2

    def __post_init__(self) -> None:
        for name in ("temperatures", "whitenings", "blocks"):
            values = getattr(self, name)
            require(values == tuple(sorted(values)), f"{name} = {values}: ascending values are needed.")
