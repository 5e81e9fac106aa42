"""Ranks by counting, against a full-matrix argsort and torchmetrics; and search, against faiss.

`python -m benchmarks.ranking --size challenge`. Every candidate starts from embeddings and ends with the MRR, but for
search, which ends with the ten best.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import faiss
import numpy as np
import torch
from torchmetrics.retrieval import RetrievalMRR

from benchmarks import common
from helpers.data.vectors import normalise
from helpers.evaluation import metrics
from helpers.models.build import build_model
from helpers.serving.translator import Translator

LARGE = {
    "small": {"queries": 1_000, "gallery": 100_000, "width": 64},
    "challenge": {"queries": 4_000, "gallery": 1_000_000, "width": 1536},
}
"""Ranking against a memory-mapped gallery, on the CPU: its memory is measured, in a process of its own."""


def counting(predictions: torch.Tensor, gallery: torch.Tensor, targets: torch.Tensor) -> float:
    """MRR by `helpers.metrics`."""
    return float(np.mean(1 / metrics.ranks(predictions, gallery, targets)))


def argsort(predictions: torch.Tensor, gallery: torch.Tensor, targets: torch.Tensor) -> float:
    """MRR from the whole score matrix, sorted: as most code has it."""
    scores = normalise(predictions) @ normalise(gallery).T
    order = scores.argsort(dim=1, descending=True)
    rank = (order == targets[:, None]).nonzero()[:, 1] + 1
    return float((1 / rank.double()).mean())


def with_torchmetrics(predictions: torch.Tensor, gallery: torch.Tensor, targets: torch.Tensor) -> float:
    """MRR by torchmetrics' RetrievalMRR, which wants every score with its query's number."""
    scores = normalise(predictions) @ normalise(gallery).T
    relevant = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, targets[:, None], True)
    query = torch.arange(len(scores), device=scores.device).repeat_interleave(scores.shape[1])
    # It takes scores for probabilities and drops negative ones from the ranking.
    return float(RetrievalMRR()(scores.flatten() / 2 + 0.5, relevant.flatten(), indexes=query))


def search_candidates(predictions: torch.Tensor, gallery: np.ndarray) -> dict:
    """The ten best of the gallery for every query, by ours and by faiss' exact index, translation included in ours."""
    width = gallery.shape[1]
    model = build_model("least_squares", width, width)
    model.set_affine(np.eye(width), np.zeros(width))
    translator = Translator("least_squares", model, width, width)
    queries = predictions.numpy()
    index = faiss.IndexFlatIP(width)
    index.add(normalise(torch.from_numpy(gallery)).numpy())
    unit = normalise(predictions).numpy()
    return {
        "search_ours": lambda: translator.search(queries, gallery, 10),
        "search_faiss": lambda: index.search(unit, 10),
    }


def large(size: str) -> dict:
    """Peak memory and time of ranking against a memory-mapped gallery, measured in a fresh process."""
    metadata = LARGE[size]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gallery.npy")
        shape = (metadata["gallery"], metadata["width"])
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        rng = np.random.default_rng(0)
        for lo in range(0, len(mapped), 20_000):
            mapped[lo : lo + 20_000] = rng.standard_normal(
                (min(20_000, len(mapped) - lo), metadata["width"]), dtype=np.float32
            )
        mapped.flush()
        code = (
            "import sys, time, numpy as np, torch\n"
            "from benchmarks import common\nfrom helpers.evaluation import metrics\n"
            "gallery, n = np.load(sys.argv[1], mmap_mode='r'), int(sys.argv[2])\n"
            "targets = torch.arange(n)\n"
            "queries = torch.randn(n, gallery.shape[1])\n"
            "before, started = common.anonymous_memory_mb(), time.perf_counter()\n"
            "with common.PeakMemory() as peak:\n    metrics.ranks(queries, gallery, targets)\n"
            "print(time.perf_counter() - started, peak.mb, before)\n"
        )
        command = [sys.executable, "-c", code, str(path), str(metadata["queries"])]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    seconds, peak, before = map(float, out)
    return {
        **metadata,
        "gallery_gb_float32": 4 * shape[0] * shape[1] / 1e9,
        "seconds": seconds,
        "peak_mb": peak,
        "start_mb": before,
    }


def main() -> None:
    options = common.arguments(__doc__)
    size = common.SIZES[options.size]
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(size.gallery, size.image_dim, generator=generator)
    targets = torch.arange(size.queries) % size.gallery
    predictions = gallery[targets] + 8 * torch.randn(size.queries, size.image_dim, generator=generator)
    sides = tuple(part.to(options.device) for part in (predictions, gallery, targets))
    ours = counting(*sides)
    for other in (argsort, with_torchmetrics):
        assert abs(other(*sides) - ours) < 1e-5, f"{other.__name__} disagrees"
    candidates = {
        "floor": lambda: normalise(sides[0]) @ normalise(sides[1]).T,
        "ours": lambda: counting(*sides),
        "argsort": lambda: argsort(*sides),
        "torchmetrics": lambda: with_torchmetrics(*sides),
        **search_candidates(predictions, gallery.numpy()),
    }
    seconds = common.interleaved(candidates, 3, options.device)
    rows = [
        {
            "candidate": name,
            "median_seconds": statistics.median(times),
            "seconds": times,
            "over_ours": common.median_ratio(times, seconds["search_ours" if "search" in name else "ours"]),
        }
        for name, times in seconds.items()
    ]
    for row in rows:
        print(f"{row['candidate']:14s} {row['median_seconds']:9.3f} s   {row['over_ours']:7.2f} x ours")
    content = {"mrr": ours, "rows": rows}
    if options.device == "cpu":
        big = content["large"] = large(options.size)
        print(f"memory-mapped gallery of {big['gallery']:,}: {big['seconds']:.1f} s, peak {big['peak_mb']:.0f} MB")
    common.save("ranking", options.size, options.device, content)


if __name__ == "__main__":
    main()
