"""What a translator costs: parameters, memory, latency."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn


def count_parameters(model: nn.Module) -> int:
    """Numbers that the model must store: parameters and buffers, frozen ones included."""
    return sum(t.numel() for t in (*model.parameters(), *model.buffers()))


def megabytes(parameters: int) -> float:
    """FP32 size in megabytes (10^6 bytes)."""
    return parameters * 4 / 1e6


@torch.inference_mode()
def milliseconds_per_query(
    model: nn.Module, text_dim: int, device: torch.device | str, *, repeats: int = 200, warmup: int = 20
) -> float:
    """Median milliseconds to translate one query (batch of one), on `device`, transfers excluded.

    Each call is timed alone and the device is synchronised around it; the median shrugs off other load.
    """
    device = torch.device(device)
    model = model.to(device).eval()
    query = torch.randn(1, text_dim, generator=torch.Generator().manual_seed(0)).to(device)
    of_kind = {"cuda": lambda: torch.cuda.synchronize(device), "mps": torch.mps.synchronize}
    synchronise = of_kind.get(device.type, lambda: None)
    times = []
    for i in range(warmup + repeats):
        synchronise()
        started = time.perf_counter()
        model(query)
        synchronise()
        if i >= warmup:
            times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)
