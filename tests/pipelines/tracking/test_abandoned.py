"""Runs of killed processes are finished by the next process, and continue if they are opened again."""

import json
import subprocess
import sys
from pathlib import Path

from pipelines.tracking import RunLog, Shipper
from pipelines.tracking.abandoned import end_abandoned
from pipelines.tracking.events import EVENTS, read_events
from pipelines.tracking.store import connect

CODE = """
import os, signal, sys
from pipelines.tracking import RunLog
for key in sys.argv[2:]:
    RunLog(sys.argv[1], key=key, name=f"run {key}").log_metrics({"m": 1.0}, step=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(directory: Path, *keys: str) -> None:
    """Start a process that opens the runs ``keys``, and kill it."""
    done = subprocess.run([sys.executable, "-c", CODE, str(directory), *keys], timeout=120, check=False)
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
