"""How the comparison of methods is run: one split, choices on its training images alone, each result a row of a table.

No choice is made on images that are scored. A search sees a fold of the training images; a final fit sees all
of them and an empty validation split; only then is it scored, once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.baselines.method import Fitted, Method
from benchmarks.store import Row, Store
from helpers.data.duplicates import near_duplicates
from helpers.data.pairs import PairedEmbeddings
from helpers.data.repeats import Repeats, count_repeats
from helpers.data.split import Split, make_split
from helpers.data.training_data import TrainingData
from helpers.errors import SplitError
from helpers.evaluation import hubness, metrics
from helpers.system.devices import device_name, matmul_dtype, prefer_exact

VAL_RATIO = 0.1
FOLD_SEED = 1000
"""Added to the split's seed for the fold."""
VERSION = 1
"""Part of every key: raise it when the protocol changes."""
KEY_DIGITS = 16
"""Of a digest: 64 bits tell some thousand rows apart for certain."""


@dataclass(frozen=True)
class Problem:
    """One split of one data set.

    Attributes:
        split_seed: of the split; the seed of the fold derives from it.
        digest: of the data, the split and the training images kept.
        fold_data: the training images, split again; what choices are made on.
        train: all training images, with an empty validation split.
        text, gallery, positive: captions (V, dx), images (G, dy) and gallery rows (V,) to be scored.
        repeats: texts that occur again among the captions to be scored, and the ceiling that they leave.
        seen: scored images that nearly repeat a training image.
    """

    split_seed: int
    digest: str
    fold_data: TrainingData
    train: TrainingData
    text: torch.Tensor
    gallery: torch.Tensor
    positive: torch.Tensor
    repeats: Repeats
    seen: int

    @property
    def precision(self) -> tuple[str, str]:
        return precision_of(self.text.device)


def make_problem(
    data: PairedEmbeddings,
    split_seed: int,
    device: torch.device,
    train_images: int | None = None,
    train_captions: int | None = None,
    groups: np.ndarray | None = None,
) -> Problem:
    """Split the images, keep a part of the training split, split that again.

    Args:
        train_images: images to keep there, a seeded choice; all where None.
        train_captions: captions to keep of each, at most, a seeded choice; all where None.
        groups: (M,) images of one group stay in one split, and in one fold; None for no groups.

    Raises:
        SplitError: `train_images` is more than there are, or one of the two is less than 1.
    """
    prefer_exact()
    split = make_split(data.targets, data.n_images, VAL_RATIO, split_seed, groups=groups)
    if train_images is not None:
        split = fewer(split, train_images, split_seed)
    if train_captions is not None:
        split = _fewer_captions(split, train_captions, split_seed)
    outer = TrainingData.of(data.text, data.images, split, device, groups, data.captions)
    n_train, of_train = len(split.train_images), outer.groups
    fold = make_split(split.train_caption_image, n_train, VAL_RATIO, FOLD_SEED + split_seed, groups=of_train)
    texts = [data.captions[row] for row in split.train_captions]
    of_outer = (outer.text.cpu().numpy(), outer.images.cpu().numpy())
    fold_data = TrainingData.of(*of_outer, fold, device, of_train, texts)
    empty = {name: getattr(outer, name)[:0] for name in ("val_text", "val_images", "val_positive")}
    digest = digest_of(data.fingerprint, split.digest, *([] if groups is None else ["grouped"]))
    scored = (outer.val_text, outer.val_images, outer.val_positive)
    seen = len(near_duplicates(data.images, split.val_images, split.train_images)[0])
    repeats = count_repeats(data, split)
    return Problem(split_seed, digest, fold_data, replace(outer, **empty), *scored, repeats, seen)


def fewer(split: Split, n_images: int, seed: int) -> Split:
    """The split with a seeded choice of `n_images` of its training images; what is scored stays as it is."""
    if not 0 < n_images <= len(split.train_images):
        raise SplitError(f"train_images = {n_images}: must be between 1 and {len(split.train_images)}.")
    kept = np.sort(np.random.default_rng(seed).permutation(len(split.train_images))[:n_images])
    captions = np.flatnonzero(np.isin(split.train_caption_image, kept))
    return replace(
        split,
        train_images=split.train_images[kept],
        train_captions=split.train_captions[captions],
        train_caption_image=np.searchsorted(kept, split.train_caption_image[captions]),
    )


def _fewer_captions(split: Split, at_most: int, seed: int) -> Split:
    """The split with a seeded choice of `at_most` captions of each training image."""
    if at_most < 1:
        raise SplitError(f"train_captions = {at_most}: must be at least 1.")
    order = np.random.default_rng(seed).permutation(len(split.train_captions))
    order = order[np.argsort(split.train_caption_image[order], kind="stable")]  # by image, shuffled within
    image = split.train_caption_image[order]
    within = np.arange(len(order)) - np.searchsorted(image, image)
    kept = np.sort(order[within < at_most])
    return replace(
        split, train_captions=split.train_captions[kept], train_caption_image=split.train_caption_image[kept]
    )


def digest_of(*parts: object) -> str:
    """SHA-256 (hex) of JSON values."""
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def precision_of(device: torch.device) -> tuple[str, str]:
    """The device and the type of its matrix products: results of different ones are no runs of one method."""
    return device_name(device), str(matmul_dtype(device, True))


def origin(method: str, problem: Problem) -> Row:
    """Of which method, on what and where a row was computed."""
    device, products = problem.precision
    return {
        "method": method,
        "split": problem.split_seed,
        "problem": problem.digest,
        "device": device,
        "products": products,
    }


def search_key(method: Method, problem_digest: str, precision: Sequence[str]) -> str:
    """Key of a search's row: changes with everything that determines the result, the device's precision too.

    Args:
        precision: see `precision_of`.
    """
    return digest_of(VERSION, method.name, method.metadata(), problem_digest, list(precision))[:KEY_DIGITS]


def run_key(search: str, chosen: dict, seed: int) -> str:
    """Key of a final run's row: that of the search, with what it chose and the seed."""
    correction = [hubness.QUERY_BANK_SIZE, hubness.IMAGE_SAMPLE, hubness.SHARPNESS, hubness.ITERATIONS]
    return digest_of(search, chosen, correction, seed)[:KEY_DIGITS]


def search(method: Method, problem: Problem, store: Store) -> Row:
    """What `method` chooses on the fold, from the table or computed."""

    def compute() -> Row:
        started = time.perf_counter()
        chosen = method.search(problem.fold_data, problem.train)
        seconds = time.perf_counter() - started
        made = {"kind": "search", **origin(method.name, problem), "settings": method.metadata()}
        return {**made, "chosen": chosen, "seconds": seconds}

    return store.once(search_key(method, problem.digest, problem.precision), compute)


def query_bank(fitted: Fitted, data: TrainingData) -> torch.Tensor:
    """Translations (Q, d) of the training captions by which hubness is measured."""
    return fitted.predict(data.text[torch.from_numpy(hubness.sample(np.arange(len(data.text)))).to(data.device)])


def with_hubness_reduction(
    fitted: Fitted, queries: torch.Tensor, gallery: torch.Tensor, problem: Problem
) -> tuple[float, np.ndarray]:
    """The inverse temperature, from the training split, and the ranks (V,) of translated queries (V, d).

    Args:
        gallery: (G, d) where captions are compared with it.
    """
    images = fitted.images(problem.train.images).cpu().numpy()
    bank = query_bank(fitted, problem.train)
    return hubness.corrected_ranks(bank, images, queries, gallery.cpu().numpy(), problem.positive)


def finished(method: Method, problem: Problem, seed: int, store: Store) -> Row | None:
    """As `final_run` where the result is there already, else None."""
    found = store.load(search_key(method, problem.digest, problem.precision))
    return found and store.load(run_key(found["key"], found["chosen"], seed))


def final_run(method: Method, problem: Problem, seed: int, store: Store) -> Row:
    """Fit on all training images as the search says, and score once; from the table or computed."""
    found = search(method, problem, store)

    def compute() -> Row:
        started = time.perf_counter()
        fitted = method.fit(problem.train, found["chosen"], seed)
        seconds = time.perf_counter() - started
        queries, gallery = fitted.predict(problem.text), fitted.images(problem.gallery)
        plain = metrics.ranks(queries, gallery, problem.positive)
        beta, corrected = with_hubness_reduction(fitted, queries, gallery, problem)
        scores = metrics.summarise(plain)
        scores |= {f"hubness_{name}": value for name, value in metrics.summarise(corrected).items()}
        chosen = {key: value for key, value in found["chosen"].items() if key not in ("candidates", "history")}
        cost = {"parameters": fitted.parameters, "seconds": seconds, "search_seconds": found["seconds"]}
        return {
            "kind": "run",
            **origin(method.name, problem),
            "seed": seed,
            "search": found["key"],
            "chosen": chosen | {"beta": beta},
            "two_sided": int(fitted.two_sided),
            **scores,
            **cost,
            "threads": torch.get_num_threads(),
            "ranks": plain,
            "hubness_ranks": corrected,
        }

    return store.once(run_key(found["key"], found["chosen"], seed), compute)
