"""A checkout's own web servers: their password, their port, and how they prove which checkout they belong to."""

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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest

from gan_core.errors import StageError
from pipelines.flow.auth_middleware import PROOF_PATH, proof
from pipelines.flow.web import USER, address_of, checkout_auth, identify_server, listen, run_server, sign_in_page
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.redaction import redact_credentials
from tests.pipelines.toy import command_line, wait_for


@contextmanager
def answering(answer):
    """The address of a server that answers each request with ``answer(path)``, a status and a text."""

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
        auth = checkout_auth(Checkout.at(tmp_path))
    finally:
        os.umask(before)
    assert checkout_auth(Checkout.at(tmp_path)) == auth
    assert auth.startswith(f"{USER}:")
    assert len(auth) > 40
    assert mode(Checkout.at(tmp_path).auth) == 0o600
    assert mode(Checkout.at(tmp_path).auth.parent) == 0o700
    assert checkout_auth(Checkout.at(tmp_path / "other")) != auth
    assert [path.name for path in Checkout.at(tmp_path).auth.parent.iterdir()] == ["auth"]


def test_processes_that_replace_a_password_at_once_get_the_same_one(tmp_path):
    checkout_auth(Checkout.at(tmp_path))
    Checkout.at(tmp_path).auth.chmod(0o644)
    program = "import sys; from pipelines.flow.web import *; print(checkout_auth(Checkout.at(sys.argv[1])))"
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert {process.communicate(timeout=60)[0].strip() for process in started} == {checkout_auth(Checkout.at(tmp_path))}


def test_a_password_that_others_could_read_is_replaced(tmp_path):
    auth = checkout_auth(Checkout.at(tmp_path))
    Checkout.at(tmp_path).auth.chmod(0o644)
    assert checkout_auth(Checkout.at(tmp_path)) != auth
    assert mode(Checkout.at(tmp_path).auth) == 0o600


def test_a_file_system_without_permissions_is_an_error_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(stat, "S_IMODE", lambda mode: 0o777)  # as on a Windows disk in WSL, or a network disk (SMB)
    with pytest.raises(StageError, match=r"cannot be kept in .*/var/prefect: .* no permissions.*Set GANTRY_VAR to"):
        checkout_auth(Checkout.at(tmp_path))
    assert not Checkout.at(tmp_path).auth.exists()


def test_the_password_is_removed_from_output(tmp_path):
    password = checkout_auth(Checkout.at(tmp_path)).partition(":")[2]
    assert password not in redact_credentials(f"asked with {password}")


def test_the_sign_in_page_is_a_file_that_only_its_owner_can_read(tmp_path):
    page = sign_in_page(Checkout.at(tmp_path), "prefect", "http://127.0.0.1:4200")
    user, _, password = checkout_auth(Checkout.at(tmp_path)).partition(":")
    assert f"http://{user}:{password}@127.0.0.1:4200/gantry/sign-in" in page.read_text()
    assert mode(page) == 0o600


def test_sign_in_pages_that_are_written_at_once_are_whole(tmp_path):
    checkout_auth(Checkout.at(tmp_path))
    with ThreadPoolExecutor(max_workers=8) as pool:
        pages = list(
            pool.map(lambda _: sign_in_page(Checkout.at(tmp_path), "prefect", "http://127.0.0.1:1"), range(200))
        )
    assert pages[0].read_text().startswith("<!doctype html>")
    assert mode(pages[0]) == 0o600


def test_a_taken_port_is_replaced_unless_it_is_required():
    with listen(0) as first:
        port = first.getsockname()[1]
        with listen(port) as second:
            assert second.getsockname()[1] not in (0, port)
        with pytest.raises(StageError, match=f"Port {port} of this machine is in use"):
            listen(port, only=True)


def test_no_other_program_can_take_the_port_before_its_server_starts():
    """Another program could listen on a port that was only probed or only bound."""
    with listen(0) as held, socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            stranger.bind(held.getsockname())


def test_simultaneous_servers_get_different_ports():
    found: list[socket.socket] = []
    threads = [threading.Thread(target=lambda: found.append(listen(4200))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.getsockname()[1] for one in found}) == 20
    for one in found:
        one.close()


def test_listening_falls_back_to_the_next_address():
    with listen(0, hosts=("192.0.2.1", "127.0.0.1")) as listening:  # an address kept for documentation: nobody's
        assert address_of(listening).startswith("http://127.0.0.1:")
    with pytest.raises(StageError, match="no loopback address"):
        listen(0, hosts=("192.0.2.1",))


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this machine has no IPv6")
def test_an_ipv6_address_is_written_in_brackets():
    with listen(0, hosts=("::1",)) as listening:
        assert address_of(listening) == f"http://[::1]:{listening.getsockname()[1]}"


def test_a_server_that_accepts_any_password_is_not_ours():
    for answer in ((200, "true"), (200, ""), (404, "no"), (200, "x" * 5000)):
        with answering(lambda path, answer=answer: answer) as address:
            assert identify_server(address, "gantry:secret") == "other"


def test_a_server_that_forwards_the_challenge_is_not_ours():
    def ours(path: str) -> tuple[int, str]:
        return 200, proof("gantry:secret", int(real.rpartition(":")[2]), path.partition("nonce=")[2])

    def pass_on(path: str) -> tuple[int, str]:
        with urllib.request.urlopen(f"{real}{path}", timeout=5) as answer:
            return 200, answer.read().decode()

    with answering(ours) as real, answering(pass_on) as address:
        assert identify_server(real, "gantry:secret") == "ours"
        assert identify_server(real, "gantry:other") == "other"
        assert identify_server(address, "gantry:secret") == "other"


def test_identifying_a_server_does_not_send_the_password():
    seen = []
    with answering(lambda path: (seen.append(path), (200, "no"))[1]) as address:
        identify_server(address, "gantry:secret")
    assert seen[0].startswith(PROOF_PATH)
    assert "secret" not in seen[0]


def test_a_late_answer_differs_from_a_refused_connection(monkeypatch):
    with listen(0) as silent:
        address = address_of(silent)
        monkeypatch.setattr("pipelines.flow.web.ANSWER_SECONDS", 0.2)
        assert identify_server(address, "gantry:secret") == "no answer"
    assert identify_server(address, "gantry:secret") == "none"


def test_identifying_a_server_uses_no_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:3128")
    with answering(lambda path: (200, "no")) as address:
        assert identify_server(address, "gantry:secret") == "other"


def test_a_server_that_ends_during_its_start_is_an_error_with_its_log(tmp_path):
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": "nonsense://"}
    log = tmp_path / "page.log"
    with (
        pytest.raises(
            StageError, match=rf"MLflow server at .* ended during its start with: .*nonsense.*Its log is {log}"
        ),
        run_server("mlflow", Checkout.at(tmp_path), listen(0), environment, log),
    ):
        pass
    assert "nonsense" in log.read_text()


def test_a_server_that_is_killed_during_its_start_is_not_blamed_on_what_an_earlier_one_logged(tmp_path, monkeypatch):
    kill = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    monkeypatch.setattr("pipelines.flow.web.guarded_command", lambda command: kill)
    log = tmp_path / "page.log"
    log.write_text("ValueError: the trouble of last week\n")
    with (
        pytest.raises(
            StageError, match=r"ended during its start without a message \(status -9\). Run this again"
        ) as told,
        run_server("mlflow", Checkout.at(tmp_path), listen(0), dict(os.environ), log),
    ):
        pass
    assert "last week" not in str(told.value)


def test_a_server_that_starts_too_slowly_is_blamed_on_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.flow.web.START_SECONDS", 0.1)
    monkeypatch.setattr("pipelines.flow.web.ANSWER_SECONDS", 0.1)  # else one question can outlast a quick start
    log = tmp_path / "page.log"
    told = rf"did not start within 0 s. The machine may be busy.* run this again. Its log is {log}"
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with (
        pytest.raises(StageError, match=told),
        run_server("mlflow", Checkout.at(tmp_path), listen(0), environment, log),
    ):
        pass


def mlflow_environment(store: str) -> dict[str, str]:
    return {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def test_a_killed_server_is_restarted_a_few_times(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("pipelines.flow.web.RESTARTS", 1)
    log, auth = tmp_path / "page.log", checkout_auth(Checkout.at(tmp_path))

    def kill_it() -> None:
        served = [
            one
            for one in psutil.Process().children(recursive=True)
            if "pipelines.flow.auth_middleware" in command_line(one)
        ]
        for process in served:
            process.kill()
        psutil.wait_procs(served, timeout=10)

    environment = mlflow_environment(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with run_server("mlflow", Checkout.at(tmp_path), listen(0), environment, log) as address:
        kill_it()
        wait_for(lambda: identify_server(address, auth) == "ours", 90, "the server to answer again")
        assert f"The MLflow server at {address} has ended (log: {log}); restarting it." in caplog.text
        kill_it()
        wait_for(lambda: identify_server(address, auth) == "none", 30, "the server to be given up")
        assert "it is not restarted any more" in caplog.text


def test_mlflows_pages_need_the_password(tmp_path):
    from pipelines.tracking.store import connect, ensure_experiment

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    ensure_experiment(connect(store), store, "digits")
    environment = mlflow_environment(store)
    with run_server("mlflow", Checkout.at(tmp_path), listen(0), environment, tmp_path / "page.log") as address:
        known = "Basic " + base64.b64encode(checkout_auth(Checkout.at(tmp_path)).encode()).decode()
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
    assert identify_server(address, checkout_auth(Checkout.at(tmp_path))) == "none"
