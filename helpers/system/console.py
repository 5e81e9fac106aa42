"""Where every command line ends: what is printed, one line for what went wrong, and the exit status."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable

from helpers.errors import UserError

INTERRUPTED, NOBODY_READS = 130, 141
"""Exit statuses as shells have them: 128 and the number of the signal, SIGINT and SIGPIPE."""


def print_anything() -> None:
    """Have characters that the terminal or a log cannot hold written as escapes, where `print` would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_command(
    work: Callable[[], int | str | None], folder_option: str | None = None, interrupted: str = "interrupted"
) -> int:
    """Do the work of a command line; what a person can mend, or has stopped, is one line without a traceback.

    Args:
        work: returns an exit status (None: 0), or a text that is printed: all is done by then, so that a reader who has
            gone, as behind `| head`, changes nothing.
        folder_option: the option that names the folder to write, for the remedy of a file that cannot be.
        interrupted: what to say after Ctrl+C.

    Returns:
        The exit status: that of the work or of the `UserError`, 2 for a file that cannot be read or written,
        `INTERRUPTED`, or `NOBODY_READS` where the work was still printing.
    """
    print_anything()
    status = NOBODY_READS
    try:
        found = work()
        status = found if isinstance(found, int) else 0
        if isinstance(found, str):
            print(found)
        sys.stdout.flush()  # a reader who has gone is noticed here, and not by the interpreter as it ends
        return status
    except UserError as error:
        return _say(f"error: {error}", error.exit_status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status
    except OSError as error:  # on a file that the work did not expect to fail, such as another user's
        what = " ".join(str(part) for part in (error.filename, error.filename2) if part) or "a file"
        return _say(f"error: {what}: {error.strerror or error}. {_remedy(error, folder_option)}", 2)
    except KeyboardInterrupt:
        return _say(f"\n{interrupted}", INTERRUPTED)


def _remedy(error: OSError, folder_option: str | None) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if folder_option is None:
        return "Free some space." if full else "See that it is there, and that you may read and write it."
    return f"{'Free some space, or give' if full else 'Give'} a folder that you can write with {folder_option}."


def _say(line: str, status: int) -> int:
    print(line, file=sys.stderr)
    return status
