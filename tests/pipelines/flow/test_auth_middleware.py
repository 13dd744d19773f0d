"""The middleware accepts only requests of the owner, from this machine and from the page itself."""

import asyncio
import base64

import pytest

from pipelines.flow.auth_middleware import PROOF_PATH, SIGN_IN_PATH, AuthMiddleware, proof, refusal_reason

AUTH = "gantry:the secret"
BASIC = f"Basic {base64.b64encode(AUTH.encode()).decode()}"
HERE = "127.0.0.1:4200"


async def behind(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the app"})


def ask(
    path="/", *, method="GET", check_password=True, kind="http", query="", host=HERE, **headers
) -> tuple[int, str, dict]:
    """Status, text and headers of the middleware's answer; 403 for a websocket that it closes."""
    pairs = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in pairs.items()],
    }
    sent = []

    async def send(message) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {"type": "http.request", "body": b""}

    asyncio.run(AuthMiddleware(behind, auth=AUTH, port=4200, check_password=check_password)(scope, receive, send))
    if sent[0]["type"] == "websocket.close":
        return 403, "", {}
    told = {name.decode(): value.decode() for name, value in sent[0].get("headers", [])}
    return sent[0]["status"], sent[1]["body"].decode(), told


def test_a_request_with_the_password_is_passed_on():
    assert ask(authorization=BASIC)[:2] == (200, "the app")


@pytest.mark.parametrize(
    "given", [{}, {"authorization": "Basic bm8="}, {"authorization": BASIC.removeprefix("Basic ")}]
)
def test_without_the_password_the_browser_asks_for_it(given):
    status, text, headers = ask(**given)
    assert status == 401
    assert headers["www-authenticate"].startswith("Basic ")
    assert "behind" not in text


def test_an_app_may_check_the_password_itself():
    assert ask("/api/health", check_password=False)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:4200", "127.0.0.1.evil.example", "10.0.0.7:4200", "[::1", ""]
)
def test_another_host_name_is_rejected_with_any_password(host):
    assert ask(host=host, authorization=BASIC)[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:8080", "[::1]:4200", "LOCALHOST"])
def test_the_names_of_loopback_are_accepted_with_any_port(host):
    assert ask(host=host, authorization=BASIC)[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:4200"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_request_of_another_page_is_rejected(origin, kind):
    assert ask(method="POST", kind=kind, origin=origin, authorization=BASIC)[0] == 403


def test_a_request_of_the_page_itself_is_accepted():
    assert ask(method="POST", origin=f"http://{HERE}", sec_fetch_site="same-origin", authorization=BASIC)[0] == 200


@pytest.mark.parametrize(
    ("headers", "method", "refused"),
    [
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, "GET", True),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, "GET", True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, "POST", True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, "GET", True),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "object"}, "GET", True),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, "GET", False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, "GET", False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, "GET", False),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, "GET", False),
    ],
    ids=[
        "embedded",
        "embedded by another port",
        "a form",
        "a frame",
        "an object of another port",
        "a frame of the page itself",
        "a link",
        "a link of an older browser",
        "typed",
    ],
)
def test_embedding_in_another_page_is_rejected_and_a_link_is_accepted(headers, method, refused):
    assert bool(refusal_reason([("host", HERE), *headers.items()], method)) == refused


def test_two_host_headers_are_rejected():
    assert refusal_reason([("host", HERE), ("host", HERE)], "GET")


def test_the_proof_depends_on_password_and_port_and_reveals_neither():
    assert ask(PROOF_PATH, query="nonce=abc")[:2] == (200, proof(AUTH, 4200, "abc"))
    assert (
        len({proof(AUTH, 4200, "abc"), proof(AUTH, 4201, "abc"), proof("a:b", 4200, "abc"), proof(AUTH, 4200, "b")})
        == 4
    )
    assert "secret" not in proof(AUTH, 4200, "abc")


def test_signing_in_checks_the_password_and_stores_it_for_prefects_page():
    assert ask(SIGN_IN_PATH, check_password=False)[0] == 401
    status, text, headers = ask(SIGN_IN_PATH, check_password=False, authorization=BASIC)
    assert status == 200
    assert f'"{BASIC.removeprefix("Basic ")}"' in text
    assert headers["cache-control"] == "no-store"
