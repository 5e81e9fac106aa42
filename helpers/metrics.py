"""Ranks and what is computed from them.

Primary protocol: every caption against the gallery of all validation images, by cosine. The challenge's own
protocol (galleries of 100, dot product) is kept apart, since its numbers are far higher for the same model.
"""

from __future__ import annotations

import numpy as np
import torch

SCORE_BUDGET = 16_000_000
"""Scores held at a time (float32, 64 MB); with it the memory of ranking does not depend on the sizes."""


def normalise(rows: torch.Tensor) -> torch.Tensor:
    """Rows (N, d) at unit L2 length, float32."""
    return torch.nn.functional.normalize(rows.float(), dim=-1)


def _unique_rows(gallery: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distinct rows of (M, d), the distinct row of each row (M,), and the size of each group.

    A matrix product may round equal columns differently depending on their position, so ties between identical
    vectors are only exact if each vector is scored once.
    """
    rows = np.ascontiguousarray(gallery.cpu().numpy())
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    device = gallery.device
    return gallery[torch.as_tensor(first, device=device)], *(
        torch.as_tensor(values, device=device) for values in (inverse.ravel(), counts.astype(np.float32))
    )


def ranks(
    predictions: torch.Tensor, gallery: torch.Tensor, targets: torch.Tensor, *, cosine: bool = True
) -> np.ndarray:
    """Rank of each prediction's own gallery item: 1 + number scoring higher + half of the others scoring equal.

    Counted in blocks of queries rather than sorted, so that it costs one matrix product and bounded memory.

    Args:
        predictions: (N, d) translated captions.
        gallery: (M, d) images.
        targets: (N,) gallery row of each prediction.
        cosine: normalise both sides; otherwise the plain dot product.

    Returns:
        (N,) float64, from 1 to M; halves stand for ties.

    Raises:
        ValueError: a NaN or Inf among the scores (sorting would place it first or last in silence).
    """
    device = predictions.device
    targets = torch.as_tensor(targets, device=device).long()
    gallery = gallery.to(device)
    unique, group, counts = _unique_rows(gallery.float())
    predictions, unique = (normalise(predictions), normalise(unique)) if cosine else (predictions.float(), unique)
    own_group = group[targets]
    block = max(1, SCORE_BUDGET // len(unique))
    out = []
    for lo in range(0, len(predictions), block):
        scores = predictions[lo : lo + block] @ unique.T  # (block, M')
        own = scores.gather(1, own_group[lo : lo + block, None])  # (block, 1)
        higher = (scores > own).float() @ counts
        equal = (scores == own).float() @ counts - 1  # without the item itself
        rank = 1 + higher + 0.5 * equal
        # A NaN or Inf anywhere in a row makes its sum non-finite.
        out.append(torch.where(scores.sum(1).isfinite(), rank, torch.nan))
    result = torch.cat(out).double().cpu().numpy()
    bad = np.flatnonzero(np.isnan(result))
    if len(bad):
        raise ValueError(f"{len(bad)} of {len(result)} queries have NaN or Inf scores, first: {bad[:5].tolist()}.")
    return result


def summarise(rank: np.ndarray) -> dict[str, float]:
    """MRR, recall at 1, 5, 10, NDCG (one relevant item: 1 / log2(1 + rank)), median and 75th percentile rank."""
    return {
        "mrr": float(np.mean(1 / rank)),
        **{f"recall_at_{k}": float(np.mean(rank <= k)) for k in (1, 5, 10)},
        "ndcg": float(np.mean(1 / np.log2(1 + rank))),
        "median_rank": float(np.median(rank)),
        "p75_rank": float(np.percentile(rank, 75)),
    }


def chance_ranks(n_queries: int, gallery_size: int, seed: int = 0) -> np.ndarray:
    """(n_queries,) ranks of a model that knows nothing: uniform on 1 to `gallery_size`, evenly dealt, shuffled."""
    dealt = 1 + np.floor((np.arange(n_queries) + 0.5) * gallery_size / n_queries)
    return np.random.default_rng(seed).permutation(dealt)


def _resampled_means(values: np.ndarray, groups: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """(samples,) means of `values` under resampling of whole groups with replacement."""
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
    means = _resampled_means(values, groups, samples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    rank_a: np.ndarray, rank_b: np.ndarray, groups: np.ndarray, *, samples: int = 2000, seed: int = 0
) -> dict[str, float]:
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
