"""What encoding a folder costs beside the encoders themselves, or how its memory grows with the number of pictures.

`python -m benchmarks.encode`: preset small on photos of Flickr's size with five captions each, made here. `bare` runs
both networks over batches that lie ready in memory; `encode` opens, decodes and scales the pictures as well, and writes
the data folder. Both run in turn.

`python -m benchmarks.encode --memory 5000 100000`: the most memory that is held while so many pictures are encoded,
each number in a process of its own. The pictures are tiny, and stand-ins of the networks give vectors of preset small's
widths, since what pictures and networks take while they are worked on does not depend on how many there are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks import common
from helpers.encoders import PRESETS, encode_folder, find_pictures, folder, load_image_encoder, load_text_encoder
from helpers.encoders import open_picture as opened
from helpers.encoders.preprocessing import Preprocessing

WORDS = "a the two of on in dog man woman child red blue runs jumps plays through over grass water street with".split()
TINY, FILES = 16, 2000
"""Side of a tiny picture, and how many files stand for all: a file system allows some ten thousand links to one."""


def make(root: Path, n: int, size: tuple[int, int], each: int) -> None:
    """Pictures and captions of them: smooth noise, which takes a JPEG as long as a photo does."""
    (root / "photos").mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines = ["image,caption"]
    for i in range(n):
        pixels = generator.integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(root / "photos" / f"{i:06d}.jpg")
        for _ in range(each):
            lines.append(f"{i:06d}.jpg,{' '.join(generator.choice(WORDS, generator.integers(6, 20)))}")
    (root / "captions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def in_turn(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds, CPU seconds) of each candidate, run in turn, once untimed before."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, call in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if turn:
                measured[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return measured


def throughput(root: Path, n: int, repeats: int, device: str) -> dict:
    make(root, n, (500, 375), 5)
    text = load_text_encoder(PRESETS["small"]["text"], device)
    images = load_image_encoder(PRESETS["small"]["images"], device)
    names, _ = find_pictures(root / "photos")
    ready = [images.prepare(opened(root / "photos" / name)) for name in names]
    texts = [line.split(",", 1)[1] for line in (root / "captions.txt").read_text().splitlines()[1:]]

    def bare_images() -> None:
        for lo in range(0, n, images.batch):
            images.encode_prepared(ready[lo : lo + images.batch])

    def bare() -> None:
        bare_images()
        text.model.encode(texts, show_progress_bar=False)

    def encode() -> None:
        shutil.rmtree(root / "data", ignore_errors=True)
        with (
            mock.patch.object(folder, "load_text_encoder", return_value=text),
            mock.patch.object(folder, "load_image_encoder", return_value=images),
        ):
            encode_folder(root / "photos", root / "captions.txt", root / "data")

    measured = in_turn({"bare": bare, "encode": encode}, repeats)
    wall, cpu = (
        [b[kind] / e[kind] for b, e in zip(measured["bare"], measured["encode"], strict=True)] for kind in (0, 1)
    )
    return {
        "pictures": n,
        "captions": len(texts),
        "bare_seconds": statistics.median(seconds for seconds, _ in measured["bare"]),
        "encode_seconds": statistics.median(seconds for seconds, _ in measured["encode"]),
        "share_of_bare": statistics.median(wall),
        "share_of_bare_each": wall,
        "share_of_bare_in_cpu_time": statistics.median(cpu),
    }


class StandIn:
    """A network that takes no time: vectors of the right width, of what a picture or text is."""

    def __init__(self, dim: int) -> None:
        self.dim, self.sees, self.batch, self.readers = dim, TINY, 8, 2
        self._seen = Preprocessing(TINY, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3)

    def prepare(self, picture: Image.Image) -> torch.Tensor:
        return self._seen.pixels(picture)

    def encode_prepared(self, prepared: Sequence[torch.Tensor]) -> np.ndarray:
        return np.stack([np.full(self.dim, 1 + one.float().mean().item(), np.float32) for one in prepared])

    def encode(self, texts: Sequence[str], batch_size: int | None = None) -> np.ndarray:
        return np.ones((len(texts), self.dim), np.float32)

    def describe(self) -> dict:
        return {"kind": "stand-in", "dim": self.dim}


def make_tiny(root: Path, n: int) -> None:
    """Tiny pictures, most of them links to one file of many, and five captions of each, no two alike."""
    (root / "photos").mkdir()
    generator = np.random.default_rng(0)
    said = [" ".join(generator.choice(WORDS, length)) for length in generator.integers(6, 20, FILES)]
    files: list[Path] = []
    with (root / "captions.txt").open("w", encoding="utf-8") as captions:
        captions.write("image,caption\n")
        for i in range(n):
            path = root / "photos" / f"{i:06d}.png"
            if i < FILES:
                Image.fromarray(generator.integers(0, 256, (TINY, TINY, 3), dtype=np.uint8)).save(path)
                files.append(path)
            else:
                path.hardlink_to(files[i % FILES])
            captions.writelines(f"{path.name},{said[(5 * i + j) % FILES]} {5 * i + j}\n" for j in range(5))


def peak(n: int) -> None:
    """In a process of its own: anonymous memory at the start, and the most while `n` pictures are encoded."""
    with tempfile.TemporaryDirectory() as where:
        root = Path(where)
        make_tiny(root, n)
        started, before = time.perf_counter(), common.anonymous_memory_mb()
        with (
            mock.patch.object(folder, "load_text_encoder", return_value=StandIn(384)),
            mock.patch.object(folder, "load_image_encoder", return_value=StandIn(1280)),
            common.PeakMemory() as held,
        ):
            encode_folder(root / "photos", root / "captions.txt", root / "data")
        seconds = time.perf_counter() - started
        size = (root / "data" / "train.npz").stat().st_size
    row = {"pictures": n, "captions": 5 * n, "before_mb": before, "peak_mb": held.mb}
    print(json.dumps(row | {"written_mb": size / 1e6, "seconds": seconds}))


def memory(counts: Sequence[int]) -> list[dict]:
    rows = []
    for n in counts:
        command = [sys.executable, "-m", "benchmarks.encode", "--peak", str(n)]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        row = rows[-1]
        print(
            f"{row['pictures']:7,d} pictures, {row['captions']:,d} captions: {row['before_mb']:.0f} MB before, "
            f"{row['peak_mb']:.0f} MB at most, {row['written_mb']:.0f} MB written ({row['seconds']:.0f} s)",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=common.SIZES, default="small", help="for the name of the results alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pictures", type=common.at_least(8), default=512)
    parser.add_argument("--repeats", type=common.at_least(1), default=3)
    parser.add_argument("--memory", type=common.at_least(8), nargs="+", metavar="N", help="measure memory, of so many")
    parser.add_argument("--peak", type=common.at_least(8), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        peak(options.peak)
        return
    if options.memory:
        command = f"python -m benchmarks.encode --memory {' '.join(map(str, options.memory))}"
        content = {"command": command, "memory": memory(options.memory)}
        common.save("encode_memory", options.size, options.device, content)
        return
    with tempfile.TemporaryDirectory() as where:
        found = throughput(Path(where), options.pictures, options.repeats, options.device)
    print(
        f"{found['pictures']} pictures, {found['captions']} captions: bare {found['bare_seconds']:.1f} s, "
        f"encode {found['encode_seconds']:.1f} s: {found['share_of_bare']:.0%} of the encoders' own throughput "
        f"({found['share_of_bare_in_cpu_time']:.0%} in CPU time)"
    )
    common.save("encode", options.size, options.device, {"throughput": found})


if __name__ == "__main__":
    main()
