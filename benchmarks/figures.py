"""Figures of docs/results.md, from what a finished run stored: `python -m benchmarks.figures runs/flickr8k`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from helpers import plots
from helpers.evaluation import metrics
from helpers.models import geometry
from helpers.models.geometry import GeometryConfig
from helpers.runs.recipes import BASELINES, GEOMETRY_POWERS, fit_geometry
from helpers.runs.run import Run, open_run


def spectra_and_power(run: Run) -> plt.Figure:
    """Spectra of both spaces on the training split, and what Procrustes and least squares keep of the target's."""
    fitted = fit_geometry(run, GeometryConfig())
    stats = fitted.statistics
    maps = {name: fitted.affine(power) for name, power in GEOMETRY_POWERS.items()}
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    plots.spectra(left, {n: geometry.spectrum(c) for n, c in (("captions", stats.cov_x), ("images", stats.cov_y))})
    mapped = {name: m.matrix @ stats.cov_x @ m.matrix.T for name, m in maps.items()}
    plots.mean_and_covariance_match(right, stats.cov_y, mapped)
    return fig


def training(run: Run, rows: list[dict]) -> plt.Figure:
    """Validation MRR by epoch of every trained model, and BigJump's temperature beside it."""
    histories = {name: run.history(name) for name in (*BASELINES, "bigjump")}
    mrr = {row["model"]: row["mrr"] for row in rows}
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 2))
    plots.training_curves(left, histories, "mrr", references={"procrustes": mrr["procrustes"]})
    plots.schedule(right, histories["bigjump"], "temperature", "temperature of BigJump (dimensionless)")
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    folder = parser.parse_args().run.resolve()
    metadata = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    run = open_run({}, **metadata["config"])
    rows = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    trained = [row for row in rows if row["model"] != "chance"]
    ranks = {row["model"]: run.ranks(row["model"]) for row in trained}
    groups, gallery = run.split.caption_to_gallery, len(run.split.val_images)
    plots.use_style()
    fig, ax = plt.subplots(figsize=(7, 3.6))
    plots.leaderboard_bars(ax, rows)
    ax.set_xlabel(f"MRR (0 to 1) among {gallery:,} images of {run.config.data_path.name}, 95% interval")
    plots.save_figure(fig, "leaderboard")
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    plots.rank_cdf(left, ranks, gallery)
    plots.difficulty(right, metrics.mean_by_image(1 / ranks["bigjump_plus"], groups), "bigjump_plus")
    plots.save_figure(fig, "ranks")
    fig, ax = plt.subplots(figsize=(7, 4.4))
    plots.cost_accuracy(ax, trained)
    plots.save_figure(fig, "cost")
    plots.save_figure(training(run, rows), "training")
    plots.save_figure(spectra_and_power(run), "spectra")


if __name__ == "__main__":
    main()
