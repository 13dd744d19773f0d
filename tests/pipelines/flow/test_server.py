"""Which Prefect server a command uses, and what it leaves of the environment."""

import http.server
import os
import socket
import threading
from contextlib import nullcontext

import pytest

from gan_core.errors import StageError
from gan_core.files import write_json
from pipelines.flow.server import free_port, healthy, is_gone, prefect_environment, server
from pipelines.stages.alive import identity


@pytest.fixture
def answering():
    """The API address of something that answers as a Prefect server does."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}/api"
    listening.shutdown()
    listening.server_close()


@pytest.fixture(autouse=True)
def _no_server_named(monkeypatch):
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "GANTRY_VAR"):
        monkeypatch.delenv(name, raising=False)


def test_the_server_that_the_environment_names_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    with server(tmp_path) as url:
        assert url == os.environ["PREFECT_API_URL"] == "http://elsewhere/api"


def test_a_server_that_lasts_in_this_checkout_is_used(tmp_path, answering):
    write_json(tmp_path / "var" / "prefect" / "server.json", {"url": answering, "process": identity()})
    with server(tmp_path) as url:
        assert url == answering
        assert os.environ["PREFECT_API_URL"] == answering
        assert os.environ["PREFECT_HOME"] == str(tmp_path / "var" / "prefect")
    assert "PREFECT_API_URL" not in os.environ
    assert "PREFECT_HOME" not in os.environ


@pytest.mark.parametrize("guest", [True, False])
def test_a_runs_server_serves_who_only_looks(tmp_path, answering, monkeypatch, guest):
    """It ends with its run: another run has one of its own."""
    write_json(tmp_path / "var" / "prefect" / "run-server.json", {"url": answering, "process": identity()})
    if not guest:
        monkeypatch.setattr("pipelines.flow.server._own", lambda *_: nullcontext("http://own/api"))
    with server(tmp_path, guest=guest) as url:
        assert url == (answering if guest else "http://own/api")


def test_gone_is_what_refuses_and_not_what_is_slow(answering):
    assert not is_gone(answering)
    assert is_gone(f"http://127.0.0.1:{free_port(0)}/api")
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        assert not is_gone(f"http://127.0.0.1:{silent.getsockname()[1]}/api")


def test_health_is_asked_for_and_not_assumed(answering):
    assert healthy(answering)
    assert not healthy(answering.replace("/api", "/other"))
    assert not healthy(f"http://127.0.0.1:{free_port(0)}/api")


def test_a_taken_port_is_not_offered(answering):
    port = int(answering.split(":")[2].removesuffix("/api"))
    assert free_port(port) != port


def test_whoever_answers_on_the_port_is_not_taken_for_the_checkouts_own(tmp_path, answering):
    port = int(answering.split(":")[2].removesuffix("/api"))
    message = rf"Port {port} of this machine is taken. Choose another: --port"
    with pytest.raises(StageError, match=message), server(tmp_path, port=port, lasting=True):
        pass
    assert not (tmp_path / "var" / "prefect" / "server.json").exists()


def test_prefect_is_kept_inside_the_checkout_and_silent(tmp_path, monkeypatch):
    environment = prefect_environment(tmp_path)
    assert environment["PREFECT_HOME"] == str(tmp_path / "var" / "prefect")
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert int(environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"]) >= 60
    monkeypatch.setenv("PREFECT_HOME", "/somewhere")
    assert prefect_environment(tmp_path)["PREFECT_HOME"] == "/somewhere"
