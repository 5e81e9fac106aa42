"""Profiles and the settings of each stage.

Every setting of the method is a field here, with the published default; the notebooks repeat these defaults as
papermill parameters and build the dataclasses from them, and a test holds the two together.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

from helpers import paths
from helpers.checks import (
    is_like,
    require,
    require_fraction,
    require_not_negative,
    require_positive,
    require_text,
    require_types,
)

PROFILES = ("demo", "challenge")
RECIPES = ("published", "plus")
"""What notebook 04 trains: BigJump as published, or the ensemble of `PlusConfig`."""
MODEL_ROWS = ("chance", "least_squares", "procrustes", "cca", "linear", "mlp1", "mlp2", "bigjump", "bigjump_plus")
"""The rows of the leaderboard, in the order in which the notebooks introduce them."""


@dataclass(frozen=True)
class RunConfig:
    """Which data a run reads, how it is split, and where its artefacts go. Shared by all five notebooks.

    Attributes:
        profile: `demo` (synthetic data, written on first use) or `challenge` (files that you supply).
        run: name of the folder under `runs/`; the profile's name where None.
        data_dir: folder with `train.npz` and `captions.txt`; `data/<profile>` where None (the demo's lies beside the
            caches where the project is read-only, and has its widths in its name where they are not the defaults). A
            relative path is taken from the folder in which the kernel was started, then from the project's root.
        text_dim, image_dim: widths that the data must have.
        val_ratio: share of the images that validate: two or more of them.
        split_seed: seed of the split by image; training has its own seed.
        test_ratio: share of the images that no training and no choice sees, judged once at the end; 0 for none.
        group_duplicates: keep images that nearly repeat one another on one side of the split.
    """

    profile: str = "demo"
    run: str | None = None
    data_dir: str | Path | None = None
    text_dim: int = 1024
    image_dim: int = 1536
    val_ratio: float = 0.1
    split_seed: int = 42
    test_ratio: float = 0.0
    group_duplicates: bool = False

    def __post_init__(self) -> None:
        require_types(self)
        require(self.profile in PROFILES, f"profile = {self.profile!r}: choose one of {', '.join(PROFILES)}.")
        require_text("run", self.run)
        require_text("data_dir", self.data_dir)
        name = self.run_name
        require(
            name not in ("", ".", "..") and Path(name).name == name and not name.startswith("."),
            f"run = {name!r}: a plain folder name is needed, without separators or a leading dot.",
        )
        require(len(name.encode()) <= 200, f"run = {name!r}: longer than 200 bytes, which file systems may refuse.")
        require_positive(self, "text_dim", "image_dim")
        require(0 < self.val_ratio < 1, f"val_ratio = {self.val_ratio!r}: must be between 0 and 1, both excluded.")
        require_fraction(self, "test_ratio")
        require_not_negative(self, "split_seed")

    @property
    def run_name(self) -> str:
        return self.profile if self.run is None else self.run

    @property
    def run_dir(self) -> Path:
        return paths.runs_dir() / self.run_name

    @property
    def data_path(self) -> Path:
        if self.data_dir is None:
            # Demo data are written on first use, so a read-only project keeps them beside its caches.
            writable = self.profile != "demo" or os.access(paths.DATA_DIR, os.W_OK)
            widths = self.text_dim, self.image_dim
            other = self.profile == "demo" and widths != (RunConfig.text_dim, RunConfig.image_dim)
            # Two runs of other widths, side by side, would replace each other's data.
            name = "_".join(map(str, (self.profile, *widths))) if other else self.profile
            return (paths.DATA_DIR if writable else paths.cache_dir()) / name
        given = Path(self.data_dir).expanduser()
        candidates = (given.absolute(), paths.PROJECT_ROOT / given)
        return next((path for path in candidates if path.exists()), candidates[0])


@dataclass(frozen=True)
class GeometryConfig:
    """Closed-form maps.

    Attributes:
        eps: ridge added to both covariances, relative to the mean eigenvalue of each.
        fit_on: `captions` (one pair a caption) or `caption_means` (one pair an image, its captions averaged).
    """

    eps: float = 1e-2
    fit_on: str = "captions"

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "eps")
        allowed = ("captions", "caption_means")
        require(self.fit_on in allowed, f"fit_on = {self.fit_on!r}: choose one of {', '.join(allowed)}.")


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

    Loss = cosine_weight (1 - cos) + mse_weight MSE + moment_weight moment + nce_weight InfoNCE(temperature).

    Attributes:
        hidden: width of the hidden layers.
        dropout: after each hidden activation.
        cosine_weight, mse_weight, moment_weight, nce_weight: alpha, beta, lambda and gamma of the combined loss.
        temperature: of InfoNCE, used where `nce_weight` is positive.
    """

    learning_rate: float = 1e-3
    hidden: int = 1024
    dropout: float = 0.1
    cosine_weight: float = 1.0
    mse_weight: float = 1.0
    moment_weight: float = 0.05
    nce_weight: float = 0.0
    temperature: float = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "hidden", "temperature")
        require_fraction(self, "dropout")
        require_not_negative(self, "cosine_weight", "mse_weight", "moment_weight", "nce_weight")


@dataclass(frozen=True)
class BigJumpConfig(OptimiserConfig):
    """BigJump: a Procrustes start, a residual adapter, and a contrastive loss over a queue of images.

    Loss = nce_weight NCE + cosine_weight (1 - cos) + moment_weight |mean difference|^2 + agreement_weight agreement.

    Attributes:
        hidden: width of the adapter.
        dropout: inside the adapter.
        geometry_lr_ratio: the learning rate of the geometry is this share of the adapter's.
        unfreeze_epoch: first epoch in which A (never b) is trained; 0 keeps it frozen.
        refreeze_drop: A is frozen again where validation MRR falls by more than this below its best.
        queue_size: entries of the FIFO of recent images.
        queue_slices: newest entries that serve as negatives in each epoch; the last value holds from there on.
        temperature_start, temperature_end: of the NCE; a cosine leads from one to the other, equal values fix it.
        nce_weight, cosine_weight, moment_weight, agreement_weight: weights of the terms.
    """

    hidden: int = 1024
    dropout: float = 0.1
    geometry_lr_ratio: float = 0.05
    unfreeze_epoch: int = 3
    refreeze_drop: float = 0.005
    queue_size: int = 65536
    queue_slices: tuple[int, ...] = (0, 0, 16384, 32768, 65536)
    temperature_start: float = 0.10
    temperature_end: float = 0.06
    nce_weight: float = 1.0
    cosine_weight: float = 0.5
    moment_weight: float = 0.02
    agreement_weight: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "queue_slices", tuple(self.queue_slices))
        require_positive(self, "hidden", "queue_size", "temperature_start", "temperature_end")
        require_fraction(self, "dropout")
        require_not_negative(self, "geometry_lr_ratio", "unfreeze_epoch", "refreeze_drop")
        require_not_negative(self, "nce_weight", "cosine_weight", "moment_weight", "agreement_weight")
        require(
            len(self.queue_slices) > 0 and all(type(n) is int and 0 <= n <= self.queue_size for n in self.queue_slices),
            f"queue_slices = {self.queue_slices}: one whole number or more, each from 0 to queue_size = "
            f"{self.queue_size}.",
        )


@dataclass(frozen=True)
class PlusConfig(OptimiserConfig):
    """The recipe `plus`: an ensemble trained on the NCE over every training image, its settings chosen on inner splits.

    What depends on the data is derived from the training side alone: temperature, whitening, number of epochs and the
    share of a closed form (`helpers.cca`) by inner splits of the training images; learning rate, batch size and number
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
        bank_share: share of the training images drawn as negatives at each step. A quarter of them trains as well as
            all do, in less time (benchmarks/results/accuracy_search.json).
        average_power: weights are averaged over training, the t-th step's with weight proportional to t^power.
        inner_ratio: share of the training images that an inner split holds out.
        inner_images: images that the inner splits hold out together, at least (ten splits at most).
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
    bank_share: float = 0.25
    average_power: float = 6.0
    inner_ratio: float = 0.1
    inner_images: int = 500
    patience: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperatures", "whitenings", "cca_weights"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require_positive(self, "hidden", "members", "max_parameters", "average_power", "longer")
        require_positive(self, "basis_share", "bank_share")
        require_positive(self, "inner_images", "patience")
        require_fraction(self, "dropout", "inner_ratio")
        require_positive(self, "inner_ratio")
        for name in ("basis_share", "bank_share"):
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


@dataclass(frozen=True)
class EvaluationConfig:
    """How the leaderboard is measured.

    Attributes:
        bootstrap_samples: resamples of the images for the intervals.
        gallery_size: images in a gallery of the challenge's own protocol.
        gallery_rounds: times that the validation images are dealt into such galleries.
        latency_repeats: timed queries a model.
        seed: of the bootstrap and of the challenge's galleries.
    """

    bootstrap_samples: int = 2000
    gallery_size: int = 100
    gallery_rounds: int = 20
    latency_repeats: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "bootstrap_samples", "gallery_size", "gallery_rounds", "latency_repeats")
        require_not_negative(self, "seed")


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


def field_names(settings: type) -> tuple[str, ...]:
    """Names of the settings of a dataclass of this module."""
    return tuple(field.name for field in fields(settings))


def as_dict(settings: object) -> dict:
    """A dataclass of this module as plain JSON values, in the order of its fields."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {
        name: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for name, v in values.items()
    }
