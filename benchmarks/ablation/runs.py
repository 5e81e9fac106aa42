"""One training of a variant: scored once at its last epoch, kept as a row under what determines it.

A training sees the training split of the fold. Its validation split serves the rule that freezes A again,
and the history by epoch; no epoch and no setting is chosen on it, and nothing at all on the images that are scored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks import protocol
from benchmarks.ablation.variants import Fold, Shared, Variant
from benchmarks.baselines.trained import fitted
from benchmarks.store import Row, Store
from helpers.evaluation import metrics
from helpers.training import losses

VERSION = 1
"""Part of every key: raise it when what is scored, or how, changes."""


def run_key(variant: Variant, problem_digest: str, seed: int, shared: Shared, precision: Sequence[str]) -> str:
    """Key of a run's row: changes with everything that determines the result, the device's precision too.

    Args:
        precision: see `protocol.precision_of`.
    """
    metadata = variant.metadata(shared)
    digest = protocol.digest_of(VERSION, variant.name, metadata, problem_digest, seed, list(precision))
    return digest[: protocol.KEY_DIGITS]


def finished(variant: Variant, problem: protocol.Problem, seed: int, shared: Shared, store: Store) -> Row | None:
    """The row of a run, or None where it is not there yet."""
    return store.load(run_key(variant, problem.digest, seed, shared, problem.precision))


def run(variant: Variant, fold: Fold, problem: protocol.Problem, seed: int, shared: Shared, store: Store) -> Row:
    """Train and score a variant, unless its row is there already.

    A training that diverges knows nothing: it is scored at chance, and says so in `diverged`.
    """

    def compute() -> Row:
        started, diverged = time.perf_counter(), None
        try:
            model, history = variant.train(fold, seed, shared)
        except FloatingPointError as error:
            model, history, diverged = None, [], str(error)
        seconds = time.perf_counter() - started
        rank, spread = _score(model, problem, seed)
        return {
            "kind": "run",
            **protocol.origin(variant.name, problem),
            "seed": seed,
            "settings": variant.metadata(shared),
            **metrics.summarise(rank),
            "spread_within_images": spread,
            "fold_mrr": [entry["mrr"] for entry in history],
            "geometry_free": [entry["epoch"] for entry in history if entry["geometry_free"]],
            "diverged": diverged,
            "seconds": seconds,
            "ranks": rank,
        }

    return store.once(run_key(variant, problem.digest, seed, shared, problem.precision), compute)


def _score(model: torch.nn.Module | None, problem: protocol.Problem, seed: int) -> tuple[np.ndarray, float | None]:
    """Ranks (V,), and the spread of the translations of an image's captions; those of chance without a model."""
    if model is None:
        return metrics.chance_ranks(len(problem.text), len(problem.gallery), seed), None
    translated = fitted(model).predict(problem.text)  # (V, dy)
    return metrics.ranks(translated, problem.gallery, problem.positive), spread_within_images(
        translated, problem.positive
    )


def spread_within_images(translated: torch.Tensor, positive: torch.Tensor) -> float:
    """Mean squared distance of unit translations (V, dy) to the mean of those of the same image; 0 if all coincide.

    The agreement loss is this over the number of dimensions.
    """
    return float(losses.agreement_loss(translated, positive)) * translated.shape[1]


def epochs_to(mrr: list[float], target: float) -> int | None:
    """First epoch, from 1, at which the MRR reaches `target`; None if it never does."""
    return next((epoch for epoch, value in enumerate(mrr, start=1) if value >= target), None)
