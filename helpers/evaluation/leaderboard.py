"""The leaderboard: every model under the same protocol, with intervals and costs, as rows and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
import torch
from torch import nn

from helpers.data.pairs import PairedEmbeddings
from helpers.data.repeats import count_repeats
from helpers.data.split import Split
from helpers.data.vectors import normalise
from helpers.evaluation import cost, dot_product, hubness, metrics
from helpers.evaluation.settings import EvaluationConfig
from helpers.models.build import predict
from helpers.system.devices import choose_device


class DotProductScores(TypedDict):
    """MRR by the challenge's protocol, of translations as they are and less the fixed vector."""

    challenge_mrr: float
    challenge_corrected_mrr: float


class HubnessScores(TypedDict):
    """MRR with hubness reduction, its 95 % interval, and the inverse temperature; None for chance."""

    hubness_mrr: float | None
    hubness_low: float | None
    hubness_high: float | None
    hubness_beta: float | None


class Costs(TypedDict, total=False):
    """What a translator costs, where it was measured; `gpu_ms_per_query` is None without an accelerator."""

    parameters: int
    megabytes: float
    cpu_ms_per_query: float
    gpu_ms_per_query: float | None


class ImageToText(TypedDict):
    """Captions found for an image: of the best of its captions among all captions of the split."""

    image_to_text_mrr: float
    image_to_text_recall_at_10: float


class LeaderboardRow(metrics.Accuracy, ImageToText, DotProductScores, HubnessScores, Costs):
    """A model's row, plain JSON values; `weights` is the digest of those that were judged, where they are stored.

    `mrr_ceiling` is the MRR that no method can exceed on this split, since texts repeat; see `repeats.ceiling`.
    """

    model: str
    mrr_low: float
    mrr_high: float
    mrr_ceiling: float
    weights: NotRequired[str | None]


class DifferenceRow(metrics.Difference):
    """MRR of the model `best` minus that of `model`."""

    best: str
    model: str


@dataclass(frozen=True)
class Judgement:
    """Accuracy of several models on one part of a split.

    Attributes:
        rows: chance first, then the models as they were given.
        ranks: (V,) of each row, by its name.
        corrections: of each model, the vector (dy,) that `dot_product.correction` subtracts.
    """

    rows: list[LeaderboardRow]
    ranks: dict[str, np.ndarray]
    corrections: dict[str, np.ndarray]

    @property
    def betas(self) -> dict[str, float]:
        """The inverse temperature of each model's hubness reduction."""
        return {row["model"]: row["hubness_beta"] for row in self.rows if row["hubness_beta"]}


def judge(
    models: Mapping[str, nn.Module],
    data: PairedEmbeddings,
    split: Split,
    settings: EvaluationConfig,
    part: str = "validation",
) -> Judgement:
    """Accuracy of models, and of chance, on one part of a split; what a correction needs is taken from training.

    Args:
        models: by the name of their row; moved to the device of `choose_device`.
        part: `validation` or `test`.
    """
    captions, images, targets = split.part(part)
    gallery = np.ascontiguousarray(data.images[images])
    training_images = data.images[split.train_images]
    direction = dot_product.length_direction(training_images)
    device = choose_device()
    chance = metrics.chance_ranks(len(targets), len(gallery), settings.seed)
    ranks, corrections = {"chance": chance}, {}
    row = partial(_row, targets=targets, ceiling=count_repeats(data, split, part).ceiling, settings=settings)
    found_by_image = _image_to_text(*metrics.chance_image_to_text(targets))
    rows = [row("chance", chance, found_by_image, *_chance_otherwise(settings, len(np.unique(targets))))]
    for name, model in models.items():
        model.to(device)
        predictions, query_bank = (
            torch.from_numpy(predict(model, data.text, of)).to(device)
            for of in (captions, hubness.sample(split.train_captions))
        )
        ranks[name] = metrics.ranks(predictions, gallery, torch.from_numpy(targets))
        backwards = metrics.summarise(metrics.image_to_text_ranks(predictions, gallery, torch.from_numpy(targets)))
        found_by_image = _image_to_text(backwards["mrr"], backwards["recall_at_10"])
        corrections[name] = dot_product.correction(query_bank, training_images, direction)
        challenge = by_dot_product(predictions.cpu().numpy(), corrections[name], gallery, targets, settings)
        reduced = with_hubness_reduction(query_bank, training_images, predictions, gallery, targets, settings)
        rows.append(row(name, ranks[name], found_by_image, challenge, reduced))
    return Judgement(rows, ranks, corrections)


def _row(
    name: str,
    ranks: np.ndarray,
    found_by_image: ImageToText,
    challenge: DotProductScores,
    reduced: HubnessScores,
    *,
    targets: np.ndarray,
    ceiling: float,
    settings: EvaluationConfig,
) -> LeaderboardRow:
    low, high = metrics.bootstrap_interval(1 / ranks, targets, samples=settings.bootstrap_samples, seed=settings.seed)
    accuracy, interval = metrics.summarise(ranks), {"mrr_low": low, "mrr_high": high, "mrr_ceiling": ceiling}
    found = {"model": name, **accuracy, **interval, **found_by_image, **challenge, **reduced}
    return cast(LeaderboardRow, found)


def _image_to_text(mrr: float, recall_at_10: float) -> ImageToText:
    return {"image_to_text_mrr": mrr, "image_to_text_recall_at_10": recall_at_10}


def _chance_otherwise(settings: EvaluationConfig, images: int) -> tuple[DotProductScores, HubnessScores]:
    """The challenge's MRR of a random order of so many images at most; what chance cannot have is None."""
    size = min(settings.gallery_size, images)
    # Every rank from 1 to `size` alike, the last counting 0 (where there is another).
    mrr = float(np.mean(np.append(1 / np.arange(1, size), 0.0))) if size > 1 else 1.0
    return (
        {"challenge_mrr": mrr, "challenge_corrected_mrr": mrr},
        {"hubness_mrr": None, "hubness_low": None, "hubness_high": None, "hubness_beta": None},
    )


def by_dot_product(
    predictions: np.ndarray, shift: np.ndarray, gallery: np.ndarray, targets: np.ndarray, settings: EvaluationConfig
) -> DotProductScores:
    """MRR by the challenge's protocol, of translations as they are and less `shift` (dy,).

    Args:
        predictions: (V, dy). gallery: (G, dy). targets: (V,) gallery rows.
    """
    shifted = normalise(torch.from_numpy(predictions)).numpy() - shift

    def mrr(of: np.ndarray) -> float:
        size, rounds = settings.gallery_size, settings.gallery_rounds
        return metrics.challenge_mrr(of, gallery, targets, gallery_size=size, rounds=rounds, seed=settings.seed)

    return {"challenge_mrr": mrr(predictions), "challenge_corrected_mrr": mrr(shifted)}


def with_hubness_reduction(
    query_bank: torch.Tensor,
    training_images: np.ndarray,
    predictions: torch.Tensor,
    gallery: np.ndarray,
    targets: np.ndarray,
    settings: EvaluationConfig,
) -> HubnessScores:
    """MRR and its interval where each image's popularity among training captions is subtracted; and the beta.

    Args:
        query_bank: (Q, dy) translated training captions.
        training_images: (M, dy).
        predictions: (V, dy). gallery: (G, dy). targets: (V,) gallery rows.
    """
    beta, rank = hubness.corrected_ranks(query_bank, training_images, predictions, gallery, torch.from_numpy(targets))
    low, high = metrics.bootstrap_interval(1 / rank, targets, samples=settings.bootstrap_samples, seed=settings.seed)
    return {
        "hubness_mrr": float(np.mean(1 / rank)), "hubness_low": low, "hubness_high": high, "hubness_beta": beta,
    }  # fmt: skip


def chosen_on_test(rows: Sequence[LeaderboardRow], test_rows: Sequence[LeaderboardRow]) -> str:
    """The test score of the model that the validation rows choose, in a sentence; says so where there is no test."""
    if not test_rows:
        return "no test split: test_ratio is 0"
    chosen = max((row for row in rows if row["model"] != "chance"), key=lambda row: row["mrr"])["model"]
    row = next(row for row in test_rows if row["model"] == chosen)
    return f"chosen by validation: {chosen}, test MRR {row['mrr']:.3f} ({row['mrr_low']:.3f} to {row['mrr_high']:.3f})"


def measure_cost(model: nn.Module, text_dim: int, device: torch.device, repeats: int) -> Costs:
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


def differences_to_best(
    ranks: Mapping[str, np.ndarray], groups: np.ndarray, settings: EvaluationConfig
) -> list[DifferenceRow]:
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


def least_gain(rows: Sequence[Mapping[str, Any]], after: str, before: str) -> float:
    """The least that any model gains from the column `before` to `after`; chance is left out."""
    return min(row[after] - row[before] for row in rows if row["model"] != "chance")


def format_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str, str]]) -> str:
    """Rows as an aligned text table, one line a model; a value that is missing, or None, is a dash.

    Args:
        rows: with the key `model` and those that `columns` names.
        columns: (key, heading, format spec) each.
    """
    table = [["model", *(heading for _, heading, _ in columns)]]
    for row in rows:
        cells = ("-" if row.get(key) is None else format(row[key], spec) for key, _, spec in columns)
        table.append([row["model"], *cells])
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    aligned = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in table
    ]
    return "\n".join("  ".join(line) for line in aligned)


def captions_by_rank(ranks: np.ndarray, captions: Sequence[str], n: int) -> str:
    """The n best and the n worst captions with their ranks, one a line; equal ranks in the order given."""
    order = np.argsort(ranks, kind="stable")
    shown = [*order[:n], *order[-n:]] if len(order) > 2 * n else order
    return "\n".join(f"rank {ranks[i]:7.1f}  {captions[i]}" for i in shown)


ACCURACY_COLUMNS = (
    ("mrr", "MRR", ".3f"),
    ("mrr_low", "low", ".3f"),
    ("mrr_high", "high", ".3f"),
    ("mrr_ceiling", "ceiling", ".3f"),
    ("recall_at_1", "R@1", ".3f"),
    ("recall_at_5", "R@5", ".3f"),
    ("recall_at_10", "R@10", ".3f"),
    ("ndcg", "NDCG", ".3f"),
    ("median_rank", "median", ".1f"),
    ("p75_rank", "p75", ".1f"),
    ("image_to_text_mrr", "image to text: MRR", ".3f"),
    ("image_to_text_recall_at_10", "image to text: R@10", ".3f"),
)
DIFFERENCE_COLUMNS = (("difference", "best - model", ".3f"), ("low", "low", ".3f"), ("high", "high", ".3f"))
HUBNESS_COLUMNS = (
    ("hubness_mrr", "MRR, hubness reduction", ".3f"),
    ("hubness_low", "low", ".3f"),
    ("hubness_high", "high", ".3f"),
    ("hubness_beta", "beta", ".0f"),
)
CHALLENGE_COLUMNS = (
    ("challenge_mrr", "MRR by dot product", ".3f"),
    ("challenge_corrected_mrr", "less the fixed vector", ".3f"),
)
COST_COLUMNS = (
    ("parameters", "parameters", ",d"),
    ("megabytes", "FP32 MB", ".2f"),
    ("cpu_ms_per_query", "CPU ms", ".3f"),
    ("gpu_ms_per_query", "GPU ms", ".3f"),
)
