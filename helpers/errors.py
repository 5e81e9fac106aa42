"""Every error that a user of this package can meet, and how a message shows its cases."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice


class UserError(Exception):
    """What the user of a command can mend: it is said in one line, without a traceback.

    Attributes:
        exit_status: of a command that it ends.
    """

    exit_status = 2


class ConfigError(UserError, ValueError):
    """A setting is outside its range, or a name is unknown."""


class DataError(UserError, ValueError):
    """An input file is not what it must be; the message names the file, the key, the count and the remedy."""


class SplitError(UserError, ValueError):
    """A split that cannot be made, or that leaks."""


class SubmissionError(DataError):
    """Embeddings that cannot be submitted, or a file that is no submission."""


class RequestError(UserError, ValueError):
    """What the local page cannot answer; `status` is the code of HTTP that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class CheckpointError(UserError, ValueError):
    """A stored model is missing, damaged, or of another architecture."""


class MissingLibraryError(UserError, ImportError):
    """A library that only some uses need is not installed; the message says which extra brings it."""


class RunInUseError(UserError, RuntimeError):
    """Another process works in the folder, or trains the same model of a run."""


class ProcessError(UserError, RuntimeError):
    """A training in several processes ended; the message names the process that failed, and why."""

    exit_status = 1


class EncoderError(UserError, RuntimeError):
    """An encoder cannot be loaded or does not fit what it is asked for, or an encoding cannot go on."""


class PictureError(DataError):
    """A file that is no picture, or one that cannot be read."""


class NotebookError(UserError, RuntimeError):
    """A notebook of the series failed; the message names it and the cell."""

    exit_status = 1


_SHOWN = 80  # characters of a case that an error message shows


def first_five(cases: Iterable[object]) -> str:
    """`a, b, c, d, e, ...`: the cases that an error message shows."""
    shown = list(islice(cases, 6))
    return ", ".join(shorten(str(case)) for case in shown[:5]) + (", ..." if len(shown) > 5 else "")


def shorten(case: str) -> str:
    """A case at the length that a message can bear."""
    return case if len(case) <= _SHOWN else f"{case[:_SHOWN]}... ({len(case)} characters)"
