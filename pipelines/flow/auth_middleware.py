"""ASGI middleware that lets only the owner of a checkout use the web app of Prefect or MLflow.

Loopback is open to every user of the machine and to every web page in the owner's browser. The middleware rejects a request for
another host name (DNS rebinding), a request that another web page sends, and, if the app has no password of its own, a request
without the password. It also answers the challenge with which a client checks that this is the checkout's server and not
another one on the same port (:mod:`pipelines.flow.web`).

``python -m pipelines.flow.auth_middleware APP FD`` serves the app on the inherited listening socket ``FD``. The environment
variable GANTRY_PAGE_AUTH holds the password as ``user:password``.
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
"""Host names of loopback."""
GRACE_SECONDS = 5
"""How long a server that shuts down waits for open connections, such as those of a browser."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AuthMiddleware:
    """An ASGI app that passes the requests of the owner to another ASGI app.

    Args:
        app: the other app.
        auth: ``user:password``.
        port: the port of the server.
        check_password: whether to check the password here. If False, the app checks it.
    """

    def __init__(self, app: App, *, auth: str, port: int, check_password: bool) -> None:
        self._app, self._auth, self._port, self._check_password = app, auth, port, check_password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, reject it, or pass it on."""
        if scope["type"] not in ("http", "websocket"):  # startup and shutdown of the app
            await self._app(scope, receive, send)
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        if why := refusal_reason(headers, scope["method"] if scope["type"] == "http" else "GET"):
            await _answer(scope, send, HTTPStatus.FORBIDDEN, f"{why}\n")
            return
        path = scope["path"]
        if path == PROOF_PATH:
            nonce = urllib.parse.parse_qs(scope["query_string"].decode("latin-1")).get("nonce", [""])[0]
            await _answer(scope, send, HTTPStatus.OK, proof(self._auth, self._port, nonce))
        elif (self._check_password or path == SIGN_IN_PATH) and not self._knows(headers):
            realm = ("www-authenticate", 'Basic realm="gantry", charset="UTF-8"')
            await _answer(scope, send, HTTPStatus.UNAUTHORIZED, "The password is missing or wrong.\n", realm)
        elif path == SIGN_IN_PATH:
            await _answer(scope, send, HTTPStatus.OK, self._signed_in(), ("content-type", "text/html; charset=utf-8"))
        else:
            await self._app(scope, receive, send)

    def _knows(self, headers: list[tuple[str, str]]) -> bool:
        """Whether a request has the password."""
        given = [value for name, value in headers if name == "authorization"]
        wanted = f"Basic {base64.b64encode(self._auth.encode()).decode()}"
        return len(given) == 1 and hmac.compare_digest(given[0].encode(), wanted.encode())

    def _signed_in(self) -> str:
        """A page that redirects to the app. It stores the password where Prefect's pages look for it: in localStorage."""
        kept = base64.b64encode(self._auth.encode()).decode()
        return (
            "<!doctype html><title>Gantry</title><script>"
            f"localStorage.setItem('prefect-password', {json.dumps(kept)}); location.replace(location.origin + '/');"
            "</script>\n"
        )


def refusal_reason(headers: list[tuple[str, str]], method: str) -> str | None:
    """Why a request is rejected even with the right password; None if it is not.

    Args:
        headers: pairs of lower-case name and value.
        method: the HTTP method.
    """
    found = {name: [value for other, value in headers if other == name] for name, _ in headers}
    hosts = found.get("host", [])
    if len(hosts) != 1 or _host_name(hosts[0]) not in NAMES:
        return f"This server answers only on this machine, as {NAMES[0]}, not as {', '.join(hosts) or 'no host'}."
    if any(origin != f"http://{hosts[0]}" for origin in found.get("origin", [])):
        return "Another web page may not send requests to this server."
    # Browsers send Sec-Fetch-Site, also for embedded pictures and scripts, which have no Origin. Links are allowed. A frame in
    # another page is a navigation, too: that page could lead clicks of the owner to what it shows.
    whole_page = found.get("sec-fetch-dest", ["document"]) == ["document"]
    followed = method == "GET" and found.get("sec-fetch-mode") == ["navigate"] and whole_page
    if not followed and found.get("sec-fetch-site", ["none"])[0] not in ("none", "same-origin"):
        return "Another web page may not embed contents of this server."
    return None


def _host_name(host: str) -> str | None:
    """The host name in a Host header; None if there is none."""
    try:
        return urllib.parse.urlsplit(f"//{host}").hostname
    except ValueError:  # for example an unclosed bracket
        return None


def proof(auth: str, port: int, nonce: str) -> str:
    """The answer to the challenge ``nonce``: an HMAC that only a server that knows ``auth`` can compute.

    It does not reveal ``auth``. It includes the port, so that another server cannot forward the challenge to the real one.
    """
    return hmac.digest(auth.encode(), f"gantry {port} {nonce}".encode(), "sha256").hex()


async def _answer(scope: Scope, send: Send, status: HTTPStatus, text: str, *headers: tuple[str, str]) -> None:
    if scope["type"] == "websocket":  # not yet accepted, so the server answers the handshake with 403
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
    """MLflow's app for the store in MLFLOW_BACKEND_STORE_URI, set up as ``mlflow ui`` does."""
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
    from mlflow.server.fastapi_app import app  # reads the variables above on import

    return app


APPS: dict[str, tuple[Callable[[], App], bool]] = {"prefect": (_prefect, False), "mlflow": (_mlflow, True)}
"""How to make each app, and whether the middleware must check the password."""


def serve(name: str, listening: socket.socket, auth: str) -> None:
    """Serve the app ``name`` of :data:`APPS` on a listening socket until a stop signal."""
    import uvicorn

    make, check_password = APPS[name]
    protected = AuthMiddleware(make(), auth=auth, port=listening.getsockname()[1], check_password=check_password)
    config = uvicorn.Config(
        protected,
        # There is no proxy in front of this server, so such headers cannot be trusted.
        proxy_headers=False,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
    )
    uvicorn.Server(config).run(sockets=[listening])


def main() -> None:
    """``python -m pipelines.flow.auth_middleware APP FD``."""
    from pipelines.runtime.redaction import redact_output, register_secret

    redact_output()
    auth = os.environ.pop(AUTH_VARIABLE)  # so that no child of the server inherits it
    register_secret(auth)
    register_secret(auth.partition(":")[2])
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])), auth)


if __name__ == "__main__":
    main()
