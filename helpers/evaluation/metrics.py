"""Ranks and what is computed from them.

Primary protocol: every caption against the gallery of all validation images, by cosine. The challenge's own
protocol (galleries of 100, dot product) is kept apart, since its numbers are far higher for the same model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypedDict

import numpy as np
import torch

from helpers.data.vectors import GALLERY_BLOCK, GalleryStatistics, normalise, rows, unit_rows
from helpers.system.devices import COLUMN_MULTIPLE, one_blas_thread

QUERY_BLOCK = 2048
"""Queries scored at a time, against `GALLERY_BLOCK` images (64 MB): the memory of ranking does not depend on sizes."""


def _copies_of_targets(group: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, ...]:
    """Every (query, gallery row) pair in which the row is the query's target or a copy of it, sorted by row.

    Args:
        group: (M,) of each gallery row. targets: (N,).

    Returns:
        Queries and rows of the P pairs, (P,) each, and the number of copies of each query's target, (N,).
    """
    members = np.argsort(group, kind="stable")  # gallery rows, group by group
    sizes = np.bincount(group)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    copies = sizes[group[targets]]  # (N,)
    queries = np.repeat(np.arange(len(targets)), copies)
    within = np.arange(len(queries)) - np.repeat(np.cumsum(copies) - copies, copies)
    rows = members[first[group[targets]][queries] + within]
    order = np.argsort(rows, kind="stable")
    return queries[order], rows[order], copies


def _count_ahead(scores: torch.Tensor, positive: torch.Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(Q,) how many of the scores (Q, C) beat `positive` (Q, 1), ties counting half, without the cells (rows, columns).

    NaN where a score of the row is not finite. Changes `scores`.
    """
    # A NaN or Inf anywhere in a row makes its sum non-finite.
    finite = scores.sum(1).isfinite() & positive[:, 0].isfinite()
    scores[torch.from_numpy(rows).to(scores.device), torch.from_numpy(columns).to(scores.device)] = -torch.inf
    ahead = (scores > positive).sum(1) + 0.5 * (scores == positive).sum(1)
    return torch.where(finite, ahead, torch.nan).cpu().double().numpy()


def _positive_scores(
    predictions: torch.Tensor,
    targets: np.ndarray,
    prepare: Callable[[torch.Tensor], torch.Tensor],
    vectors: Callable[[np.ndarray, torch.device], torch.Tensor],
) -> torch.Tensor:
    """(N,) score of each prediction with its target, row by row: from a product it would depend on places."""
    scores = predictions.new_zeros(len(predictions), dtype=torch.float32)
    for lo in range(0, len(predictions), QUERY_BLOCK):
        part = slice(lo, lo + QUERY_BLOCK)
        scores[part] = (prepare(predictions[part]) * vectors(targets[part], predictions.device)).sum(1)
    return scores


def _count_all_ahead(
    queries: Callable[[slice], torch.Tensor],
    vectors: Callable[[slice], torch.Tensor],
    gallery_size: int,
    positive: torch.Tensor,
    pairs: tuple[np.ndarray, np.ndarray],
    offsets: torch.Tensor | None = None,
) -> np.ndarray:
    """(N,) how many gallery rows score higher than `positive` (N,), ties counting half; NaN as `_count_ahead` has it.

    Args:
        queries, vectors: those of a slice (q, d), and the gallery rows of one, both ready for the product.
        gallery_size: M.
        pairs: queries and gallery rows (P,) that are not counted, sorted by row.
        offsets: (M,) subtracted from every score of a gallery row.
    """
    pair_query, pair_row = pairs
    result = np.zeros(len(positive))
    for left in range(0, gallery_size, GALLERY_BLOCK):
        block = vectors(slice(left, left + GALLERY_BLOCK))  # (C, d)
        width = len(block)
        if width % COLUMN_MULTIPLE:
            block = torch.nn.functional.pad(block, (0, 0, 0, -width % COLUMN_MULTIPLE))  # with rows of zeros
        block = block.T  # (d, C)
        of_block = slice(*np.searchsorted(pair_row, [left, left + GALLERY_BLOCK]))
        here, columns = pair_query[of_block], pair_row[of_block] - left
        for lo in range(0, len(positive), QUERY_BLOCK):
            part = slice(lo, lo + QUERY_BLOCK)
            scores = (queries(part) @ block)[:, :width]  # (Q, C)
            if offsets is not None:
                scores -= offsets[left : left + GALLERY_BLOCK].to(positive.device)
            of_part = (here >= lo) & (here < lo + QUERY_BLOCK)
            result[part] += _count_ahead(scores, positive[part, None], here[of_part] - lo, columns[of_part])
    bad = np.flatnonzero(np.isnan(result))
    if len(bad):
        raise ValueError(f"{len(bad)} of {len(result)} queries have NaN or Inf scores, first: {bad[:5].tolist()}.")
    return result


def ranks(
    predictions: torch.Tensor,
    gallery: torch.Tensor | np.ndarray,
    targets: torch.Tensor,
    *,
    cosine: bool = True,
    offsets: torch.Tensor | None = None,
    statistics: GalleryStatistics | None = None,
) -> np.ndarray:
    """Rank of each prediction's target in the gallery: 1 + number scoring higher + half of the others scoring equal.

    Counted in blocks of queries and gallery rows rather than sorted: it costs one matrix product, bounded memory and
    one pass over the gallery, which may be a memory map larger than memory. A matrix product may round equal columns
    differently depending on their position, so copies of a query's target are counted as equal by their values,
    never by their scores.

    Args:
        predictions: (N, d) translated captions.
        gallery: (M, d) images; a tensor, an array or a memory map.
        targets: (N,) gallery row of each prediction.
        cosine: normalise predictions and images; otherwise the plain dot product.
        offsets: (M,) subtracted from every score of a gallery item, such as `hubness.Attention.popularity`.
        statistics: of the gallery, where they are known, see `GalleryStatistics.of`.

    Returns:
        (N,) float64, from 1 to M; halves stand for ties.

    Raises:
        ValueError: a NaN or Inf among the scores (sorting would place it first or last in silence).
    """
    device = predictions.device
    on_host = np.asarray(torch.as_tensor(targets).cpu(), dtype=np.int64)
    statistics = GalleryStatistics.of(gallery) if statistics is None else statistics
    prepare: Callable[[torch.Tensor], torch.Tensor] = normalise if cosine else torch.Tensor.float
    vectors = partial(unit_rows, gallery, less=statistics.common) if cosine else partial(rows, gallery)
    pair_query, pair_row, copies = _copies_of_targets(statistics.group, on_host)
    positive_score = _positive_scores(predictions, on_host, prepare, vectors)
    if offsets is not None:
        positive_score -= offsets.to(device)[torch.from_numpy(on_host).to(device)]
    ahead = _count_all_ahead(
        lambda part: prepare(predictions[part]),
        lambda part: vectors(part, device),
        len(gallery),
        positive_score,
        (pair_query, pair_row),
        offsets,
    )
    return 1 + 0.5 * (copies - 1.0) + ahead


def image_to_text_ranks(
    predictions: torch.Tensor, gallery: torch.Tensor | np.ndarray, targets: torch.Tensor
) -> np.ndarray:
    """Rank of the best caption of each image among all captions, by cosine of their translations with the image.

    1 + number of other images' captions that score higher + half of those that score the same. Counted in blocks, as
    `ranks` does, so that memory is bounded; captions with the same translation as the best one are equal to it by their
    values, never by their scores. The mirror image of `ranks`: there a caption looks for its image.

    Args:
        predictions: (N, d) translated captions. gallery: (M, d) images. targets: (N,) gallery row of each caption.

    Returns:
        (G,) float64, one for each image that has captions, in the order of the gallery.

    Raises:
        ValueError: a NaN or Inf among the scores.
    """
    device, of_image = predictions.device, np.asarray(torch.as_tensor(targets).cpu(), dtype=np.int64)
    statistics = GalleryStatistics.of(predictions)
    images, place = np.unique(of_image, return_inverse=True)
    captions = partial(unit_rows, predictions, device=device, less=statistics.common)
    own = predictions.new_zeros(len(predictions), dtype=torch.float32)  # (N,) score of each caption with its image
    for lo in range(0, len(predictions), QUERY_BLOCK):
        part = slice(lo, lo + QUERY_BLOCK)
        own[part] = (unit_rows(gallery, of_image[part], device) * captions(part)).sum(1)
    order = np.lexsort((-own.cpu().double().numpy(), place))  # image by image, its best caption first
    best = order[np.searchsorted(place[order], np.arange(len(images)))]  # (G,) caption
    # Neither an image's own captions nor what equals the best of them is counted by its scores.
    query, row, _ = _copies_of_targets(statistics.group, best)
    foreign = of_image[row] != images[query]
    ties = np.bincount(query[foreign], minlength=len(images))
    query, row = np.append(place, query[foreign]), np.append(np.arange(len(place)), row[foreign])
    by_row = np.argsort(row, kind="stable")
    ahead = _count_all_ahead(
        lambda part: unit_rows(gallery, images[part], device),
        captions,
        len(predictions),
        own[torch.from_numpy(best).to(device)],
        (query[by_row], row[by_row]),
    )
    return 1 + 0.5 * ties + ahead


class Accuracy(TypedDict):
    """What ranks are summarised to; `recall_at_k` is the share of the queries whose rank is k or better."""

    mrr: float
    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    ndcg: float
    median_rank: float
    p75_rank: float


class Difference(TypedDict):
    """A difference of two MRRs and the ends of its 95 % interval."""

    difference: float
    low: float
    high: float


def summarise(rank: np.ndarray) -> Accuracy:
    """MRR, recall at 1, 5, 10, NDCG (one relevant item: 1 / log2(1 + rank)), median and 75th percentile rank."""
    return {
        "mrr": float(np.mean(1 / rank)),
        "recall_at_1": float(np.mean(rank <= 1)),
        "recall_at_5": float(np.mean(rank <= 5)),
        "recall_at_10": float(np.mean(rank <= 10)),
        "ndcg": float(np.mean(1 / np.log2(1 + rank))),
        "median_rank": float(np.median(rank)),
        "p75_rank": float(np.percentile(rank, 75)),
    }


def chance_ranks(n_queries: int, gallery_size: int, seed: int = 0) -> np.ndarray:
    """Ranks (n_queries,) of a model that knows nothing: uniform on 1 to `gallery_size`, evenly dealt, shuffled."""
    dealt = 1 + np.floor((np.arange(n_queries) + 0.5) * gallery_size / n_queries)
    return np.random.default_rng(seed).permutation(dealt)


def chance_image_to_text(targets: np.ndarray) -> tuple[float, float]:
    """MRR and recall at 10 of `image_to_text_ranks` for captions (N,) in a random order, exactly.

    With k of n captions its own, an image's best caption comes first at place r with probability
    C(n - r, k - 1) / C(n, k).
    """
    n, sizes = len(targets), np.unique(targets, return_counts=True)[1]
    mrr, recall = [], []
    for k in sizes:
        r = np.arange(1, n - k + 2)
        chance = k / n * np.cumprod(np.append(1.0, (n - r[:-1] - k + 1) / (n - r[:-1])))
        mrr.append(float((chance / r).sum()))
        recall.append(float(chance[:10].sum()))
    return float(np.mean(mrr)), float(np.mean(recall))


@one_blas_thread()
def resampled_means(values: np.ndarray, groups: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means (samples,) of `values` (N,) under resampling of whole groups (N,) with replacement."""
    _, index = np.unique(groups, return_inverse=True)
    totals, sizes = np.bincount(index, weights=values), np.bincount(index).astype(np.float64)
    n = len(totals)
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    per_block = max(1, 4_000_000 // n)
    for lo in range(0, samples, per_block):
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=min(per_block, samples - lo)).astype(np.float64)
        means[lo : lo + len(drawn)] = (drawn @ totals) / (drawn @ sizes)
    return means


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray, *, samples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of `values` (N,) by resampling `groups` (N,).

    The groups are images: captions of one image succeed and fail together, so resampling captions would give an
    interval that is too narrow.
    """
    means = resampled_means(values, groups, samples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_by_image(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Mean of `values` (N,) over the captions of each image that has any, in the order of `groups` (N,)."""
    _, place, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return np.bincount(place, weights=values) / counts


def paired_difference(
    rank_a: np.ndarray, rank_b: np.ndarray, groups: np.ndarray, *, samples: int = 2000, seed: int = 0
) -> Difference:
    """MRR of a minus MRR of b on the same queries, with its 95 % interval by bootstrap over images."""
    difference = 1 / rank_a - 1 / rank_b
    low, high = bootstrap_interval(difference, groups, samples=samples, seed=seed)
    return {"difference": float(difference.mean()), "low": low, "high": high}


def challenge_mrr(
    predictions: np.ndarray,
    gallery: np.ndarray,
    targets: np.ndarray,
    *,
    gallery_size: int = 100,
    rounds: int = 20,
    seed: int = 0,
) -> float:
    """MRR by the challenge's own protocol: galleries of 100 distinct images, dot product, last rank counts 0.

    Each round draws one caption of every image and deals the images into galleries; a remainder that does not fill
    one is left out of that round. With fewer images than `gallery_size` there is one gallery of all of them, and
    the number is no longer comparable to the leaderboard's.

    Args:
        predictions: (N, d), not normalised. gallery: (M, d), not normalised. targets: (N,) gallery rows.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(targets, kind="stable")
    images, starts, counts = np.unique(targets[order], return_index=True, return_counts=True)
    size = min(gallery_size, len(images))
    reciprocal = []
    for _ in range(rounds):
        caption = order[starts + rng.integers(0, counts)]  # one caption of each image
        dealt = rng.permutation(len(images))[: len(images) // size * size].reshape(-1, size)
        for hand in dealt:
            rank = ranks(
                torch.from_numpy(np.asarray(predictions[caption[hand]])),
                torch.from_numpy(np.asarray(gallery[images[hand]])),
                torch.arange(size),
                cosine=False,
            )
            reciprocal.append(np.where(rank >= size, 0.0, 1 / rank) if size > 1 else 1 / rank)
    return float(np.mean(np.concatenate(reciprocal)))
