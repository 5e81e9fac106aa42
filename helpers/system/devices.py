"""Seeds, deterministic switches, and the choice of device and precision."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401  (its BLAS must be loaded before `_loaded_blas` looks)
import torch
from threadpoolctl import ThreadpoolController

from helpers.errors import ConfigError

COLUMN_MULTIPLE = 8
"""A wide float32 product takes up to half as long again on a CPU where its width is no multiple of this
(benchmarks/widths.py); one in bfloat16 more than twice as long on a GPU, whose best kernels want rows that begin at
multiples of 16 bytes."""


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, and compute as `prefer_exact` says.

    Args:
        seed: non-negative integer.
    """
    prefer_exact()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def prefer_exact() -> None:
    """Prefer deterministic kernels, and take no shortcut in precision, whatever the environment asks for."""
    # cuBLAS reads this when its handle is made; without it deterministic matrix products raise on CUDA.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # As use_deterministic_algorithms(True, warn_only=True), which takes seconds to import a compiler that is not used.
    torch.set_deterministic_debug_mode("warn")
    # Filling every new tensor takes a twentieth of a step; only code that reads what it never wrote would notice.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of it
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")  # no TF32
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # sums of bfloat16 products in float32


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Compute in float32 and exactly, whatever the caller's program has set; a context, or a decorator of a function.

    Autocast, a default type or device of new tensors, and shortcuts in products (TF32, bfloat16) are the caller's
    business, but would change what is promised here: inside autocast to bfloat16, one search in twelve had another
    first place. What the caller has set holds again afterwards.
    """
    with contextlib.ExitStack() as within:
        for kind in {"cpu", "cuda" if torch.cuda.is_available() else "cpu"}:
            within.enter_context(torch.autocast(kind, enabled=False))
        within.enter_context(torch.device("cpu"))  # the default of new tensors
        within.enter_context(_EXACT)
        yield


class _ExactProcess:
    """Settings of the whole process, set by the first thread that comes in and restored by the last that leaves."""

    def __init__(self) -> None:
        self._lock, self._inside, self._restore = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._set()

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore.close()

    def _set(self) -> None:
        if (dtype := torch.get_default_dtype()) != torch.float32:
            self._restore.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        # Newer than `torch.set_float32_matmul_precision`, which cannot be read any more once these have been set.
        backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
        for backend in backends:
            if hasattr(backend, "fp32_precision"):
                self._restore.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
                backend.fp32_precision = "ieee"
        if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # before PyTorch 2.9
            self._restore.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")


_EXACT = _ExactProcess()


@contextlib.contextmanager
def any_order() -> Iterator[None]:
    """Within it a GPU's kernels may write and add up in any order, which is faster.

    For what comes out alike in every order: writes to different places, and sums of whole numbers below 2^24.
    """
    wanted = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(wanted)


@functools.cache
def _loaded_blas() -> ThreadpoolController:
    """Found once: looking takes milliseconds, longer than the small products of a search, of which there are many."""
    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold the BLAS and LAPACK of NumPy and SciPy to one thread; a context, or a decorator of a function.

    They order their sums by the number of threads, so a closed form would differ in its last bits between machines
    with other core counts, and a training that starts from it in its digits. Torch's products are not concerned:
    in float32 theirs come out alike on any number of threads, which the tests hold.
    """
    with _loaded_blas().limit(limits=1):
        yield


def choose_device() -> torch.device:
    """The device to compute on: what `HELPERS_DEVICE` names (`cpu`, `cuda:1`), else CUDA, Apple's MPS, or the CPU.

    Raises:
        ConfigError: this environment variable names no device that is there.
    """
    if name := os.environ.get("HELPERS_DEVICE"):
        return _named_device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _named_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each kind of device has its own
        raise ConfigError(f"HELPERS_DEVICE = {name!r}: no device that is there ({error}).") from error
    return device


def device_name(device: torch.device) -> str:
    """Kind of a device, and of a CUDA device its model: where these differ, one training gives other bits."""
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


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
