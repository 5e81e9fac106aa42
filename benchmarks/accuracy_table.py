"""The comparison's table: means over seeds and splits, intervals and paired differences by bootstrap over images.

Reciprocal ranks are averaged over seeds first. An interval is computed a split, and the ends of the splits' intervals
are averaged. Differences are resampled a split, and the splits' resampled means are averaged, which also gives p.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import protocol
from benchmarks.baselines.method import Method
from benchmarks.store import Row
from helpers.evaluation import metrics

Find = Callable[[protocol.Problem, int], Row | None]
"""(problem, seed) to the row of a run, or None where it is not there."""

SAMPLES = 2000
TEST = {"difference": "to_best_other", "low": "to_best_other_low", "high": "to_best_other_high", "p": "p"}
"""What `paired_test` gives, and what it is called in the rows."""
SCORES = ("mrr", "recall_at_1", "recall_at_5", "recall_at_10", "ndcg", "median_rank")
COLUMNS = (
    ("mrr", "MRR", ".4f"),
    ("mrr_low", "low", ".4f"),
    ("mrr_high", "high", ".4f"),
    ("hubness_mrr", "corrected", ".4f"),
    ("recall_at_1", "R@1", ".3f"),
    ("recall_at_5", "R@5", ".3f"),
    ("recall_at_10", "R@10", ".3f"),
    ("median_rank", "median", ".1f"),
    ("to_best_other", "to best other", "+.4f"),
    ("to_best_other_low", "low", "+.4f"),
    ("to_best_other_high", "high", "+.4f"),
    ("p", "p", ".3f"),
    ("search_seconds", "search s", ".0f"),
    ("seconds", "fit s", ".0f"),
    ("parameters", "parameters", ",d"),
)


@dataclass(frozen=True)
class Finished:
    """All runs of a method.

    Attributes:
        results: {split seed: one row a seed}.
        reciprocal: {split seed: (1 or 2, V) reciprocal ranks averaged over seeds}, by plain cosine; of a method also
            with hubness reduction.
    """

    results: Mapping[int, Sequence[Row]]
    reciprocal: Mapping[int, np.ndarray]


def seeds_of(method: Method, seeds: int) -> range:
    """The seeds that a method is run with: one where chance has no part in it."""
    return range(seeds if method.seeded else 1)


def gather(find: Find, problems: Sequence[protocol.Problem], seeds: Iterable[int]) -> Finished | None:
    """The runs of a method on every problem with every seed, or None unless `find` knows all of them."""
    results, reciprocal = {}, {}
    for problem in problems:
        runs = [find(problem, seed) for seed in seeds]
        if not all(runs):
            return None
        results[problem.split_seed] = runs
        rankings = [name for name in ("ranks", "hubness_ranks") if runs[0][name] is not None]
        reciprocal[problem.split_seed] = np.mean([[1 / run[name] for name in rankings] for run in runs], axis=0)
    return Finished(results, reciprocal)


def interval(finished: Finished, groups: Mapping[int, np.ndarray], row: int) -> tuple[float, float]:
    """95 % interval of the MRR, by plain cosine (`row` 0) or with hubness reduction (1)."""
    ends = [
        metrics.bootstrap_interval(values[row], groups[split], samples=SAMPLES)
        for split, values in finished.reciprocal.items()
    ]
    low, high = np.mean(ends, axis=0)
    return float(low), float(high)


def paired_test(a: Finished, b: Finished, groups: Mapping[int, np.ndarray]) -> dict[str, float]:
    """MRR of a minus MRR of b on the same captions: `difference`, its 95 % interval `low`, `high`, a two-sided `p`."""
    differences = {split: a.reciprocal[split][0] - b.reciprocal[split][0] for split in groups}
    resampled = np.mean(
        # Splits are resampled apart from one another, although they share a tenth of the images that they validate.
        [metrics.resampled_means(d, groups[split], SAMPLES, seed=split) for split, d in differences.items()],
        axis=0,
    )
    low, high = np.quantile(resampled, [0.025, 0.975])
    # One is added to both counts, since a p of 0 is more than a finite number of resamples can say.
    tail = min((resampled <= 0).sum(), (resampled >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (SAMPLES + 1))
    mean = np.mean([d.mean() for d in differences.values()])
    return {"difference": float(mean), "low": float(low), "high": float(high), "p": float(p)}


def length(run: Row) -> str:
    """How far the search of a run went, where its method is trained in epochs: the best of how many tried and allowed.

    Empty where the row does not say.
    """
    chosen = run["chosen"]
    if "epochs_tried" not in chosen:
        return ""
    return f", epoch {chosen['epochs']} of {chosen['epochs_tried']} tried, {chosen['epochs_allowed']} allowed"


def _row(name: str, finished: Finished, groups: Mapping[int, np.ndarray]) -> dict:
    by_split = finished.results
    runs = [run for results in by_split.values() for run in results]
    low, high = interval(finished, groups, 0)
    hubness_low, hubness_high = interval(finished, groups, 1)
    return {
        "model": name,
        **{score: float(np.mean([run[score] for run in runs])) for score in SCORES},
        "mrr_low": low,
        "mrr_high": high,
        "mrr_by_split": {str(s): float(np.mean([run["mrr"] for run in results])) for s, results in by_split.items()},
        "mrr_by_run": {str(s): [run["mrr"] for run in results] for s, results in by_split.items()},
        "hubness_mrr": float(np.mean([run["hubness_mrr"] for run in runs])),
        "hubness_mrr_low": hubness_low,
        "hubness_mrr_high": hubness_high,
        "two_sided": bool(runs[0]["two_sided"]),
        "chosen": {str(split): results[0]["chosen"] for split, results in by_split.items()},
        "seconds": float(np.mean([run["seconds"] for run in runs])),
        "search_seconds": float(np.mean([run["search_seconds"] for run in runs])),
        "parameters": runs[0]["parameters"],
        "runs": len(runs),
        "threads": sorted({run["threads"] for run in runs}),
        "products": sorted({run["products"] for run in runs}),
    }


def table(finished: Mapping[str, Finished], groups: Mapping[int, np.ndarray]) -> list[dict]:
    """One row a method, best first; two-sided methods stand below the translators, since they do another task.

    The best other method of a row is a translator too, where there is one.

    Args:
        groups: {split seed: (V,) image of each scored caption}.
    """
    found = (_row(name, runs, groups) for name, runs in finished.items())
    rows = sorted(found, key=lambda row: (row["two_sided"], -row["mrr"]))
    for place, row in enumerate(rows):
        others = rows[:1] if place else rows[1:2]
        row["best_other"] = others[0]["model"] if others else None
        test = paired_test(finished[row["model"]], finished[row["best_other"]], groups) if others else {}
        row |= {name: test.get(key) for key, name in TEST.items()}
    return rows
