"""How far an encoding is and how long it will take: a bar where someone watches, a line now and then in a log."""

from __future__ import annotations

import sys
from typing import TextIO

from tqdm import tqdm

FORMAT = "{l_bar}{bar:16}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
LOG_INTERVAL = 30.0
"""Seconds between two lines of a log."""


class _Lines:
    """A stream that ends each state of a bar with a newline, where a terminal would write over the last."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        if shown := text.strip():
            self.stream.write(f"{shown}\n")

    def flush(self) -> None:
        self.stream.flush()


def encoding_bar(label: str, total: int, done: int) -> tqdm:
    """A bar over items of which an earlier call has done some; they do not count for the time that is left."""
    stream = sys.stderr
    watched = stream.isatty() or type(stream).__module__.startswith("ipykernel")
    every = 0.5 if watched else LOG_INTERVAL
    return tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=" ",
        bar_format=FORMAT,
        file=stream if watched else _Lines(stream),
        mininterval=every,
        maxinterval=max(every, 10.0),
    )
