"""A checkout's own web servers: their password, their port, and how they prove whose they are."""

import base64
import http.server
import os
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import psutil
import pytest

from gan_core.errors import StageError
from pipelines.flow.door import PROOF_PATH, proof
from pipelines.flow.web import USER, address_of, listen, own_auth, own_server, sign_in_page, whose
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.redaction import redact_credentials
from tests.pipelines.toy import wait_for


@contextmanager
def answering(answer):
    """The address of a server that answers each request with ``answer(path)``: status and text."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answer(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words: object) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()


@pytest.fixture(autouse=True)
def _no_var(monkeypatch):
    monkeypatch.delenv("GANTRY_VAR", raising=False)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_password_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    before = os.umask(0)
    try:
        auth = own_auth(Checkout.at(tmp_path))
    finally:
        os.umask(before)
    assert own_auth(Checkout.at(tmp_path)) == auth
    assert auth.startswith(f"{USER}:")
    assert len(auth) > 40
    assert mode(Checkout.at(tmp_path).auth) == 0o600
    assert mode(Checkout.at(tmp_path).auth.parent) == 0o700
    assert own_auth(Checkout.at(tmp_path / "other")) != auth
    assert [path.name for path in Checkout.at(tmp_path).auth.parent.iterdir()] == ["auth"]


def test_processes_that_replace_a_password_at_once_end_with_the_same_one(tmp_path):
    own_auth(Checkout.at(tmp_path))
    Checkout.at(tmp_path).auth.chmod(0o644)
    program = "import sys; from pipelines.flow.web import *; print(own_auth(Checkout.at(sys.argv[1])))"
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert {process.communicate(timeout=60)[0].strip() for process in started} == {own_auth(Checkout.at(tmp_path))}


def test_a_password_that_others_could_read_is_replaced(tmp_path):
    auth = own_auth(Checkout.at(tmp_path))
    Checkout.at(tmp_path).auth.chmod(0o644)
    assert own_auth(Checkout.at(tmp_path)) != auth
    assert mode(Checkout.at(tmp_path).auth) == 0o600


def test_the_password_is_removed_from_whatever_is_printed(tmp_path):
    password = own_auth(Checkout.at(tmp_path)).partition(":")[2]
    assert password not in redact_credentials(f"asked with {password}")


def test_the_way_to_sign_in_is_a_file_that_only_its_owner_can_read(tmp_path):
    page = sign_in_page(Checkout.at(tmp_path), "prefect", "http://127.0.0.1:4200")
    user, _, password = own_auth(Checkout.at(tmp_path)).partition(":")
    assert f"http://{user}:{password}@127.0.0.1:4200/gantry/sign-in" in page.read_text()
    assert mode(page) == 0o600


def test_a_taken_port_is_left_alone_unless_it_has_to_be_that_one():
    with listen(0) as first:
        port = first.getsockname()[1]
        with listen(port) as second:
            assert second.getsockname()[1] not in (0, port)
        with pytest.raises(StageError, match=f"Port {port} of this machine is taken"):
            listen(port, only=True)


def test_nobody_comes_between_the_choice_of_a_port_and_the_start_of_its_server():
    """A port that was only looked at, or only bound, is another's as soon as that one listens."""
    with listen(0) as held, socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            stranger.bind(held.getsockname())


def test_many_at_once_get_a_port_each():
    found: list[socket.socket] = []
    threads = [threading.Thread(target=lambda: found.append(listen(4200))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.getsockname()[1] for one in found}) == 20
    for one in found:
        one.close()


def test_a_machine_without_the_first_address_listens_on_the_next():
    with listen(0, hosts=("192.0.2.1", "127.0.0.1")) as listening:  # an address kept for documentation: nobody's
        assert address_of(listening).startswith("http://127.0.0.1:")
    with pytest.raises(StageError, match="no loopback address"):
        listen(0, hosts=("192.0.2.1",))


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this machine has no IPv6")
def test_an_address_of_ipv6_is_written_in_brackets():
    with listen(0, hosts=("::1",)) as listening:
        assert address_of(listening) == f"http://[::1]:{listening.getsockname()[1]}"


def test_a_stranger_that_takes_any_password_is_not_taken_for_ours():
    for answer in ((200, "true"), (200, ""), (404, "no"), (200, "x" * 5000)):
        with answering(lambda path, answer=answer: answer) as address:
            assert whose(address, "gantry:secret") == "another's"


def test_a_stranger_that_passes_the_question_on_is_not_taken_for_ours():
    def ours(path: str) -> tuple[int, str]:
        return 200, proof("gantry:secret", int(real.rpartition(":")[2]), path.partition("nonce=")[2])

    def pass_on(path: str) -> tuple[int, str]:
        with urllib.request.urlopen(f"{real}{path}", timeout=5) as answer:
            return 200, answer.read().decode()

    with answering(ours) as real, answering(pass_on) as address:
        assert whose(real, "gantry:secret") == "ours"
        assert whose(real, "gantry:other") == "another's"
        assert whose(address, "gantry:secret") == "another's"


def test_the_password_is_not_sent_to_whoever_is_asked():
    seen = []
    with answering(lambda path: (seen.append(path), (200, "no"))[1]) as address:
        whose(address, "gantry:secret")
    assert seen[0].startswith(PROOF_PATH)
    assert "secret" not in seen[0]


def test_an_answer_that_is_late_and_nobody_at_all_are_told_apart(monkeypatch):
    with listen(0) as silent:
        address = address_of(silent)
        monkeypatch.setattr("pipelines.flow.web.ANSWER_SECONDS", 0.2)
        assert whose(address, "gantry:secret") == "silent"
    assert whose(address, "gantry:secret") == "nobody's"


def test_this_machine_is_not_asked_through_a_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:3128")
    with answering(lambda path: (200, "no")) as address:
        assert whose(address, "gantry:secret") == "another's"


def test_a_server_that_ends_while_it_starts_is_an_error_with_its_log(tmp_path):
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": "nonsense://"}
    log = tmp_path / "page.log"
    with (
        pytest.raises(
            StageError, match=rf"MLflow server at .* ended while it started with: .*nonsense.*Its log is {log}"
        ),
        own_server("mlflow", Checkout.at(tmp_path), listen(0), environment, log),
    ):
        pass
    assert "nonsense" in log.read_text()


def test_a_server_that_is_slow_to_start_is_an_error_of_the_machine_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.flow.web.START_SECONDS", 0.1)
    log = tmp_path / "page.log"
    told = rf"did not answer within 0 s while it started. The machine may be busy.* run this again. Its log is {log}"
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with (
        pytest.raises(StageError, match=told),
        own_server("mlflow", Checkout.at(tmp_path), listen(0), environment, log),
    ):
        pass


def mlflow_environment(store: str) -> dict[str, str]:
    return {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def test_a_server_that_is_killed_is_started_again_and_in_the_end_given_up(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("pipelines.flow.web.RESTARTS", 1)
    log, auth = tmp_path / "page.log", own_auth(Checkout.at(tmp_path))

    def kill_it() -> None:
        served = [one for one in psutil.Process().children(recursive=True) if "pipelines.flow.door" in one.cmdline()]
        for process in served:
            process.kill()
        psutil.wait_procs(served, timeout=10)

    environment = mlflow_environment(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with own_server("mlflow", Checkout.at(tmp_path), listen(0), environment, log) as address:
        kill_it()
        wait_for(lambda: whose(address, auth) == "ours", 90, "the server to answer again")
        assert f"The MLflow server at {address} has ended (log: {log}); starting it again." in caplog.text
        kill_it()
        wait_for(lambda: whose(address, auth) == "nobody's", 30, "the server to be given up")
        assert "it is not started any more" in caplog.text


def test_mlflows_pages_show_the_store_to_who_has_the_password_alone(tmp_path):
    from pipelines.tracking.store import connect, ensure_experiment

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    ensure_experiment(connect(store), store, "digits")
    environment = mlflow_environment(store)
    with own_server("mlflow", Checkout.at(tmp_path), listen(0), environment, tmp_path / "page.log") as address:
        known = "Basic " + base64.b64encode(own_auth(Checkout.at(tmp_path)).encode()).decode()
        search = f"{address}/ajax-api/2.0/mlflow/experiments/search?max_results=5"

        def ask(url: str, **headers: str) -> tuple[int, str]:
            try:
                with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        assert ask(search)[0] == 401
        assert ask(f"{address}/health")[0] == 401
        assert ask(search, Authorization=known, Host="evil.example")[0] == 403
        assert ask(search, Authorization=known, Origin="http://evil.example")[0] == 403
        status, text = ask(search, Authorization=known)
        assert (status, "digits" in text) == (200, True)
        assert "<title>MLflow" in ask(address, Authorization=known)[1]
    assert whose(address, own_auth(Checkout.at(tmp_path))) == "nobody's"
