"""The command line of the local page: `python -m helpers.app RUN`."""

from __future__ import annotations

import argparse
import errno
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import ConfigError, MissingExtraError, UserError
from helpers.system import paths
from helpers.system.devices import exact_float32

if TYPE_CHECKING:
    import uvicorn

    from helpers.serving.app.gallery import Gallery

PORT = 8000


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page of a run until it is interrupted; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.app", description="Search a run's pictures in a browser.")
    parser.add_argument("run", metavar="RUN", help="a run's name under runs/, or its folder")
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0 for any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1: nobody but this machine can reach it")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    options = parser.parse_args(arguments)
    try:
        serve(options.run, options.host, options.port, options.open)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
    return 0


def serve(run: str, host: str, port: int, open_browser: bool) -> None:
    """Load a run, say the address, and answer until interrupted.

    Raises:
        UserError: the run cannot be searched by words, the extra is missing, or the address is taken.
    """
    try:
        import uvicorn

        from helpers.serving.app.web import create_app, is_loopback
    except ImportError as error:
        raise MissingExtraError("app", error) from error
    with listen(host, port) as listening:  # before anything is loaded: a port that is taken is told at once
        started = time.perf_counter()
        gallery = open_gallery(run)
        gallery.warm_up()
        config = uvicorn.Config(
            create_app(gallery, host), log_level="warning", access_log=False, server_header=False, timeout_keep_alive=30
        )
        server = uvicorn.Server(config)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}/"
        print(f"{gallery.run.name}: {len(gallery):,} pictures, ready in {time.perf_counter() - started:.0f} s.")
        print(f"{address}  (Ctrl+C stops it)", flush=True)
        if not is_loopback(host):
            print(
                "note: whoever can reach this machine can search, and add pictures: there is no password.", flush=True
            )
        if open_browser:
            threading.Thread(target=_open_when_ready, args=(server, address), daemon=True).start()
        server.run(sockets=[listening])


def open_gallery(run: str) -> Gallery:
    """The pictures of a run, by its name or folder.

    Raises:
        UserError: there is no such run, or it cannot be searched by words.
    """
    raise NotImplementedError


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound.

    Raises:
        ConfigError: the port is taken or no port, or the host is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: between 0 and 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"Port {port} is taken. Give another with --port, or 0 for any that is free.") from None
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}.") from None
    return listening


def _open_when_ready(server: uvicorn.Server, address: str) -> None:
    while not server.started and not server.should_exit:
        time.sleep(0.05)
    webbrowser.open(address)
