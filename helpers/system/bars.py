"""Progress, for whoever watches: a bar in a terminal or a notebook, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from tqdm import tqdm

from helpers.system import processes

STEPS = "{l_bar}{bar:16}| {n}/{total} steps [{elapsed}<{remaining}{postfix}]"
"""Of a training: narrow enough for epoch, loss and MRR to stand in one line of a terminal."""
ITEMS = "{l_bar}{bar:16}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
"""Of an encoding."""
LOG_INTERVAL = 30.0
"""Seconds between two lines of a log."""


class _Lines:
    """A stream that ends each new state of a bar with a newline, where a terminal would write over the last."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.last = stream, ""

    def write(self, text: str) -> None:
        shown = text.strip()
        if shown and shown != self.last:
            self.stream.write(f"{shown}\n")
            self.last = shown

    def flush(self) -> None:
        self.stream.flush()


def training_bar(label: str, total: int, initial: int = 0) -> tqdm:
    """A bar over the steps of a training.

    Args:
        label: shown before it.
        total: steps at most. initial: steps that an earlier process has done.
    """
    return _bar(label, total, initial, STEPS)


def encoding_bar(label: str, total: int, done: int) -> tqdm:
    """A bar over items of which an earlier call has done some; they do not count for the time that is left."""
    return _bar(label, total, done, ITEMS)


def show(bar: tqdm, values: Mapping[str, str]) -> None:
    """Set what stands behind a bar: at once for whoever watches, in a log with its next line."""
    if not bar.disable:
        bar.set_postfix(values, refresh=bar.mininterval < LOG_INTERVAL)


def _bar(label: str, total: int, initial: int, bar_format: str) -> tqdm:
    stream = sys.stderr
    watched = stream.isatty() or type(stream).__module__.startswith("ipykernel")
    every = 0.5 if watched else LOG_INTERVAL
    quiet: dict[str, Any] = {} if processes.is_first() else {"disable": True}  # one bar; or as TQDM_DISABLE says
    return tqdm(
        total=total,
        initial=initial,
        desc=label,
        unit=" ",
        bar_format=bar_format,
        file=stream if watched else _Lines(stream),
        mininterval=every,
        maxinterval=max(every, 10.0),
        **quiet,
    )
