"""How the leaderboard is measured."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.system.settings import require_not_negative, require_positive, require_types


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
