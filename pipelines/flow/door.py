"""The server side of a page for the owner of a checkout alone: Prefect's or MLflow's app behind a check of who asks.

Loopback is open to every user of the machine and to every web page in the owner's browser. The door in front of the app
refuses a request for another host name (DNS rebinding), one that another page sends, and, where the app has no
password of its own, one without the password. It also answers the question that tells this server from a
stranger on the same port (:mod:`pipelines.flow.web`).

``python -m pipelines.flow.door APP FD`` serves the app on the listening socket ``FD``, inherited from its starter. The
password (``user:password``) comes from the environment: GANTRY_PAGE_AUTH.
"""

import base64
import hmac
import json
import os
import socket
import sys
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

AUTH_VARIABLE = "GANTRY_PAGE_AUTH"
PROOF_PATH = "/gantry/proof"
SIGN_IN_PATH = "/gantry/sign-in"
NAMES = ("127.0.0.1", "localhost", "::1")
"""What this machine's loopback is called in an address."""
GRACE_SECONDS = 5
"""How long a server that is asked to end waits for open connections, such as a browser's."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Door:
    """An ASGI app that lets requests of the owner through to another one.

    Args:
        app: the app behind it.
        auth: ``user:password``.
        port: where the server listens.
        asks: whether the door asks for the password itself; otherwise the app does.
    """

    def __init__(self, app: App, *, auth: str, port: int, asks: bool) -> None:
        self._app, self._auth, self._port, self._asks = app, auth, port, asks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse, or pass the request on."""
        if scope["type"] not in ("http", "websocket"):  # the app's start and end
            await self._app(scope, receive, send)
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        if why := refusal(headers, scope["method"] if scope["type"] == "http" else "GET"):
            await _answer(scope, send, HTTPStatus.FORBIDDEN, f"{why}\n")
            return
        path = scope["path"]
        if path == PROOF_PATH:
            nonce = urllib.parse.parse_qs(scope["query_string"].decode("latin-1")).get("nonce", [""])[0]
            await _answer(scope, send, HTTPStatus.OK, proof(self._auth, self._port, nonce))
        elif (self._asks or path == SIGN_IN_PATH) and not self._knows(headers):
            realm = ("www-authenticate", 'Basic realm="gantry", charset="UTF-8"')
            await _answer(scope, send, HTTPStatus.UNAUTHORIZED, "The password is missing or wrong.\n", realm)
        elif path == SIGN_IN_PATH:
            await _answer(scope, send, HTTPStatus.OK, self._signed_in(), ("content-type", "text/html; charset=utf-8"))
        else:
            await self._app(scope, receive, send)

    def _knows(self, headers: list[tuple[str, str]]) -> bool:
        """Whether a request carries the password."""
        given = [value for name, value in headers if name == "authorization"]
        wanted = f"Basic {base64.b64encode(self._auth.encode()).decode()}"
        return len(given) == 1 and hmac.compare_digest(given[0].encode(), wanted.encode())

    def _signed_in(self) -> str:
        """A page that goes on to the app. Prefect's pages look for the password in the browser's storage for this origin."""
        kept = base64.b64encode(self._auth.encode()).decode()
        return (
            "<!doctype html><title>Gantry</title><script>"
            f"localStorage.setItem('prefect-password', {json.dumps(kept)}); location.replace(location.origin + '/');"
            "</script>\n"
        )


def refusal(headers: list[tuple[str, str]], method: str) -> str | None:
    """Why a request is refused whatever password it carries, or None.

    Args:
        headers: lower-case name and value of each.
        method: GET, POST ...
    """
    found = {name: [value for other, value in headers if other == name] for name, _ in headers}
    hosts = found.get("host", [])
    if len(hosts) != 1 or _host_name(hosts[0]) not in NAMES:
        return f"This server answers on this machine only, as {NAMES[0]}: not as {', '.join(hosts) or 'nothing'}."
    if any(origin != f"http://{hosts[0]}" for origin in found.get("origin", [])):
        return "Another page may not ask this server anything."
    # A browser says so of a picture or script that another page embeds, which has no Origin. A link may lead here.
    followed = method == "GET" and found.get("sec-fetch-mode") == ["navigate"]
    if not followed and found.get("sec-fetch-site", ["none"])[0] not in ("none", "same-origin"):
        return "Another page may not use what is on this server."
    return None


def _host_name(host: str) -> str | None:
    """The name in a Host header; None where it holds none."""
    try:
        return urllib.parse.urlsplit(f"//{host}").hostname
    except ValueError:  # a bracket that is not closed, say
        return None


def proof(auth: str, port: int, nonce: str) -> str:
    """What only a server at ``port`` that knows ``auth`` answers to ``nonce``; it tells a stranger nothing of ``auth``.

    The port is in it, so that a stranger cannot pass the question on to the server that knows.
    """
    return hmac.digest(auth.encode(), f"gantry {port} {nonce}".encode(), "sha256").hex()


async def _answer(scope: Scope, send: Send, status: HTTPStatus, text: str, *headers: tuple[str, str]) -> None:
    if scope["type"] == "websocket":  # before it is accepted: the server answers the handshake with 403
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    own = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store", **dict(headers)}
    pairs = [(name.encode(), value.encode()) for name, value in own.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": pairs})
    await send({"type": "http.response.body", "body": text.encode()})


def _prefect() -> App:
    from prefect.server.api.server import create_app

    return create_app(final=True)


def _mlflow() -> App:
    """MLflow's pages of the store that MLFLOW_BACKEND_STORE_URI names, as ``mlflow ui`` sets them up."""
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores
    from mlflow.utils.server_cli_utils import resolve_default_artifact_root

    store = os.environ["MLFLOW_BACKEND_STORE_URI"]
    artifacts = resolve_default_artifact_root(True, None, store)  # type: ignore[arg-type]
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: store,
        constants.REGISTRY_STORE_URI_ENV_VAR: store,
        constants.ARTIFACT_ROOT_ENV_VAR: artifacts,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: "./mlartifacts",
    }
    initialize_backend_stores(store, store, artifacts)
    from mlflow.server.fastapi_app import app  # reads the variables above when it is imported

    return app


APPS: dict[str, tuple[Callable[[], App], bool]] = {"prefect": (_prefect, False), "mlflow": (_mlflow, True)}
"""How each app is made, and whether the door has to ask for the password."""


def serve(name: str, listening: socket.socket, auth: str) -> None:
    """Serve the app ``name`` of :data:`APPS` on a listening socket until a signal says to end."""
    import uvicorn

    make, asks = APPS[name]
    door = Door(make(), auth=auth, port=listening.getsockname()[1], asks=asks)
    config = uvicorn.Config(
        door,
        # Nothing stands in front of this server whose word on who asks could be taken.
        proxy_headers=False,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
    )
    uvicorn.Server(config).run(sockets=[listening])


def main() -> None:
    """``python -m pipelines.flow.door APP FD``."""
    from pipelines.runtime.redaction import keep_secret, redact_output

    redact_output()
    auth = os.environ.pop(AUTH_VARIABLE)
    keep_secret(auth)
    keep_secret(auth.partition(":")[2])
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])), auth)


if __name__ == "__main__":
    main()
