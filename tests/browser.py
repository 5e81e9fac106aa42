"""Debian's Chromium without a window, for tests that open what a person would open."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLAGS = (
    "--headless",
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # Nothing is asked of any server but the one under test.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 300.0
"""Seconds to wait for what comes in one or two where nothing else has the cores."""


def find_chromium() -> str | None:
    """The browser's program, or that of `$CHROMIUM`."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test)")
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium, or name one by $CHROMIUM")
    api.expect.set_options(timeout=1000 * PATIENCE)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file; each opens pages of its own in it."""
    with launched() as started:
        yield started


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(
    command: Sequence[str], address: str, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[str]:
    """A server in a process of its own, for as long as the context lasts, once it answers at `address`.

    Args:
        command: what follows `python`. log: where its output goes; shown where it does not answer.
    """
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
        try:
            ends = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=PATIENCE):
                    break
                if process.poll() is not None or time.monotonic() > ends:
                    pytest.fail(f"{' '.join(command)} does not answer at {address}:\n{log.read_text(errors='replace')}")
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
