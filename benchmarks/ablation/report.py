"""What each part of BigJump contributes: the results of `benchmarks.ablations` as figures and Markdown tables.

A difference is the MRR with the choice that a claim speaks for minus the MRR with the alternative, on the same
captions: positive where the published choice is better.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from benchmarks.common import RESULTS_DIR
from helpers import plots

COLOURS = {"helps": plots.BLUE, "harms": plots.MODEL_COLOURS["bigjump"], "not clear": plots.MODEL_COLOURS["chance"]}
MARKERS = {"helps": "o", "harms": "s", "not clear": "o"}
LEGEND = {"helps": "first choice helps", "harms": "first choice harms", "not clear": "not clear (interval covers 0)"}
TURNED_NAME = "turned_demo.json"
"""Results of `benchmarks.turned`: one comparison a claim, on synthetic data with one property changed."""
LINEAR = 0.01
"""Half the width of the linear part of an axis of differences; beyond it is logarithmic: they span three decades."""
FULL = 0.6
"""Opacity of the fullest colour of `turned_figure`: dark numbers stay readable on it."""
SCALE = {"value": "symlog", "linthresh": LINEAR, "linscale": 1.2}
KINDS = {"BigJump, one thing changed": True, "Closed form alone": False}
"""Labels of the two panels."""


def load(directory: str | Path = RESULTS_DIR) -> list[dict]:
    """The stored results of the longest training of each data set, the data set with the most images first."""
    return [of_one_set[0] for of_one_set in _by_data(directory)]


def load_shortened(directory: str | Path = RESULTS_DIR) -> list[tuple[dict, dict]]:
    """(result of a shortened training, result of the longest on the same data): what shortening does to the effects."""
    return [
        (short, of_one_set[0])
        for of_one_set in _by_data(directory)
        for short in of_one_set[1:]
        if short["epochs"] < of_one_set[0]["epochs"]
    ]


def _by_data(directory: str | Path) -> list[list[dict]]:
    """The stored results, those of one data set together: the longest training first, then the most seeds."""
    found: dict[str, list[dict]] = {}
    for path in sorted(Path(directory).glob("ablations_*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(result["data"]["name"], []).append(result)
    sets = [sorted(results, key=lambda result: (-result["epochs"], -result["seeds"])) for results in found.values()]
    return sorted(sets, key=lambda results: -results[0]["data"]["images"])


def comparisons(result: dict, of_bigjump: bool | None = None) -> dict[str, dict]:
    """{comparison in words: its row}; of BigJump with a variant of it, of the closed form, or (None) all."""
    rows = [row for claim in result["claims"] for row in claim["comparisons"]]
    return {row["words"]: row for row in rows if of_bigjump in (None, not row["on"].startswith("closed_form"))}


def ordered_words(results: Sequence[dict], of_bigjump: bool) -> list[str]:
    """Every comparison of one kind that any result holds, by its mean difference over the results, largest first."""
    found: dict[str, list[float]] = {}
    for result in results:
        for words, row in comparisons(result, of_bigjump).items():
            found.setdefault(words, []).append(row["difference"])
    return sorted(found, key=lambda words: -np.mean(found[words]))


def effects(ax: Axes, rows: dict[str, dict], order: Sequence[str]) -> Axes:
    """Paired difference and its 95 % interval a comparison, in the given order from the top.

    Args:
        rows: as `comparisons` gives them; a comparison that is missing leaves its line empty.
    """
    ax.axvline(0, color=plots.DARK, lw=1)
    for place, words in enumerate(order):
        if words not in rows:
            continue
        row = rows[words]
        ax.hlines(place, row["low"], row["high"], lw=1.6, color=COLOURS[row["verdict"]])
        ax.plot(row["difference"], place, ms=6.5, mew=1.4, **_look(row["verdict"]))
        at = {"xycoords": ax.get_yaxis_transform(), "xytext": (6, 0), "textcoords": "offset points"}
        ax.annotate(f"{row['difference']:+z.4f}", (1, place), va="center", size=8.5, **at)
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.set_xscale(**SCALE)
    _difference_ticks(ax.xaxis)
    return ax


def effects_figure(results: Sequence[dict]) -> Figure:
    """A column a data set and a panel a kind of comparison, in one order, so that a line is one comparison."""
    orders = {kind: ordered_words(results, of_bigjump) for kind, of_bigjump in KINDS.items()}
    orders = {kind: order for kind, order in orders.items() if order}
    heights = [len(order) + 1.5 for order in orders.values()]
    size = (5.6 + 4.2 * len(results), 1.3 + 0.29 * sum(heights))
    shape = (len(orders), len(results))
    fig, axes = plt.subplots(*shape, figsize=size, height_ratios=heights, squeeze=False, sharex=True, sharey="row")
    for (kind, order), line in zip(orders.items(), axes, strict=True):
        for result, ax in zip(results, line, strict=True):
            effects(ax, comparisons(result, KINDS[kind]), order)
            if kind == next(iter(orders)):
                ax.set_title(described(result), loc="left", size=10)
        line[0].set_ylabel(kind)
    fig.align_ylabels(axes[:, 0])
    fig.legend(_verdict_handles(), LEGEND.values(), loc="outside upper right", ncols=3)
    label = f"MRR of the first choice minus MRR of the second, 95% interval; linear within {LINEAR}, logarithmic beyond"
    fig.supxlabel(label, size=plt.rcParams["axes.labelsize"])
    return fig


def _difference_ticks(axis: Axis) -> None:
    ticks = [-0.1, -LINEAR, 0, LINEAR, 0.1]
    axis.set_ticks(ticks, [f"{tick:+g}" if tick else "0" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def _verdict_handles() -> list[Line2D]:
    return [Line2D([], [], **_look(verdict)) for verdict in COLOURS]


def _look(verdict: str) -> dict[str, str]:
    """Colour and marker of a verdict, hollow where it is not clear."""
    colour = COLOURS[verdict]
    return {"color": colour, "marker": MARKERS[verdict], "mfc": "white" if verdict == "not clear" else colour}


def order_figure(short: dict, full: dict) -> Figure:
    """Effects of a shortened training against those of the full one, a point a comparison: on the diagonal if equal.

    Comparisons of closed forms are left out, since no training is in them.

    Args:
        short, full: results on one data set; comparisons that are not in both are left out.
    """
    fig, ax = plt.subplots(figsize=(6.4, 5.6))
    of_full, of_short = comparisons(full, True), comparisons(short, True)
    pairs = [(row, of_short[words]) for words, row in of_full.items() if words in of_short]
    ends = [row[end] for pair in pairs for row in pair for end in ("low", "high")]
    limits = 1.3 * min(0, *ends), 1.3 * max(0, *ends)
    ax.plot(limits, limits, color=plots.DARK, lw=1, zorder=1)
    for x, y in pairs:
        thin = {"lw": 0.8, "alpha": 0.5, "color": COLOURS[x["verdict"]]}
        ax.hlines(y["difference"], x["low"], x["high"], **thin)
        ax.vlines(x["difference"], y["low"], y["high"], **thin)
        ax.plot(x["difference"], y["difference"], ms=6, mew=1.3, **_look(x["verdict"]))
    ax.set_xscale(**SCALE)
    ax.set_yscale(**SCALE)
    for axis, result in ((ax.xaxis, full), (ax.yaxis, short)):
        _difference_ticks(axis)
        axis.set_label_text(f"difference in MRR at {result['epochs']} epochs")
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    seeds = " and ".join(dict.fromkeys(str(result["seeds"]) for result in (full, short)))
    ax.set_title(f"{full['data']['name']}, {seeds} seeds", loc="left", size=10)
    labels = [f"{label} at {full['epochs']} epochs" for label in LEGEND.values()]
    fig.legend(_verdict_handles(), labels, loc="outside lower center")
    return fig


def order_statement(short: dict) -> str:
    """How far a shortened training puts the effects in the order of the full one, in one line."""
    order = short["order_agreement"]
    rho = "-" if order["spearman"] is None else f"{order['spearman']:.2f}"
    return (
        f"{short['data']['name']}, {order['epochs']} against {order['full_epochs']} epochs: Spearman's correlation of "
        f"the differences {rho}, {order['same_verdict']} of {order['comparisons']} verdicts the same"
    )


def described(result: dict) -> str:
    """Data set and sizes of a result, on two lines."""
    sizes = "{seeds} seeds, {epochs} epochs, gallery of {gallery:,}".format(**result)
    return f"{result['data']['name']}\n{sizes}"


def table(results: Sequence[dict]) -> str:
    """Every claim with its comparisons, a column a data set: difference and interval, in bold where it is clear."""
    claims: dict[str, dict[str, None]] = {}
    for claim in (claim for result in results for claim in result["claims"]):
        claims.setdefault(claim["says"], {}).update(dict.fromkeys(row["words"] for row in claim["comparisons"]))
    of_result = [comparisons(result) for result in results]
    rows = [
        [says if place == 0 else "", words, *(_cell(rows.get(words)) for rows in of_result)]
        for says, of_claim in claims.items()
        for place, words in enumerate(of_claim)
    ]
    return markdown(["claim", "comparison", *(result["data"]["name"] for result in results)], rows)


def caption_table(result: dict, shown: int = 3) -> str:
    """Where the ranks of single captions were compared: how many gain and lose, and the captions that do so most.

    Args:
        shown: captions of each kind, at most ten.
    """
    rows = []
    for words, row in comparisons(result).items():
        if changes := row.get("caption_changes"):
            for share, kind in (("gaining", "gain_most"), ("losing", "lose_most")):
                most = "; ".join(
                    f"{entry['caption'].strip(' .')} ({entry['rank_on']:.0f} to {entry['rank']:.0f})"
                    for entry in changes[kind][:shown]
                )
                rows.append([words if share == "gaining" else "", f"{changes[share]:.0%} {share}", most])
    return markdown(
        ["comparison", "captions, with the second in place of the first", "most (rank before to after)"], rows
    )


def load_turned(directory: str | Path = RESULTS_DIR) -> dict | None:
    """The stored results on turned synthetic data, or None where there are none."""
    path = Path(directory) / TURNED_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def turned_figure(result: dict) -> Figure:
    """A line a comparison, a column a data set: the difference, in the colour of its verdict, pale if small."""
    turns = result["turns"]
    cells = [comparisons(turn) for turn in turns]
    order = list(cells[0])
    fig, ax = plt.subplots(figsize=(5.2 + 1.2 * len(turns), 1.4 + 0.36 * len(order)))
    for x, rows in enumerate(cells):
        for y, words in enumerate(order):
            row = rows[words]
            clear = row["verdict"] != "not clear"
            if clear:
                strength = FULL * min(1.0, max(0.3, abs(row["difference"]) / LINEAR))
                box = {"facecolor": COLOURS[row["verdict"]], "edgecolor": "white", "linewidth": 1.5}
                ax.add_patch(plt.Rectangle((x - 0.5, y - 0.5), 1, 1, alpha=strength, **box))
            look = {"color": plots.DARK, "weight": "bold" if clear else "normal"}
            ax.annotate(f"{row['difference']:+z.4f}", (x, y), ha="center", va="center", size=9, **look)
    ax.set_xticks(range(len(turns)), [f"{turn['turn']}\n{turn['data']['captions']:,} captions" for turn in turns])
    ax.set_yticks(range(len(order)), order)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set(xlim=(-0.5, len(turns) - 0.5), ylim=(len(order) - 0.5, -0.5))
    ax.grid(visible=False)
    ax.set_xlabel(f"synthetic data with one property changed; difference in MRR, mean of {result['seeds']} seeds")
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[name], alpha=FULL) for name in ("helps", "harms")]
    labels = [f"{LEGEND[name]} (full colour from {LINEAR} on)" for name in ("helps", "harms")]
    fig.legend(handles, labels, loc="outside lower right", ncols=2)
    return fig


def turned_table(result: dict) -> str:
    """The same as a table, with intervals."""
    cells = [comparisons(turn) for turn in result["turns"]]
    rows = [[words, *(_cell(of_turn[words]) for of_turn in cells)] for words in cells[0]]
    return markdown(["comparison", *(turn["turn"] for turn in result["turns"])], rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: dict | None) -> str:
    if row is None:
        return "-"
    difference = f"{row['difference']:+z.4f}"
    difference = difference if row["verdict"] == "not clear" else f"**{difference}**"
    return f"{difference} ({row['low']:+z.4f} to {row['high']:+z.4f})"
