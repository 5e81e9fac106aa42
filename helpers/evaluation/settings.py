"""How the leaderboard is measured."""

from __future__ import annotations

from helpers.system.settings import Count, Whole, settings


@settings
class EvaluationConfig:
    """How the leaderboard is measured."""

    bootstrap_samples: Count = 2000  # resamples of the images for the intervals
    gallery_size: Count = 100  # images in a gallery of the challenge's own protocol
    gallery_rounds: Count = 20  # times that the validation images are dealt into such galleries
    latency_repeats: Count = 200  # timed queries a model
    seed: Whole = 0  # of the bootstrap and of the challenge's galleries
