"""Hubness reduction by Sinkhorn normalisation: each image is corrected by how many training captions flock to it.

In high-dimensional spaces a few images are near to very many queries (Radovanovic et al., 2010) and take ranks that
belong to others. How much each image attracts can be measured with captions of other images: the query bank, which
holds training captions.

The family, by what is subtracted from beta cos(q, g): the inverted softmax, a log-sum-exp over the bank for each image
(Smith et al., 2017), which QB-Norm (Bogolin et al., 2022) applies where it is safe to; DualIS, the same over a bank of
queries and one of gallery items (Wang et al., 2023); NNN, a multiple of the mean over the nearest queries of the bank
(Chowdhury et al., 2024); SN and DBSN, Sinkhorn's iterations over one bank or both (Pan et al., 2025). This is SN with a
query bank; without the softmax over the images, one of its iterations would be the inverted softmax.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from helpers.data.vectors import GALLERY_BLOCK, groups_of_copies, marks, normalise, same_images, unit_rows
from helpers.evaluation import metrics
from helpers.evaluation.metrics import QUERY_BLOCK
from helpers.models.storage import read_judged, write_judged

QUERY_BANK_SIZE = 12_000
"""Training captions in the query bank; where there are more, a seeded sample."""
ITERATIONS = 2
"""A second pass brings 0.002 of MRR over one where the gallery holds nothing foreign (benchmarks/results/
accuracy_search.json: with as many random vectors or noisy copies beside it costs 0.002 and 0.010), twenty no more."""
IMAGE_SAMPLE = 4_096
"""Training images (and captions) by which the spread of a model's cosines is measured, at most."""
SHARPNESS = 3.0
"""beta times the spread of the cosines. For six models of Flickr8k the best of several values lay between 2.4 and 4.2,
and 3 lost at most 0.005 of MRR against it (an exploration on photos of split 0, whose script is not kept)."""
LEAST_SPREAD = 1e-5
"""Of the cosines: below it float32 hardly tells them apart, and there is nothing to correct."""
QUERY_BANK_FILE = "hubness.safetensors"


class Attention(NamedTuple):
    """What the query bank makes of a gallery.

    Attributes:
        popularity: (M,) float32 in units of cosine, on the query bank's device: what to subtract from each image's
            score. Positive for images that attract more than their share.
        whole: (Q,) the logarithm of each caption's softmax denominator in the last iteration; infinite where the
            gallery holds nothing but its own image.
        equal_share: the logarithm of the attention that every image would get if all attracted alike.
    """

    popularity: torch.Tensor
    whole: torch.Tensor
    equal_share: float


def attention(
    query_bank: torch.Tensor,
    gallery: torch.Tensor | np.ndarray,
    beta: float,
    iterations: int = ITERATIONS,
    own: np.ndarray | None = None,
) -> Attention:
    """What the query bank makes of a gallery: above all, what to subtract from the cosine of each of its images.

    Every caption q of the query bank spreads one unit of attention over the images, a softmax of
    beta cos(q, g) - f_g; f starts at 0, and each iteration adds the logarithm of what image g received in all, relative
    to an equal share. These are Sinkhorn's updates (Cuturi, 2013) of the image potentials; cos - f / beta is then the
    corrected score, by which all images attract the query bank alike. Copies of an image count as one image, so a
    gallery row repeated changes no other row's score.

    A trained model knows its training captions, which give nearly all their attention to their own images. Where those
    are in the gallery, all others would seem unpopular: so a caption gives none to its own image, see `own`.

    The scores are computed in blocks, four times in all for two iterations, so that memory depends on the number of
    images only by the result, and the gallery may be a memory map.

    Args:
        query_bank: (Q, d) translated training captions, any length.
        gallery: (M, d) images; a tensor, an array or a memory map.
        beta: inverse temperature, positive.
        iterations: one or more.
        own: (Q, MARKS) `vectors.marks` of the captions' own images; None where the gallery holds none of them.

    Raises:
        ValueError: the query bank or the gallery is empty.
    """
    if not len(query_bank) or not len(gallery):
        raise ValueError(
            f"{len(query_bank)} captions in the query bank, {len(gallery)} gallery images: both need one or more."
        )
    group = groups_of_copies(gallery)
    copies = torch.from_numpy(np.bincount(group)[group]).to(query_bank.device).float()  # (M,)
    equal_share = math.log(len(query_bank) / (int(group.max()) + 1))
    query_bank = normalise(query_bank)
    given_none = _own_rows(own, gallery)
    f = torch.zeros(len(gallery), device=query_bank.device)
    for _ in range(iterations):
        # (Q,) log of the softmax's denominator
        whole = torch.full((len(query_bank),), -torch.inf, device=query_bank.device)
        for left, rows, scores in _blocks(query_bank, gallery, beta, given_none):
            part = slice(left, left + scores.shape[1])
            scores.sub_(f[part] + copies[part].log())
            whole[rows] = torch.logaddexp(whole[rows], scores.logsumexp(1))
        whole[whole.isneginf()] = torch.inf  # a caption with nothing but its own image spreads no attention
        received = torch.full_like(f, -torch.inf)  # (M,) log of the attention that each image gets
        for left, rows, scores in _blocks(query_bank, gallery, beta, given_none):
            part = slice(left, left + scores.shape[1])
            received[part] = torch.logaddexp(received[part], (scores - f[part] - whole[rows, None]).logsumexp(0))
        f += torch.where(received.isneginf(), 0.0, received - equal_share)  # of no other caption: nothing is known
    return Attention(f / beta, whole, equal_share)


def popularity_beside(
    query_bank: torch.Tensor,
    new: torch.Tensor | np.ndarray,
    beta: float,
    found: Attention,
    own: np.ndarray | None = None,
) -> torch.Tensor:
    """(C,) popularity of new images (C, d) beside a gallery whose own popularity stays as it was `found`.

    The last iteration gives image g the potential log sum_q exp(beta cos(q, g) - whole_q) less the equal share,
    whatever it was before: a new image that is a copy of one in the gallery has that one's.
    """
    received = torch.full((len(new),), -torch.inf, device=query_bank.device)
    for left, rows, scores in _blocks(normalise(query_bank), new, beta, _own_rows(own, new)):
        part = slice(left, left + scores.shape[1])
        received[part] = torch.logaddexp(received[part], (scores - found.whole[rows, None]).logsumexp(0))
    return torch.where(received.isneginf(), 0.0, received - found.equal_share) / beta


def _own_rows(own: np.ndarray | None, gallery: torch.Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Captions (P,) of the query bank and gallery rows (P,) that are their own images."""
    nobody = np.empty(0, dtype=np.int64)
    return (nobody, nobody) if own is None else same_images(own, marks(gallery))


def _blocks(
    query_bank: torch.Tensor,
    gallery: torch.Tensor | np.ndarray,
    beta: float,
    given_none: tuple[np.ndarray, np.ndarray],
) -> Iterator[tuple[int, slice, torch.Tensor]]:
    """First gallery row, slice of query-bank rows, and beta cos of the two (q, C), block by block.

    Args:
        given_none: see `_own_rows`; minus infinity stands there.
    """
    captions, images = given_none
    for left in range(0, len(gallery), GALLERY_BLOCK):
        block = unit_rows(gallery, slice(left, left + GALLERY_BLOCK), query_bank.device).T
        for lo in range(0, len(query_bank), QUERY_BLOCK):
            rows = slice(lo, lo + QUERY_BLOCK)
            scores = (query_bank[rows] @ block).mul_(beta)
            here = (captions // QUERY_BLOCK == lo // QUERY_BLOCK) & (images // GALLERY_BLOCK == left // GALLERY_BLOCK)
            scores[captions[here] - lo, images[here] - left] = -torch.inf
            yield left, rows, scores


def sample(rows: np.ndarray, size: int = QUERY_BANK_SIZE) -> np.ndarray:
    """All of the rows (n,), ascending, or a fixed sample of them where there are more than `size`."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:size])


def inverse_temperature(query_bank: torch.Tensor, images: np.ndarray) -> float:
    """The beta of a model's softmax: `SHARPNESS` over the spread of the cosines that one caption has with many images.

    Measured on training captions and training images; no validation caption or image is looked at. A beta chosen by
    the ranks of training captions would be about twice too large, since a trained model knows them too well.

    Args:
        query_bank: (Q, d) translated training captions, any length.
        images: (M, d) training images; of many, a sample of `IMAGE_SAMPLE` is taken.
    """
    chosen = sample(np.arange(len(images)), IMAGE_SAMPLE)
    vectors = unit_rows(images, chosen, query_bank.device)
    spread = (normalise(query_bank[:IMAGE_SAMPLE]) @ vectors.T).std(1, correction=0).mean()
    # One image alone, or a model that gives one vector for all: nothing to correct, and any finite beta says so.
    return SHARPNESS / max(float(spread), LEAST_SPREAD)


def corrected_ranks(
    query_bank: torch.Tensor,
    training_images: np.ndarray,
    predictions: torch.Tensor,
    gallery: torch.Tensor | np.ndarray,
    targets: torch.Tensor,
) -> tuple[float, np.ndarray]:
    """The beta of a model, and the ranks (N,) of its predictions where popularity is subtracted; see `metrics.ranks`.

    Args:
        query_bank: (Q, d) translated training captions. training_images: (M, d).
        predictions: (N, d). gallery: (G, d). targets: (N,) gallery rows.
    """
    beta = inverse_temperature(query_bank, training_images)
    return beta, metrics.ranks(predictions, gallery, targets, offsets=attention(query_bank, gallery, beta).popularity)


class QueryBank(NamedTuple):
    """Training captions by which a model's popularities are measured.

    Attributes:
        text: (Q, dx) float32 text embeddings.
        own: (Q, MARKS) float32, `vectors.marks` of their own images.
        beta: the model's inverse temperature.
    """

    text: np.ndarray
    own: np.ndarray
    beta: float


def save_query_bank(run_dir: Path, text: np.ndarray, own: np.ndarray, betas: Mapping[str, float]) -> None:
    """Store the query bank, and each model's inverse temperature, in a run's folder; see `QueryBank`."""
    tensors = {"bank": text, "own": own}
    arrays = {name: torch.from_numpy(np.asarray(array, dtype=np.float32)) for name, array in tensors.items()}
    write_judged(Path(run_dir) / QUERY_BANK_FILE, arrays, betas, {"betas": dict(betas)})


def load_query_bank(run_dir: Path, model: str) -> QueryBank:
    """The query bank of a run, for one of its models.

    Raises:
        CheckpointError: missing or damaged, or the model was not judged, or was trained again since.
    """
    found, metadata = read_judged(Path(run_dir) / QUERY_BANK_FILE, model, ["bank", "own"])
    return QueryBank(found["bank"], found["own"], float(metadata["betas"][model]))
