"""Profiles and the settings of each stage.

Every setting of the method is a field here, with the published default; the notebooks repeat these defaults as
papermill parameters and build the dataclasses from them, and a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

from helpers.system.settings import (
    field_names,
    is_like,
    require,
    require_fraction,
    require_not_negative,
    require_positive,
    require_types,
)

RECIPES = ("published", "plus")
"""What notebook 04 trains: BigJump as published, or the ensemble of `PlusConfig`."""


@dataclass(frozen=True)
class OptimiserConfig:
    """What the training loop itself needs, for the baselines and for BigJump alike.

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

    epochs: int = 25
    batch_size: int = 512
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    warmup_epochs: float = 1.0
    final_lr_ratio: float = 0.1
    clip_norm: float = 1.0
    captions_per_image: int = 1
    mixed_precision: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "epochs", "batch_size", "learning_rate", "clip_norm", "captions_per_image")
        require_not_negative(self, "weight_decay", "warmup_epochs", "seed")
        require(0 <= self.final_lr_ratio <= 1, f"final_lr_ratio = {self.final_lr_ratio!r}: must be between 0 and 1.")


@dataclass(frozen=True)
class BaselineConfig(OptimiserConfig):
    """LinearProj, MLP1 and MLP2 with the combined loss.

    Loss = cosine_weight (1 - cos) + mse_weight MSE + moment_weight moment + infonce_weight InfoNCE(temperature).

    Attributes:
        hidden: width of the hidden layers.
        dropout: after each hidden activation.
        cosine_weight, mse_weight, moment_weight, infonce_weight: alpha, beta, lambda and gamma of the combined loss.
        temperature: of InfoNCE, used where `infonce_weight` is positive.
    """

    learning_rate: float = 1e-3
    hidden: int = 1024
    dropout: float = 0.1
    cosine_weight: float = 1.0
    mse_weight: float = 1.0
    moment_weight: float = 0.05
    infonce_weight: float = 0.0
    temperature: float = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "hidden", "temperature")
        require_fraction(self, "dropout")
        require_not_negative(self, "cosine_weight", "mse_weight", "moment_weight", "infonce_weight")


@dataclass(frozen=True)
class BigJumpConfig(OptimiserConfig):
    """BigJump: a Procrustes start, a residual adapter, and a contrastive loss over a queue of images.

    Loss = infonce_weight InfoNCE + cosine_weight (1 - cos) + moment_weight |mean difference|^2 + agreement_weight agreement.

    Attributes:
        hidden: width of the adapter.
        dropout: inside the adapter.
        geometry_lr_ratio: the learning rate of the geometry is this share of the adapter's.
        unfreeze_epoch: first epoch in which A (never b) is trained; 0 keeps it frozen.
        refreeze_drop: A is frozen again where validation MRR falls by more than this below its best.
        queue_size: entries of the FIFO of recent images.
        queue_schedule: newest entries that serve as negatives in each epoch; the last value holds from there on.
        temperature_start, temperature_end: of InfoNCE; a cosine leads from one to the other, equal values fix it.
        infonce_weight, cosine_weight, moment_weight, agreement_weight: weights of the terms.
    """

    hidden: int = 1024
    dropout: float = 0.1
    geometry_lr_ratio: float = 0.05
    unfreeze_epoch: int = 3
    refreeze_drop: float = 0.005
    queue_size: int = 65536
    queue_schedule: tuple[int, ...] = (0, 0, 16384, 32768, 65536)
    temperature_start: float = 0.10
    temperature_end: float = 0.06
    infonce_weight: float = 1.0
    cosine_weight: float = 0.5
    moment_weight: float = 0.02
    agreement_weight: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "queue_schedule", tuple(self.queue_schedule))
        require_positive(self, "hidden", "queue_size", "temperature_start", "temperature_end")
        require_fraction(self, "dropout")
        require_not_negative(self, "geometry_lr_ratio", "unfreeze_epoch", "refreeze_drop")
        require_not_negative(self, "infonce_weight", "cosine_weight", "moment_weight", "agreement_weight")
        require(
            len(self.queue_schedule) > 0
            and all(type(n) is int and 0 <= n <= self.queue_size for n in self.queue_schedule),
            f"queue_schedule = {self.queue_schedule}: one whole number or more, each from 0 to queue_size = "
            f"{self.queue_size}.",
        )


@dataclass(frozen=True)
class PlusConfig(OptimiserConfig):
    """The recipe `plus`: an ensemble trained on InfoNCE over every training image, its settings chosen on cross-validation folds.

    What depends on the data is derived from the training split alone: temperature, whitening, number of epochs and the
    share of a closed form (`helpers.cca`) by cross-validation folds of the training images; learning rate, batch size and number
    of members by `plus.learning_rate_for`, `plus.batch_size_for` and `plus.members_for`.

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
        negative_share: share of the training images drawn as negatives at each step. A quarter of them trains as well as
            all do, in less time (benchmarks/results/accuracy_search.json).
        average_power: weights are averaged over training, the t-th step's with weight proportional to t^power.
        fold_ratio: share of the training images that a fold holds out.
        fold_images: images that the cross-validation folds hold out together, at least (ten splits at most).
        patience: the search stops where the last so many epochs, or a quarter of them all if that is more, brought
            clearly better.
    """

    epochs: int = 60
    longer: float = 1.5
    learning_rate: float = 7e-4
    weight_decay: float = 0.05
    warmup_epochs: float = 0.5
    final_lr_ratio: float = 1.0
    hidden: int = 2048
    dropout: float = 0.5
    members: int = 6
    max_parameters: int = 25_000_000
    temperatures: tuple[float, ...] = (0.02, 0.033, 0.055, 0.09, 0.15)
    whitenings: tuple[float, ...] = (0.0, 0.5)
    cca_weights: tuple[float, ...] = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
    basis_share: float = 0.95
    negative_share: float = 0.25
    average_power: float = 6.0
    fold_ratio: float = 0.1
    fold_images: int = 500
    patience: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperatures", "whitenings", "cca_weights"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require_positive(self, "hidden", "members", "max_parameters", "average_power", "longer")
        require_positive(self, "basis_share", "negative_share")
        require_positive(self, "fold_images", "patience")
        require_fraction(self, "dropout", "fold_ratio")
        require_positive(self, "fold_ratio")
        for name in ("basis_share", "negative_share"):
            require(getattr(self, name) <= 1, f"{name} = {getattr(self, name)!r}: must not be greater than 1.")
        ascending = self.temperatures == tuple(sorted(self.temperatures))
        require(
            len(self.temperatures) > 0 and self.temperatures[0] > 0 and ascending,
            f"temperatures = {self.temperatures}: one value or more, each greater than 0, in ascending order.",
        )
        for name in ("whitenings", "cca_weights"):
            values = getattr(self, name)
            require(
                len(values) > 0 and values == tuple(sorted(values)) and 0 <= values[0] and values[-1] <= 1,
                f"{name} = {values}: one value or more, each from 0 to 1, in ascending order.",
            )


def plus_config(given: dict[str, object]) -> PlusConfig:
    """`PlusConfig` with some of its settings replaced.

    Raises:
        ConfigError: an unknown name, or a value of another type than the default or out of its range.
    """
    require(isinstance(given, dict), f"plus_settings = {given!r}: give a dict, such as {{'members': 4}}.")
    unknown = sorted(set(given) - set(field_names(PlusConfig)), key=str)
    known = ", ".join(field_names(PlusConfig))
    require(not unknown, f"plus_settings: unknown {', '.join(map(str, unknown))}. Known: {known}.")
    for name, value in given.items():
        default = getattr(PlusConfig(), name)
        if isinstance(default, tuple):
            fits = isinstance(value, (list, tuple)) and all(is_like(item, default[0]) for item in value)
        else:
            fits = is_like(value, default)
        require(fits, f"plus_settings: {name} = {value!r}: give a value of the type of its default, {default!r}.")
    return PlusConfig(**given)
