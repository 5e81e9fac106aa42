"""From runs to verdicts: each comparison's paired difference, its interval, and what that says of the claim.

Every difference is the MRR of the setting that the claim speaks for minus that of what it is measured against, so it is
positive where the published choice is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from benchmarks import accuracy_table
from benchmarks.ablation.claims import Claim, Comparison
from benchmarks.ablation.runs import epochs_to
from benchmarks.accuracy_table import Finished
from helpers.data.pairs import PairedEmbeddings
from helpers.data.split import Split

Groups = Mapping[int, np.ndarray]
"""{split seed: (V,) image of each scored caption}."""

SHARE = 0.95
"""Of the final MRR, for `epochs_to_95`."""
SHOWN = 10
"""Captions that gain and lose most."""


def verdict(low: float, high: float) -> str:
    """What the interval of a difference says of the claim's setting."""
    return "helps" if low > 0 else "harms" if high < 0 else "not clear"


def variant_summary(finished: Finished, groups: Groups) -> dict:
    """Means over the runs of a variant; differences between seeds show in `mrr_by_run`."""
    runs = [run for results in finished.results.values() for run in results]
    low, high = accuracy_table.interval(finished, groups, 0)
    reached = [epochs_to(run["fold_mrr"], SHARE * run["fold_mrr"][-1]) for run in runs if run["fold_mrr"]]
    spreads = [run["spread_within_images"] for run in runs if run["spread_within_images"] is not None]
    return {
        "mrr": float(np.mean([run["mrr"] for run in runs])),
        "mrr_low": low,
        "mrr_high": high,
        "mrr_by_run": {str(split): [run["mrr"] for run in results] for split, results in finished.results.items()},
        "epochs_to_95": float(np.mean(reached)) if reached else None,
        "spread_within_images": float(np.mean(spreads)) if spreads else None,
        "epochs_with_free_geometry": float(np.mean([len(run["geometry_free"]) for run in runs])),
        "diverged": sum(run["diverged"] is not None for run in runs),
        "seconds": float(np.mean([run["seconds"] for run in runs])),
        "runs": len(runs),
    }


def difference_by_run(on: Finished, against: Finished) -> list[float]:
    """Differences seed by seed, split after split; a side without chance serves every seed."""
    rows = []
    for split, results in on.results.items():
        pairs = np.broadcast_arrays(*([run["mrr"] for run in runs] for runs in (results, against.results[split])))
        rows += (pairs[0] - pairs[1]).tolist()
    return rows


def epochs_to_level_of_on(on: Finished, against: Finished) -> list[int | None]:
    """Epochs that `against` needs, seed by seed, to 95 % of the final fold MRR of `on`; None for never.

    A worse start may be quick to get near a worse end of its own, which `epochs_to_95` cannot tell.
    """
    return [
        epochs_to(b["fold_mrr"], SHARE * a["fold_mrr"][-1]) if a["fold_mrr"] else None
        for split, runs in on.results.items()
        for a, b in zip(runs, against.results[split], strict=True)
    ]


def row(comparison: Comparison, claim: Claim, found: Mapping[str, Finished], groups: Groups) -> dict:
    """One comparison; `found` holds the runs of both its sides."""
    on, against = (found[variant.name] for variant in (comparison.on, comparison.against))
    test = accuracy_table.paired_test(on, against, groups)
    metadata = {"": variant_summary(against, groups), "on_": variant_summary(on, groups)}
    measures = ("mrr", *(name for name in claim.measures if name in metadata[""]))
    per_split = (max(map(len, (a, b))) for a, b in zip(on.results.values(), against.results.values(), strict=True))
    if "epochs_to_95" in measures:
        test["epochs_to_95_of_on"] = epochs_to_level_of_on(on, against)
    return {
        "words": comparison.words,
        "variant": comparison.against.name,
        "on": comparison.on.name,
        "trained": comparison.on.seeded or comparison.against.seeded,
        **{prefix + measure: values[measure] for measure in measures for prefix, values in metadata.items()},
        **test,
        "difference_by_run": difference_by_run(on, against),
        "seeds": max(per_split),
        "verdict": verdict(test["low"], test["high"]),
    }


def table(claims: Sequence[Claim], found: Mapping[str, Finished], groups: Groups) -> list[dict]:
    """The claims of which any comparison's runs are there, with those comparisons."""
    rows = []
    for claim in claims:
        there = [c for c in claim.comparisons if c.on.name in found and c.against.name in found]
        if there:
            head = {"claim": claim.name, "says": claim.says, "expected": claim.expected}
            rows.append({**head, "comparisons": [row(comparison, claim, found, groups) for comparison in there]})
    return rows


def order_agreement(short: Sequence[dict], full: Sequence[dict]) -> dict:
    """Whether two tables of claims put their effects in the same order: Spearman's correlation of the differences.

    Comparisons of closed forms are left out, since their differences do not depend on the length of a training.

    Returns:
        `spearman` (None with fewer than three comparisons, or where all are equal), the number of `comparisons` in
        both, and how many of them have the `same_verdict`.
    """
    rows = [{(row["on"], row["variant"]): row for claim in of for row in claim["comparisons"]} for of in (short, full)]
    both = [key for key, row in rows[0].items() if key in rows[1] and row["trained"]]
    a, b = ([of[key]["difference"] for key in both] for of in rows)
    rho = float(spearmanr(a, b).statistic) if len(both) > 2 else None
    same = sum(rows[0][key]["verdict"] == rows[1][key]["verdict"] for key in both)
    return {"spearman": None if rho is None or np.isnan(rho) else rho, "comparisons": len(both), "same_verdict": same}


def caption_changes(data: PairedEmbeddings, split: Split, on: np.ndarray, against: np.ndarray) -> dict:
    """Which of the scored captions rank better with `against` than with `on`, and which worse.

    A caption's rank over seeds is the harmonic mean, whose reciprocal is what the MRR averages.

    Args:
        on, against: (V,) reciprocal ranks averaged over seeds, in the order of the split's validation captions.
    """
    before, after = 1 / on.astype(float), 1 / against.astype(float)
    gain = before - after  # (V,) places won; positive is better with `against`
    order = np.argsort(-gain, kind="stable")

    def entry(caption: int) -> dict:
        place = int(split.val_captions[caption])
        named = {"caption": data.captions[place], "image": data.image_names[data.targets[place]]}
        return {**named, "rank_on": round(before[caption], 1), "rank": round(after[caption], 1)}

    quantiles = np.quantile(gain, [0.05, 0.25, 0.5, 0.75, 0.95])
    return {
        "gaining": float(np.mean(gain > 0)),
        "losing": float(np.mean(gain < 0)),
        "places_won_quantiles_5_25_50_75_95": [round(float(value), 1) for value in quantiles],
        "gain_most": [entry(caption) for caption in order[:SHOWN] if gain[caption] > 0],
        "lose_most": [entry(caption) for caption in order[::-1][:SHOWN] if gain[caption] < 0],
    }
