"""One run at a time in a run's folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from helpers.checkpoints import write_json


class RunInUseError(RuntimeError):
    """Another process works in the run's folder."""


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold the run's folder while the context is open; it is made where there is none.

    The operating system frees the lock with the process that holds it, however that ends, so none can be stale.

    Raises:
        RunInUseError: another process holds it; the message names it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    owner_path = run_dir.with_name(f".{run_dir.name}.owner.json")
    lock = FileLock(run_dir.with_name(f".{run_dir.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunInUseError(
            f"{run_dir}: in use by {_describe(owner_path)}. Wait until it is done, or choose another --run."
        ) from None
    try:
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(owner_path, {"pid": os.getpid(), "host": socket.gethostname(), "started": started})
        yield
    finally:
        owner_path.unlink(missing_ok=True)
        lock.release()


def _describe(owner_path: Path) -> str:
    try:
        owner = json.loads(owner_path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}, started {owner['started']}"
    except (OSError, ValueError, KeyError):  # it has only just begun, or is about to end
        return "another process"
