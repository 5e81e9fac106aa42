"""Work that threads do ahead of whoever takes its results, in order, and never far ahead."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ahead(function: Callable[[Item], Result], items: Iterable[Item], depth: int, threads: int) -> Iterator[Result]:
    """The function's results, in the order of the items, computed by threads.

    Args:
        function: of one item; what it raises is raised where its result is taken.
        depth: results at most that are computed or waiting, which bounds memory however many items there are.
    """
    coming = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(coming, depth))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(coming, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
