"""The server of the local page: its address, and what it says at its start."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from helpers.errors import ConfigError
from helpers.system.libraries import library

if TYPE_CHECKING:
    import uvicorn

    from helpers.serving.app.gallery import Gallery


def serve(open_gallery: Callable[[], Gallery], host: str, port: int, open_browser: bool = False) -> None:
    """Load a gallery, say the address, and answer until interrupted.

    Args:
        port: 0 takes any that is free.

    Raises:
        UserError: what `open_gallery` raises; the extra is missing, or the address is taken.
    """
    for name in ("fastapi", "uvicorn"):
        library(name, "app")
    import uvicorn

    from helpers.serving.app.web import create_app, is_loopback

    with listen(host, port) as listening:  # before anything is loaded: a port that is taken is told at once
        started = time.perf_counter()
        print("The run and its encoders are being loaded ...", file=sys.stderr, flush=True)
        gallery = open_gallery()
        gallery.warm_up()
        # Queries are nobody's business, so no log of them; and a page that is left open does not delay the end.
        quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
        server = uvicorn.Server(uvicorn.Config(create_app(gallery, host), timeout_graceful_shutdown=2, **quiet))
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}/"
        print(f"{gallery.run.name}: {len(gallery):,} pictures, ready in {time.perf_counter() - started:.0f} s.")
        if not is_loopback(host):
            print("note: there is no password; whoever can reach this machine can search, and add pictures.")
        print(f"{address}  (Ctrl+C stops it)", flush=True)
        if open_browser:
            threading.Thread(target=_open_when_ready, args=(server, address), daemon=True).start()
        server.run(sockets=[listening])


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
        try:
            if os.name == "posix":  # elsewhere it would let two servers have one port
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
    if server.started:
        webbrowser.open(address)
