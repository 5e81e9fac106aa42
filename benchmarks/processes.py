"""Memory of each process, and seconds of a step of BigJump, in 1, 2 and 4 processes: `python -m benchmarks.processes`.

Memory is what a process has allocated (`Anonymous` of Linux's smaps_rollup): pages of a file that is mapped, which all
processes share and the system takes back when it needs them, do not count. Weights and rows do not matter to memory and
time, so the data are random; they lie in files, as a cache does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from helpers.data.split import make_split
from helpers.data.training_data import TrainingData
from helpers.models.build import build_model
from helpers.system import processes
from helpers.training.loop import make_optimiser
from helpers.training.objectives import BigJumpConfig, BigJumpObjective
from helpers.training.steps import train_step

STEPS = 6
"""Timed, after one that is not: it makes the optimiser's moments and the geometry of every caption."""
GALLERY = 0.02
"""Share of the images that validate: their vectors are whole in every process."""


@dataclass(frozen=True)
class Size:
    """Of the data: captions, images, and their widths."""

    captions: int
    images: int
    text_dim: int
    image_dim: int


SIZES = {"small": Size(25_000, 5_000, 256, 256), "medium": Size(100_000, 20_000, 512, 512)}


def allocated() -> int:
    """Bytes that this process has allocated and touched."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def write(folder: Path, size: Size) -> None:
    """Random embeddings, as files that can be mapped."""
    rng = np.random.default_rng(0)
    for name, shape in (("text", (size.captions, size.text_dim)), ("images", (size.images, size.image_dim))):
        np.save(folder / f"{name}.npy", rng.standard_normal(shape, dtype=np.float32))


def measure(folder: Path, size: Size) -> dict[str, float]:
    """Megabytes and seconds of this process, among those that torchrun started with it."""
    text, images = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("text", "images"))
    split = make_split(np.arange(size.captions) % size.images, size.images, val_ratio=GALLERY)
    start = allocated()
    settings = BigJumpConfig(queue_schedule=(65536,), hidden=256, unfreeze_epoch=0, mixed_precision=False)
    data = TrainingData.of(text, images, split, torch.device("cpu"))
    objective = BigJumpObjective(settings, data)
    torch.manual_seed(0)
    model = build_model("bigjump", size.text_dim, size.image_dim, hidden=settings.hidden)
    optimiser = make_optimiser(model, settings)
    objective.start_epoch(1)
    seconds = []
    for rows in torch.randperm(len(data.positive_of_all)).split(settings.batch_size)[: STEPS + 1]:
        started = time.perf_counter()
        train_step(model, objective, optimiser, rows)
        seconds.append(time.perf_counter() - started)
    assert objective.geometry is not None
    held = (data.text, data.images, objective.negative_bank, objective.geometry)
    return {
        "data": sum(tensor.numel() * tensor.element_size() for tensor in held) / 1e6,
        "process": (allocated() - start) / 1e6,
        "step": statistics.median(seconds[1:]),
    }


def in_processes(count: int, size: str, folder: Path) -> dict[str, float]:
    """What the largest of `count` processes measured."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}"]
    command += ["-m", "benchmarks.processes", "--size", size, "--in", str(folder)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(said.strip().splitlines()[-1])
    return {name: max(of_process[name] for of_process in found) for name in found[0]}


def one_of_several(folder: Path, size: str) -> None:
    """Measure within one process, and have the first print what all found."""
    found = measure(folder, SIZES[size])
    table = processes.gather(torch.tensor([list(found.values())], dtype=torch.float64))[0][0]
    if processes.is_first():
        print(json.dumps([dict(zip(found, row, strict=True)) for row in table.tolist()]))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--in", dest="folder", type=Path, help="of the data, in a process that torchrun started")
    options = parser.parse_args()
    if options.folder:
        processes.together(lambda: one_of_several(options.folder, options.size))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, SIZES[options.size])
        print("| processes | data a process | all that it allocates | a step |\n| --- | --- | --- | --- |")
        for count in (1, 2, 4):
            found = in_processes(count, options.size, folder)
            shown = f"{found['data']:.1f} MB | {found['process']:.0f} MB | {found['step']:.3f} s"
            print(f"| {count} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
