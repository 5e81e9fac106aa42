"""What the page may ask over HTTP, and who may ask it."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from helpers.errors import RequestError, UserError
from helpers.serving.app import uploads
from helpers.serving.app.gallery import MAX_K, Gallery

log = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page.html")
THUMBNAIL, LARGE = 256, 1024
"""Pixels of a picture in the list, and of one that is looked at."""
LAST_ROW = 2**31 - 1
Row = Annotated[int, InPath(ge=0, le=LAST_ROW)]
Next = Callable[[Request], Awaitable[Response]]


def create_app(gallery: Gallery, host: str = "127.0.0.1") -> FastAPI:
    """The page of one run, for a server that is bound to `host`."""
    # FastAPI's own pages of documentation load scripts from elsewhere, and nobody reads them here.
    app = FastAPI(title="Search", docs_url=None, redoc_url=None, openapi_url=None)
    page = PAGE.read_bytes()
    headers = _security_headers(page.decode())

    @app.middleware("http")
    async def guard(request: Request, call_next: Next) -> Response:
        problem = _refused(request, host)
        try:
            response = _error(403, problem) if problem else await call_next(request)
        except Exception:
            log.exception("%s", request.url.path)
            response = _error(500, "The server failed; its terminal says where. Nothing was changed.")
        response.headers.update(headers)
        return response

    @app.exception_handler(RequestError)
    async def refuse(_: Request, error: RequestError) -> Response:
        return _error(error.status, str(error))

    @app.exception_handler(UserError)
    async def fail(_: Request, error: UserError) -> Response:
        return _error(409, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _error(400, f"{first['loc'][-1]}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def missing(_: Request, error: HTTPException) -> Response:
        return _error(error.status_code, "There is nothing at this address.")

    @app.get("/")
    def show() -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    @app.get("/api/about")
    def about() -> dict[str, Any]:
        return gallery.about()

    @app.get("/api/search")
    def search(
        q: str = "", model: str = "", k: Annotated[int, Query(ge=1, le=MAX_K)] = 12, hubness: bool | None = None
    ) -> dict[str, Any]:
        return {"hits": [vars(hit) for hit in gallery.search(q, model or gallery.best, k, hubness)]}

    @app.get("/api/why/{row}")
    def why(row: Row, model: str = "") -> dict[str, Any]:
        nearest = gallery.why(row, model or gallery.best)
        return {"captions": [{"text": text, "score": score} for text, score in nearest]}

    @app.get("/thumbnail/{row}")
    def thumbnail(row: Row) -> Response:
        return _picture(gallery.thumbnail(row, THUMBNAIL))

    @app.get("/picture/{row}")
    def picture(row: Row) -> Response:
        return _picture(gallery.thumbnail(row, LARGE))

    @app.post("/api/pictures")
    async def add(request: Request, name: str = "") -> Response:
        content = await _body(request, uploads.plain_name(name))
        hit, new = await run_in_threadpool(gallery.add, content, name)
        return JSONResponse({"picture": vars(hit), "new": new}, 201 if new else 200)

    return app


async def _body(request: Request, name: str) -> bytes:
    """The uploaded file; one that is too large is refused by what it says of itself, or once it has said enough.

    Raises:
        RequestError: it is sent as a form or larger than an upload may be.
    """
    # A page of another origin can send forms and plain text without asking first, but not this type.
    if request.headers.get("content-type", "") != "application/octet-stream":
        raise RequestError(415, "Send the file itself as application/octet-stream.")
    limit = uploads.size(uploads.MAX_BYTES)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > uploads.MAX_BYTES:
        raise RequestError(413, f"{name}: {uploads.size(int(declared))}; at most {limit} are taken.")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > uploads.MAX_BYTES:
            raise RequestError(413, f"{name}: more than {limit}, which is the most that is taken.")
    return bytes(content)


def _refused(request: Request, host: str) -> str:
    """Why a request is not answered; empty where it is.

    A page elsewhere can point a name of its own at this machine and would then read everything as if it were its own
    (DNS rebinding). Its requests carry that name as their host, and so they can be told from ours.
    """
    named = request.headers.get("host", "")
    if not allowed_host(named, host):
        return f"The host {named[:80]!r} is not this server's. Open the address that it printed at its start."
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != named:
        return "A page of another origin may not use this server."
    return ""


def allowed_host(named: str, bound: str) -> bool:
    """Whether a Host header names this server: `localhost` or a number of this machine, or what it was bound to.

    Names can be rebound, numbers cannot. Bound to loopback, no number but loopback's is answered.
    """
    found = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]/@\s]+))(?::\d{1,5})?", named)
    if found is None:
        return False
    name = (found["six"] or found["name"]).lower()
    if name in ("localhost", bound.lower()):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not is_loopback(bound)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is bound to a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _security_headers(page: str) -> dict[str, str]:
    """No script or style but the page's own, by their digests, and nothing from or for any other origin."""

    def digests(tag: str) -> str:
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts)

    policy = {
        "default-src": "'none'",
        "script-src": digests("script"),
        "style-src": digests("style"),
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
        "Cache-Control": "no-store",
    }


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def _picture(content: bytes) -> Response:
    kinds = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}
    kind = next((kind for start, kind in kinds.items() if content.startswith(start)), "application/octet-stream")
    return Response(content, media_type=kind)
