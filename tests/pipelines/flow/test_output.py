"""The output of a stage: forwarded lines, the error that is held back, and the saved file."""

import os
import stat

import pytest

from pipelines.flow import output
from pipelines.flow.output import StageOutput, output_file
from pipelines.runtime.checkout import Checkout


def taken(path, *lines, failed=True):
    passed = []
    stage = StageOutput(passed.append, path)
    for line in lines:
        stage.add(line)
    stage.end(failed=failed)
    return stage, passed


def test_an_error_and_all_lines_after_it_are_held_back(tmp_path):
    dvcs = "ERROR: failed to reproduce 'train': failed to run: gantry stage train, exited with 1"
    stage, passed = taken(tmp_path / "train.log", "step 1", "error: There is no room.", "Make some.", "", dvcs)
    assert passed == ["step 1"]
    assert stage.error() == "There is no room.\nMake some.\n"
    assert stage.location() == f"Its whole output is in {tmp_path / 'train.log'}."
    assert (tmp_path / "train.log").read_text() == f"step 1\nerror: There is no room.\nMake some.\n\n{dvcs}\n"


def test_a_whole_traceback_is_the_error(tmp_path):
    lines = ["Traceback (most recent call last):", '  File "x.py", line 1', "ValueError: no"]
    stage, passed = taken(tmp_path / "x.log", "one", *lines)
    assert passed == ["one"]
    assert stage.error() == "\n".join(lines)


def test_without_an_error_line_the_last_lines_are_the_error(tmp_path):
    stage, passed = taken(tmp_path / "x.log", *map(str, range(20)), "ERROR: failed to reproduce 'x': failed to run: x")
    assert passed == [str(number) for number in range(20)]
    assert stage.error() == "\n".join(map(str, range(5, 20)))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("1", "with status 1."),
        ("-9", "with status -9, killed by SIGKILL. The system kills a process when memory runs out (dmesg says so)."),
        ("139", "with status 139, killed by SIGSEGV."),
    ],
)
def test_how_a_stage_ended_without_an_error_is_told(tmp_path, status, said):
    dvcs = f"ERROR: failed to reproduce 'train': failed to run: gantry stage train, exited with {status}"
    stage, _ = taken(tmp_path / "x.log", "step 1", dvcs)
    assert stage.error() == f"step 1\nThe stage ended without a message, {said}"


def test_dvcs_own_error_is_used_if_there_is_no_other(tmp_path):
    stage, _ = taken(tmp_path / "x.log", "ERROR: output 'a' does not exist")
    assert stage.error() == "ERROR: output 'a' does not exist"


def test_lines_that_only_look_like_an_error_are_forwarded(tmp_path, monkeypatch):
    _, passed = taken(tmp_path / "x.log", "error: not mine", "two", failed=False)
    assert passed == ["error: not mine", "two"]
    monkeypatch.setattr(output, "HOLD_SECONDS", -1.0)
    stage, passed = taken(tmp_path / "x.log", "error: an hour ago", "step 2", "error: now")
    assert passed == ["error: an hour ago", "step 2"]
    assert stage.error() == "now"


def test_all_lines_after_a_false_error_are_forwarded_in_order(tmp_path):
    lines = ["error: a word of the data", *(f"step {number}" for number in range(1000))]
    _, passed = taken(tmp_path / "x.log", *lines, failed=False)
    assert passed == lines


def test_a_long_error_keeps_its_start_and_end_and_counts_the_omitted_lines(tmp_path):
    lines = ["Traceback (most recent call last):", *(f"  frame {number}" for number in range(998)), "ValueError: no"]
    stage, passed = taken(tmp_path / "x.log", "one", *lines)
    said = stage.error().splitlines()
    assert said == [*lines[:50], f"[750 more lines are in {tmp_path / 'x.log'}]", *lines[-200:]]
    assert passed == ["one", *lines[:-200]]
    stage, _ = taken(tmp_path / "y.log", *lines[:240])
    assert stage.error().splitlines() == lines[:240]


def test_a_long_error_without_a_file_refers_to_the_lines_above(tmp_path):
    (tmp_path / "logs").write_text("in the way")
    stage, _ = taken(tmp_path / "logs" / "x.log", "error: no", *map(str, range(260)))
    assert "[11 more lines are among the lines above]" in stage.error().splitlines()


def test_a_false_error_is_not_part_of_a_later_error(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "HOLD_SECONDS", -1.0)
    stage, _ = taken(tmp_path / "x.log", "error: not mine", "step 2", "error: now")
    assert stage.error() == "now"
    moments = iter([0.0] * 600 + [60.0] * 20)
    monkeypatch.setattr(output, "HOLD_SECONDS", 10.0)
    monkeypatch.setattr(output.time, "monotonic", lambda: next(moments))
    stage, _ = taken(tmp_path / "y.log", "error: not mine", *map(str, range(600)), "step 3", "error: now")
    assert stage.error() == "now"


def test_output_that_cannot_be_saved_gives_a_warning(tmp_path, caplog):
    (tmp_path / "logs").write_text("in the way")
    stage, passed = taken(tmp_path / "logs" / "x.log", "one", "two")
    assert passed == ["one", "two"]
    assert len(caplog.records) == 1
    assert "cannot be saved" in caplog.text
    assert "could not be saved" in stage.location()


def test_the_output_of_the_newest_runs_is_kept_in_a_private_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "KEPT_RUNS", 3)
    for number in range(6):
        path = output_file(Checkout.at(tmp_path), f"run-{number}", "data/raw/digits.dvc")
        taken(path, "one")
        for place in (path, path.parent):
            os.utime(place, (number, number))
        assert output_file(Checkout.at(tmp_path), f"run-{number}", "train").parent == path.parent
    assert path.name == "data-raw-digits.dvc.log"
    assert sorted(folder.name for folder in Checkout.at(tmp_path).stage_logs.iterdir()) == ["run-3", "run-4", "run-5"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_output_of_a_long_stage_is_kept_while_many_other_runs_begin_and_end(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "KEPT_RUNS", 3)
    long = output_file(Checkout.at(tmp_path), "long", "train")
    stage = StageOutput(lambda line: None, long)
    os.utime(long.parent, (0, 0))
    for number in range(5):
        path = output_file(Checkout.at(tmp_path), f"short-{number}", "train")
        taken(path, "one")
        for place in (path, path.parent):
            os.utime(place, (number, number))
        stage.add(f"step {number}")
    assert long.read_text().splitlines() == [f"step {number}" for number in range(5)]
