"""The tables of accuracy in `README.md` and `docs/results.md`, from the committed results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import common
from benchmarks.ablation.report import markdown
from benchmarks.draw import METHOD_LABELS

Row = Mapping[str, Any]

SHORT = ("bigjump_plus", "queue_infonce", "bigjump", "cca", "least_squares")
"""Methods of the README's table: ours, the best other network, the published one, the best and the simplest map."""
SIZES = {
    "500_images_1_captions_each_split_0": "500, one caption each",
    "500_images_split_0": "500",
    "1000_images_split_0": "1,000",
    "1000_images_projected_1024_768_split_0": "1,000, projected to 1,024 and 768 dimensions",
    "2000_images_split_0": "2,000",
    "4000_images_split_0": "4,000",
    "split_0_5_seeds": "7,282",
}
"""Results of the table by number of training photos, and what it calls them."""
SETS = {
    "emoji_split_0_1_2_1_seeds": "emoji, three splits",
    "flickr8k_split_0_1_seeds": "Flickr8k, split 0",
    "flickr8k_2000_images_split_0_1_seeds": "2,000 photos of it",
    "flickr8k_1000_images_split_0_1_seeds": "1,000",
    "flickr8k_500_images_split_0_1_seeds": "500",
}
"""Results of the recipe as it is, by data set, and what the table calls them."""
SAME_TEXT = {"rsicd": "RSICD", "flickr8k": "Flickr8k"}
"""Results of `benchmarks.same_text`, and what the table calls them."""
CORRECTIONS = {
    "log-sum-exp of the bank's scores, best of beta 10 to 60 and weight 0.3 to 1": (
        "log-sum-exp over the query bank: inverted softmax, QB-Norm"
    ),
    "CSLS-like: mean of the k best bank scores, best of k 5 to 3000 and weight": (
        "mean of the k best scores in the query bank: CSLS, NNN"
    ),
    "mean and spread of the bank's scores (z-score)": "mean and spread of the scores in the query bank (z-score)",
    "a linear function of the image, folded into the query": "a linear function of the image, part of the query",
    "attention balanced once (softmax over the gallery), beta 40": "Sinkhorn, one iteration",
    "attention balanced twice, beta 40: kept": "**Sinkhorn, two iterations (ours)**",
    "attention balanced 20 times, beta 40": "Sinkhorn, twenty iterations",
    "balanced on the queries themselves, 20 times (transductive; not allowed, shown for its size)": (
        "Sinkhorn over the judged captions themselves, twenty iterations (not allowed)"
    ),
}
"""Ways to reduce hubness that were tried, as the results call them and as their authors do."""


def all_tables() -> dict[str, str]:
    """Every table of accuracy, by name."""
    search = _result("accuracy_search")
    gpu = _rows("flickr8k_split_0_1_2_5_seeds_cuda")
    one_split = _rows("flickr8k_split_0_5_seeds")
    return {
        "leaderboard": leaderboard_table(gpu),
        "accuracy": accuracy_table(gpu),
        "accuracy_splits": splits_table(gpu),
        "accuracy_cpu": cpu_table(_rows("flickr8k_split_0_1_2_5_seeds"), _rows("flickr8k")),
        "aims": aims_table({"GPU": gpu[0], "processor": one_split[0]}),
        "sizes": sizes_table({shown: _rows(f"flickr8k_{name}") for name, shown in SIZES.items()}),
        "sets": sets_table({shown: _result(f"accuracy_{name}") for name, shown in SETS.items()}),
        "hubness": hubness_table(gpu),
        "hubness_tried": hubness_tried_table(search["hubness_reduction"]["tried"]),
        "hubness_gallery": hubness_gallery_table(search["hubness_reduction"]["other_images_in_the_gallery"]),
        "dot_product": dot_product_table(_result("series_flickr8k")["rows"]),
        "demo": demo_table(_rows("demo_384_512_split_0")),
        "series": series_table(_result("series_flickr8k")["rows"]),
        "series_test": series_test_table(_result("series_flickr8k_cuda")),
        "same_text": same_text_table({shown: _result(f"same_text_{name}") for name, shown in SAME_TEXT.items()}),
    }


def leaderboard_table(rows: Sequence[Row]) -> str:
    """Five methods on one screen."""
    of = {row["model"]: row for row in rows}
    header = ["method", "MRR", "R@10", "parameters", "seconds"]
    return markdown(header, [[_name(of[m]), *_scores(of[m], "mrr", "recall_at_10"), *_cost(of[m])] for m in SHORT])


def accuracy_table(rows: Sequence[Row]) -> str:
    """Every method, the best first: ranks, the lead of the best over each, parameters and seconds."""
    header = ["method", "MRR (95 % interval)", "BigJump plus leads by"]
    header += ["R@1", "R@10", "median rank", "parameters", "seconds"]
    cells = [
        [
            _name(row),
            _interval(row, "mrr"),
            _lead(row) if place else "-",
            *_scores(row, "recall_at_1", "recall_at_10"),
            f"{row['median_rank']:.0f}",
            *_cost(row),
        ]
        for place, row in enumerate(rows)
    ]
    return markdown(header, cells)


def splits_table(rows: Sequence[Row]) -> str:
    """MRR of every method on each split."""
    splits = list(rows[0]["mrr_by_split"])
    cells = [[_name(row), *_scores(row["mrr_by_split"], *splits)] for row in rows]
    return markdown(["method", *(f"split {split}" for split in splits)], cells)


def cpu_table(rows: Sequence[Row], fewer_runs: Sequence[Row]) -> str:
    """The same in float32 on the processor; methods that only `fewer_runs` holds have no interval."""
    measured = {row["model"]: row for row in rows}
    header = ["method", "MRR, three splits, five seeds", "BigJump plus leads by", "with hubness reduction"]
    header += ["seconds", "MRR, two splits, three seeds"]
    cells = []
    for place, fewer in enumerate(fewer_runs):
        row = measured.get(fewer["model"])
        found = ["-"] * 4
        if row is not None:
            found = [_interval(row, "mrr"), _lead(row) if place else "-", f"{row['hubness_mrr']:.3f}", _seconds(row)]
        cells.append([_name(fewer), *found, f"{fewer['mrr']:.3f}"])
    return markdown(header, cells)


def aims_table(rows: Mapping[str, Row]) -> str:
    """The trainings of `plus` on split 0, on each device."""
    header = ["device", "epochs chosen", "lowest MRR", "mean", "highest"]
    cells = []
    for device, row in rows.items():
        runs = row["mrr_by_run"]["0"]
        scores = (min(runs), sum(runs) / len(runs), max(runs))
        cells.append([device, str(row["chosen"]["0"]["epochs"]), *(f"{score:.4f}" for score in scores)])
    return markdown(header, cells)


def sizes_table(results: Mapping[str, Sequence[Row]]) -> str:
    """`plus` and the best other method, by number of training photos."""
    header = ["training photos", "BigJump plus", "best other", "lead", "p"]
    cells = []
    for photos, rows in results.items():
        plus, other = rows[:2]
        if plus["model"] != "bigjump_plus":
            raise ValueError(f"{photos} photos: {plus['model']} is best, so the table needs another heading.")
        cells.append([photos, *_scores(plus, "mrr"), f"{other['mrr']:.3f}, {_name(other)}", _lead(other)])
        cells[-1].append(f"{other['p']:.3f}")
    return markdown(header, cells)


def sets_table(results: Mapping[str, Row]) -> str:
    """`plus` and the best other method, by data set: what leads, and by how much."""
    header = [
        "data",
        "pictures: trained on, ranked",
        "BigJump plus",
        "best other",
        "BigJump plus leads by",
        "p",
        "seconds",
    ]
    cells = []
    for data, result in results.items():
        of = {row["model"]: row for row in result["rows"] if not row["two_sided"]}
        plus = of.pop("bigjump_plus")
        other = max(of.values(), key=lambda row: row["mrr"])
        # Paired differences are those to the best of all: one of the two.
        lead, behind = (_lead(other), other) if plus["mrr"] >= other["mrr"] else (_behind(plus), plus)
        pictures = f"{result['train_images']:,}, {result['gallery']:,}"
        cells.append([data, pictures, *_scores(plus, "mrr"), f"{other['mrr']:.3f}, {_name(other)}", lead])
        cells[-1] += [f"{behind['p']:.3f}", _seconds(plus)]
    return markdown(header, cells)


def hubness_table(rows: Sequence[Row]) -> str:
    """Every method by plain cosine and with hubness reduction."""
    header = ["method", "MRR by cosine", "MRR with hubness reduction (95 % interval)"]
    return markdown(header, [[_name(row), *_scores(row, "mrr"), _interval(row, "hubness_mrr")] for row in rows])


def hubness_tried_table(tried: Sequence[Row]) -> str:
    """Ways to reduce hubness, on one fold."""
    found = {CORRECTIONS[row["what"]]: row["mrr"] for row in tried}
    cells = [["none: plain cosine", f"{tried[0]['mrr_plain']:.3f}"]]
    cells += [[shown, f"{found[shown]:.3f}"] for shown in CORRECTIONS.values()]
    return markdown(["what is subtracted from the cosine", "MRR"], cells)


def hubness_gallery_table(galleries: Sequence[Row]) -> str:
    """Hubness reduction with foreign images in the gallery."""
    header = ["gallery", "plain cosine", "one iteration", "two iterations (ours)"]
    return markdown(header, [[g["gallery"], *_scores(g, "mrr_plain", "mrr_once", "mrr_twice")] for g in galleries])


def dot_product_table(rows: Sequence[Row]) -> str:
    """The challenge's protocol, before and after the correction for lengths."""
    header = ["model", "MRR by dot product", "MRR, corrected"]
    return markdown(header, [[_name(row), *_scores(row, "challenge_mrr", "challenge_corrected_mrr")] for row in rows])


def demo_table(rows: Sequence[Row]) -> str:
    """Every method on the synthetic data."""
    header = ["method", "MRR (95 % interval)", "BigJump plus leads by"]
    cells = [[_name(row), _interval(row, "mrr"), _lead(row) if place else "-"] for place, row in enumerate(rows)]
    return markdown(header, cells)


def series_table(rows: Sequence[Row]) -> str:
    """The leaderboard of the five notebooks."""
    header = ["model", "MRR (95 % interval)", "R@1", "R@5", "R@10", "NDCG", "median rank", "p75"]
    header += ["parameters", "CPU ms a query"]
    cells = []
    for row in rows:
        scores = _scores(row, "recall_at_1", "recall_at_5", "recall_at_10", "ndcg")
        cost = ["-", "-"]
        if row["parameters"]:
            cost = [f"{row['parameters'] / 1e6:.2f} M", f"{row['cpu_ms_per_query']:.2f}"]
        ranks = [f"{row['median_rank']:.0f}", f"{row['p75_rank']:.0f}"]
        cells.append([_name(row), _interval(row, "mrr"), *scores, *ranks, *cost])
    return markdown(header, cells)


def series_test_table(result: Row) -> str:
    """MRR of every model on the validation split, which chose, and on the test split, which chose nothing."""
    validation = {row["model"]: row for row in result["rows"]}
    header = ["model", "MRR on validation", "MRR on test (95 % interval)"]
    cells = [
        [_name(row), *_scores(validation[row["model"]], "mrr"), _interval(row, "mrr")]
        for row in result["test_as_printed"]
    ]
    return markdown(header, cells)


def same_text_table(results: Mapping[str, Row]) -> str:
    """What it brings to leave images of the same text out of the negatives."""
    names = {"plus": "one network of `plus`", "bigjump": "BigJump"}
    header = ["data", "method", "training photos", "training captions concerned", "ceiling", "gain in MRR"]
    cells = []
    for shown, result in results.items():
        for method in (name for name in names if name in result):
            row = result[method]
            concerned = f"{100 * row['training_captions_with_excluded_images']:.1f} %"
            gain = "{difference:+.4f} ({low:+.4f} to {high:+.4f})".format_map(row["gain"])
            ceiling = f"{row['repeats']['ceiling']:.3f}"
            cells.append([shown, names[method], f"{row['training_images']:,}", concerned, ceiling, gain])
    return markdown(header, cells)


def _result(name: str) -> dict:
    return json.loads((common.RESULTS_DIR / f"{name}.json").read_text(encoding="utf-8"))


def _rows(name: str) -> list[dict]:
    """Rows of a comparison by `benchmarks.accuracy`, the best first."""
    return _result(f"accuracy_{name}")["rows"]


def _name(row: Row) -> str:
    label = METHOD_LABELS[row["model"]]
    return f"**{label}** (ours)" if row["model"] == "bigjump_plus" else label


def _scores(row: Row, *names: str) -> list[str]:
    return [f"{row[name]:.3f}" for name in names]


def _interval(row: Row, name: str) -> str:
    """A score with its 95 % interval."""
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def _lead(row: Row) -> str:
    """By how much the best method leads `row`, with the interval of the paired difference."""
    low, high = -row["to_best_other_high"], -row["to_best_other_low"]
    return f"{-row['to_best_other']:.3f} ({low:.3f} to {high:.3f})"


def _behind(row: Row) -> str:
    """By how much `row` leads the best method, a number below 0, with the interval of the paired difference."""
    return f"{row['to_best_other']:.3f} ({row['to_best_other_low']:.3f} to {row['to_best_other_high']:.3f})"


def _cost(row: Row) -> list[str]:
    return [f"{row['parameters'] / 1e6:.1f} M", _seconds(row)]


def _seconds(row: Row) -> str:
    """Of the search of the settings and one training, three digits."""
    seconds = row["search_seconds"] + row["seconds"]
    return f"{float(f'{seconds:.3g}'):,.0f}" if seconds >= 1 else "under 1"
