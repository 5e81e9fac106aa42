"""Several processes that work on one training: who each is, what they add up, and how all end when one fails.

`torchrun` starts them; `together` joins them. Data are dealt by image: image m belongs to process m mod N, where it has
place m div N, and its captions go with it. In one process every function here gives back what it was given, so that
code is written once for any number.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch.autograd.function import BackwardCFunction, FunctionCtx

from helpers.errors import ProcessError, UserError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=5)
"""For one exchange between processes. One that dies is noticed at once; this is for one that hangs."""
PATIENCE = timedelta(hours=24)
"""For what the first process does while the others wait, such as the search of the recipe plus."""
LAST_WORDS = 5.0
"""Seconds that the other processes leave the one that tells what went wrong: torchrun stops all once one has ended."""
LAST_BREATH = 3.0
"""Seconds, at most, between the end of a killed process's connections and its own."""


@dataclass
class _Group:
    """This process among the others.

    Attributes:
        device: where tensors are exchanged: a GPU of its own with NCCL, the host's memory with gloo.
        store: of texts, which all processes see.
        told: texts so far that the first process told the others.
        working_alone: within `by_itself`.
    """

    rank: int
    size: int
    device: torch.device
    store: dist.Store
    told: int = 0
    working_alone: bool = False


_group: _Group | None = None


def size() -> int:
    """Number of processes that work together."""
    return 1 if _group is None or _group.working_alone else _group.size


def rank() -> int:
    """Number of this one among them, from 0."""
    return 0 if _group is None or _group.working_alone else _group.rank


def is_first() -> bool:
    """Whether this process is the one that writes files and talks to the user."""
    return _group is None or _group.rank == 0


@contextlib.contextmanager
def by_itself() -> Iterator[None]:
    """Within it this process works on data of its own, and exchanges nothing."""
    before = _group is not None and _group.working_alone
    if _group is not None:
        _group.working_alone = True
    try:
        yield
    finally:
        if _group is not None:
            _group.working_alone = before


# Whose image is whose.

Numbers = TypeVar("Numbers", torch.Tensor, np.ndarray)


def owner(images: Numbers) -> Numbers:
    """The process that has each image, of their numbers among all."""
    return images % size()


def place(images: Numbers) -> Numbers:
    """The place of each image among those of its process, of their numbers among all."""
    return images // size()


def image_number(places: Numbers) -> Numbers:
    """The number among all of each image of this process, of their places."""
    return places * size() + rank()


# What is exchanged.


def total(x: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all processes, on each of them, in the same bits.

    Differentiable in the sense in which losses are computed here: what is made of the sum is the same value in every
    process and counts once, so the gradient of the sum is that of each process's own part.
    """
    return x if size() == 1 else _Total.apply(x)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        return _reduced(x, dist.ReduceOp.SUM)

    @staticmethod
    def backward(ctx: BackwardCFunction, upstream: torch.Tensor) -> torch.Tensor:
        return upstream


def maximum(x: torch.Tensor) -> torch.Tensor:
    """Largest of a tensor over all processes, element by element; not differentiable."""
    return x if size() == 1 else _reduced(x, dist.ReduceOp.MAX)


def total_array(x: np.ndarray) -> np.ndarray:
    """Sum of an array over all processes."""
    return x if size() == 1 else total(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def total_number(x: int) -> int:
    """Sum of a whole number over all processes."""
    return x if size() == 1 else int(total(torch.tensor(x)))


def mean_of_rows(x: torch.Tensor) -> torch.Tensor:
    """Mean (...) of rows (B, ...) over the rows of all processes, of which some may have none; see `total`."""
    if size() == 1:
        return x.mean(0)
    sums = x.sum(0)
    both = total(torch.cat([sums.reshape(-1), sums.new_tensor([len(x)])]))  # the number of rows in the same exchange
    return (both[:-1] / both[-1]).view_as(sums)


def gather(*tensors: torch.Tensor) -> tuple[list[torch.Tensor], slice]:
    """Rows (B, ...) of this process to those of all, one process after the other; not differentiable.

    Args:
        tensors: all of one B, which may differ between the processes.

    Returns:
        The rows of all for each, and where this process's stand among them.
    """
    b = len(tensors[0])
    if size() == 1:
        return list(tensors), slice(0, b)
    counts = _all(torch.tensor([b]))[:, 0].tolist()
    found = []
    for x in tensors:
        padded = x.new_zeros(max(counts), *x.shape[1:])  # every process must send as much
        padded[:b] = x.detach()
        found.append(torch.cat([part[:count] for part, count in zip(_all(padded), counts, strict=True)]))
    start = sum(counts[: rank()])
    return found, slice(start, start + b)


def from_first(x: torch.Tensor) -> torch.Tensor:
    """The first process's values of a tensor, which has the same shape in all of them."""
    if size() == 1:
        return x
    assert _group is not None
    buffer = x.detach().to(_group.device, copy=True).contiguous()
    dist.broadcast(buffer, 0)
    return buffer.to(x.device)


@torch.no_grad()
def take_from_first(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors the first process's values, in place: what is computed on machines of two kinds differs."""
    for tensor in tensors if size() > 1 else ():
        tensor.copy_(from_first(tensor))


@torch.no_grad()
def total_gradients(parameters: Iterable[torch.Tensor]) -> None:
    """Replace the gradient of each parameter by its sum over all processes, all of one type in one exchange."""
    if size() == 1:
        return
    of_type: dict[torch.dtype, list[torch.Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            of_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in of_type.values():
        summed = total(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        parts = summed.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _reduced(x: torch.Tensor, op: dist.ReduceOp.RedOpType) -> torch.Tensor:
    assert _group is not None
    buffer = x.detach().to(_group.device, copy=True).contiguous()
    dist.all_reduce(buffer, op)
    return buffer.to(x.device)


def _all(x: torch.Tensor) -> torch.Tensor:
    """(N, ...) of every process's tensor, all of one shape."""
    assert _group is not None
    own = x.to(_group.device).contiguous()
    found = [torch.empty_like(own) for _ in range(_group.size)]
    dist.all_gather(found, own)
    return torch.stack(found).to(x.device)


# Waiting for one another.


def barrier() -> None:
    """Wait until every process is here."""
    total_number(0)


def first_tells(work: Callable[[], T]) -> T:
    """What `work` gives in the first process, by itself, to all of them as JSON; the others wait, and do not work."""
    if size() == 1:
        return work()
    assert _group is not None
    _group.told += 1
    key = f"told {_group.told}"
    if is_first():
        with by_itself():
            _group.store.set(key, json.dumps(work()))
    else:
        _group.store.wait([key], PATIENCE)
    return cast(T, json.loads(_group.store.get(key)))


def first_before_others(work: Callable[[], T]) -> T:
    """`work` in the first process, then in the others, which find what it left, such as a cache."""
    if size() == 1:
        return work()
    kept: list[T] = []
    first_tells(lambda: kept.append(work()))
    return kept[0] if kept else work()


def require_same(value: Any, what: str) -> None:
    """Raise where the processes do not agree on a JSON value.

    Raises:
        ProcessError: says what differs.
    """
    if size() > 1 and first_tells(lambda: value) != json.loads(json.dumps(value)):
        raise ProcessError(f"{what} differ between the processes: give all of them the same files.")


# Beginning and end.


def together(work: Callable[[], T]) -> T:
    """Do the work of a command line, as one of those processes that torchrun started, where it did.

    Where it fails in one, all end, and one line says which was the first and why.

    Raises:
        ProcessError: the work failed in this process, and in no other before.
        SystemExit: another process has said why all of them end; or the program has an error, which was printed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return work()
    with joined():
        return work()


def leave(status: int) -> NoReturn:
    """End this process, and where it is one of several, at once.

    Threads of gloo may still hold tensors, and the interpreter that takes itself apart under them is aborted now and
    then (PyTorch's issue 190489): a training that is done would end with an error.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextlib.contextmanager
def joined(timeout: timedelta = TIMEOUT) -> Iterator[None]:
    """Within it this process works with the others that its environment names, see `together`."""
    global _group
    store, number, count = next(dist.rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    backend, device = _backend(int(os.environ.get("LOCAL_RANK", number)), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    own = dist.PrefixStore("helpers", store)
    dist.init_process_group(
        backend, store=dist.PrefixStore("group", store), rank=number, world_size=count, timeout=timeout
    )
    _group = _Group(number, count, device, own)
    try:
        own.set(f"process {number}", json.dumps([socket.gethostname(), os.getpid()]))
        barrier()
        yield
        barrier()  # the first to end would take its connections from those that still work
    except BaseException as error:
        _end_all(error)
    finally:
        _group = None
    dist.destroy_process_group()


def _backend(local: int, local_size: int) -> tuple[str, torch.device]:
    """NCCL where each process of this machine has a GPU of its own, which it then uses; else gloo."""
    wanted = os.environ.get("HELPERS_DEVICE", "cuda")
    if wanted != "cuda" or not torch.cuda.is_available():
        return "gloo", torch.device("cpu")
    torch.cuda.set_device(local % torch.cuda.device_count())
    if torch.cuda.device_count() < local_size or not dist.is_nccl_available():
        return "gloo", torch.device("cpu")
    return "nccl", torch.device("cuda", local)


def _end_all(error: BaseException) -> NoReturn:
    """Raise what ends this process after an error: the one line for the user, or nothing where another tells it.

    An error of one process makes the exchanges of the others fail. Whoever notes its error in the store first is the
    one that failed; one that was killed notes nothing, and is then looked for.
    """
    assert _group is not None
    if isinstance(error, SystemExit):
        raise error
    lost = isinstance(error, dist.DistError | RuntimeError) and not isinstance(error, UserError)
    mine = str(_group.rank)
    try:
        first = _group.store.compare_set("failed", "", mine).decode()
    except (RuntimeError, ValueError):  # the store died with the process that kept it
        first = mine
    if first != mine:
        time.sleep(LAST_WORDS)
        raise SystemExit(1) from error
    if isinstance(error, KeyboardInterrupt):
        raise error
    dead = _dead(LAST_BREATH) if lost else []
    if dead:
        raise ProcessError(
            f"{' and '.join(dead)} ended without a word, as one that was killed does (too little memory is the usual "
            "cause), so all end. The same command goes on from the last state that was kept."
        ) from error
    who = f"rank {_group.rank} of {_group.size} ({socket.gethostname()}, process {os.getpid()})"
    if not isinstance(error, UserError):  # an error of the program, or of the network: where it was comes second
        print(f"error: {who}: {type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        traceback.print_exception(error)
        raise SystemExit(1) from error
    told = ProcessError(f"{who}: {error}")
    told.exit_status = error.exit_status
    raise told from error


def _dead(wait: float) -> list[str]:
    """Processes of this machine that are no more, or wait to be buried by torchrun.

    Args:
        wait: seconds until one is, at most.
    """
    ends = time.monotonic() + wait
    while not (found := _found_dead()) and time.monotonic() < ends:
        time.sleep(0.05)
    return found


def _found_dead() -> list[str]:
    assert _group is not None
    found = []
    for number in range(_group.size):
        key = f"process {number}"
        try:
            if not _group.store.check([key]):  # `get` would wait for it
                continue
            host, process = json.loads(_group.store.get(key))
        except (RuntimeError, ValueError):  # the store died with the process that kept it
            continue
        if host == socket.gethostname() and number != _group.rank and not _runs(process):
            found.append(f"rank {number} of {_group.size} ({host}, process {process})")
    return found


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    with contextlib.suppress(OSError, IndexError):  # where there is no /proc, one that was not buried counts as alive
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
