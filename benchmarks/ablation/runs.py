"""One training of a variant: named after what determines it, scored once at its last epoch, kept as a file.

A training sees the training split of the fold. The inner validation split serves the rule that freezes A again,
and the history by epoch; no epoch and no setting is chosen on it, and nothing at all on the images that are scored.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks import protocol
from benchmarks.ablation.variants import Shared, Side, Variant
from benchmarks.peers.trained import fitted
from helpers.evaluation import metrics
from helpers.training import losses

VERSION = 1
"""Part of every result's name: raise it when what is scored, or how, changes."""


def run_name(variant: Variant, problem: protocol.Problem, seed: int, shared: Shared) -> str:
    """Name of a run's files: changes with everything that determines the result, the precision of the device too."""
    precision = protocol.precision_of(problem.text.device)
    digest = protocol.digest_of(VERSION, variant.metadata(shared), problem.digest, seed, precision)
    return f"{variant.name}_split{problem.split_seed}_seed{seed}_{digest[:8]}"


def finished(
    variant: Variant, problem: protocol.Problem, seed: int, shared: Shared, store: protocol.Store
) -> tuple[str, dict] | None:
    """The name and the result of a run, or None where it is not there yet."""
    name = run_name(variant, problem, seed, shared)
    result = store.load(name)
    return (name, result) if result else None


def run(
    variant: Variant, side: Side, problem: protocol.Problem, seed: int, shared: Shared, store: protocol.Store
) -> dict:
    """Train and score a variant, unless its result is there already.

    A training that diverges knows nothing: it is scored at chance, and says so in `diverged`.
    """
    name = run_name(variant, problem, seed, shared)

    def compute() -> dict:
        started, diverged = time.perf_counter(), None
        try:
            model, history = variant.train(side, seed, shared)
        except FloatingPointError as error:
            model, history, diverged = None, [], str(error)
        seconds = time.perf_counter() - started
        rank, spread = _score(model, problem, seed)
        store.save_ranks(name, rank)
        return {
            "variant": variant.name,
            "split": problem.split_seed,
            "seed": seed,
            **metrics.summarise(rank),
            "spread_within_images": spread,
            "fold_mrr": [entry["mrr"] for entry in history],
            "geometry_free": [entry["epoch"] for entry in history if entry["geometry_free"]],
            "diverged": diverged,
            "seconds": seconds,
        }

    return store.once(name, compute)


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
