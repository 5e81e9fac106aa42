"""What a width that is no multiple of 8 costs a matrix product, and what keeping to multiples saves.

`python -m benchmarks.widths --size challenge`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import common
from helpers.evaluation import metrics
from helpers.system.devices import matmul_dtype, seed_all
from helpers.training import infonce, losses


def with_multiple(multiple: int, call: Callable[[], object]) -> Callable[[], None]:
    """`call` as it would be with another `COLUMN_MULTIPLE`; 1 keeps to no multiple."""

    def run() -> None:
        with (
            mock.patch.object(infonce, "COLUMN_MULTIPLE", multiple),
            mock.patch.object(metrics, "COLUMN_MULTIPLE", multiple),
        ):
            call()

    return run


def products(size: common.Size, device: str) -> list[dict]:
    """The score product of one batch with galleries of eight widths in a row."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(size.batch, size.image_dim, generator=generator).to(device)
    gallery = torch.randn(size.gallery + 8, size.image_dim, generator=generator).to(device)
    widths = [size.gallery // 8 * 8 + extra for extra in range(9)]
    seconds = common.interleaved({str(w): lambda w=w: queries @ gallery[:w].T for w in widths}, 30, device)
    even = seconds[str(widths[0])]
    return [{"width": w, "over_even": common.median_ratio(seconds[str(w)], even)} for w in widths]


def uses(size: common.Size, device: str) -> dict[str, Callable[[], object]]:
    """The two places that keep to multiples: ranks against a gallery, and InfoNCE over half of the images, drawn."""
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(size.gallery, size.image_dim, generator=generator).to(device)
    targets = torch.arange(size.queries) % size.gallery
    predictions = gallery[targets] + 8 * torch.randn(size.queries, size.image_dim, generator=generator).to(device)
    dtype = matmul_dtype(torch.device(device), True)
    bank = F.normalize(torch.randn(size.images, size.image_dim, generator=generator), dim=-1).to(device, dtype)
    positive = torch.randint(size.images, (size.batch,), generator=generator).to(device)
    batch = torch.randn(size.batch, size.image_dim, generator=generator).to(device)
    seed_all(0)  # deterministic kernels, as in every training
    half = losses.sampled_weights(size.images, positive, 0.5)
    return {
        "ranks": lambda: np.mean(1 / metrics.ranks(predictions, gallery, targets)),
        "infonce": lambda: losses.bank_infonce(batch, bank, positive, 0.05, dtype, half),
    }


def main() -> None:
    options = common.arguments(__doc__)
    size = common.SIZES[options.size]
    rows = products(size, options.device)
    for row in rows:
        print(f"width {row['width']:6,d}   {row['over_even']:5.2f} x the first")
    saved = []
    for name, call in uses(size, options.device).items():
        candidates = {"kept": with_multiple(8, call), "any": with_multiple(1, call)}
        seconds = common.interleaved(candidates, 2 * size.repeats, options.device)
        saved.append(
            {
                "what": name,
                "seconds": statistics.median(seconds["kept"]),
                "without": common.median_ratio(seconds["any"], seconds["kept"]),
            }
        )
        print(f"{name:6s} {saved[-1]['seconds']:8.3f} s   without multiples {saved[-1]['without']:5.2f} x")
    common.save("widths", options.size, options.device, {"products": rows, "uses": saved})


if __name__ == "__main__":
    main()
