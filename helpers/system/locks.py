"""One process at a time in a run's folder, at a model of it, and in a data folder that is being made."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from helpers.errors import RunInUseError
from helpers.system.paths import is_writable


def lock(run_dir: Path, training: str | None = None) -> contextlib.AbstractContextManager[None]:
    """Hold a run's folder while the context is open, or one model of it while that is trained.

    Args:
        run_dir: the run's folder; the lock lies beside it.
        training: the model's name; None for the folder.

    Raises (where the context is entered):
        RunInUseError: another process holds it; the message names that process.
        OSError: the folder of the runs cannot be written.
    """
    work = f"{training}.training" if training else "series"
    what = f"{run_dir}, training of {training}" if training else str(run_dir)
    return _held(run_dir.with_name(f".{run_dir.name}.{work}"), what, "choose another run")


def encoding_lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold a data folder while pictures and captions are encoded into it.

    Args:
        folder: absolute; the lock lies beside it, so that it is no part of the data and outlives what is tidied up; or
            in it, where it alone can be written, such as a disk that is mounted there.

    Raises (where the context is entered):
        RunInUseError: another process holds it; the message names that process.
        OSError: neither place can be written.
    """
    beside = folder.with_name(f".{folder.name}.encoding")
    place = beside if is_writable(folder.parent) else folder / ".lock.encoding"
    return _held(place, str(folder), "give another --out")


@contextlib.contextmanager
def _held(base: Path, what: str, otherwise: str) -> Iterator[None]:
    """Hold `base`.lock while the context is open, with the process that does in `base`.owner.

    The operating system frees the lock with the process that holds it, however that ends, so none can be stale. The
    file stays: whoever removed it could take it from a process that has just opened it.
    """
    base.parent.mkdir(parents=True, exist_ok=True)
    owner, held = Path(f"{base}.owner"), FileLock(f"{base}.lock", mode=0o666)
    try:
        held.acquire(timeout=0)
    except Timeout:
        process = "another process"
        with contextlib.suppress(OSError, ValueError):  # it has only just begun, is about to end, or is another user's
            process = owner.read_text(encoding="utf-8") or process
        raise RunInUseError(f"{what}: in use by {process}. Wait until it is done, or {otherwise}.") from None
    try:
        owner.unlink(missing_ok=True)  # of a process that was killed, perhaps another user's, which we could not write
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}, started {started}", encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        held.release()


@contextlib.contextmanager
def in_turn(lock_file: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold a lock file while the context is open, once whoever holds it now lets go.

    For work that several processes may want done once: the second waits, and looks again whether it is still needed.
    Where no lock can be made, such as in another user's folder, the work goes on without one.

    Args:
        waiting: called once where another process holds it.
    """
    with contextlib.ExitStack() as held:
        try:
            lock_file.parent.mkdir(parents=True, exist_ok=True)
            lock_of_all = FileLock(lock_file, mode=0o666)
            try:
                held.enter_context(lock_of_all.acquire(timeout=0))
            except Timeout:
                waiting()
                held.enter_context(lock_of_all.acquire())
        except (OSError, NotImplementedError):  # the second: a file system that knows no locks
            pass
        yield
