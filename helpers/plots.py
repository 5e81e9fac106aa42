"""Figures: each function draws on the `ax` it is given and returns it, with a label on every axis.

One colour a model everywhere, so that a reader learns the colours once: of Okabe and Ito (Color Universal Design,
2008), and two of the muted scheme of Tol (2021). The two spaces, and what else is drawn in several colours, take others
of that scheme; a single curve is blue. No curve is told by its colour alone: closed forms are dashed, regression
networks dash-dotted, contrastive models solid, and other curves take these styles in turn.
"""

from __future__ import annotations

import contextlib
import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython import get_ipython
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import Bbox

from helpers import phrases
from helpers.errors import DataError
from helpers.models.build import ROWS
from helpers.models.geometry import effective_rank
from helpers.system import paths
from helpers.system.files import atomic_write
from helpers.system.settings import require
from helpers.training.plus_choice import Choice, kind_name

MODEL_LABELS = {name: row.label for name, row in ROWS.items()}
MODEL_COLOURS = {
    "chance": "#8C8C8C",
    "least_squares": "#56B4E9",
    "procrustes": "#0072B2",
    "cca": "#999933",
    "kernel": "#44AA99",
    "linear": "#E69F00",
    "mlp1": "#CC79A7",
    "mlp2": "#009E73",
    "bigjump": "#D55E00",
    "bigjump_plus": "#882255",
}
"""A model that has none here takes one of `FALLBACK_COLOURS`."""
_LINES_OF_KIND = {"chance": ":", "closed form": "--", "baseline": "-.", "contrastive": "-"}
MODEL_LINES = {name: _LINES_OF_KIND[row.kind] for name, row in ROWS.items()}
SPACE_COLOURS = {"captions": "#332288", "images": "#CC6677"}
FALLBACK_COLOURS = ("#AA4499", "#117733", "#000000", "#DDCC77", "#88CCEE")
LINES = ("-", "--", "-.", ":")
BLUE, ORANGE, DARK = "#0072B2", "#E69F00", "#333333"
_MRR_LABEL = "MRR (0 to 1)"
_BESIDE: Look = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}  # where curves may run anywhere inside
Rows = Sequence[Mapping[str, Any]]  # one mapping an epoch, or a model
Look = dict[str, Any]  # keywords of matplotlib, which takes values of many types


def use_style() -> None:
    """Apply `helpers/style.mplstyle` to every figure made afterwards, and nothing that a matplotlibrc says.

    In a notebook figures are drawn inline, also where `MPLBACKEND` names another backend, as containers have it.
    """
    if (shell := get_ipython()) is not None and hasattr(shell, "kernel"):
        shell.run_line_magic("matplotlib", "inline")
    style.use(["default", "helpers.style"])


def show(*panels: tuple[Any, ...], width: float = 5.5, height: float = 3.8) -> None:
    """Draw figures side by side and show them: each panel is a function of this module and what it takes behind `ax`.

    Args:
        width, height: of one panel, in inches.
    """
    _, axes = plt.subplots(1, len(panels), figsize=(width * len(panels), height), squeeze=False)
    for ax, (draw, *given) in zip(axes[0], panels, strict=True):
        draw(ax, *given)
    plt.show()


def _look(name: str, index: int, note: str = "") -> Look:
    colour = (MODEL_COLOURS | SPACE_COLOURS).get(name, FALLBACK_COLOURS[index % len(FALLBACK_COLOURS)])
    return {"color": colour, "label": MODEL_LABELS.get(name, name) + note}


def _curve(name: str, index: int, note: str = "") -> Look:
    return _look(name, index, note) | {"ls": MODEL_LINES.get(name, LINES[index % len(LINES)])}


def _finish(ax: Axes, xlabel: str, ylabel: str, **legend: Any) -> Axes:
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if xlabel == "epoch":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if ax.get_legend_handles_labels()[1]:
        ax.legend(**legend)
    return ax


def spectra(ax: Axes, eigenvalues: Mapping[str, np.ndarray]) -> Axes:
    """Eigenvalues (D,) of covariances, descending, over their mean; the legend gives effective ranks."""
    for index, (name, values) in enumerate(eigenvalues.items()):
        values = np.asarray(values, dtype=np.float64)
        # With fewer samples than dimensions the rest of the spectrum is zero, and what is stored there is rounding.
        scaled = np.where(values > 1e-9 * values[0], values / values.mean(), np.nan)
        note = f" (effective rank {effective_rank(values):.0f} of {len(values)})"
        # A spectrum may cover another exactly: through the gaps of its line the other shows.
        style = ("-", "--", "-", "-.")[index % 4]
        ax.loglog(np.arange(1, len(values) + 1), scaled, style, **_look(name, index, note))
    return _finish(ax, "component (rank of eigenvalue)", "eigenvalue / mean eigenvalue", loc="lower left")


def norms(ax: Axes, values: Mapping[str, np.ndarray]) -> Axes:
    """Vector norms (N,): one histogram a label, or a line where all vectors are as long as one another."""
    for index, (name, values_of) in enumerate(values.items()):
        norm = np.asarray(values_of, dtype=np.float64)
        if np.ptp(norm) < 1e-3 * norm.mean():  # a density would be a spike beside which all else is flat
            ax.axvline(norm.mean(), lw=2, **_look(name, index, f" (all {norm.mean():.3g})"))
        else:
            look = _look(name, index, f" (mean {norm.mean():.1f})")
            sns.histplot(x=norm, ax=ax, bins=60, stat="percent", element="step", **look)
    ax.set_xlim(left=0)
    return _finish(ax, "Euclidean norm (embedding units)", "vectors (% per bar)")


def split_scatter(ax: Axes, points: np.ndarray, is_validation: np.ndarray) -> Axes:
    """Images on their first two principal components, `points` (M, 2), coloured by `is_validation` (M,)."""
    points, held = np.asarray(points), np.asarray(is_validation, dtype=bool)
    for name, mask, size, colour in (("training", ~held, 5, "#B5B5B5"), ("validation", held, 10, ORANGE)):
        look: Look = {"color": colour, "label": f"{name} ({mask.sum():,})"}
        ax.scatter(points[mask, 0], points[mask, 1], s=size, lw=0, rasterized=True, **look)
    return _finish(ax, "PC 1 (embedding units)", "PC 2 (embedding units)", title="images", markerscale=2)


def captions_per_image(ax: Axes, counts: np.ndarray) -> Axes:
    """How many images have how many captions; `counts` (M,) holds one integer an image."""
    sizes, images = np.unique(np.asarray(counts), return_counts=True)
    bars = ax.bar(sizes, images, color=BLUE, width=0.7)
    ax.bar_label(bars, labels=[f"{n:,}" for n in images], padding=2, fontsize=9)
    ax.set_xlim(min(sizes.min() - 1, 0), sizes.max() + 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finish(ax, "captions per image (count)", "images (count)")


def power_curve(ax: Axes, powers: Sequence[float], mrr: Sequence[float]) -> Axes:
    """MRR against the power p of the canonical correlations; p = 0 is whitened Procrustes, p = 1 least squares."""
    ax.plot(powers, mrr, "-o", color=DARK, ms=4, label="closed form")
    for power, model in ((0.0, "procrustes"), (1.0, "least_squares")):
        if min(powers) <= power <= max(powers):
            value = np.interp(power, powers, mrr)
            label = f"{MODEL_LABELS[model]}, p = {power:.2g}: {value:.3f}"
            ax.plot(power, value, "D", ms=8, color=MODEL_COLOURS[model], label=label)
    return _finish(ax, "power p (dimensionless)", _MRR_LABEL, loc="best")


def eps_curves(ax: Axes, eps_values: Sequence[float], mrr: Mapping[tuple[str, str], Sequence[float]]) -> Axes:
    """MRR against the ridge `eps`, one curve for each model and what it was fitted on."""
    styles = dict(zip(dict.fromkeys(fit_on for _, fit_on in mrr), ("-o", "--s", ":^"), strict=False))
    for index, ((name, fit_on), values) in enumerate(mrr.items()):
        ax.semilogx(eps_values, values, styles[fit_on], **_look(name, index, f", {fit_on.replace('_', ' ')}"))
    return _finish(ax, "ridge eps (share of the mean eigenvalue)", _MRR_LABEL, **_BESIDE)


def rank_cdf(ax: Axes, ranks: Mapping[str, np.ndarray], gallery_size: int) -> Axes:
    """Share of the queries whose rank, 1 being best, is at most k; recall at k for every k."""
    k = np.unique(np.geomspace(1, gallery_size, 400).round())
    for index, (name, values) in enumerate(ranks.items()):
        share = np.searchsorted(np.sort(values), k, side="right") / len(values)
        ax.semilogx(k, share, **_curve(name, index), drawstyle="steps-post")
    if "chance" not in ranks:
        ax.semilogx(k, k / gallery_size, ":", color=MODEL_COLOURS["chance"], label="Chance, k / gallery")
    _plain_log(ax)
    ax.set_ylim(-0.02, 1.02)
    return _finish(ax, f"k (rank among {gallery_size:,} images)", "share of queries with rank ≤ k", **_BESIDE)


def rank_histogram(ax: Axes, ranks: np.ndarray, gallery_size: int) -> Axes:
    """Share of the queries in each band of ranks; bands grow by a constant factor."""
    edges = np.unique(np.geomspace(1, gallery_size + 1, 25).round()) - 0.5
    ax.hist(ranks, bins=edges.tolist(), weights=np.full(len(ranks), 100 / len(ranks)), color=BLUE, ec="white", lw=0.6)
    ax.set_xscale("log")
    _plain_log(ax)
    ax.axvline(np.median(ranks), color=ORANGE, ls="--", label=f"median rank {np.median(ranks):g}")
    return _finish(ax, f"rank of the true image (of {gallery_size:,})", "queries (% per band of ranks)")


def mean_and_covariance_match(ax: Axes, target_cov: np.ndarray, mapped_covs: Mapping[str, np.ndarray]) -> Axes:
    """Variance of the predictions along the target's principal axes, over the target's own: 1 is a perfect match.

    Axes with less than a thousandth of the mean variance are left out: a ratio to nearly nothing says nothing.
    """
    variance, axes = (part[..., ::-1] for part in np.linalg.eigh(np.asarray(target_cov, dtype=np.float64)))
    keep = variance > 1e-3 * variance.mean()
    for index, (name, cov) in enumerate(mapped_covs.items()):
        mapped = np.einsum("di,de,ei->i", axes, np.asarray(cov, dtype=np.float64), axes, optimize=True)[keep]
        ratio = np.where(mapped > 0, mapped / variance[keep], np.nan)
        ax.loglog(1 + np.flatnonzero(keep), ratio, **_look(name, index))
    ax.axhline(1, color=DARK, ls="--", lw=1.2, label="target")
    return _finish(ax, "principal axis of the target (rank of variance)", "predicted / target variance (ratio)")


def _by_epoch(ax: Axes, history: Rows, key: str, **line: Any) -> None:
    require(any(key in row for row in history), f"{key!r} is in no epoch of the history.")
    ax.plot([row["epoch"] for row in history], [row.get(key, np.nan) for row in history], marker="o", ms=3, **line)


def training_curves(
    ax: Axes, histories: Mapping[str, Rows], key: str = "mrr", references: Mapping[str, float] | None = None
) -> Axes:
    """MRR, or another `key` of the history, by epoch; one curve a model, and a dotted line for each reference."""
    for index, (name, history) in enumerate(histories.items()):
        _by_epoch(ax, history, key, **_curve(name, index))
    for index, (name, value) in enumerate((references or {}).items()):
        ax.axhline(value, ls=":", **_look(name, index + len(histories), f": {value:.3f}"))
    label = {"mrr": _MRR_LABEL, "loss": "training loss (dimensionless)"}.get(key, key)
    return _finish(ax, "epoch", label, **_BESIDE)


def loss_terms(ax: Axes, history: Rows, terms: Sequence[str]) -> Axes:
    """Each term of the loss, times its weight, by epoch; an epoch that lacks a term, or has it at 0, leaves a gap."""
    for index, term in enumerate(terms):
        _by_epoch(ax, history, term, **_curve(term, index))
    ax.set_yscale("log")  # the terms lie five decades apart
    return _finish(ax, "epoch", "weighted loss term (dimensionless, log scale)", **_BESIDE)


SCHEDULES = {
    "temperature": "temperature (dimensionless)",
    "queue": "queue entries used (count)",
    "lr_weights": "learning rate, adapter",
    "lr_geometry": "learning rate, A",
}
"""What BigJump's schedules set, and its axis label."""


def schedule(ax: Axes, history: Rows, key: str, label: str) -> Axes:
    """A setting that follows a schedule (temperature, queue size, learning rate), one step an epoch.

    The rate of A is drawn pale, with a dot in the epochs that trained A: only there it counts.
    """
    of_geometry = key == "lr_geometry"
    _by_epoch(ax, history, key, color=BLUE, drawstyle="steps-mid", alpha=0.35 if of_geometry else 1.0)
    if of_geometry:
        free = [entry for entry in history if entry["geometry_free"]]
        ax.plot([e["epoch"] for e in free], [e[key] for e in free], "o", color=BLUE, label="epochs with A free")
    return _finish(ax, "epoch", label)


def difficulty(ax: Axes, per_image_mrr: np.ndarray, name: str) -> Axes:
    """Mean reciprocal rank of the captions of each image (M,) under the model `name`, hardest image first."""
    values = np.sort(np.asarray(per_image_mrr))
    share = 100 * np.arange(1, len(values) + 1) / len(values)
    ax.plot(share, values, **_look(name, 0, ": images, sorted"))
    ax.axhline(values.mean(), color=DARK, ls="--", label=f"mean over images {values.mean():.3f}")
    ax.set(xlim=(0, 100), ylim=(0, 1.03))
    return _finish(ax, "images, hardest first (% of gallery)", "mean reciprocal rank (0 to 1)", loc="upper left")


def _whiskers(row: Mapping[str, float]) -> list[list[float]]:
    return [[max(row["mrr"] - row["mrr_low"], 0)], [max(row["mrr_high"] - row["mrr"], 0)]]  # (2, 1)


_LEADER = {"arrowstyle": "-", "color": DARK, "lw": 0.7, "shrinkA": 1, "shrinkB": 3}


def _label_points(
    ax: Axes, points: Sequence[tuple[float, float, str]], drawn: Sequence[tuple[float, float]] = ()
) -> None:
    """Write each label beside its point, where it meets no other label, no point and nothing `drawn` if it can."""
    ax.figure.canvas.figure.draw_without_rendering()  # settles the layout, hence the pixels
    centres = [ax.transData.transform(point[:2]) for point in (*points, *drawn)]
    taken: list[Bbox] = []
    heights = [side * dy for dy in (0, 14, 26, 38, 50, 62, 74) for side in (1, -1)]
    offsets = [(dx, dy) for dy in heights for dx in (13, -13)]
    for x, y, text in points:
        # Where every place meets something, a label may cover what is drawn, but no other label.
        for strict, (dx, dy) in itertools.product((True, False), offsets):
            place: Look = {"xytext": (dx, dy), "ha": "left" if dx > 0 else "right", "va": "center"}
            note = ax.annotate(text, (x, y), textcoords="offset points", fontsize=9, **place)
            box = note.get_window_extent()
            inside = ax.bbox.containsx(box.x0) and ax.bbox.containsx(box.x1) and ax.bbox.containsy(box.y0)
            meets = any(box.overlaps(b) for b in taken)
            meets |= strict and any(box.padded(5).contains(*c) for c in centres)
            if (inside and ax.bbox.containsy(box.y1) and not meets) or (strict, (dx, dy)) == (False, offsets[-1]):
                break
            note.remove()
        if dy:  # another point may be as near
            ax.annotate("", (x, y), xytext=(dx, dy), textcoords="offset points", arrowprops=_LEADER)
        taken.append(box)


def _plain_log(ax: Axes) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5, 10, as plain numbers."""
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()


def cost_accuracy(ax: Axes, rows: Rows) -> Axes:
    """MRR with its 95% interval against CPU time a query; rows without a time (chance) are left out.

    Each row: `model`, `mrr`, `mrr_low`, `mrr_high`, `cpu_ms_per_query`, `parameters` (the area of its marker).
    """
    rows = [row for row in rows if (row.get("cpu_ms_per_query") or 0) > 0]
    largest, points, whiskers = max([row["parameters"] for row in rows] + [1]), [], []
    for index, row in enumerate(rows):
        x, y, look = row["cpu_ms_per_query"], row["mrr"], _look(row["model"], index)
        ax.errorbar(x, y, yerr=_whiskers(row), color=DARK, capsize=3, lw=1.2, zorder=4)
        ax.scatter(x, y, s=25 + 200 * row["parameters"] / largest, color=look["color"], alpha=0.8, zorder=3)
        points.append((x, y, f"{look['label']} ({row['parameters'] / 1e6:.1f} M)"))
        whiskers += [(x, along) for along in np.linspace(row["mrr_low"], row["mrr_high"], 9)]
    ax.set_xscale("log")
    _plain_log(ax)
    ax.margins(x=0.25, y=0.15)
    _finish(ax, "CPU time (ms per query, log scale)", _MRR_LABEL + "; area: parameters")
    _label_points(ax, points, whiskers)
    return ax


def leaderboard_bars(ax: Axes, rows: Rows) -> Axes:
    """Bars of the MRR with 95% intervals (`mrr_low` to `mrr_high`) and values; the first row is on top."""
    for index, row in enumerate(rows):
        ax.barh(index, row["mrr"], color=_look(row["model"], index)["color"], height=0.7)
        ax.errorbar(row["mrr"], index, xerr=_whiskers(row), color=DARK, capsize=3, lw=1.2)
        end = (max(row["mrr"], row["mrr_high"]), index)
        ax.annotate(f"{row['mrr']:.3f}", end, xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(range(len(rows)), [_look(row["model"], 0)["label"] for row in rows])
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set_xlim(0, 1.15 * max(max(row["mrr"], row["mrr_high"]) for row in rows))
    return _finish(ax, _MRR_LABEL + ", 95% interval", "model")


def _ring(ax: Axes, x: float, y: float, label: str) -> None:
    ax.plot(x, y, "o", ms=12, mfc="none", mec=DARK, mew=1.6, label=label)


def search_curves(ax: Axes, curves: Rows, chosen: Iterable[Mapping[str, Any]]) -> Axes:
    """MRR on folds by epoch for each candidate of the recipe plus, with the points chosen ringed.

    Args:
        curves: see `training.Curve`.
        chosen: see `training.Networks`.
    """
    rings = {tuple(kind[key] for key in ("temperature", "whitening", "blocks")): kind["epochs"] for kind in chosen}
    said = "chosen"
    for index, curve in enumerate(curves):
        steps = np.arange(1, len(curve["mrr"]) + 1)
        name = f"temperature {curve['temperature']:g}, {phrases.kind(curve)}"
        ax.plot(steps, curve["mrr"], marker="o", ms=3, **_curve(name, index))
        epochs = rings.get((curve["temperature"], curve["whitening"], curve["blocks"]))
        if epochs is not None:
            _ring(ax, epochs, curve["mrr"][epochs - 1], said)
            said = "_nolegend_"
    return _finish(ax, "epoch", "MRR on cross-validation folds (0 to 1)", loc="lower right")


def blend(ax: Axes, choice: Choice) -> Axes:
    """MRR on folds of each part of an ensemble alone, with its weight in the mean, and of the mean."""
    names = [*choice.alone, "bigjump_plus"]
    values = [*choice.alone.values(), choice.together]
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        ax.barh(index, value, color=_look(name, index)["color"], height=0.7)
        ax.annotate(f"{value:.3f}", (value, index), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    labels = MODEL_LABELS | {kind_name(of["whitening"], of["blocks"]): phrases.kind(of) for of in choice.curves}
    parts = [f"{labels[name]}, weight {choice.weights.get(name, 0):.2f}" for name in choice.alone]
    ax.set_yticks(range(len(values)), [*parts, "together"])
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set_xlim(0, 1.15 * max(values))
    return _finish(ax, "MRR on cross-validation folds (0 to 1)", "part of the ensemble")


def margins(ax: Axes, values: Mapping[str, np.ndarray]) -> Axes:
    """Share of the captions with a margin below x, one curve a model: cosine to the own image less the nearest other's.

    Where a curve crosses 0 stands the share of captions whose image does not come first.
    """
    for index, (name, margin) in enumerate(values.items()):
        ordered = np.sort(np.asarray(margin))
        ax.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered), **_curve(name, index))
    ax.axvline(0, color=DARK, lw=1.0, ls=":", label="as close as the nearest other")
    ax.set_ylim(-0.02, 1.02)
    return _finish(ax, "margin: cosine to the own image less the nearest other's", "share of captions below", **_BESIDE)


def negative_shares(ax: Axes, shares: Mapping[float, np.ndarray]) -> Axes:
    """What the k hardest images receive of all the weight that repels, by temperature; `shares` (M,) sum up to 1."""
    for index, (temperature, share) in enumerate(shares.items()):
        ordered = np.sort(np.asarray(share))[::-1].cumsum()
        k = np.arange(1, len(ordered) + 1)
        ax.semilogx(k, ordered, **_curve(f"temperature {temperature:g}", index))
    ax.set_ylim(-0.02, 1.02)
    return _finish(ax, "k hardest negatives (count)", "share of the repelling weight", loc="lower right")


def cosines(ax: Axes, values: Mapping[str, np.ndarray]) -> Axes:
    """Distribution of cosines between pairs of images, one curve a label, with its mean in the legend."""
    for index, (name, cosine) in enumerate(values.items()):
        cosine = np.asarray(cosine)
        look = _look(name, index, f" (mean {cosine.mean():z.2f})")
        sns.histplot(x=cosine, ax=ax, bins=60, binrange=(-1, 1), stat="percent", element="step", **look)
    ax.set_xlim(-1, 1)
    return _finish(ax, "cosine of two images", "pairs (% per bar)", loc="upper left")


def members_curve(ax: Axes, mrr: Sequence[float], alone: Sequence[float]) -> Axes:
    """MRR of the mean of the first k networks, and of each network `alone`."""
    k = np.arange(1, len(mrr) + 1)
    ax.plot(k, alone, "o", color=FALLBACK_COLOURS[0], ms=6, label="each network alone")
    ax.plot(k, mrr, "-o", color=MODEL_COLOURS["bigjump_plus"], ms=4, label="mean of the first k")
    ax.set_xlim(0.5, len(mrr) + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return _finish(ax, "k (networks)", _MRR_LABEL, loc="best")


def gallery_curves(ax: Axes, sizes: Sequence[int], mrr: Mapping[str, Sequence[float]]) -> Axes:
    """MRR of the same translations among galleries of other `sizes`; one curve a model."""
    for index, (name, values) in enumerate(mrr.items()):
        ax.semilogx(sizes, values, marker="o", ms=3, **_curve(name, index))
    _plain_log(ax)
    ax.set_ylim(0, 1.03)
    return _finish(ax, "images in the gallery (count, log scale)", _MRR_LABEL, **_BESIDE)


class _Pictures(Protocol):
    """What is drawn from: a picture for each image of the data."""

    def image(self, row: int) -> Any: ...


def _card(ax: Axes, pictures: _Pictures | None, row: int, text: str) -> None:
    """One image without axes: its picture, or where there is none, a text on grey."""
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set(visible=True, color="#D0D0D0")
    if pictures is not None:
        with contextlib.suppress(DataError):  # one file that is missing or broken stops no page
            picture = pictures.image(int(row))
            picture.thumbnail((192, 192))  # as large as it is drawn: a page of photos stays small
            ax.imshow(np.asarray(picture))
            return
    ax.set(facecolor="#F2F2F2", aspect="equal", xlim=(0, 1), ylim=(0, 1))
    lines = textwrap.wrap(_plain(text), 17)
    ax.text(0.5, 0.5, "\n".join(lines[:5]), ha="center", va="center", fontsize=6, color=DARK)


def _plain(text: str) -> str:
    """Text of somebody's file as a figure may hold it: no formula begins at a dollar sign."""
    return text.replace("$", r"\$")


def captioned(
    pictures: _Pictures | None, rows: Sequence[int], names: Sequence[str], texts: Sequence[Sequence[str]]
) -> Figure:
    """Images side by side, each above its captions; without `pictures` their names stand for them.

    Args:
        rows: of the data's images. names: of each. texts: the captions of each, of which four are shown.
    """
    fig, axes = plt.subplots(1, len(rows), figsize=(11, 3.0), squeeze=False)
    for ax, row, name, text in zip(axes[0], rows, names, texts, strict=True):
        _card(ax, pictures, row, Path(name).stem)
        longest = 58 if len(text) > 1 else 150
        lines = [textwrap.shorten(_plain(line), longest, placeholder=" …") for line in text[:4]]
        wrapped = "\n".join(part for line in lines for part in textwrap.wrap(line, 24, subsequent_indent="   "))
        ax.set_title(wrapped, y=-0.06, va="top", loc="left", fontsize=8, fontweight="normal")
    return fig


def search_results(
    pictures: _Pictures | None,
    texts: Sequence[str],
    queries: Sequence[str],
    hits: Sequence[Sequence[int]],
    right: Sequence[int],
    ranks: Sequence[float],
) -> Figure:
    """What was found for some queries, one a row: the image that is meant, then the hits, the right one framed.

    Args:
        texts: of all images of the data, shown where there are no pictures.
        hits: rows of the images found, best first. right: row of the image meant. ranks: of that image.
    """
    columns = 1 + max(map(len, hits))
    size: Look = {"figsize": (1.25 * columns, 1.6 * len(queries)), "layout": "none"}
    fig, axes = plt.subplots(len(queries), columns, squeeze=False, **size)
    fig.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=1 - 0.25 / len(queries), wspace=0.08, hspace=0.35)
    for line, query, found, meant, rank in zip(axes, queries, hits, right, ranks, strict=True):
        for ax in line[1 + len(found) :]:
            ax.axis("off")
        for ax, row in zip(line, (meant, *found), strict=False):
            _card(ax, pictures, row, texts[row])
        for ax, row in zip(line[1:], found, strict=False):
            if row == meant:
                for spine in ax.spines.values():
                    spine.set(color="#009E73", linewidth=3.5)
        line[0].set_xlabel("meant", fontsize=8, labelpad=1)
        shown = textwrap.shorten(_plain(query), 95, placeholder=" …")
        line[0].set_title(f"{shown}   (rank {rank:g})", loc="left", fontsize=9, fontweight="normal")
    return fig


def save_figure(fig: Figure, name: str, directory: str | Path | None = None, *, dpi: int = 110) -> Path:
    """Write `fig` to `<name>.png` in `directory` (or `figures/`), atomically, with the same bytes each time.

    Raises:
        ConfigError: `name` holds a folder.
    """
    require(Path(name).name == name and bool(name), f"name = {name!r}: a plain file name is needed.")
    path = Path(directory or paths.FIGURES_DIR) / f"{name.removesuffix('.png')}.png"
    fig.draw_without_rendering()  # settles the layout
    atomic_write(path, lambda partial: fig.savefig(partial, format="png", dpi=dpi, metadata={"Software": None}))
    return path
