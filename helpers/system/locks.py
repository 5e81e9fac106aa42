"""One process at a time in a run's folder, and at a model of it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from helpers.errors import RunInUseError


@contextlib.contextmanager
def lock(run_dir: Path, training: str | None = None) -> Iterator[None]:
    """Hold a run's folder while the context is open, or one model of it while that is trained.

    The operating system frees the lock with the process that holds it, however that ends, so none can be stale.

    Args:
        run_dir: the run's folder; the lock lies beside it.
        training: the model's name; None for the folder.

    Raises:
        RunInUseError: another process holds it; the message names that process.
        OSError: the folder of the runs cannot be written.
    """
    base = run_dir.with_name(f".{run_dir.name}.{f'{training}.training' if training else 'series'}")
    base.parent.mkdir(parents=True, exist_ok=True)
    owner, held = Path(f"{base}.owner"), FileLock(f"{base}.lock", mode=0o666)
    try:
        held.acquire(timeout=0)
    except Timeout:
        process = "another process"
        with contextlib.suppress(OSError, ValueError):  # it has only just begun, is about to end, or is another user's
            process = owner.read_text(encoding="utf-8") or process
        what = f"{run_dir}, training of {training}" if training else str(run_dir)
        raise RunInUseError(f"{what}: in use by {process}. Wait until it is done, or choose another run.") from None
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
