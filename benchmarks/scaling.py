"""What one training step costs as work grows: batch, queue, width, images; time and memory, beside the bare products.

`python -m benchmarks.scaling --size challenge`.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks import common, step

AXES = {
    "small": {
        "batch": (64, 128, 256, 512),
        "queue": (1_024, 4_096, 16_384),
        "image_dim": (192, 384, 768),
        "images": (1_000, 10_000, 100_000),
    },
    "challenge": {
        "batch": (128, 256, 512, 1024, 2048),
        "queue": (4_096, 16_384, 65_536, 262_144),
        "image_dim": (384, 768, 1536, 3072),
        "images": (1_000, 10_000, 100_000, 1_000_000),
    },
}
NARROW = {"text_dim": 128, "image_dim": 128}
"""Widths of the `images` axis, so that a million images fit a small memory; it is the count that is looked at."""


def measure(size: common.Size, device: str) -> dict:
    """Median seconds of a step and of its matrix products, and the memory that stepping adds to data and weights.

    The latter holds gradients, the optimiser's state and whatever a step allocates on its way.
    """
    data = step.random_data(size, device)
    ours, present = step.ours(size, data)
    candidates = {"ours": ours, "matmul_lower_bound": step.matmul_lower_bound(size, data, present)}
    memory = _added_memory_mb(ours, device)
    seconds = common.interleaved(candidates, 3, device)
    return {
        "images_scored": present,
        "seconds": statistics.median(seconds["ours"]),
        "lower_bound_seconds": statistics.median(seconds["matmul_lower_bound"]),
        "over_lower_bound": common.median_ratio(seconds["ours"], seconds["matmul_lower_bound"]),
        "step_memory_mb": memory,
    }


def _added_memory_mb(step: Callable[[], object], device: str) -> float:
    """The most that two steps hold beyond what was there before them, in the memory of the device."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(), step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = common.anonymous_memory_mb()
    with common.PeakMemory() as peak:
        step(), step()
    return max(0.0, peak.mb - before)


def measured(size: common.Size, device: str) -> dict:
    """See `measure`; on the CPU in a process of its own: memory that one point gave back would hide the next's."""
    if device == "cuda":
        return measure(size, device)
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(measure, (size, device))


def main() -> None:
    options = common.arguments(__doc__)
    base = common.SIZES[options.size]
    rows = []
    for axis, values in AXES[options.size].items():
        for value in values:
            size = replace(base, **{axis: value})
            if axis == "images":
                size = replace(size, captions=max(value, 2 * base.batch), **NARROW)
            rows.append({"axis": axis, "value": value, **measured(size, options.device)})
            row = rows[-1]
            print(
                f"{axis:10s} {value:9,d}   {1e3 * row['seconds']:8.1f} ms   "
                f"{row['over_lower_bound']:5.2f} x products   {row['step_memory_mb']:6.0f} MB"
            )
    common.save("scaling", options.size, options.device, {"narrow": NARROW, "rows": rows})


if __name__ == "__main__":
    main()
