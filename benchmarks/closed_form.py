"""From memory-mapped arrays to A and b, and from an npz to memory maps: time and memory, beside decompression alone.

`python -m benchmarks.closed_form --size challenge`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import common

FIT = """
import json, sys, time
import numpy as np
from benchmarks import common
from helpers.data.pairs import load_pairs
from helpers.models.geometry import fit_cross_space, pair_statistics
text, images, targets = (np.load(f"{sys.argv[1]}/{name}.npy", mmap_mode="r") for name in ("text", "images", "targets"))
small = pair_statistics(text[:64], images, targets[:64])  # warms up the libraries
before, started = common.anonymous_memory_mb(), time.perf_counter()
peak = common.PeakMemory()
with peak:
    statistics = pair_statistics(text, images, targets)
    one_pass = time.perf_counter() - started
    affine = fit_cross_space(statistics, 1e-2).affine(0.0)
print(json.dumps({"seconds": time.perf_counter() - started, "pass_seconds": one_pass, "extra_mb": peak.mb - before}))
"""
LOAD = """
import json, sys, time
from helpers.data.pairs import load_pairs
started = time.perf_counter()
data = load_pairs(sys.argv[1], cache_dir=sys.argv[1] + "/cache")
print(json.dumps({"seconds": time.perf_counter() - started, "captions": data.n_captions}))
"""
DECOMPRESS = """
import json, sys, time, zipfile
started = time.perf_counter()
with zipfile.ZipFile(sys.argv[1] + "/train.npz") as archive:
    for name in ("captions/embeddings", "images/embeddings", "images/names"):
        with archive.open(name + ".npy") as member:
            while member.read(1 << 24):
                pass
print(json.dumps({"seconds": time.perf_counter() - started}))
"""


def in_fresh_process(code: str, *arguments: object) -> dict:
    """What a script prints as JSON; a process of its own, so that neither memory nor caches of libraries leak in."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def write_inputs(folder: Path, size: common.Size, captions: int) -> None:
    """Random pairs as a compressed npz with captions.txt, and as plain npy files."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((size.images, size.image_dim), dtype=np.float32)
    text = rng.standard_normal((captions, size.text_dim), dtype=np.float32)
    targets = np.arange(captions) * size.images // captions
    names = np.array([f"{i}.jpg" for i in range(size.images)])
    arrays = {"captions/embeddings": text, "images/embeddings": images, "images/names": names}
    np.savez_compressed(folder / "train.npz", **arrays)
    lines = "".join(f"{i}.jpg,a caption of image {i}\n" for i in targets)
    (folder / "captions.txt").write_text("image,caption\n" + lines, encoding="utf-8")
    for name, array in (("text", text), ("images", images), ("targets", targets)):
        np.save(folder / f"{name}.npy", array)


def main() -> None:
    options = common.arguments(__doc__, devices=("cpu",))
    size = common.SIZES[options.size]
    captions = size.captions * 10 // 9  # training and validation split together
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, size, captions)
        fits = [in_fresh_process(FIT, folder) for _ in range(3)]
        pairs = []
        for _ in range(3):
            for cache in folder.glob("cache/*"):
                for file in cache.iterdir():
                    file.unlink()
                cache.rmdir()
            decompress = in_fresh_process(DECOMPRESS, folder)["seconds"]
            first, second = (in_fresh_process(LOAD, folder) for _ in range(2))
            pairs.append((decompress, first["seconds"], second["seconds"]))
    geometry = {key: statistics.median(fit[key] for fit in fits) for key in fits[0]}
    names = ("decompress_seconds", "first_seconds", "second_seconds")
    medians = [statistics.median(times) for times in zip(*pairs, strict=True)]
    loading = dict(zip(names, medians, strict=True))
    loading["first_over_decompress"] = statistics.median(first / decompress for decompress, first, _ in pairs)
    print(f"closed form of {captions:,} pairs: {geometry['seconds']:.1f} s, {geometry['extra_mb']:.0f} MB extra")
    print(f"first load {loading['first_over_decompress']:.2f} x decompression, later {loading['second_seconds']:.3f} s")
    common.save(
        "closed_form", options.size, options.device, {"captions": captions, "geometry": geometry, "loading": loading}
    )


if __name__ == "__main__":
    main()
