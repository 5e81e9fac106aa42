"""The leaderboard of a run: every model under the same protocol, with intervals and costs."""

from __future__ import annotations

import numpy as np
import torch

from helpers import checkpoints, efficiency, metrics
from helpers.config import MODEL_ROWS, EvaluationConfig
from helpers.models import predict
from helpers.pipeline import Run
from helpers.reproducibility import choose_device


def evaluate(run: Run, settings: EvaluationConfig) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Judge every stored model of a run on its validation side.

    Returns:
        Rows in the order of `MODEL_ROWS` (plain JSON values), and the ranks (V,) of each row. `gpu_ms_per_query` is
        null without an accelerator.
    """
    split = run.split
    targets, gallery = split.caption_to_gallery, torch.from_numpy(np.ascontiguousarray(run.gallery))
    device = choose_device()
    rows, ranks = [], {}
    for name in MODEL_ROWS:
        if name == "chance":
            ranks[name] = metrics.chance_ranks(len(targets), len(gallery), settings.seed)
            cost = {"parameters": 0, "megabytes": 0.0, "cpu_ms_per_query": 0.0, "gpu_ms_per_query": None}
            size = min(settings.gallery_size, len(np.unique(targets)))
            # Every rank from 1 to `size` alike, the last counting 0 (where there is another).
            challenge = float(np.mean(np.append(1 / np.arange(1, size), 0.0))) if size > 1 else 1.0
        else:
            model, facts = checkpoints.load_model(run.directory, name)
            predictions = predict(model, run.data.text, split.val_captions)
            ranks[name] = metrics.ranks(torch.from_numpy(predictions), gallery, torch.from_numpy(targets))
            challenge = metrics.challenge_mrr(
                predictions,
                run.gallery,
                targets,
                gallery_size=settings.gallery_size,
                rounds=settings.gallery_rounds,
                seed=settings.seed,
            )
            cost = measure_cost(model, facts["architecture"]["text_dim"], device, settings.latency_repeats)
        reciprocal = 1 / ranks[name]
        low, high = metrics.bootstrap_interval(
            reciprocal, targets, samples=settings.bootstrap_samples, seed=settings.seed
        )
        scores = metrics.summarise(ranks[name])
        rows.append({"model": name, **scores, "mrr_low": low, "mrr_high": high, "challenge_mrr": challenge, **cost})
    return rows, ranks


def measure_cost(model: torch.nn.Module, text_dim: int, device: torch.device, repeats: int) -> dict:
    """Parameters, FP32 megabytes, and median milliseconds a query on the CPU and on the accelerator, if any."""
    parameters = efficiency.count_parameters(model)
    on_cpu = efficiency.milliseconds_per_query(model, text_dim, "cpu", repeats=repeats)
    on_device = None
    if device.type != "cpu":
        on_device = efficiency.milliseconds_per_query(model, text_dim, device, repeats=repeats)
        model.to("cpu")
    return {
        "parameters": parameters,
        "megabytes": efficiency.megabytes(parameters),
        "cpu_ms_per_query": on_cpu,
        "gpu_ms_per_query": on_device,
    }


def differences_to_best(ranks: dict[str, np.ndarray], groups: np.ndarray, settings: EvaluationConfig) -> list[dict]:
    """MRR of the best model minus each other's, paired over the same captions, with 95 % intervals over images."""
    best = max(ranks, key=lambda name: np.mean(1 / ranks[name]))
    return [
        {
            "best": best,
            "model": name,
            **metrics.paired_difference(
                ranks[best], other, groups, samples=settings.bootstrap_samples, seed=settings.seed
            ),
        }
        for name, other in ranks.items()
        if name != best
    ]


def format_table(rows: list[dict], columns: tuple[tuple[str, str, str], ...]) -> str:
    """Rows as an aligned text table, one line a model; a missing value is a dash.

    Args:
        rows: with the key `model` and those that `columns` names.
        columns: (key, heading, format spec) each.
    """
    table = [["model", *(heading for _, heading, _ in columns)]]
    for row in rows:
        cells = ("-" if row[key] is None else format(row[key], spec) for key, _, spec in columns)
        table.append([row["model"], *cells])
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    aligned = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in table
    ]
    return "\n".join("  ".join(line) for line in aligned)


def captions_by_rank(ranks: np.ndarray, captions: list[str], n: int) -> str:
    """The n best and the n worst captions with their ranks, one a line; equal ranks in the order given."""
    order = np.argsort(ranks, kind="stable")
    shown = [*order[:n], *order[-n:]] if len(order) > 2 * n else order
    return "\n".join(f"rank {ranks[i]:7.1f}  {captions[i]}" for i in shown)


ACCURACY_COLUMNS = (
    ("mrr", "MRR", ".3f"),
    ("mrr_low", "low", ".3f"),
    ("mrr_high", "high", ".3f"),
    ("recall_at_1", "R@1", ".3f"),
    ("recall_at_5", "R@5", ".3f"),
    ("recall_at_10", "R@10", ".3f"),
    ("ndcg", "NDCG", ".3f"),
    ("median_rank", "median", ".1f"),
    ("p75_rank", "p75", ".1f"),
)
DIFFERENCE_COLUMNS = (("difference", "best - model", ".3f"), ("low", "low", ".3f"), ("high", "high", ".3f"))
CHALLENGE_COLUMNS = (("challenge_mrr", "MRR, galleries of 100, dot product", ".3f"),)
COST_COLUMNS = (
    ("parameters", "parameters", ",d"),
    ("megabytes", "FP32 MB", ".2f"),
    ("cpu_ms_per_query", "CPU ms", ".3f"),
    ("gpu_ms_per_query", "GPU ms", ".3f"),
)
