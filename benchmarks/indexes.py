"""What each kind of index finds, and how fast, against exact search: on one thread, in seconds of the processor.

`python -m benchmarks.indexes --size challenge` takes a million synthetic vectors in clusters, with popularity;
`python -m benchmarks.indexes --data-dir DIR` real captions and photos, where half of the images are the gallery: there
the cost is told in MRR, with the exact look at the candidates and without.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
import torch

from benchmarks import common
from helpers.data.pairs import load_pairs
from helpers.data.split import make_split
from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.evaluation import hubness
from helpers.models import cca
from helpers.models.build import build_model
from helpers.serving.index import PictureIndex
from helpers.serving.translator import Translator
from helpers.system.files import write_json

SIZES = {
    "small": {"vectors": 20_000, "width": 64, "queries": 200},
    "challenge": {"vectors": 1_000_000, "width": 128, "queries": 200},
}
KINDS = ("flat", "binary", "int8", "ivfpq", "hnsw")
CLUSTER = 200
"""Vectors of a cluster, on average."""
SPREAD, DISTANCE = 1.0, 1.5
"""Length of what tells a vector from its cluster's centre, and a query from the vector that it looks for, over the
length of the centre: the wanted vector has a cosine of about 0.7, as good translations have."""
POPULARITY = 0.05
"""Standard deviation, in units of cosine: as in Flickr8k."""
K = 10
ONE_BY_ONE = 50
"""Queries that are timed singly."""
QUERIES = 2_000
"""Of real captions, at most."""
SETTING: cca.Setting = {"eps": 1.0, "scale": -1.0, "power": 1.0}


def identity(width: int) -> Translator:
    """A translator that changes nothing, so that search alone is measured."""
    model = build_model("least_squares", width, width)
    model.set_affine(np.eye(width), np.zeros(width))
    return Translator("least_squares", model, width, width)


def clustered(vectors: int, width: int, queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors (M, d) in clusters, queries (N, d) near some of them, and popularity (M,)."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, vectors // CLUSTER), width), dtype=np.float32)
    gallery = np.empty((vectors, width), np.float32)
    for left in range(0, vectors, 50_000):
        n = min(50_000, vectors - left)
        block = centres[rng.integers(len(centres), size=n)]
        block += SPREAD * rng.standard_normal((n, width), dtype=np.float32)
        gallery[left : left + n] = normalise(torch.from_numpy(block)).numpy()
    wanted = gallery[rng.permutation(vectors)[:queries]]
    noise = rng.standard_normal(wanted.shape, dtype=np.float32) / np.float32(width**0.5)
    popularity = POPULARITY * rng.standard_normal(vectors, dtype=np.float32)
    return gallery, normalise(torch.from_numpy(wanted + DISTANCE * noise)).numpy(), popularity


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact rows (N, k) that were found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)]))


def one_by_one(index: PictureIndex, queries: np.ndarray) -> float:
    """Median seconds of a query, of the processor: other work on the machine does not count."""
    seconds = []
    for query in queries:
        started = time.process_time()
        index.search(query, K)
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


def synthetic(size: str, only: Sequence[str]) -> dict:
    """Recall, time and size of some kinds on clustered vectors; of the others, what was measured before."""
    metadata = SIZES[size]
    measured_on = {**metadata, "k": K}
    rows = earlier_rows(common.load("indexes", size), measured_on)
    gallery, queries, popularity = clustered(**metadata)
    translator, names = identity(metadata["width"]), [str(row) for row in range(len(gallery))]
    exact = PictureIndex.build(translator, gallery, names, hubness=popularity)
    gallery = exact.vectors  # one copy is enough
    best = {reduced: exact.search(queries, K, hubness=reduced)[0] for reduced in (True, False)}
    for kind in only:
        started = time.process_time()
        index = PictureIndex.build(translator, gallery, names, kind=kind, hubness=popularity)
        row = {"kind": kind, "build_seconds": time.process_time() - started}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "candidates")
            if index._candidates is not None:
                index._candidates.write(path)
            row["bytes_a_vector"] = (path.stat().st_size if path.exists() else index.vectors.nbytes) / len(gallery)
        started = time.process_time()
        row["recall"] = recall(index.search(queries, K)[0], best[True])
        row["batch_seconds_a_query"] = (time.process_time() - started) / len(queries)
        row["recall_cosine"] = recall(index.search(queries, K, hubness=False)[0], best[False])
        row["seconds_a_query"] = one_by_one(index, queries[:ONE_BY_ONE])
        print({key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
        rows[kind] = row
    return {**measured_on, "rows": [rows[kind] for kind in KINDS if kind in rows]}


def earlier_rows(before: dict | None, measured_on: dict) -> dict[str, dict]:
    """Rows by their kind that an earlier call measured on the same vectors and queries; none of any others."""
    if before is None or any(before.get(key) != value for key, value in measured_on.items()):
        return {}
    return {row["kind"]: row for row in before["rows"]}


def real(data_dir: str, size: str, only: Sequence[str]) -> dict:
    """MRR at 10 of some kinds on real captions and images; of the others, what was measured before.

    The model is weighted CCA, fitted on the other half of the images.
    """
    data = load_pairs(data_dir)
    split = make_split(data.targets, data.n_images, 0.5, 0)
    training = TrainingData.of(data.text, data.images, split, torch.device("cpu"), None)
    (affine,) = cca.maps(training, [SETTING])
    model = build_model("cca", data.text_dim, data.image_dim)
    model.set_affine(affine.matrix, affine.bias)
    translator = Translator("cca", model, data.text_dim, data.image_dim)
    gallery = data.images[split.val_images]
    bank = torch.from_numpy(translator.translate(data.text[hubness.sample(split.train_captions)]))
    beta = hubness.inverse_temperature(bank, data.images[split.train_images])
    popularity = hubness.attention(bank, gallery, beta).popularity.numpy()
    asked = np.sort(np.random.default_rng(0).permutation(len(split.val_captions))[:QUERIES])
    queries = translator.translate(data.text[split.val_captions[asked]])
    positive = split.caption_to_gallery[asked, None]
    names = [data.image_names[row] for row in split.val_images]

    def mrr(found: np.ndarray) -> float:
        hits = found[:, :K] == positive
        return float(np.mean(np.where(hits.any(1), 1 / (hits.argmax(1) + 1), 0)))

    measured_on = {
        "gallery": len(gallery),
        "queries": len(queries),
        "width": data.image_dim,
        "k": K,
        "model": "cca",
        "setting": SETTING,
        "data": {"fingerprint": data.fingerprint},
    }
    rows = earlier_rows(common.load("indexes", size), measured_on)
    for kind in only:
        index = PictureIndex.build(translator, gallery, names, kind=kind, hubness=popularity)
        row: dict = {"kind": kind}
        for reduced, suffix in ((True, ""), (False, "_cosine")):
            row["mrr" + suffix] = mrr(index.search(queries, K, hubness=reduced, translated=True)[0])
            if index._candidates is not None:
                folded = index.folded(queries, reduced, translated=True)
                row["mrr_alone" + suffix] = mrr(index._candidates.find(folded, K))
        print(row, flush=True)
        rows[kind] = row
    return {**measured_on, "rows": [rows[kind] for kind in KINDS if kind in rows]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--size", choices=SIZES, help="of the synthetic vectors (default small)")
    where.add_argument("--data-dir", metavar="DIR", help="a data folder in place of synthetic vectors")
    parser.add_argument(
        "--only", choices=KINDS, nargs="+", default=KINDS, help="kinds to measure; others stay as they are"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    if not options.data_dir:
        size = options.size or "small"
        common.save("indexes", size, "cpu", synthetic(size, options.only))
        return
    name = Path(options.data_dir).resolve().name
    described = {"benchmark": "indexes", "command": "python -m benchmarks.indexes --data-dir DIR"}
    found = real(options.data_dir, name, options.only)
    content = {**described, "machine": common.machine("cpu"), "versions": common.versions(), **found}
    write_json(common.RESULTS_DIR / f"indexes_{name}.json", content)


if __name__ == "__main__":
    main()
