"""Every event of every log arrives at MLflow once, despite kills, rejected entries and unavailable servers."""

import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gan_core import files
from gan_core.errors import TrackingError
from gan_core.files import read_json, write_json
from pipelines.tracking import RunLog, Shipper, abandoned, find_run, sync, tree
from pipelines.tracking.events import ARTIFACTS, CURSOR, EVENTS, REFUSED, find_logs
from pipelines.tracking.replay import Cursor
from pipelines.tracking.store import connect, explain_server_errors
from pipelines.tracking.tree import prune_logs
from tests.pipelines.tracking.database import copy_of
from tests.small_disk import run_on_small_disk

EXPERIMENT = "tests"


def run_of(uri: str, key: str):
    ref = find_run(uri, EXPERIMENT, key)
    assert ref is not None, f"no run {key}"
    return MlflowClient(uri).get_run(ref.run_id)


def history(uri: str, key: str, metric: str) -> list[tuple[int, float]]:
    found = MlflowClient(uri).get_metric_history(run_of(uri, key).info.run_id, metric)
    return sorted((point.step, point.value) for point in found)


def ship(directory: Path, uri: str) -> int:
    return sync(directory, tracking_uri=uri, experiment=EXPERIMENT)


def refused(log: RunLog) -> list[dict]:
    path = log.folder / REFUSED
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def server(port: int, directory: Path):
    """Run a real MLflow server and end it with all its workers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(directory / "served")]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # The job runner is not needed, and importing it takes as long as the server itself.
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(directory / "server.log", "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (directory / "server.log").read_text()
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_run_arrives_completely(tmp_path, uri):
    tracked = tmp_path / "track"
    parent = RunLog(tracked, key="flow-1", name="pipeline")
    log = RunLog(tracked, key="train-1", name="train", parent_key="flow-1", tags={"gantry.stage": "train"})
    log.log_params({"lr": 2e-4, "loss": "hinge"})
    for step in range(5):
        log.log_metrics({"loss/discriminator": step / 2, "nan": float("nan")}, step=step)
    (tmp_path / "grid.png").write_bytes(b"PNG")
    log.log_artifact(tmp_path / "grid.png", folder="grids")
    (tmp_path / "plots" / "deep").mkdir(parents=True)
    (tmp_path / "plots" / "deep" / "a.csv").write_text("a")
    log.log_artifact(tmp_path / "plots")
    log.log_dataset("digits", "data/raw/digits", "0123456789abcdef0123456789abcdef.dir", "training")
    log.finish()
    assert ship(tracked, uri) == 12

    run = run_of(uri, "train-1")
    assert (run.info.run_name, run.info.status) == ("train", "FINISHED")
    assert run.data.params == {"lr": "0.0002", "loss": "hinge"}
    assert run.data.tags["gantry.stage"] == "train"
    assert run.data.tags["mlflow.parentRunId"] == run_of(uri, "flow-1").info.run_id
    assert run_of(uri, "flow-1").info.status == "RUNNING"
    assert history(uri, "train-1", "loss/discriminator") == [(step, step / 2) for step in range(5)]
    assert len(history(uri, "train-1", "nan")) == 5
    client = MlflowClient(uri)
    assert [a.path for a in client.list_artifacts(run.info.run_id, "grids")] == ["grids/grid.png"]
    assert [a.path for a in client.list_artifacts(run.info.run_id, "plots/deep")] == ["plots/deep/a.csv"]
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", "0123456789abcdef0123456789abcdef.dir")
    assert {tag.key: tag.value for tag in dataset.tags}["mlflow.data.context"] == "training"
    # The times are those of logging, not of sending.
    logged = [json.loads(line)["time"] for line in (log.folder / EVENTS).read_text().splitlines()]
    assert run.info.start_time == logged[0]
    assert run.info.end_time == logged[-1]
    assert not (log.folder / ARTIFACTS).exists()
    assert refused(log) == refused(parent) == []


def test_sending_a_log_again_duplicates_nothing(tmp_path, uri):
    log = RunLog(tmp_path / "track", key="a", name="x")
    log.log_params({"p": 1})
    for step in range(20):
        log.log_metrics({"m": step}, step=step)
    log.log_dataset("digits", "here", "d")
    log.finish()
    ship(tmp_path / "track", uri)
    (log.folder / CURSOR).unlink()  # as if killed before every cursor was written
    ship(tmp_path / "track", uri)
    assert history(uri, "a", "m") == [(step, step) for step in range(20)]
    experiment = MlflowClient(uri).get_experiment_by_name(EXPERIMENT).experiment_id
    assert len(MlflowClient(uri).search_runs([experiment])) == 1
    assert len(run_of(uri, "a").inputs.dataset_inputs) == 1
    assert refused(log) == []


def test_more_entries_than_one_call_allows_are_sent(tmp_path, uri):
    log = RunLog(tmp_path / "track", key="a", name="x", tags={f"t{i}": i for i in range(120)})
    log.log_params({f"p{i}": i for i in range(250)})
    log.log_metrics({f"m{i}": i for i in range(2300)}, step=1)
    ship(tmp_path / "track", uri)
    run = run_of(uri, "a")
    assert run.data.params == {f"p{i}": str(i) for i in range(250)}
    assert run.data.metrics == {f"m{i}": float(i) for i in range(2300)}
    assert {f"t{i}" for i in range(120)} <= set(run.data.tags)


def test_rejected_entries_are_set_aside_and_the_rest_is_sent(tmp_path, uri, caplog):
    log = RunLog(tmp_path / "track", key="a", name="x")
    log.log_params({"p": 1, "q": 1})
    log.log_params({"p": 2, "r": 3})  # a parameter cannot change
    log.log_metrics({"good": 1.0, "bad?name": 1.0}, step=1)
    with open(log.folder / EVENTS, "a") as file:
        file.write('{"kind":"metrics","time":1,"step":1}\n{"kind":"nonsense","time":1}\nnot json\n')
    log.log_metrics({"good": 2.0}, step=2)
    log.finish()
    ship(tmp_path / "track", uri)
    run = run_of(uri, "a")
    assert run.data.params == {"p": "1", "q": "1", "r": "3"}
    assert history(uri, "a", "good") == [(1, 1.0), (2, 2.0)]
    assert run.info.status == "FINISHED"
    reasons = [line["reason"] for line in refused(log)]
    assert len(reasons) == 4
    assert any("Changing param values" in reason for reason in reasons)
    assert any("bad?name" in str(line["what"]) for line in refused(log))
    assert "set aside" in caplog.text


def test_a_conflict_in_the_database_is_no_refusal_and_the_event_is_sent_later(tmp_path, uri):
    """As if another host had inserted the same dataset between MLflow's question for it and its answer."""
    with RunLog(tmp_path / "logs", key="a", name="a") as log:
        log.log_dataset("cats", "data/raw/cats", "d" * 32 + ".dir")
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        database.execute("CREATE TRIGGER clash BEFORE INSERT ON datasets BEGIN SELECT RAISE(ABORT, 'clash'); END")
        with pytest.raises(TrackingError, match="Cannot send the events"):
            ship(tmp_path / "logs", uri)
        database.execute("DROP TRIGGER clash")
    ship(tmp_path / "logs", uri)
    assert [found.dataset.name for found in run_of(uri, "a").inputs.dataset_inputs] == ["cats"]
    assert not refused(log)


def test_a_run_that_the_server_makes_after_its_answer_timed_out_is_deleted(tmp_path, uri, monkeypatch):
    late = []

    def create_run(client, *args, **options):
        if late:
            return original(client, *args, **options)
        late.append(lambda: original(client, *args, **options))
        raise MlflowException("Read timed out.")

    original = MlflowClient.create_run
    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    with RunLog(tmp_path / "logs", key="a", name="a") as log:
        log.log_metrics({"loss": 1.0}, 0)
        with pytest.raises(TrackingError, match="Read timed out"):
            ship(tmp_path / "logs", uri)
        ship(tmp_path / "logs", uri)
        ours = run_of(uri, "a").info.run_id
        late.pop()()
        assert run_of(uri, "a").info.run_id == ours, "others find the run that has the events"
    ship(tmp_path / "logs", uri)
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert [run.info.run_id for run in runs] == [ours]
    assert history(uri, "a", "loss") == [(0, 1.0)]


def test_a_finished_run_can_be_resumed_and_finished_again(tmp_path, uri):
    log = RunLog(tmp_path / "track", key="a", name="x")
    log.finish("FAILED")
    ship(tmp_path / "track", uri)
    assert run_of(uri, "a").info.status == "FAILED"
    log = RunLog(tmp_path / "track", key="a", name="x")
    ship(tmp_path / "track", uri)
    assert run_of(uri, "a").info.status == "RUNNING"
    log.finish()
    ship(tmp_path / "track", uri)
    assert run_of(uri, "a").info.status == "FINISHED"


def test_a_child_is_nested_once_its_parent_is_known_and_follows_the_run_that_resumes_it(tmp_path, uri):
    RunLog(tmp_path / "track", key="child", name="x", parent_key="first")
    with Shipper(tmp_path / "track", tracking_uri=uri, experiment=EXPERIMENT, poll_seconds=0.05) as shipper:
        assert shipper.flush(20)
        assert "mlflow.parentRunId" not in run_of(uri, "child").data.tags
        RunLog(tmp_path / "track" / "deeper", key="first", name="pipeline")
        assert shipper.flush(20)
        for _ in range(100):
            if "mlflow.parentRunId" in run_of(uri, "child").data.tags:
                break
            time.sleep(0.05)
        assert run_of(uri, "child").data.tags["mlflow.parentRunId"] == run_of(uri, "first").info.run_id
        RunLog(tmp_path / "track", key="second", name="pipeline")
        RunLog(tmp_path / "track", key="child", name="x", parent_key="second")
        RunLog(tmp_path / "track", key="child", name="x")  # a worker does not know the parent and must not change it
    assert run_of(uri, "child").data.tags["mlflow.parentRunId"] == run_of(uri, "second").info.run_id


def test_a_replaced_database_gets_the_whole_run(tmp_path, uri, database_template):
    log = RunLog(tmp_path / "track", key="a", name="x")
    log.log_metrics({"m": 1}, step=1)
    ship(tmp_path / "track", uri)
    (tmp_path / "other").mkdir()
    other = f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}"
    shutil.copyfile(database_template, tmp_path / "other" / "mlflow.db")
    log.log_metrics({"m": 2}, step=2)
    ship(tmp_path / "track", other)
    assert history(other, "a", "m") == [(1, 1.0), (2, 2.0)]


def test_a_run_finished_at_another_destination_is_not_sent_again(tmp_path, uri, database_template):
    RunLog(tmp_path / "track", key="a", name="x").finish()
    ship(tmp_path / "track", uri)
    (tmp_path / "other").mkdir()
    shutil.copyfile(database_template, tmp_path / "other" / "mlflow.db")
    other = f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}"
    assert ship(tmp_path / "track", other) == 0
    assert find_run(other, EXPERIMENT, "a") is None


def test_a_log_that_a_living_process_sends_elsewhere_is_left_to_it(tmp_path, uri, database_template):
    """Two runs share the folder: one of the checkout, and one of a schedule whose commit names another server."""
    (tmp_path / "other").mkdir()
    other = copy_of(database_template, tmp_path / "other")
    destination = tree.destination_name(other, EXPERIMENT)
    log = RunLog(tmp_path / "track", key="a", name="x", destination=destination)
    (tmp_path / "file").write_text("x")
    log.log_artifact(tmp_path / "file")
    trial = RunLog(tmp_path / "track", key="a-trial", name="trial", parent_key="a")
    assert ship(tmp_path / "track", uri) == 0
    assert ship(tmp_path / "track", other) == 3
    assert [file.path for file in MlflowClient(other).list_artifacts(run_of(other, "a").info.run_id)] == ["file"]
    # After its process was killed, whoever comes next sends what is left.
    for opened in (log, trial):
        path = opened.folder / EVENTS
        path.write_text(path.read_text().replace(f":{os.getpid()}:", ":999999:"))
    log.log_metrics({"m": 1}, step=1)
    ship(tmp_path / "track", uri)
    assert history(uri, "a", "m") == [(1, 1.0)]


def test_only_old_logs_that_were_sent_completely_are_removed(tmp_path, uri):
    logs = {
        key: RunLog(tmp_path / "track", key=key, name="x") for key in ("sent", "new", "running", "refused", "waiting")
    }
    for value in (1, 2):  # a parameter has one value
        logs["refused"].log_params({"p": value})
    for key, log in logs.items():
        if key != "running":
            log.finish()
    ship(tmp_path / "track", uri)
    logs["waiting"].log_metrics({"m": 1}, step=1)
    logs["waiting"].finish()
    assert refused(logs["refused"])
    long_ago = time.time() - 31 * 86400
    for key, log in logs.items():
        if key != "new":
            os.utime(log.folder / EVENTS, (long_ago, long_ago))
    assert prune_logs(tmp_path / "track") == [logs["sent"].folder]
    assert not logs["sent"].folder.exists()
    again = RunLog(tmp_path / "track", key="sent", name="x")
    again.log_metrics({"m": 1}, step=1)
    ship(tmp_path / "track", uri)
    assert history(uri, "sent", "m") == [(1, 1.0)], "a run whose log was removed is found again by its key"


def test_a_deleted_run_is_not_created_again(tmp_path, uri):
    log = RunLog(tmp_path / "track", key="a", name="x")
    ship(tmp_path / "track", uri)
    MlflowClient(uri).delete_run(run_of(uri, "a").info.run_id)
    for step in range(50):
        log.log_metrics({"m": step}, step=step)
    ship(tmp_path / "track", uri)
    assert find_run(uri, EXPERIMENT, "a") is None
    (line,) = refused(log)
    assert "deleted" in line["reason"]


def test_a_deleted_experiment_is_named_and_no_event_is_lost(tmp_path, uri):
    log = RunLog(tmp_path / "track", key="a", name="x")
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment(EXPERIMENT))
    with pytest.raises(TrackingError, match=r"'tests'.*deleted"):
        ship(tmp_path / "track", uri)
    client.restore_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    ship(tmp_path / "track", uri)
    assert run_of(uri, "a").info.run_name == "x"
    assert refused(log) == []


@pytest.mark.parametrize("moment", ["get_run", "log_batch"])
def test_no_event_is_lost_if_the_experiment_is_deleted_after_it_was_looked_for(tmp_path, uri, monkeypatch, moment):
    """Each pass looks once for the experiment, and then for the run of each log."""
    log = RunLog(tmp_path / "track", key="a", name="x")
    ship(tmp_path / "track", uri)
    log.log_metrics({"m": 1.0}, step=1)
    client = MlflowClient(uri)
    experiment, call = client.get_experiment_by_name(EXPERIMENT).experiment_id, getattr(MlflowClient, moment)

    def delete_first(self, *given, **more):
        client.delete_experiment(experiment)
        monkeypatch.setattr(MlflowClient, moment, call)
        return call(self, *given, **more)

    monkeypatch.setattr(MlflowClient, moment, delete_first)
    with pytest.raises(TrackingError, match="deleted"):
        ship(tmp_path / "track", uri)
    client.restore_experiment(experiment)
    ship(tmp_path / "track", uri)
    assert history(uri, "a", "m") == [(1, 1.0)]
    assert refused(log) == []


def test_no_event_is_lost_if_the_experiment_is_deleted_during_sending(tmp_path, uri):
    client = MlflowClient(uri)
    with Shipper(tmp_path / "track", tracking_uri=uri, experiment=EXPERIMENT, poll_seconds=0.05) as shipper:
        before = RunLog(tmp_path / "track", key="a", name="before")
        assert shipper.flush(10)
        experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
        client.delete_experiment(experiment)
        before.log_metrics({"m": 1.0}, step=1)
        after = RunLog(tmp_path / "track", key="b", name="after")
        after.log_metrics({"m": 2.0}, step=2)
        assert not shipper.flush(5)
        assert (refused(before), refused(after)) == ([], [])
        client.restore_experiment(experiment)
        assert shipper.flush(30)
    assert history(uri, "a", "m") == [(1, 1.0)]
    assert history(uri, "b", "m") == [(2, 2.0)]


@pytest.mark.parametrize("noticed", [True, False], ids=["outage", "at-once"])
def test_a_server_that_comes_back_empty_gets_the_whole_run(tmp_path, uri, database_template, monkeypatch, noticed):
    database = Path(uri.removeprefix("sqlite:///"))
    with Shipper(tmp_path / "track", tracking_uri=uri, experiment=EXPERIMENT, poll_seconds=0.05) as shipper:
        done = RunLog(tmp_path / "track", key="done", name="y")
        done.log_metrics({"m": 0.0}, step=0)
        done.finish()
        log = RunLog(tmp_path / "track", key="a", name="x")
        log.log_metrics({"m": 1.0}, step=1)
        assert shipper.flush(10)
        with sqlite3.connect(database) as emptied, sqlite3.connect(database_template) as empty:
            empty.backup(emptied)
        if noticed:  # a pass during the outage drops the connection
            monkeypatch.setattr(shipper._tree, "_replayer", None)
        log.log_metrics({"m": 2.0}, step=2)
        assert shipper.flush(30)
        assert shipper.flush(30)  # finishes what the previous pass left
    assert refused(log) == []
    assert history(uri, "a", "m") == [(1, 1.0), (2, 2.0)]
    assert history(uri, "done", "m") == [(0, 0.0)], "a run that had ended, and had nothing more to say"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_a_log_that_is_removed_has_no_open_file_with_which_nfs_keeps_its_folder(tmp_path, monkeypatch):
    with RunLog(tmp_path / "track", key="a", name="x") as log:
        pass
    sent = (log.folder / EVENTS).stat().st_size
    Cursor(destination="x", offset=sent, run_id="1", key="a", status="FINISHED").save(log.folder)
    remove = shutil.rmtree

    def as_nfs(folder, **options):
        opened = {os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()}
        assert not any(Path(path).is_relative_to(folder) for path in opened)
        remove(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", as_nfs)
    assert prune_logs(tmp_path / "track", days=0) == [log.folder]
    assert list((tmp_path / "track").iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", '{"destination": '], ids=["empty", "list", "cut"])
def test_a_log_with_an_unreadable_cursor_is_sent_again(tmp_path, uri, caplog, content):
    log = RunLog(tmp_path / "track", key="a", name="x")
    log.log_metrics({"m": 1.0}, step=1)
    ship(tmp_path / "track", uri)
    (log.folder / CURSOR).write_text(content)
    assert prune_logs(tmp_path / "track", days=0) == []
    ship(tmp_path / "track", uri)
    assert CURSOR in caplog.text
    assert history(uri, "a", "m") == [(1, 1.0)]


def test_what_a_process_left_that_was_killed_after_it_had_written_the_last_cursor_is_removed(tmp_path, uri):
    log = RunLog(tmp_path / "track", key="a", name="x")
    ship(tmp_path / "track", uri)
    left = log.folder / f".{CURSOR}.gantry-killed"
    left.mkdir()
    os.utime(left, (0, 0))
    files._holders_at_first.cache_clear()  # as in a new process
    assert ship(tmp_path / "track", uri) == 0
    assert not left.exists()


def test_unknown_fields_of_a_cursor_are_ignored(tmp_path, uri):
    log = RunLog(tmp_path / "track", key="a", name="x")
    ship(tmp_path / "track", uri)
    write_json(log.folder / CURSOR, {**read_json(log.folder / CURSOR), "newer": 1})
    assert ship(tmp_path / "track", uri) == 0


@pytest.mark.parametrize("module", [abandoned, tree], ids=["abandoned", "tree"])
def test_a_log_removed_by_another_process_is_skipped(tmp_path, uri, monkeypatch, module):
    RunLog(tmp_path / "track", key="a", name="x").finish()
    monkeypatch.setattr(module, "find_logs", lambda directory: [*find_logs(directory), tmp_path / "track" / "gone"])
    ship(tmp_path / "track", uri)
    abandoned.end_abandoned(tmp_path / "track")
    assert prune_logs(tmp_path / "track", days=0) == [tmp_path / "track" / "a"]


def test_requests_to_a_slow_server_are_not_retried(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    asked = []

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            time.sleep(2)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as slow:
        threading.Thread(target=slow.serve_forever, daemon=True).start()
        with (
            pytest.raises(TrackingError, match="cannot be reached"),
            explain_server_errors(uri := f"http://127.0.0.1:{slow.server_port}"),
        ):
            connect(uri).create_run("1")
        slow.shutdown()
    assert asked == ["/api/2.0/mlflow/runs/create"]


def test_two_shippers_on_one_folder_send_each_event_once(tmp_path, uri):
    log = RunLog(tmp_path / "track", key="a", name="x")
    settings = {"tracking_uri": uri, "experiment": EXPERIMENT, "poll_seconds": 0.01}
    with Shipper(tmp_path / "track", **settings) as one, Shipper(tmp_path / "track", **settings) as two:
        for step in range(300):
            log.log_metrics({"m": step}, step=step)
            time.sleep(0.002)
        assert one.flush(30)
        assert two.flush(30)
    assert history(uri, "a", "m") == [(step, step) for step in range(300)]


def test_an_unreachable_server_does_not_delay_the_caller(tmp_path, caplog):
    nowhere = f"http://127.0.0.1:{free_port()}"
    start = time.monotonic()
    with (
        caplog.at_level(logging.INFO, "pipelines.tracking"),
        Shipper(tmp_path / "track", tracking_uri=nowhere, experiment=EXPERIMENT, flush_seconds=5),
    ):
        log = RunLog(tmp_path / "track", key="a", name="x")
        for step in range(100):
            log.log_metrics({"m": step}, step=step)
        log.finish()
        assert time.monotonic() - start < 1
    assert time.monotonic() - start < 7
    assert "gantry track sync" in caplog.text
    assert "Retrying" not in caplog.text
    with pytest.raises(TrackingError, match=r"Cannot send the events in .* \(Connection refused\)\. Check track\.uri"):
        sync(tmp_path / "track", tracking_uri=nowhere, experiment=EXPERIMENT)


def test_a_shipper_killed_at_random_moments_loses_and_duplicates_nothing(tmp_path, uri):
    log = RunLog(tmp_path / "track", key="a", name="x")
    (tmp_path / "file").write_text("x")
    for step in range(3000):
        log.log_metrics({"m": step}, step=step)
        if step % 10 == 0:
            log.set_tags({"step": step})
        if step % 100 == 0:
            (tmp_path / f"file{step}").write_text(str(step))
            log.log_artifact(tmp_path / f"file{step}")
    log.finish()
    # Forked from a server that has imported the shipper, so that each attempt saves the imports; a fork of this process would
    # inherit the threads of Ray and Prefect.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.tracking.shipper", "mlflow.store.tracking.sqlalchemy_store"])
    cursor, at = log.folder / CURSOR, random.Random(0)

    def moved() -> int:
        return cursor.stat().st_mtime_ns if cursor.exists() else 0

    for _ in range(8):
        before, process = moved(), context.Process(target=ship, args=(tmp_path / "track", uri))
        process.start()
        while process.is_alive() and moved() == before:
            time.sleep(0.001)
        time.sleep(at.uniform(0, 0.2))
        process.kill()
        process.join()
    ship(tmp_path / "track", uri)
    assert history(uri, "a", "m") == [(step, step) for step in range(3000)]
    run = run_of(uri, "a")
    assert run.info.status == "FINISHED"
    assert run.data.tags["step"] == "2990"
    client = MlflowClient(uri)
    assert len(client.list_artifacts(run.info.run_id)) == 30
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert refused(log) == []


def test_events_logged_during_an_outage_arrive_once(tmp_path, database_template, caplog):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    shutil.copyfile(database_template, tmp_path / "mlflow.db")
    log = RunLog(tmp_path / "track", key="a", name="x", tags={"t": 1})
    (tmp_path / "grid.png").write_bytes(b"PNG")
    with Shipper(tmp_path / "track", tracking_uri=uri, experiment=EXPERIMENT, poll_seconds=0.2) as shipper:
        for step in range(100):
            log.log_metrics({"m": step}, step=step)
        log.log_artifact(tmp_path / "grid.png", folder="grids")
        assert not shipper.flush(5)
        with server(port, tmp_path):
            deadline = time.monotonic() + 60
            while not shipper.flush(10):
                assert time.monotonic() < deadline
            log.log_metrics({"m": 100.0}, step=100)
            assert shipper.flush(20)
            assert history(uri, "a", "m") == [(step, step) for step in range(101)]
            artifacts = MlflowClient(uri).list_artifacts(run_of(uri, "a").info.run_id, "grids")
            assert [a.path for a in artifacts] == ["grids/grid.png"]
        log.log_metrics({"m": 101.0}, step=101)  # the server was killed: earlier events are safe, new ones stay pending
        assert not shipper.flush(5)
    assert "gantry track sync" in caplog.text
    assert sync(tmp_path / "track", tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", experiment=EXPERIMENT) > 0
    assert refused(log) == []


SENDS = """
import sys
from pipelines.runtime.failures import explain_error
from pipelines.tracking import RunLog, sync
with RunLog("logs", key="run", name="run") as log:
    log.log_params({f"p{number}": "x" * 400 for number in range(200)})
try:
    sync("logs", tracking_uri=sys.argv[1], experiment=sys.argv[2])
except Exception as error:
    print("error:", explain_error(error))
    sys.exit(1)
"""


@pytest.mark.parametrize("spare", ["0", "64k"])
def test_a_database_on_a_full_disk_gives_one_line_with_the_free_space_and_no_event_is_lost(tmp_path, uri, spare):
    """Without any free space, and with space for the experiment but not for the run."""
    disk, source = tmp_path / "disk", uri.removeprefix("sqlite:///")
    fill = f'cp {source} "$DISK/mlflow.db" && {{ head -c {spare} /dev/zero > "$DISK/spare"; '
    fill += 'cat /dev/zero > "$DISK/other" 2> /dev/null; rm "$DISK/spare"; }'
    command = [sys.executable, "-c", SENDS, f"sqlite:///{disk}/mlflow.db", EXPERIMENT]
    ended = run_on_small_disk(command, disk, size="4m", before=fill, cwd=tmp_path)
    lines = [line for line in ended.output.splitlines() if line.startswith("error:")]
    assert ended.status == 1
    assert "Traceback" not in ended.output
    assert len(lines) == 1
    assert f"({disk}/mlflow.db: no space left on device (" in lines[0]
    assert " of 4.0 MiB free on " in lines[0]
    assert lines[0].endswith("Free some space there, or choose another folder). Then run: gantry track sync")
    assert ship(tmp_path / "logs", uri) > 0
    assert len(run_of(uri, "run").data.params) == 200
