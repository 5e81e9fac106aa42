"""How the comparison of methods is run: one split, choices on its training images alone, each result in its own file.

No choice is made on images that are scored. A search sees the fold of the training images; a final fit sees all
of them and an empty validation split; only then is it scored, once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.method import Fitted, Method
from helpers.data.pairs import PairedEmbeddings
from helpers.data.split import Split, make_split
from helpers.data.training_data import TrainingData
from helpers.errors import SplitError
from helpers.evaluation import hubness, metrics
from helpers.system.devices import device_name, matmul_dtype, prefer_exact
from helpers.system.files import atomic_write, write_json

VAL_RATIO = 0.1
FOLD_SEED = 1000
"""Added to the split's seed for the fold."""
VERSION = 1
"""Part of every result's name: raise it when the protocol changes."""


@dataclass(frozen=True)
class Problem:
    """One split of one data set.

    Attributes:
        split_seed: of the split; inner seeds derive from it.
        digest: of the data, the split and the training images kept.
        inner: the training images, split again; what choices are made on.
        train: all training images, with an empty validation split.
        text, gallery, own: captions (V, dx), images (G, dy) and gallery rows (V,) to be scored.
    """

    split_seed: int
    digest: str
    fold_data: TrainingData
    train: TrainingData
    text: torch.Tensor
    gallery: torch.Tensor
    positive: torch.Tensor


def make_problem(
    data: PairedEmbeddings,
    split_seed: int,
    device: torch.device,
    train_images: int | None = None,
    train_captions: int | None = None,
) -> Problem:
    """Split the images, keep a part of the training split, split that again.

    Args:
        train_images: images to keep there, a seeded choice; all where None.
        train_captions: captions to keep of each, at most, a seeded choice; all where None.

    Raises:
        SplitError: `train_images` is more than there are, or one of the two is less than 1.
    """
    prefer_exact()
    split = make_split(data.targets, data.n_images, VAL_RATIO, split_seed)
    if train_images is not None:
        split = _fewer(split, train_images, split_seed)
    if train_captions is not None:
        split = _fewer_captions(split, train_captions, split_seed)
    outer = TrainingData.of(data.text, data.images, split, device)
    make_fold = make_split(split.train_caption_image, len(split.train_images), VAL_RATIO, FOLD_SEED + split_seed)
    fold_data = TrainingData.of(outer.text.cpu().numpy(), outer.images.cpu().numpy(), make_fold, device)
    empty = {name: getattr(outer, name)[:0] for name in ("val_text", "val_images", "val_positive")}
    digest = digest_of(data.fingerprint, split.digest)
    return Problem(
        split_seed, digest, fold_data, replace(outer, **empty), outer.val_text, outer.val_images, outer.val_positive
    )


def _fewer(split: Split, n_images: int, seed: int) -> Split:
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
    """SHA-256 (hex) of JSON values: names files after what determines their content."""
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Store:
    """The folder of the results: a JSON file each and, for a run, its ranks, so that a table can be made anew."""

    folder: Path

    def once(self, name: str, compute: Callable[[], dict]) -> dict:
        """The result `name`, computed and written if it is not there yet."""
        if self.load(name) is None:
            write_json(self.folder / f"{name}.json", compute())
        return self.load(name)

    def load(self, name: str) -> dict | None:
        """The result `name`, or None where it is not there yet."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def save_ranks(self, name: str, *ranks: np.ndarray) -> None:
        """Write one or more (V,) ranks of a run; before its result, which says that the run is complete."""
        # Ties make halves, so that twice a rank is whole.
        doubled = np.rint(2 * np.stack(ranks)).astype(np.uint32)

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                np.savez_compressed(file, doubled_ranks=doubled)

        atomic_write(self.folder / f"{name}.npz", write)

    def load_ranks(self, name: str) -> np.ndarray:
        """Ranks of a run as they were saved: by plain cosine, then, of a method, with the correction."""
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
            return file["doubled_ranks"] / 2


def precision_of(device: torch.device) -> list[str]:
    """The device and its product type: results of different ones are no runs of one method."""
    return [device_name(device), str(matmul_dtype(device, True))]


def search_name(method: Method, problem: Problem) -> str:
    """Name of a search's file: changes with everything that determines the result, the precision of the device too."""
    digest = digest_of(VERSION, method.metadata(), problem.digest, precision_of(problem.text.device))
    return f"{method.name}_split{problem.split_seed}_search_{digest[:8]}"


def run_name(method: Method, problem: Problem, seed: int, found: dict) -> str:
    """Name of a final run's files: the search's, with what it chose and the seed."""
    correction = [hubness.QUERY_BANK_SIZE, hubness.IMAGE_SAMPLE, hubness.SHARPNESS, hubness.ITERATIONS]
    digest = digest_of(search_name(method, problem), found["chosen"], correction)
    return f"{method.name}_split{problem.split_seed}_seed{seed}_{digest[:8]}"


def search(method: Method, problem: Problem, store: Store) -> dict:
    """What `method` chooses on the fold."""

    def compute() -> dict:
        started = time.perf_counter()
        chosen = method.search(problem.fold_data, problem.train)
        seconds = time.perf_counter() - started
        return {"method": method.name, "metadata": method.metadata(), "chosen": chosen, "seconds": seconds}

    return store.once(search_name(method, problem), compute)


def with_hubness_reduction(fitted: Fitted, queries: torch.Tensor, problem: Problem) -> tuple[float, np.ndarray]:
    """The inverse temperature, from the training split, and the ranks (V,) of translated queries (V, dy)."""
    data = problem.train
    bank = fitted.predict(data.text[torch.from_numpy(hubness.sample(np.arange(len(data.text)))).to(data.device)])
    return hubness.corrected_ranks(
        bank, data.images.cpu().numpy(), queries, problem.gallery.cpu().numpy(), problem.positive
    )


def finished(method: Method, problem: Problem, seed: int, store: Store) -> tuple[str, dict] | None:
    """As `final_run` where the result is there already, else None."""
    found = store.load(search_name(method, problem))
    name = found and run_name(method, problem, seed, found)
    result = name and store.load(name)
    return (name, result) if result else None


def final_run(method: Method, problem: Problem, seed: int, store: Store) -> tuple[str, dict]:
    """Fit on all training images as the search says, and score once; the run's name and result."""
    found = search(method, problem, store)
    name = run_name(method, problem, seed, found)

    def compute() -> dict:
        started = time.perf_counter()
        fitted = method.fit(problem.train, found["chosen"], seed)
        seconds = time.perf_counter() - started
        queries = fitted.predict(problem.text)
        plain = metrics.ranks(queries, problem.gallery, problem.positive)
        beta, corrected = with_hubness_reduction(fitted, queries, problem)
        store.save_ranks(name, plain, corrected)
        metadata = {"method": method.name, "split": problem.split_seed, "seed": seed}
        scores = {**metrics.summarise(plain), "hubness": metrics.summarise(corrected)}
        chosen = {key: value for key, value in found["chosen"].items() if key not in ("candidates", "history")}
        chosen |= {"beta": beta}
        cost = {"parameters": fitted.parameters, "seconds": seconds, "search_seconds": found["seconds"]}
        cost |= {"threads": torch.get_num_threads(), "products": precision_of(problem.text.device)[1]}
        return {**metadata, **scores, "chosen": chosen, **cost}

    return name, store.once(name, compute)
