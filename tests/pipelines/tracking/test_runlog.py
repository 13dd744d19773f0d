"""RunLog is an append-only log that survives kills, needs no server, and drops steps repeated by a resumed run."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from gan_core.errors import TrackingError
from pipelines.tracking import RunLog, find_run, sync
from pipelines.tracking.events import EVENTS, find_logs, log_folder, read_events
from pipelines.tracking.images import parse_image_name


def events(folder: Path, kind: str) -> list[dict]:
    return [event for event, _ in read_events(folder) if event and event["kind"] == kind]


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(e["step"], e["values"][name]) for e in events(folder, "metrics") if name in e["values"]]


def test_every_event_is_on_disk_at_once_with_its_time(tmp_path):
    log = RunLog(tmp_path, key="k", name="train", parent_key="p", tags={"gantry.stage": "train"})
    before = time.time_ns() // 1_000_000
    log.log_params({"model": {"slope": 0.2, "family": "dcgan"}, "size": [32, 32], "none": None})
    log.log_metrics({"loss/d": 1.5, "bad": float("nan")}, step=3)
    log.set_tags({"git": "abc"})
    log.log_dataset("digits", "data/raw/digits", "0" * 32 + ".dir")
    log.finish("FINISHED")
    written = [json.loads(line) for line in (log.folder / EVENTS).read_text().splitlines()]
    assert [e["kind"] for e in written] == ["open", "params", "metrics", "tags", "dataset", "finish"]
    assert (written[0]["key"], written[0]["name"], written[0]["parent"]) == ("k", "train", "p")
    assert written[1]["values"] == {
        "model.slope": "0.2",
        "model.family": "dcgan",
        "size": "[32, 32]",
        "none": "null",
    }
    assert written[2]["step"] == 3
    assert written[2]["values"]["loss/d"] == 1.5
    assert written[2]["values"]["bad"] != written[2]["values"]["bad"]
    assert all(before <= e["time"] <= before + 5000 for e in written[1:])


def test_opening_the_same_key_appends_and_another_key_opens_another_log(tmp_path):
    RunLog(tmp_path, key="a", name="x").log_metrics({"m": 1.0}, step=1)
    RunLog(tmp_path, key="a", name="x").log_metrics({"m": 2.0}, step=2)
    RunLog(tmp_path, key="b", name="x").log_metrics({"m": 9.0}, step=1)
    assert points(log_folder(tmp_path, "a"), "m") == [(1, 1.0), (2, 2.0)]
    assert find_logs(tmp_path) == [log_folder(tmp_path, "a"), log_folder(tmp_path, "b")]


def test_keys_with_the_same_shortened_name_have_separate_folders(tmp_path):
    assert log_folder(tmp_path, "a/b") != log_folder(tmp_path, "a-b")
    assert log_folder(tmp_path, "a/b").parent == tmp_path


@pytest.mark.parametrize("key", ["", "a b", "o'hara", "x" * 201])
def test_an_invalid_key_is_refused(tmp_path, key):
    with pytest.raises(TrackingError, match="is not a valid run key"):
        RunLog(tmp_path, key=key, name="x")


def test_a_resumed_run_does_not_log_repeated_steps_twice(tmp_path):
    first = RunLog(tmp_path, key="a", name="x")
    for step in (50, 100, 150):
        first.log_metrics({"m": float(step)}, step=step)
    second = RunLog(tmp_path, key="a", name="x")  # the last checkpoint was at 90
    for step in (100, 150, 200):
        second.log_metrics({"m": float(step), "fid": 1.0}, step=step)
    assert points(second.folder, "m") == [(50, 50.0), (100, 100.0), (150, 150.0), (200, 200.0)]
    assert points(second.folder, "fid") == [(100, 1.0), (150, 1.0), (200, 1.0)]


def test_steps_repeated_by_a_rollback_in_one_process_are_kept(tmp_path):
    log = RunLog(tmp_path, key="a", name="x")
    for step, value in ((100, 1.0), (150, float("inf")), (120, 0.9), (150, 0.8)):
        log.log_metrics({"m": value}, step=step)
    assert points(log.folder, "m") == [(100, 1.0), (150, float("inf")), (120, 0.9), (150, 0.8)]
    # Killed at 120 after the rollback, a resumed run has the steps after 120 still to log.
    log = RunLog(tmp_path, key="b", name="x")
    for step in (100, 150, 120):
        log.log_metrics({"m": 1.0}, step=step)
    log = RunLog(tmp_path, key="b", name="x")
    log.log_metrics({"m": 2.0}, step=110)
    log.log_metrics({"m": 2.0}, step=150)
    assert points(log.folder, "m")[-1] == (150, 2.0)
    assert len(points(log.folder, "m")) == 4


def test_an_incomplete_last_line_loses_no_other_event(tmp_path):
    log = RunLog(tmp_path, key="a", name="x")
    log.log_metrics({"m": 1.0}, step=1)
    with open(log.folder / EVENTS, "a") as file:
        file.write('{"kind":"metrics","time":1,"val')
    assert len(list(read_events(log.folder))) == 2  # not yet readable
    RunLog(tmp_path, key="a", name="x").log_metrics({"m": 2.0}, step=2)
    assert points(log.folder, "m") == [(1, 1.0), (2, 2.0)]
    assert [event for event, _ in read_events(log.folder)].count(None) == 1


def test_processes_that_share_a_log_write_whole_lines(tmp_path):
    writer = (
        "import sys; from pipelines.tracking import RunLog\n"
        "log = RunLog(sys.argv[1], key='a', name='x')\n"
        "for i in range(500): log.log_metrics({sys.argv[2]: i, 'pad' + 'x' * (i % 50) + sys.argv[2]: 1}, step=i)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", writer, str(tmp_path), name]) for name in "pqr"]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    folder = log_folder(tmp_path, "a")
    assert None not in [event for event, _ in read_events(folder)]
    for name in "pqr":
        assert points(folder, name) == [(i, float(i)) for i in range(500)]


def test_a_log_continues_after_its_writer_was_killed_at_any_moment(tmp_path):
    writer = (
        "import sys; from pipelines.tracking import RunLog\n"
        "log = RunLog(sys.argv[1], key='a', name='x'); i = 0\n"
        "while True: log.log_metrics({'m': i}, step=i); i += 1; i == 20 and print('go', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", writer, str(tmp_path)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    folder = log_folder(tmp_path, "a")
    steps = [step for step, _ in points(folder, "m")]
    assert steps == list(range(len(steps)))
    log = RunLog(tmp_path, key="a", name="x")
    for step in (len(steps) - 5, len(steps)):
        log.log_metrics({"m": step}, step=step)
    assert [step for step, _ in points(folder, "m")] == list(range(len(steps) + 1))


def test_a_full_disk_names_the_log(tmp_path, monkeypatch):
    log = RunLog(tmp_path, key="a", name="x")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as raised:
        log.log_metrics({"m": 1.0}, step=1)
    assert raised.value.filename == str(log.folder / "events.jsonl")


def test_an_artifact_is_a_copy_of_the_file_at_the_time_of_logging(tmp_path):
    log = RunLog(tmp_path / "track", key="a", name="x")
    picture = tmp_path / "grid.png"
    for content in (b"one", b"two"):
        picture.write_bytes(content)
        log.log_artifact(picture, folder="grids")
    picture.unlink()
    stored = [log.folder / e["stored"] for e in events(log.folder, "artifact")]
    assert [path.read_bytes() for path in stored] == [b"one", b"two"]
    assert {path.name for path in stored} == {"grid.png"}


def test_an_artifact_with_a_name_that_is_not_utf8_is_stored_under_the_escaped_name(tmp_path):
    log = RunLog(tmp_path / "track", key="a", name="x")
    picture = tmp_path / os.fsdecode(b"caf\xe9.png")
    picture.write_bytes(b"one")
    log.log_artifact(picture)
    [event] = events(log.folder, "artifact")
    assert event["stored"].endswith("/caf\\udce9.png")
    assert (log.folder / event["stored"]).read_bytes() == b"one"


def test_a_large_artifact_is_linked_and_a_folder_is_copied(tmp_path):
    log = RunLog(tmp_path / "track", key="a", name="x")
    large = tmp_path / "weights.bin"
    with open(large, "wb") as file:
        file.truncate(16 << 20)
    log.log_artifact(large)
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "a.txt").write_text("a")
    log.log_artifact(tmp_path / "many")
    linked, copied = [log.folder / e["stored"] for e in events(log.folder, "artifact")]
    assert linked.stat().st_ino == large.stat().st_ino
    assert (copied / "a.txt").read_text() == "a"


def test_a_missing_artifact_is_refused_by_name(tmp_path):
    with pytest.raises(TrackingError, match=r"nothing\.png.*'a'"):
        RunLog(tmp_path, key="a", name="x").log_artifact(tmp_path / "nothing.png")


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_leaving_the_block_finishes_the_run_with_its_status(tmp_path, error, status):
    def work():
        with RunLog(tmp_path, key="a", name="x"):
            if error:
                raise error

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert [e["status"] for e in events(log_folder(tmp_path, "a"), "finish")] == [status]


def test_an_unknown_status_is_refused(tmp_path):
    with pytest.raises(TrackingError, match="FINISHED, FAILED, KILLED"):
        RunLog(tmp_path, key="a", name="x").finish("DONE")


def test_logging_does_not_import_mlflow():
    code = "import sys, pipelines.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_metric_whose_line_end_was_lost_in_a_kill_is_not_logged_again(tmp_path):
    """The line is a whole event, which the next event would complete."""
    with RunLog(tmp_path, key="key", name="train") as log:
        log.log_metrics({"loss": 1.0}, 1)
        path = log.folder / "events.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join(line for line in lines if b"finish" not in line))
    with RunLog(tmp_path, key="key", name="train") as log:
        log.log_metrics({"loss": 1.0}, 1)
    steps = [event["step"] for event, _ in read_events(log.folder) if event["kind"] == "metrics"]
    assert steps == [1]


def test_a_picture_is_logged_as_mlflow_names_it(tmp_path, uri):
    """MLflow's own client and ours make names that the same expression parses."""
    Image.new("L", (600, 300)).save(tmp_path / "grid.png")
    with RunLog(tmp_path / "logs", key="ours", name="ours") as log:
        log.log_image(tmp_path / "grid.png", "train/grids", 300)
    sync(tmp_path / "logs", tracking_uri=uri, experiment="tests")
    client = MlflowClient(uri)
    ours = find_run(uri, "tests", "ours")
    theirs = client.create_run(client.get_experiment_by_name("tests").experiment_id).info.run_id
    client.log_image(theirs, Image.new("L", (600, 300)), key="train/grids", step=300)

    def names(run_id):
        return [file.path.removeprefix("images/") for file in client.list_artifacts(run_id, "images")]

    def shape(run_id):
        return sorted(re.sub(r"[0-9a-f-]{36}|\d{13}", "X", name) for name in names(run_id))

    assert shape(ours.run_id) == shape(theirs)
    assert [parsed for name in names(ours.run_id) if (parsed := parse_image_name(name))] == [("train/grids", 300)]
    assert client.get_run(ours.run_id).data.tags["mlflow.loggedImages"] == "True"
    (preview,) = (name for name in names(ours.run_id) if name.endswith(".webp"))
    with Image.open(client.download_artifacts(ours.run_id, f"images/{preview}")) as picture:
        assert picture.size == (256, 128)


def test_a_resumed_run_does_not_log_the_picture_of_a_step_twice(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "grid.png")
    for _ in range(2):
        with RunLog(tmp_path / "logs", key="a", name="a") as log:
            log.log_image(tmp_path / "grid.png", "grids", 10)
    assert len(events(tmp_path / "logs" / "a", "artifact")) == 2, "the picture and its preview"


def test_a_picture_whose_preview_was_logged_before_a_kill_is_logged_again(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "grid.png")
    with RunLog(tmp_path / "logs", key="a", name="a") as log:
        log.log_image(tmp_path / "grid.png", "grids", 10)
    lines = (log.folder / "events.jsonl").read_text().splitlines(keepends=True)
    (log.folder / "events.jsonl").write_text("".join(line for line in lines if '"image"' not in line))
    with RunLog(tmp_path / "logs", key="a", name="a") as log:
        log.log_image(tmp_path / "grid.png", "grids", 10)
    assert [event["image"] for event in events(log.folder, "artifact") if "image" in event] == [["grids", 10]]


def test_a_name_of_a_picture_that_mlflow_would_refuse_is_an_error(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "grid.png")
    with RunLog(tmp_path, key="a", name="a") as log, pytest.raises(TrackingError, match=r"'a\+b' is not a valid name"):
        log.log_image(tmp_path / "grid.png", "a+b", 1)
