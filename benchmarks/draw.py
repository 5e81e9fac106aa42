"""The figures of the committed results: `python -m benchmarks.draw` (the challenge size where it was measured)."""

from __future__ import annotations

import json
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from benchmarks import common
from benchmarks.ablation import report
from helpers import plots

STEP_LABELS = {
    "matmul_lower_bound": "bare matrix products (lower bound)",
    "ours": "ours: unique images, counts",
    "ours_one_by_one": "ours, kernel by kernel",
    "reference_bfloat16": "reference implementation, bfloat16",
    "reference_float32": "reference implementation, float32",
    "pytorch_metric_learning": "pytorch-metric-learning,\nCrossBatchMemory",
    "lightly": "lightly, memory bank",
}
AXIS_LABELS = {
    "batch": "batch (captions)",
    "queue": "queue (entries)",
    "image_dim": "image width (dimensions)",
    "images": "training images (count; widths 128)",
}
METHOD_COLOURS = plots.MODEL_COLOURS | {"vse_mlp": "#44AA99", "queue_infonce": "#000000"}
BY_SIZE = ("bigjump_plus", "vse_mlp", "queue_infonce", "cca", "procrustes", "least_squares")
"""Methods of the figure by size."""
METHOD_LABELS = plots.MODEL_LABELS | {
    "ridge": "Least squares, ridge searched",
    "kernel_ridge": "Kernel ridge",
    "asif": "ASIF-like",
    "vse_mlp": "VSE++ MLP",
    "residual_infonce": "Residual InfoNCE",
    "queue_infonce": "Queue InfoNCE",
    "csa": "CSA",
    "residual_300": "Residual MLP, 300 epochs",
    "structure": "STRUCTURE",
    "sail": "SAIL",
    "fusemix": "FuseMix",
    "csa_two_sided": "CSA (two-sided: moves the gallery too)",
    "sail_two_sided": "SAIL (two-sided: moves the gallery too)",
    "fusemix_two_sided": "FuseMix (two-sided: moves the gallery too)",
}


def step_bars(ax: Axes, rows: list[dict]) -> Axes:
    """Time of one step, a bar a candidate, with its ratio to ours."""
    rows = sorted(rows, key=lambda row: row["median_seconds"])
    unit, scale = ("s", 1) if rows[-1]["median_seconds"] > 0.1 else ("ms", 1000)
    colours = {"matmul_lower_bound": plots.MODEL_COLOURS["chance"], "ours": plots.MODEL_COLOURS["bigjump"]}
    for place, row in enumerate(rows):
        time, name = scale * row["median_seconds"], row["candidate"]
        ax.barh(place, time, color=colours.get(name, plots.BLUE), height=0.7)
        note = f"{time:.2f} {unit}" + ("" if name == "ours" else f"  ({row['over_ours']:.1f} x ours)")
        ax.annotate(note, (time, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(range(len(rows)), [STEP_LABELS[row["candidate"]] for row in rows])
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set_xlim(0, 1.3 * scale * rows[-1]["median_seconds"])
    ax.set(xlabel=f"time ({unit} per training step)", ylabel="")
    return ax


def scaling_curves(time: Axes, memory: Axes, rows: list[dict], axis: str) -> None:
    """Milliseconds of a step and of its matrix products against one size; on the other axes the step's memory."""
    rows = [row for row in rows if row["axis"] == axis]
    values = [row["value"] for row in rows]
    step = [1e3 * row["seconds"] for row in rows]
    products = [1e3 * row["lower_bound_seconds"] for row in rows]
    time.plot(values, step, "-o", color=plots.MODEL_COLOURS["bigjump"], label="step")
    time.plot(values, products, "--", color=plots.MODEL_COLOURS["chance"], label="matrix products")
    memory.plot(values, [row["step_memory_mb"] for row in rows], "-s", color=plots.BLUE, ms=4)
    for ax, what in ((time, "time (ms per step)"), (memory, "memory of the step (MB)")):
        ax.set_xscale("log")
        ax.set_xticks(values, [f"{value:,}" for value in values])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_ylim(0, 1.15 * ax.get_ylim()[1])
        ax.set(xlabel=AXIS_LABELS[axis], ylabel=what)
    time.legend(loc="upper left")


def accuracy_dots(ax: Axes, result: dict) -> Axes:
    """MRR and its interval a method, best on top: filled by plain cosine, hollow with the hubness reduction."""
    for place, row in enumerate(result["rows"]):
        colour = METHOD_COLOURS.get(row["model"], plots.DARK)
        look = {"color": colour, "ms": 7, "label": "" if place else "plain cosine"}
        ax.hlines(place, row["mrr_low"], row["mrr_high"], color=colour, lw=1.6)
        ax.hlines(place, row["hubness_mrr_low"], row["hubness_mrr_high"], color=colour, lw=1.6, alpha=0.4)
        ax.plot(row["mrr"], place, "o", **look)
        look["label"] = "" if place else "hubness reduction"
        ax.plot(row["hubness_mrr"], place, "o", **look, mfc="white", mew=1.4)
        start = min(row["hubness_mrr"], row["mrr_low"])
        note = f"{row['mrr']:.3f}"
        ax.annotate(note, (start, place), xytext=(-8, 0), textcoords="offset points", va="center", ha="right", size=9)
    ax.set_yticks(range(len(result["rows"])), [METHOD_LABELS.get(row["model"], row["model"]) for row in result["rows"]])
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)  # above: markers may lie anywhere inside
    runs = f"{_count(result['seeds'], 'seed')} on {_count(len(result['splits']), 'split')}"
    ax.set(
        xlabel=f"MRR (0 to 1; {result['gallery']:,} images of {result['data']['name']}), 95% interval; mean of {runs}",
        ylabel="",
    )
    return ax


def size_curves(ax: Axes, results: list[dict]) -> Axes:
    """MRR and its interval against the number of training images, a line a method, named at its right end.

    A size at which a method was not measured has no point on its line; the first and the last must be there.
    """
    # The most seeds where a size has several tables.
    of_size = {r["train_images"]: r for r in sorted(results, key=lambda r: r["seeds"])}
    results = [of_size[n] for n in sorted(of_size)]
    scores = [{row["model"]: row for row in result["rows"]} for result in results]
    images = [result["train_images"] for result in results]
    names = [name for name in BY_SIZE if name in scores[0] and name in scores[-1]]
    for name, marker in zip(names, "osD^vP", strict=False):
        measured = {n: of_one[name] for n, of_one in zip(images, scores, strict=True) if name in of_one}
        here, rows = list(measured), list(measured.values())
        mrr, look = [row["mrr"] for row in rows], {"color": METHOD_COLOURS[name]}
        label = METHOD_LABELS[name] + f": {mrr[0]:.3f} to {mrr[-1]:.3f}"
        ax.semilogx(here, mrr, "-", marker=marker, ms=6, label=label, **look)
        ax.fill_between(here, [row["mrr_low"] for row in rows], [row["mrr_high"] for row in rows], alpha=0.12, **look)
    ax.set_xticks(images, [f"{n:,}" for n in images])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    fewest = min(result["seeds"] for result in results)
    more = [f"{r['seeds']} at {r['train_images']:,}" for r in results if r["seeds"] > fewest]
    runs = ", ".join([f"mean of {_count(fewest, 'seed')}", *more])
    ax.set(
        xlabel=f"training images (count); {runs}; bands: 95% interval",
        ylabel=f"MRR (0 to 1; {results[0]['gallery']:,} images)",
    )
    return ax


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("s" if n > 1 else "")


def main() -> None:
    plots.use_style()
    by_size = defaultdict(list)
    for path in sorted(p for p in common.RESULTS_DIR.glob("accuracy*.json") if p.stem != "accuracy_search"):
        result = json.loads(path.read_text(encoding="utf-8"))
        others = any(option in result["command"] for option in ("--project", "--train-captions"))
        if not others and not path.stem.endswith("_cuda"):  # sizes are compared on one device
            by_size[result["data"]["name"], tuple(result["splits"])].append(result)
        if "--train-" not in result["command"]:
            fig, ax = plt.subplots(figsize=(8.4, 1.4 + 0.36 * len(result["rows"])))
            accuracy_dots(ax, result)
            print(plots.save_figure(fig, path.stem))
    for (name, splits), results in by_size.items():
        if len({result["train_images"] for result in results}) > 1:
            fig, ax = plt.subplots(figsize=(8.4, 3.8))
            size_curves(ax, results)
            print(plots.save_figure(fig, "_".join(["accuracy_by_size", name, *map(str, splits)])))
    if results := report.load():
        print(plots.save_figure(report.effects_figure(results), "ablations"))
    for short, full in report.load_shortened():
        name = f"ablations_order_{short['data']['name']}_{short['epochs']}_epochs"
        print(plots.save_figure(report.order_figure(short, full), name))
    if turned := report.load_turned():
        print(plots.save_figure(report.turned_figure(turned), "turned"))
    for device in ("cpu", "cuda"):
        suffix = "" if device == "cpu" else f"_{device}"
        step = common.load("step", "challenge", device) or common.load("step", "small", device)
        if step:
            fig, ax = plt.subplots(figsize=(8.4, 3.4))
            step_bars(ax, step["rows"])
            print(plots.save_figure(fig, f"step_cost{suffix}"))
        scaling = common.load("scaling", "challenge", device) or common.load("scaling", "small", device)
        if scaling:
            fig, axes = plt.subplots(len(AXIS_LABELS), 2, figsize=(9, 2.6 * len(AXIS_LABELS)))
            for pair, axis in zip(axes, AXIS_LABELS, strict=True):
                scaling_curves(*pair, scaling["rows"], axis)
            print(plots.save_figure(fig, f"scaling{suffix}"))


if __name__ == "__main__":
    main()
