"""Products in bfloat16 on processors that lack them: the same numbers, computed in float32."""

from __future__ import annotations

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.system.devices import matmul_dtype

_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)


class _Float32Sums(TorchDispatchMode):
    """Takes bfloat16 products on the CPU to float32 and rounds what comes out, which is all that the hardware does.

    A product of two bfloat16 numbers is exact in float32, so only the order of the sums can differ. PyTorch's own
    fallback says the same, a hundred times slower.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in _PRODUCTS and all(one.dtype == torch.bfloat16 and one.device.type == "cpu" for one in args):
            return func(*(one.float() for one in args)).bfloat16()
        return func(*args, **(kwargs or {}))


def bfloat16_products() -> contextlib.AbstractContextManager:
    """Within it, products of bfloat16 tensors on the CPU cost about what float32 ones do, or less."""
    native = matmul_dtype(torch.device("cpu"), True) == torch.bfloat16
    return contextlib.nullcontext() if native else _Float32Sums()
