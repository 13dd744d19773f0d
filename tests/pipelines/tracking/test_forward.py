"""Events that a worker recorded on another host reach the run's log once, whatever is interrupted."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from pipelines.tracking.events import EVENTS, read_events
from pipelines.tracking.forward import Forwarder
from pipelines.tracking.runlog import RunLog


@pytest.fixture
def worker(tmp_path):
    with RunLog(tmp_path / "worker", key="key", name="train") as log:
        yield log


@pytest.fixture
def target(tmp_path):
    with RunLog(tmp_path / "driver", key="key", name="train") as log:
        yield log.folder


def metrics(folder):
    return [event["step"] for event, _ in read_events(folder) if event and event["kind"] == "metrics"]


def test_new_events_are_appended_once_and_in_order_by_every_forwarder(worker, target):
    first = Forwarder(worker.folder, target)
    for step in range(3):
        worker.log_metrics({"loss": 1.0}, step)
        first.forward()
    assert first.forward() == 0
    worker.log_metrics({"loss": 1.0}, 3)
    assert Forwarder(worker.folder, target).forward() == 1, "another process goes on where the first ended"
    assert metrics(target) == [0, 1, 2, 3]


def test_a_forwarder_killed_in_the_middle_of_a_line_loses_and_doubles_nothing(worker, target):
    for step in range(5):
        worker.log_metrics({"loss": 1.0}, step)
    Forwarder(worker.folder, target).forward()
    whole = (target / EVENTS).read_bytes()
    for cut in range(len(whole) - 300, len(whole)):
        (target / EVENTS).write_bytes(whole[:cut])
        Forwarder(worker.folder, target).forward()
        assert metrics(target) == list(range(5))


def test_what_the_driver_records_stays(worker, target, tmp_path):
    with RunLog(tmp_path / "driver", key="key", name="train") as driver:
        driver.log_params({"a": 1})
        worker.log_metrics({"loss": 1.0}, 0)
        Forwarder(worker.folder, target).forward()
        driver.log_params({"b": 2})
    kinds = [event["kind"] for event, _ in read_events(target)]
    assert kinds.count("params") == 2
    assert kinds.count("metrics") == 1


def test_an_artifact_comes_with_its_event(worker, target, tmp_path):
    (tmp_path / "grid.png").write_bytes(b"picture")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"1")
    worker.log_artifact(tmp_path / "grid.png", "grids")
    worker.log_artifact(tmp_path / "folder")
    Forwarder(worker.folder, target).forward()
    stored = [event["stored"] for event, _ in read_events(target) if event["kind"] == "artifact"]
    assert (target / stored[0]).read_bytes() == b"picture"
    assert (target / stored[1] / "a").read_bytes() == b"1"


def test_an_artifact_whose_copy_was_cut_short_is_copied_again(worker, target, tmp_path, monkeypatch):
    def unable(source, copy):
        raise OSError(errno.EPERM, "no hard links here")

    def killed(source, copy):
        Path(copy).write_bytes(b"pic")
        raise KeyboardInterrupt

    (tmp_path / "grid.png").write_bytes(b"picture")
    worker.log_artifact(tmp_path / "grid.png", "grids")
    with monkeypatch.context() as broken:
        broken.setattr(os, "link", unable)
        broken.setattr(shutil, "copy2", killed)
        with pytest.raises(KeyboardInterrupt):
            Forwarder(worker.folder, target).forward()
    Forwarder(worker.folder, target).forward()
    (stored,) = [event["stored"] for event, _ in read_events(target) if event["kind"] == "artifact"]
    assert (target / stored).read_bytes() == b"picture"


def test_a_damaged_line_is_skipped_and_said_once(worker, target, caplog):
    worker.log_metrics({"loss": 1.0}, 0)
    with (worker.folder / EVENTS).open("ab") as file:
        file.write(b"\x00\x00\n" + json.dumps({"kind": "metrics", "time": 1, "values": {}, "step": 7}).encode() + b"\n")
    Forwarder(worker.folder, target).forward()
    assert metrics(target) == [0, 7]
    assert "damaged line" in caplog.text
    with (worker.folder / EVENTS).open("ab") as file:
        file.write(b"\x00\x00\n")
    forwarder = Forwarder(worker.folder, target)
    forwarder.forward()
    caplog.clear()
    assert forwarder.forward() == 0
    assert not caplog.records, "it is the last line, and every poll finds it"


def test_a_worker_that_has_recorded_nothing_is_no_error(tmp_path, target):
    assert Forwarder(tmp_path / "absent", target).forward() == 0
