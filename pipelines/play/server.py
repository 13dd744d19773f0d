"""The server of the page: static files for everyone on this machine, the generator for whoever has the token.

The token is in the part of the address after ``#``, which a browser sends to no server and which stands in no log; the page's
script sends it with each request. So there is no cookie, which a browser would send to every port of this machine.
"""

import asyncio
import contextlib
import hmac
import importlib.resources
import json
import logging
import math
import re
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gan_core.errors import DataError, GantryError, SettingsError
from pipelines.flow.auth_middleware import GRACE_SECONDS, refusal_reason
from pipelines.play.session import MAX_UPLOAD, Session

LOG = logging.getLogger(__name__)
FILES = {
    "/": ("index.html", "text/html"),
    "/play.js": ("play.js", "text/javascript"),
    "/play.css": ("play.css", "text/css"),
}
"""The static files: address, name in the package, type."""
_MAX_JSON = 1 << 16
_MAX_MESSAGE = 1000
_LARGEST = 2**63 - 1
_PICTURE_NUMBER = re.compile(r"[0-9]{1,18}")
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

T = TypeVar("T")


def make_token() -> str:
    """A token for one run of the server."""
    return secrets.token_urlsafe(24)


def make_app(session: Session, token: str) -> ASGIApp:
    """The ASGI app of the page for ``session``. Requests below /api need the header ``Authorization: Bearer TOKEN``."""

    async def describe(_: Request) -> Response:
        return JSONResponse(await _in_thread(session.describe))

    async def add_picture(request: Request) -> Response:
        content = await _body(
            request, MAX_UPLOAD, f"The file is larger than {MAX_UPLOAD >> 20} MiB. Choose a smaller one."
        )
        return JSONResponse(await _in_thread(session.add_picture, content, request.query_params.get("use", "")))

    async def picture(request: Request) -> Response:
        return _png(await _in_thread(session.picture, _number_in_path(request)))

    async def sample(request: Request) -> Response:
        return _png(await _in_thread(session.sample, await _values(request)))

    async def translate(request: Request) -> Response:
        return _png(await _in_thread(session.translate, await _values(request)))

    async def project(request: Request) -> Response:
        return JSONResponse(await _in_thread(session.project, await _values(request)))

    async def projection(request: Request) -> Response:
        return JSONResponse(session.projection(_number_in_path(request)))

    app = Starlette(
        routes=[
            *(Route(path, _static(*file)) for path, file in FILES.items()),
            Route("/api/model", describe),
            Route("/api/pictures", add_picture, methods=["POST"]),
            Route("/api/pictures/{number}", picture),
            Route("/api/sample", sample, methods=["POST"]),
            Route("/api/translate", translate, methods=["POST"]),
            Route("/api/projections", project, methods=["POST"]),
            Route("/api/projections/{number}", projection),
        ],
        exception_handlers={
            GantryError: _refused,
            HTTPException: _refused,
            ClientDisconnect: _refused,
            Exception: _failed,
        },
    )
    return _Protected(app, token)


def serve(session: Session, listening: socket.socket, token: str) -> None:
    """Serve the page on a listening socket until Ctrl-C or another stop signal."""
    config = uvicorn.Config(
        make_app(session, token),
        proxy_headers=False,  # there is no proxy, so such headers cannot be trusted
        server_header=False,
        lifespan="off",
        ws="none",
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        session.close()


class _Protected:
    """Rejects requests for other host names, of other pages and without the token; hides unexpected errors from the page."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        if why := refusal_reason(headers, scope["method"]):
            await JSONResponse({"error": why}, 403)(scope, receive, send_with_headers)
            return
        if scope["path"].startswith("/api/") and not self._knows(headers):
            told = "The token is missing or wrong. Open the address that gantry play printed."
            await JSONResponse({"error": told}, 401)(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:  # Starlette raises any error again once _failed has answered the request
            LOG.exception("A request failed.")

    def _knows(self, headers: list[tuple[str, str]]) -> bool:
        given = [value for name, value in headers if name == "authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0].encode(), f"Bearer {self._token}".encode())


def _static(name: str, kind: str) -> Callable[[Request], Response]:
    content = importlib.resources.files("pipelines.play").joinpath("page", name).read_bytes()
    return lambda _: Response(content, media_type=f"{kind}; charset=utf-8")


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png")


def _refused(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 400
    told = error.detail if isinstance(error, HTTPException) else str(error)
    return JSONResponse({"error": told[:_MAX_MESSAGE]}, status)


def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "The server failed on this request. The terminal has the reason."}, 500)


async def _body(request: Request, most: int, too_large: str) -> bytes:
    """The body of a request of at most ``most`` bytes; raises DataError if it is larger."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > most:
            raise DataError(too_large)
    return bytes(content)


async def _values(request: Request) -> dict[str, Any]:
    """The JSON object in the body of a request, with numbers that every generator can take."""
    content = await _body(request, _MAX_JSON, "The request is too large.")
    try:
        values = json.loads(content, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise SettingsError("The request is not JSON. Reload the page.") from error
    if not isinstance(values, dict):
        raise SettingsError("The request is not a JSON object. Reload the page.")
    _check_numbers(values)
    return values


def _whole(text: str) -> int | float:
    """A whole number of a request; infinity in place of one that is too long for Python to convert."""
    return int(text) if len(text) <= len(str(_LARGEST)) + 1 else math.inf


def _check_numbers(values: dict[str, Any]) -> None:
    """Raise SettingsError for a number of a request, at any depth, that is too large or not finite, or is text."""
    waiting: list[tuple[str, Any]] = list(values.items())
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, (dict, list)):
            waiting += [(name, item) for item in (value.values() if isinstance(value, dict) else value)]
        elif isinstance(value, str):
            raise SettingsError(f"{name[:40]}: expected a number, got text. Reload the page.")
        elif isinstance(value, (int, float)) and not (math.isfinite(value) and abs(value) <= _LARGEST):
            raise SettingsError(f"{name[:40]}: must be a finite number from -(2^63 - 1) to 2^63 - 1.")


def _number_in_path(request: Request) -> int:
    """The number of a picture or projection in the address of a request."""
    text = request.path_params["number"]
    if not _PICTURE_NUMBER.fullmatch(text):
        raise SettingsError("The number in the address is not that of a picture. Reload the page.")
    return int(text)


async def _in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Call ``function`` in a thread of its own. The end of the program does not wait for it, unlike for a thread of a pool."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, failed = None, None
        try:
            result = function(*arguments)
        except Exception as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(finish, result, failed)

    threading.Thread(target=work, daemon=True, name="request").start()
    return await future
