"""Runs of processes that were killed are ended by whoever comes next, and go on where they are opened again."""

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
    RunLog(sys.argv[1], key=key, name=f"run {key}").metrics({"m": 1.0}, step=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(directory: Path, *keys: str) -> None:
    """A process that opens the runs ``keys`` and is killed."""
    done = subprocess.run([sys.executable, "-c", CODE, str(directory), *keys], timeout=120, check=False)
    assert done.returncode < 0


def ends(directory: Path, key: str) -> list[str]:
    return [event["status"] for event, _ in read_events(directory / key) if event and event["kind"] == "finish"]


def test_a_run_whose_process_was_killed_is_ended_at_the_time_it_was_last_heard_of(tmp_path: Path) -> None:
    killed(tmp_path, "a", "b")
    assert sorted(end_abandoned(tmp_path)) == ["run a", "run b"]
    *_, (before, _), (last, _) = read_events(tmp_path / "a")
    assert (last["kind"], last["status"], last["time"]) == ("finish", "KILLED", before["time"])
    assert end_abandoned(tmp_path) == [], "once"


def test_a_run_that_one_of_its_processes_still_works_on_is_left_alone(tmp_path: Path) -> None:
    here = RunLog(tmp_path, key="a", name="run a")
    killed(tmp_path, "a")
    assert end_abandoned(tmp_path) == []
    here.finish("FINISHED")
    killed(tmp_path, "a")
    assert end_abandoned(tmp_path) == ["run a"], "what ended before does not count"
    assert ends(tmp_path, "a") == ["FINISHED", "KILLED"]


def test_a_run_that_was_opened_before_processes_were_noted_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    event = {"kind": "open", "time": 1, "key": "a", "name": "old", "parent": None, "tags": {}}
    (tmp_path / "a" / EVENTS).write_text(json.dumps(event) + "\n")
    assert end_abandoned(tmp_path) == []


def test_half_a_line_at_the_end_is_no_end(tmp_path: Path) -> None:
    killed(tmp_path, "a")
    with open(tmp_path / "a" / EVENTS, "a") as file:
        file.write('{"kind":"finish","ti')
    assert end_abandoned(tmp_path) == ["run a"]
    assert ends(tmp_path, "a") == ["KILLED"]


def test_the_next_run_says_it_to_the_server_and_one_that_resumes_goes_on(tmp_path: Path, uri: str) -> None:
    killed(tmp_path, "gone", "resumed")
    with Shipper(tmp_path, tracking_uri=uri, experiment="e"), RunLog(tmp_path, key="resumed", name="run resumed"):
        pass
    client = connect(uri)
    experiment = client.get_experiment_by_name("e").experiment_id
    states = {run.info.run_name: run.info.status for run in client.search_runs([experiment])}
    assert states == {"run gone": "KILLED", "run resumed": "FINISHED"}
