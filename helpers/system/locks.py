"""One process at a time in a run's folder, and at a model of it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from helpers.errors import RunInUseError
from helpers.system.files import write_json


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold the run's folder while the context is open; it is made where there is none.

    Raises:
        RunInUseError: another process holds it; the message names it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with _held(run_dir.with_name(f".{run_dir.name}.series"), str(run_dir)):
        yield


@contextmanager
def training_lock(run_dir: Path, model: str) -> Iterator[None]:
    """Hold one model of a run while it is trained and stored; a series holds the folder besides, from outside.

    Raises:
        RunInUseError: another process trains it; the message names it.
    """
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with _held(run_dir.with_name(f".{run_dir.name}.{model}.training"), f"{run_dir}, training of {model}"):
        yield


@contextmanager
def _held(base: Path, what: str) -> Iterator[None]:
    """Hold `base`.lock and say in `base`.owner.json who does.

    The operating system frees the lock with the process that holds it, however that ends, so none can be stale.
    """
    owner_path, lock = Path(f"{base}.owner.json"), FileLock(f"{base}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunInUseError(
            f"{what}: in use by {_describe(owner_path)}. Wait until it is done, or choose another run."
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
