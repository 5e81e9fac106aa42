"""What every benchmark shares: sizes, interleaved timing, a description of the machine, and the results file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from helpers.system.devices import matmul_dtype
from helpers.system.files import write_json

RESULTS_DIR = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "numpy", "scipy", "torchmetrics", "pytorch-metric-learning", "lightly", "faiss-cpu")


@dataclass(frozen=True)
class Size:
    """One size of the whole set of benchmarks.

    Attributes:
        captions, images: of the training split. text_dim, image_dim: widths.
        batch, queue: of a training step.
        queries, gallery: of the ranking comparison.
        repeats: timed repetitions of the comparisons.
    """

    captions: int
    images: int
    text_dim: int
    image_dim: int
    batch: int
    queue: int
    queries: int
    gallery: int
    repeats: int


SIZES = {
    "small": Size(6_000, 1_200, 256, 384, 256, 4_096, 2_000, 500, 5),
    "challenge": Size(112_500, 22_500, 1024, 1536, 512, 65_536, 12_500, 2_500, 5),
}


def arguments(description: str, devices: tuple[str, ...] = ("cpu", "cuda")) -> argparse.Namespace:
    """The command line that all benchmarks share; `devices` are those that one knows how to measure on.

    Where that is one, there is nothing to choose and no option for it.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=SIZES, default="small")
    if len(devices) > 1:
        parser.add_argument("--device", choices=devices, default=devices[0])
    parser.set_defaults(device=devices[0])
    return parser.parse_args()


def at_least(least: int) -> Callable[[str], int]:
    """A type of the command line: whole numbers from `least` on."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value}: must be at least {least}")
        return value

    return number


def machine(device: str) -> dict:
    """What the numbers depend on: processor, cores, threads, memory, accelerator, type of the products."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "accelerator": torch.cuda.get_device_name() if device == "cuda" else None,
        "products": str(matmul_dtype(torch.device(device), True)),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Python and the packages that matter, as installed; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def interleaved(candidates: dict[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, list]:
    """Seconds of each candidate, {name: [repeats]}, run in turn so that a drift of the machine hits all alike.

    Each is called once beforehand, untimed. On a GPU the device is synchronised around every call.
    """
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, call in candidates.items():
            synchronise()
            started = time.perf_counter()
            call()
            synchronise()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def replayed(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """`call` as it is, or on a GPU recorded as a graph: a lower bound must not wait for the host."""
    if device.type != "cuda":
        return call
    call()  # libraries are set up outside the graph
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()

    def replay() -> None:
        graph.replay()

    replay.reads = call  # keeps the operands
    return replay


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Median over turns of slow / fast, pair by pair."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def anonymous_memory_mb() -> float:
    """Memory that this process holds beside mapped files, in MB; pages of a memory map can be dropped at any time."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024 / 1e6


class PeakMemory:
    """Largest `anonymous_memory_mb` seen while the context is open, sampled every 5 ms; the figure is in `mb`."""

    def __enter__(self) -> PeakMemory:
        self.mb, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.mb = max(self.mb, anonymous_memory_mb())

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()
        self._thread.join()


def other_runs(splits: list[int], usual_splits: list[int], seeds: int, usual_seeds: int) -> list[str]:
    """Parts of a table's name that say which splits and seeds it has, where they are not the usual ones."""
    parts = ["split_" + "_".join(map(str, splits))] if splits != usual_splits else []
    return parts + ([f"{seeds}_seeds"] if seeds != usual_seeds else [])


def require_same_data(path: Path, fingerprint: str) -> None:
    """Raise where `path` holds results of other data, before hours are spent on what could not be written there.

    Raises:
        FileExistsError: names the file and the remedy.
    """
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))["data"]["fingerprint"]
        if held != fingerprint:
            raise FileExistsError(
                f"{path}: holds results of other data ({held[:8]}, now {fingerprint[:8]}). Move it away, or give the "
                "data folder another name."
            )


def save(name: str, size: str, device: str, content: dict) -> Path:
    """Write `results/<name>_<size>[_cuda].json` with the command, the machine and the versions beside the content."""
    suffix = "" if device == "cpu" else f"_{device}"
    command = f"python -m benchmarks.{name} --size {size}" + (f" --device {device}" if suffix else "")
    path = RESULTS_DIR / f"{name}_{size}{suffix}.json"
    metadata = {"benchmark": name, "size": size, "command": command}
    write_json(path, {**metadata, "machine": machine(device), "versions": versions(), **content})
    print(f"{path.name} written")
    return path


def load(name: str, size: str, device: str = "cpu") -> dict | None:
    """A result written earlier, or None."""
    path = RESULTS_DIR / f"{name}_{size}{'' if device == 'cpu' else f'_{device}'}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
