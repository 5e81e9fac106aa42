"""How the leaderboard is measured."""

from __future__ import annotations

from helpers.system.settings import Count, Whole, settings


@settings
class EvaluationConfig:
    """How the leaderboard is measured.

    Attributes:
        bootstrap_samples: resamples of the images for the intervals.
        gallery_size: images in a gallery of the challenge's own protocol.
        gallery_rounds: times that the validation images are dealt into such galleries.
        latency_repeats: timed queries a model.
        seed: of the bootstrap and of the challenge's galleries.
    """

    bootstrap_samples: Count = 2000
    gallery_size: Count = 100
    gallery_rounds: Count = 20
    latency_repeats: Count = 200
    seed: Whole = 0
