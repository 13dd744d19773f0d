"""Runs of killed processes are finished by the next process, and continue if they are opened again."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.tracking import RunLog, Shipper, abandoned
from pipelines.tracking.abandoned import end_abandoned
from pipelines.tracking.events import EVENTS, read_events
from pipelines.tracking.store import connect

CODE = """
import os, signal, socket, sys
from pipelines.tracking import RunLog
host = sys.argv[2]
socket.gethostname = lambda: host
for key in sys.argv[3:]:
    RunLog(sys.argv[1], key=key, name=f"run {key}").log_metrics({"m": 1.0}, step=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(directory: Path, *keys: str, host: str = socket.gethostname()) -> None:
    """Start a process that opens the runs ``keys``, on a host of this name, and kill it."""
    done = subprocess.run([sys.executable, "-c", CODE, str(directory), host, *keys], timeout=120, check=False)
    assert done.returncode < 0


def ends(directory: Path, key: str) -> list[str]:
    return [event["status"] for event, _ in read_events(directory / key) if event and event["kind"] == "finish"]


def test_a_run_of_a_killed_process_is_finished_at_the_time_of_its_last_event(tmp_path: Path) -> None:
    killed(tmp_path, "a", "b")
    assert sorted(end_abandoned(tmp_path)) == ["run a", "run b"]
    *_, (before, _), (last, _) = read_events(tmp_path / "a")
    assert (last["kind"], last["status"], last["time"]) == ("finish", "KILLED", before["time"])
    assert end_abandoned(tmp_path) == [], "once"


def test_a_run_with_a_living_process_is_not_finished(tmp_path: Path) -> None:
    here = RunLog(tmp_path, key="a", name="run a")
    killed(tmp_path, "a")
    assert end_abandoned(tmp_path) == []
    here.finish("FINISHED")
    killed(tmp_path, "a")
    assert end_abandoned(tmp_path) == ["run a"], "what ended before does not count"
    assert ends(tmp_path, "a") == ["FINISHED", "KILLED"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux names the boot of a machine")
def test_of_a_container_the_lock_tells_whether_it_runs_and_not_its_host_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(tmp_path, "a", host="4f2c81d0a3e9")
    assert end_abandoned(tmp_path) == ["run a"], "the next container has another name"
    with RunLog(tmp_path, key="b", name="run b"):
        # As in another container with the same host name: there is no such process.
        monkeypatch.setattr(abandoned, "is_process_alive", lambda identity: False)
        assert end_abandoned(tmp_path) == []


def test_a_run_without_a_recorded_process_is_not_finished(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    event = {"kind": "open", "time": 1, "key": "a", "name": "old", "parent": None, "tags": {}}
    (tmp_path / "a" / EVENTS).write_text(json.dumps(event) + "\n")
    assert end_abandoned(tmp_path) == []


def test_an_incomplete_last_line_does_not_finish_a_run(tmp_path: Path) -> None:
    killed(tmp_path, "a")
    with open(tmp_path / "a" / EVENTS, "a") as file:
        file.write('{"kind":"finish","ti')
    assert end_abandoned(tmp_path) == ["run a"]
    assert ends(tmp_path, "a") == ["KILLED"]


def test_the_next_shipper_reports_killed_runs_and_a_resumed_run_continues(tmp_path: Path, uri: str) -> None:
    killed(tmp_path, "gone", "resumed")
    with Shipper(tmp_path, tracking_uri=uri, experiment="e"), RunLog(tmp_path, key="resumed", name="run resumed"):
        pass
    client = connect(uri)
    experiment = client.get_experiment_by_name("e").experiment_id
    states = {run.info.run_name: run.info.status for run in client.search_runs([experiment])}
    assert states == {"run gone": "KILLED", "run resumed": "FINISHED"}
