"""Seeds, deterministic switches, and the choice of device and precision."""

from __future__ import annotations

import contextlib
import functools
import os
import random
from collections.abc import Iterator

import numpy as np
import scipy.linalg  # noqa: F401  (its BLAS must be loaded before `_loaded_blas` looks)
import torch
from threadpoolctl import ThreadpoolController


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, and prefer deterministic kernels.

    Args:
        seed: non-negative integer.
    """
    # cuBLAS reads this when its handle is made; without it deterministic matrix products raise on CUDA.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")  # no TF32, whatever the environment asks for


@functools.cache
def _loaded_blas() -> ThreadpoolController:
    """Found once: looking takes milliseconds, longer than the small products of a search, of which there are many."""
    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold the BLAS and LAPACK of NumPy and SciPy to one thread; a context, or a decorator of a function.

    They order their sums by the number of threads, so a closed form would differ in its last bits between machines
    with other core counts, and a training that starts from it in its digits. Torch's products are not concerned:
    theirs come out alike on any number of threads, which the tests hold.
    """
    with _loaded_blas().limit(limits=1):
        yield


def choose_device() -> torch.device:
    """The fastest device that is there: CUDA, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def matmul_dtype(device: torch.device, mixed_precision: bool) -> torch.dtype:
    """The type in which matrix products run: bfloat16 where asked for and native to the device, else float32.

    Without native support bfloat16 is emulated and slower than float32, so it is never chosen there.
    """
    if not mixed_precision:
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Autocast to `dtype`; a null context for float32, so that plain runs take the plain code path."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)
