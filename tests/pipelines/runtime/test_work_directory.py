"""Work directories: one holder at a time, atomic publishing, removal of old work."""

import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from gan_core import files
from gan_core.errors import StageError
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import process_identity
from pipelines.runtime.work_directory import finished_results, mark_finished, prune_finished, publish, work_directory
from pipelines.tracking import RunLog


@pytest.fixture(autouse=True)
def _own_var(monkeypatch):
    monkeypatch.delenv("GANTRY_VAR", raising=False)


def _take(root, errors) -> None:
    began = time.monotonic()
    try:
        with work_directory("train", "k1", Checkout.at(root)):
            errors.put((None, time.monotonic() - began))
    except StageError as error:
        errors.put((str(error), time.monotonic() - began))


def _taken_by_another(root) -> tuple[str | None, float]:
    context = multiprocessing.get_context("spawn")
    errors = context.Queue()
    other = context.Process(target=_take, args=(root, errors))
    other.start()
    answer = errors.get(timeout=60)
    other.join()
    return answer


def test_a_second_process_fails_at_once_and_names_the_holder(tmp_path):
    with work_directory("train", "k1", Checkout.at(tmp_path)) as work:
        assert work == tmp_path / "var" / "work" / "train" / "k1"
        message, seconds = _taken_by_another(tmp_path)
    assert message is not None
    assert f"process {os.getpid()}" in message
    assert f"kill {os.getpid()}" in message
    assert seconds < 5
    assert _taken_by_another(tmp_path)[0] is None, "the lock was not given back"


def test_another_key_is_another_directory(tmp_path):
    with (
        work_directory("train", "k1", Checkout.at(tmp_path)) as one,
        work_directory("train", "k2", Checkout.at(tmp_path)) as two,
    ):
        assert one != two


def test_a_stage_waits_for_the_orphan_of_a_killed_run(tmp_path):
    """The holder's parent is gone; the holder ends a second later."""
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; from pipelines.runtime.work_directory import *\n"
         "with work_directory('train', 'k1', Checkout.at(sys.argv[1])): print(1, flush=True); time.sleep(1)", str(tmp_path)],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    holder.stdout.readline()
    lock = tmp_path / "var" / "work" / "train" / "k1.lock"
    gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lock.write_text(json.dumps({"process": process_identity(holder.pid), "kin": [process_identity(gone.pid)]}))
    gone.communicate(b"\n")
    with work_directory("train", "k1", Checkout.at(tmp_path)) as work:
        assert work.is_dir()
        assert holder.wait(5) == 0
    holder.stdout.close()


def test_after_the_wait_the_error_names_an_orphan_that_does_not_end(tmp_path):
    with work_directory("train", "k1", Checkout.at(tmp_path)):
        lock = tmp_path / "var" / "work" / "train" / "k1.lock"
        lock.write_text(
            json.dumps({"process": process_identity(), "kin": [process_identity().rsplit(":", 1)[0] + ":1"]})
        )
        began = time.monotonic()
        with (
            pytest.raises(StageError, match=f"process {os.getpid()}"),
            work_directory("train", "k1", Checkout.at(tmp_path), orphan_seconds=0.5),
        ):
            pass
    assert time.monotonic() - began >= 0.5


def test_finished_results_are_found_and_published_again(tmp_path):
    with work_directory("train", "k1", Checkout.at(tmp_path)) as work:
        assert finished_results(work) is None
        (work / "model").mkdir()
        (work / "model" / "weights").write_bytes(b"abc")
        (work / "metrics.json").write_text("{}")
        mark_finished(work, {"out/model": work / "model", "out/metrics.json": work / "metrics.json"})
        for out, result in finished_results(work).items():
            publish(result, tmp_path / out)
            publish(result, tmp_path / out)
    assert (tmp_path / "out" / "model" / "weights").read_bytes() == b"abc"
    assert (tmp_path / "out" / "metrics.json").read_text() == "{}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.json", "model"]


def test_what_a_process_left_that_was_stopped_after_the_record_is_removed(tmp_path):
    (tmp_path / "result").write_text("a")
    mark_finished(tmp_path, {"out": tmp_path / "result"})
    left = tmp_path / ".finished.json.gantry-abc"
    left.mkdir()
    os.utime(left, (0, 0))
    files._holders_at_first.cache_clear()  # as in another process
    assert finished_results(tmp_path) == {"out": tmp_path / "result"}
    assert not left.exists()


def test_a_published_folder_replaces_all_of_the_old_one(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale").touch()
    publish(tmp_path / "new", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_changed_results_do_not_count_as_finished(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "metrics.json").write_text('{"fid": 40}')
    mark_finished(work, {"metrics.json": work / "metrics.json"})
    publish(work / "metrics.json", tmp_path / "metrics.json")
    (tmp_path / "metrics.json").write_text('{"fid": 1}')
    assert finished_results(work) is None


def test_missing_results_do_not_count_as_finished(tmp_path):
    (tmp_path / "result").touch()
    mark_finished(tmp_path, {"out": tmp_path / "result"})
    (tmp_path / "result").unlink()
    assert finished_results(tmp_path) is None


def test_pruning_removes_finished_work_that_no_process_holds(tmp_path):
    for key in ("done", "held", "unfinished", "current"):
        with work_directory("train", key, Checkout.at(tmp_path)) as work:
            (work / "result").touch()
            if key != "unfinished":
                mark_finished(work, {"out": work / "result"})
    folder = work.parent
    with work_directory("train", "held", Checkout.at(tmp_path)):
        assert [path.name for path in prune_finished(folder / "current")] == ["done"]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["current", "held", "unfinished"]


def test_work_in_a_worktree_is_kept_in_the_main_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTRY_VAR", str(tmp_path / "main" / "var"))
    with work_directory("train", "k1", Checkout.at(tmp_path / "worktree")) as work:
        assert work.is_relative_to(tmp_path / "main")


def test_locks_and_event_logs_have_the_modes_of_the_umask(tmp_path):
    before = os.umask(0o002)
    try:
        with (
            work_directory("train", "key", Checkout.at(tmp_path)),
            RunLog(tmp_path / "track", key="a", name="x") as log,
        ):
            pass
    finally:
        os.umask(before)
    for file in (tmp_path / "var" / "work" / "train" / "key.lock", log.folder / "events.jsonl"):
        assert file.stat().st_mode & 0o777 == 0o664
