"""Which Prefect server a command uses, and its environment."""

import base64
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, nullcontext

import pytest

from gan_core.errors import StageError
from gan_core.files import write_json
from pipelines.flow.auth_middleware import proof
from pipelines.flow.server import (
    RETENTION_DAYS,
    Connection,
    connect_prefect,
    explain_server_errors,
    is_gone,
    prefect_environment,
)
from pipelines.flow.web import address_of, checkout_auth, listen
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import process_identity
from pipelines.tracking.sqlite_file import known_schemas
from tests.pipelines.flow.test_web import answering as answering_with
from tests.small_disk import run_on_small_disk


@pytest.fixture
def ours(tmp_path):
    """The API address of a stand-in for a server of the checkout ``tmp_path``."""

    def answer(path: str) -> tuple[int, str]:
        return 200, proof(
            checkout_auth(Checkout.at(tmp_path)), int(address.rpartition(":")[2]), path.partition("nonce=")[2]
        )

    with answering_with(answer) as address:
        yield f"{address}/api"


@pytest.fixture
def strangers():
    """The API address of another checkout's server, which answers 200 to everything."""
    with answering_with(lambda path: (200, "true")) as address:
        yield f"{address}/api"


def connection_to(url, home="prefect"):
    """A connection to a server that the environment names."""
    return Connection(url=url, auth=None, settings={"PREFECT_HOME": str(home)})


@pytest.fixture(autouse=True)
def _no_server_named(monkeypatch):
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME", "GANTRY_VAR"):
        monkeypatch.delenv(name, raising=False)


def test_the_server_that_the_environment_names_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    with connect_prefect(Checkout.at(tmp_path)) as connection:
        assert connection.url == "http://elsewhere/api"
        assert connection.auth is None


def test_a_server_elsewhere_may_fail_while_its_database_restarts(tmp_path, monkeypatch):
    answers = [(500, "no database"), (200, '"3"')]
    with answering_with(lambda path: answers.pop(0)) as address:
        monkeypatch.setenv("PREFECT_API_URL", f"{address}/api")
        with connect_prefect(Checkout.at(tmp_path)) as connection, connection.clients():
            from prefect.client.orchestration import SyncPrefectClient

            assert SyncPrefectClient(connection.url).api_version() == "3"
    assert answers == []


def test_a_long_lived_server_of_the_checkout_is_used_with_its_password(tmp_path, ours):
    write_json(tmp_path / "var" / "prefect" / "server.json", {"url": ours, "process": process_identity()})
    before = dict(os.environ)
    with connect_prefect(Checkout.at(tmp_path)) as connection:
        assert connection.url == ours
        assert connection.auth == checkout_auth(Checkout.at(tmp_path))
        assert connection.home == tmp_path / "var" / "prefect"
        assert os.environ == before, "a connection is a value: nothing is left for somebody else to read"


def test_a_recorded_address_of_another_server_is_ignored(tmp_path, strangers, monkeypatch):
    """Several machines share the checkout, and another one recorded the address."""
    note = {"url": strangers, "process": "another-machine:1:1"}
    write_json(tmp_path / "var" / "prefect" / "server.json", note)
    monkeypatch.setattr("pipelines.flow.server._start_server", lambda *_: nullcontext("http://own/api"))
    with connect_prefect(Checkout.at(tmp_path)) as connection:
        assert connection.url == "http://own/api"


@pytest.mark.parametrize("may_share", [True, False])
def test_the_server_of_a_run_is_used_only_with_may_share(tmp_path, ours, monkeypatch, may_share):
    """It ends with its run, so another run starts its own."""
    write_json(tmp_path / "var" / "prefect" / "run-server.json", {"url": ours, "process": process_identity()})
    if not may_share:
        monkeypatch.setattr("pipelines.flow.server._start_server", lambda *_: nullcontext("http://own/api"))
    with connect_prefect(Checkout.at(tmp_path), may_share=may_share) as connection:
        assert connection.url == (ours if may_share else "http://own/api")


def test_servers_that_begin_together_start_one_after_the_other(tmp_path, monkeypatch, caplog):
    """Each makes or upgrades the database when it starts: two at once add the same tables, and one of them fails."""
    starting, most, count = threading.Lock(), [0], [0]

    @contextmanager
    def start_server(*_):
        with starting:
            count[0] += 1
            most[0] = max(most[0], count[0])
        time.sleep(0.5)
        with starting:
            count[0] -= 1
        yield "http://own/api"

    def run() -> None:
        with connect_prefect(Checkout.at(tmp_path)):
            both.wait(30)  # a server that has started does not hold the next one up

    both = threading.Barrier(2)
    monkeypatch.setattr("pipelines.flow.server._start_server", start_server)
    caplog.set_level("INFO")
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not both.broken
    assert most == [1]
    assert "Waiting for another Prefect server of this checkout to start." in caplog.text


def test_a_server_is_gone_if_it_refuses_or_is_another_but_not_if_it_is_slow(tmp_path, ours, strangers, monkeypatch):
    auth = checkout_auth(Checkout.at(tmp_path))
    assert not is_gone(ours, auth)
    assert is_gone(strangers, auth)
    assert not is_gone(strangers), "one that the environment names has to prove nothing"
    with listen(0) as closed:
        nobody = f"{address_of(closed)}/api"
    assert is_gone(nobody)
    assert is_gone(nobody, auth)
    monkeypatch.setattr("pipelines.flow.web.ANSWER_SECONDS", 0.2)
    with listen(0) as silent:
        assert not is_gone(f"{address_of(silent)}/api")
        assert not is_gone(f"{address_of(silent)}/api", auth)


def test_another_server_on_the_port_is_not_used_as_the_checkouts(tmp_path, strangers):
    port = int(strangers.split(":")[2].removesuffix("/api"))
    message = rf"Port {port} of this machine is in use, or you have no permission to use it. Choose another with --port"
    with pytest.raises(StageError, match=message), connect_prefect(Checkout.at(tmp_path), port=port, long_lived=True):
        pass
    assert not (tmp_path / "var" / "prefect" / "server.json").exists()


def test_a_database_of_a_later_prefect_is_reported_before_its_server_starts(tmp_path):
    database = tmp_path / "var/prefect/prefect.db"
    database.parent.mkdir(parents=True)
    known, newest = known_schemas("prefect", "server/database/_migrations/versions/sqlite")
    assert len(known) > 100
    assert len(newest) == 1
    with contextlib.closing(sqlite3.connect(database)) as opened:
        opened.execute("CREATE TABLE alembic_version (version_num TEXT)")
        opened.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
        opened.commit()
    message = rf"{database} was upgraded by a later Prefect than the one installed .*mv {database} {database}.later"
    with pytest.raises(StageError, match=message), connect_prefect(Checkout.at(tmp_path)):
        pass
    assert not (tmp_path / "var/prefect/server.log").exists()


def test_a_server_that_rejects_fails_or_is_away_raises_one_error():
    import httpx

    def answered(status: int) -> httpx.HTTPStatusError:
        request = httpx.Request("GET", "http://elsewhere/api")
        return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))

    url = "http://elsewhere/api"
    for error, message in (
        (answered(401), r"at http://elsewhere/api rejects this client \(401\): set PREFECT_API_AUTH_STRING"),
        (answered(500), r"at http://elsewhere/api answers with an error \(500\). PREFECT_API_URL names it"),
        (
            httpx.ConnectError("All connection attempts failed"),
            r"at http://elsewhere/api does not answer \(ConnectError\). PREFECT_API_URL",
        ),
        (ExceptionGroup("of a runner", [ConnectionResetError()]), r"does not answer \(ConnectionResetError\)"),
    ):
        with pytest.raises(StageError, match=message), explain_server_errors(connection_to(url)):
            raise error


def test_an_address_without_the_api_is_an_error_that_completes_it():
    """Prefect's pages are there. They answer with a page what its client asks."""
    from prefect.client.orchestration import get_client

    with answering_with(lambda path: (200, "<!doctype html>")) as address:
        connection = connection_to(address)
        told = rf"What answers at {address} is not the API of a Prefect server. .*ends with /api: {address}/api\."
        with (
            pytest.raises(StageError, match=told),
            connection.clients(),
            explain_server_errors(connection),
            get_client(sync_client=True) as client,
        ):
            client.read_deployment_by_name("pipeline/nightly")


@pytest.mark.parametrize("answer", ['{"message": "hello"}', "null"])
def test_another_service_that_answers_in_json_is_an_error_that_says_so(answer):
    from prefect.client.orchestration import get_client

    with answering_with(lambda path: (200, answer)) as address:
        connection = connection_to(f"{address}/api")
        with (
            pytest.raises(StageError, match=rf"{address}/api is not the API of a Prefect server\. PREFECT_API_URL"),
            connection.clients(),
            explain_server_errors(connection),
            get_client(sync_client=True) as client,
        ):
            client.read_deployment_by_name("pipeline/nightly")


def test_a_slow_server_of_prefect_itself_is_blamed_on_the_machine(tmp_path):
    slow = RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server.")
    told = rf"in time.*run this again.*PREFECT_API_URL.*{tmp_path}/server.log"
    with (
        pytest.raises(StageError, match=told),
        explain_server_errors(connection_to("http://127.0.0.1:1/api", tmp_path)),
    ):
        raise slow


@pytest.mark.parametrize("error", [StageError("a stage failed"), ZeroDivisionError("a fault of ours")])
def test_other_errors_are_not_changed(error, strangers):
    with pytest.raises(type(error), match=str(error)), explain_server_errors(connection_to(strangers)):
        raise error


def test_prefect_keeps_its_files_in_the_checkout_and_sends_no_telemetry(tmp_path, monkeypatch):
    environment = prefect_environment(Checkout.at(tmp_path))
    assert environment["PREFECT_HOME"] == str(tmp_path / "var" / "prefect")
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert int(environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"]) >= 60
    monkeypatch.setenv("PREFECT_HOME", "/somewhere")
    assert prefect_environment(Checkout.at(tmp_path))["PREFECT_HOME"] == "/somewhere"


@pytest.mark.prefect
def test_clients_use_the_server_only_inside_the_block(prefect_server):
    """Even if Prefect was imported before the server was known."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    other = connection_to("http://127.0.0.1:9/api")
    with other.clients(), prefect_server.clients():
        assert PREFECT_API_URL.value() == prefect_server.url
        with get_client(sync_client=True) as client:
            assert client.api_version()
    assert PREFECT_API_URL.value() != other.url


@pytest.mark.prefect
def test_a_server_of_a_checkout_rejects_other_users_and_other_pages(prefect_api):
    """Otherwise any user of the machine, and any web page, could run code as the owner of a schedule."""
    order = f"{prefect_api}/deployments/00000000-0000-0000-0000-000000000000/create_flow_run"

    def status(url: str, **headers: str) -> int:
        sent = {"Content-Type": "application/json", **{name.title(): value for name, value in headers.items()}}
        request = urllib.request.Request(url, json.dumps({"parameters": {"checkout": "/mine"}}).encode(), sent)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    known = "Basic " + base64.b64encode(os.environ["PREFECT_API_AUTH_STRING"].encode()).decode()
    assert status(order) == 401
    assert status(order, authorization="Basic bm86bm8=") == 401
    assert status(order, authorization=known, host="evil.example") == 403
    assert status(order, authorization=known, origin="http://evil.example") == 403
    assert status(order, authorization=known, origin="null") == 403
    assert status(order, authorization=known) == 404, "the owner is let in, and there is no such deployment"


@pytest.mark.prefect
def test_a_server_of_a_checkout_listens_only_on_loopback_and_hides_its_password(prefect_api):
    import psutil

    port = int(prefect_api.split(":")[2].removesuffix("/api"))
    listening = [one for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port]
    assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
    password = os.environ["PREFECT_API_AUTH_STRING"].partition(":")[2]
    for process in psutil.process_iter(["cmdline"]):
        assert password not in " ".join(process.info["cmdline"] or [])


@pytest.mark.prefect
def test_a_websocket_without_the_password_is_closed(prefect_api):
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

    url = prefect_api.replace("http", "ws", 1) + "/events/out"
    with pytest.raises(InvalidStatus, match="403"):
        connect(url, origin="http://evil.example", subprotocols=["prefect"])
    with connect(url, subprotocols=["prefect"]) as socket_:
        socket_.send(json.dumps({"type": "auth", "token": "a guess"}))
        with pytest.raises(ConnectionClosed):
            socket_.recv(timeout=20)


VACUUM = """
import asyncio, datetime, sys
import sqlalchemy as sa
from prefect.server.database import provide_database_interface
from prefect.server.services.db_vacuum import vacuum_old_flow_runs
from prefect.server.services.perpetual_services import get_enabled_perpetual_services

async def main():
    db = provide_database_interface()
    await db.create_db()
    now = datetime.datetime.now(datetime.UTC)
    async with db.session_context(begin_transaction=True) as session:
        flow = db.Flow(name="pipeline")
        session.add(flow)
        await session.flush()
        for days in map(int, sys.argv[1:]):
            ended = now - datetime.timedelta(days=days)
            run = db.FlowRun(flow_id=flow.id, name=str(days), state_type="COMPLETED", end_time=ended)
            session.add(run)
            await session.flush()
            session.add(db.Log(name="x", level=20, message=str(days), timestamp=now, flow_run_id=run.id))
            session.add(db.Artifact(key="samples", data=str(days), flow_run_id=run.id))
    # Each of these is run when a server starts.
    if any(service.function.__name__ == "schedule_vacuum_tasks" for service in get_enabled_perpetual_services()):
        await vacuum_old_flow_runs(db=db)
    async with db.session_context() as session:
        for column in (db.FlowRun.name, db.Log.message, db.Artifact.data):
            print(*(await session.execute(sa.select(column).order_by(column))).scalars())

asyncio.run(main())
"""


def test_runs_older_than_the_retention_are_removed_with_logs_and_artifacts(tmp_path):
    """After years of runs the database is still bounded, because SQLite reuses freed pages."""
    (tmp_path / "var" / "prefect").mkdir(parents=True)
    environment = {**os.environ, **prefect_environment(Checkout.at(tmp_path))}
    command = [sys.executable, "-c", VACUUM, "10", str(RETENTION_DAYS - 1), str(RETENTION_DAYS + 1)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"10 {RETENTION_DAYS - 1}"] * 3


def test_a_path_at_which_prefect_would_cut_its_database_is_an_error(tmp_path, monkeypatch):
    for name in ("PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(StageError, match=r"what\?/var/prefect/prefect.db, must not"),
        connect_prefect(Checkout.at(tmp_path / "what?")),
    ):
        pass


def test_a_disk_too_full_for_the_database_is_an_error_before_a_server_starts(tmp_path):
    """And after an internal error of the server, which does not name the cause."""
    disk, script = tmp_path / "disk", tmp_path / "script.py"
    (disk / "var").mkdir(parents=True)
    script.write_text(
        "import sys\n"
        "from pipelines.runtime.checkout import Checkout\n"
        "from pipelines.runtime.failures import explain_error\n"
        "from pipelines.flow import server\n"
        "try:\n"
        "    if sys.argv[2] == 'start':\n"
        "        with server.connect_prefect(Checkout.at(sys.argv[1])):\n"
        "            pass\n"
        "    else:\n"
        "        server._start_server = lambda *_: server.contextlib.nullcontext('http://own/api')\n"
        "        with server.connect_prefect(Checkout.at(sys.argv[1])) as found, server.explain_server_errors(found):\n"
        "            raise RuntimeError('Internal Server Error')\n"
        "except Exception as error:\n"
        "    print(explain_error(error))\n"
    )
    for moment, missing in (("start", "MiB"), ("run", "KiB")):
        ended = run_on_small_disk([sys.executable, script, disk, moment], disk, size="400k")
        told = ended.output.strip().splitlines()[-1]
        assert told.startswith(f"{disk}/var/prefect: no space left on device (")
        assert f" {missing} more are needed). Free some space" in told
        assert "Traceback" not in ended.output
