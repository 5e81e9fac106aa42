"""What is printed: it must end no work that is done."""

from __future__ import annotations

import io
import sys


def print_anything() -> None:
    """Have characters that the terminal or a log cannot hold written as escapes, where `print` would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
