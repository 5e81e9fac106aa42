"""The leaderboard of a run: every model under the same protocol, with intervals and costs."""

from __future__ import annotations

import numpy as np
import torch

from helpers.data.vectors import normalise
from helpers.evaluation import cost, dot_product, hubness, metrics
from helpers.evaluation.settings import EvaluationConfig
from helpers.models import storage
from helpers.models.networks import MODEL_ROWS, predict
from helpers.runs.run import Run
from helpers.system import files
from helpers.system.devices import choose_device

TEST_LEADERBOARD = "test_leaderboard.json"


def judge(run: Run, settings: EvaluationConfig, side: str) -> tuple[list[dict], dict[str, np.ndarray], dict]:
    """Accuracy of every stored model of a run on one side of its split.

    Args:
        side: `validation` or `test`.

    Returns:
        Rows in the order of `MODEL_ROWS` (plain JSON values), the ranks (V,) of each row, and of each model the
        vector (dy,) that `dot_product.correction` subtracts.
    """
    captions, images, targets = run.split.part(side)
    gallery = np.ascontiguousarray(run.data.images[images])
    training_images = run.data.images[run.split.train_images]
    direction = dot_product.length_direction(training_images)
    rows, ranks, shifts = [], {}, {}
    device = choose_device()
    for name in MODEL_ROWS:
        if name == "chance":
            ranks[name] = metrics.chance_ranks(len(targets), len(gallery), settings.seed)
            others = _chance_by_dot_product(settings, len(np.unique(targets)))
        else:
            model = storage.load_model(run.directory, name)[0].to(device)
            predictions, bank = (
                torch.from_numpy(predict(model, run.data.text, of)).to(device)
                for of in (captions, hubness.sample(run.split.train_captions))
            )
            ranks[name] = metrics.ranks(predictions, gallery, torch.from_numpy(targets))
            shifts[name] = dot_product.correction(bank, training_images, direction)
            others = by_dot_product(predictions.cpu().numpy(), shifts[name], gallery, targets, settings)
            others |= with_hubness_reduction(bank, training_images, predictions, gallery, targets, settings)
        low, high = metrics.bootstrap_interval(
            1 / ranks[name], targets, samples=settings.bootstrap_samples, seed=settings.seed
        )
        interval = {"mrr_low": low, "mrr_high": high}
        rows.append({"model": name, **metrics.summarise(ranks[name]), **interval, **others})
    return rows, ranks, shifts


def _chance_by_dot_product(settings: EvaluationConfig, images: int) -> dict[str, float | None]:
    """The challenge's MRR of a random order of so many images at most; what chance cannot have is None."""
    size = min(settings.gallery_size, images)
    # Every rank from 1 to `size` alike, the last counting 0 (where there is another).
    mrr = float(np.mean(np.append(1 / np.arange(1, size), 0.0))) if size > 1 else 1.0
    nothing = dict.fromkeys(("hubness_mrr", "hubness_low", "hubness_high", "hubness_beta"))
    return {"challenge_mrr": mrr, "challenge_corrected_mrr": mrr, **nothing}


def by_dot_product(
    predictions: np.ndarray, shift: np.ndarray, gallery: np.ndarray, targets: np.ndarray, settings: EvaluationConfig
) -> dict[str, float]:
    """MRR by the challenge's protocol, of translations as they are and less `shift` (dy,).

    Args:
        predictions: (V, dy). gallery: (G, dy). targets: (V,) gallery rows.
    """
    shifted = normalise(torch.from_numpy(predictions)).numpy() - shift
    options = {"gallery_size": settings.gallery_size, "rounds": settings.gallery_rounds, "seed": settings.seed}
    return {
        "challenge_mrr": metrics.challenge_mrr(predictions, gallery, targets, **options),
        "challenge_corrected_mrr": metrics.challenge_mrr(shifted, gallery, targets, **options),
    }


def with_hubness_reduction(
    bank: torch.Tensor,
    training_images: np.ndarray,
    predictions: torch.Tensor,
    gallery: np.ndarray,
    targets: np.ndarray,
    settings: EvaluationConfig,
) -> dict[str, float]:
    """MRR and its interval where each image's popularity among training captions is subtracted; and the beta.

    Args:
        bank: (Q, dy) translated training captions.
        training_images: (M, dy).
        predictions: (V, dy). gallery: (G, dy). targets: (V,) gallery rows.
    """
    beta, rank = hubness.corrected_ranks(bank, training_images, predictions, gallery, torch.from_numpy(targets))
    low, high = metrics.bootstrap_interval(1 / rank, targets, samples=settings.bootstrap_samples, seed=settings.seed)
    return {
        "hubness_mrr": float(np.mean(1 / rank)), "hubness_low": low, "hubness_high": high, "hubness_beta": beta,
    }  # fmt: skip


def evaluate(run: Run, settings: EvaluationConfig) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Judge every stored model of a run on its validation split, and measure what it costs.

    What `Translator.search` needs against hubness and `Translator.for_dot_product` is written to the run's
    folder.

    Returns:
        Rows and ranks as `judge`, each row with its costs (`gpu_ms_per_query` is null without an accelerator) and the
        digest of the weights that were judged.
    """
    rows, ranks, shifts = judge(run, settings, "validation")
    dot_product.save(run.directory, shifts)
    betas = {row["model"]: row["hubness_beta"] for row in rows if row["hubness_beta"]}
    hubness.save_query_bank(run.directory, run.data.text[hubness.sample(run.split.train_captions)], betas)
    device = choose_device()
    for row in rows:
        if row["model"] == "chance":
            row |= {"parameters": 0, "megabytes": 0.0, "cpu_ms_per_query": 0.0, "gpu_ms_per_query": None}
        else:
            model, metadata = storage.load_model(run.directory, row["model"])
            row |= measure_cost(model, metadata["architecture"]["text_dim"], device, settings.latency_repeats)
            row["weights"] = storage.weights_digest(run.directory, row["model"])
    return rows, ranks


def evaluate_test(run: Run, settings: EvaluationConfig) -> list[dict]:
    """Judge every stored model on the test split and write `test_leaderboard.json`.

    Without a test split there are no rows, and a file that an earlier run left is removed.
    """
    path = run.directory / TEST_LEADERBOARD
    if not run.split.has_test:
        path.unlink(missing_ok=True)
        return []
    rows, *_ = judge(run, settings, "test")
    files.write_json(path, rows)
    return rows


def chosen_on_test(rows: list[dict], test_rows: list[dict]) -> str:
    """The test score of the model that the validation rows choose, in a sentence; says so where there is no test."""
    if not test_rows:
        return "no test split: test_ratio is 0"
    chosen = max((row for row in rows if row["model"] != "chance"), key=lambda row: row["mrr"])["model"]
    row = next(row for row in test_rows if row["model"] == chosen)
    return f"chosen by validation: {chosen}, test MRR {row['mrr']:.3f} ({row['mrr_low']:.3f} to {row['mrr_high']:.3f})"


def measure_cost(model: torch.nn.Module, text_dim: int, device: torch.device, repeats: int) -> dict:
    """Parameters, FP32 megabytes, and median milliseconds a query on the CPU and on the accelerator, if any."""
    parameters = cost.count_parameters(model)
    on_cpu = cost.milliseconds_per_query(model, text_dim, "cpu", repeats=repeats)
    on_device = None
    if device.type != "cpu":
        on_device = cost.milliseconds_per_query(model, text_dim, device, repeats=repeats)
        model.to("cpu")
    return {
        "parameters": parameters,
        "megabytes": cost.megabytes(parameters),
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


def least_gain(rows: list[dict], after: str, before: str) -> float:
    """The smallest of every model's `after` minus `before`; chance, which nothing can help, is left out."""
    return min(row[after] - row[before] for row in rows if row["model"] != "chance")


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
HUBNESS_COLUMNS = (
    ("hubness_mrr", "MRR, hubness reduction", ".3f"),
    ("hubness_low", "low", ".3f"),
    ("hubness_high", "high", ".3f"),
    ("hubness_beta", "beta", ".0f"),
)
CHALLENGE_COLUMNS = (
    ("challenge_mrr", "MRR, galleries of 100, dot product", ".3f"),
    ("challenge_corrected_mrr", "less the fixed vector", ".3f"),
)
COST_COLUMNS = (
    ("parameters", "parameters", ",d"),
    ("megabytes", "FP32 MB", ".2f"),
    ("cpu_ms_per_query", "CPU ms", ".3f"),
    ("gpu_ms_per_query", "GPU ms", ".3f"),
)
