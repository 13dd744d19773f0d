"""The output of a stage: what is passed on, what is held back for the end, and what is kept."""

import os
import stat

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


def test_the_error_of_a_stage_is_held_back_with_all_that_follows_it(tmp_path):
    dvcs = "ERROR: failed to reproduce 'train': failed to run: gantry stage train, exited with 1"
    stage, passed = taken(tmp_path / "train.log", "step 1", "error: There is no room.", "Make some.", "", dvcs)
    assert passed == ["step 1"]
    assert stage.error() == "There is no room.\nMake some.\n"
    assert stage.place() == f"Its whole output is in {tmp_path / 'train.log'}."
    assert (tmp_path / "train.log").read_text() == f"step 1\nerror: There is no room.\nMake some.\n\n{dvcs}\n"


def test_a_traceback_is_an_error_in_full(tmp_path):
    lines = ["Traceback (most recent call last):", '  File "x.py", line 1', "ValueError: no"]
    stage, passed = taken(tmp_path / "x.log", "one", *lines)
    assert passed == ["one"]
    assert stage.error() == "\n".join(lines)


def test_of_a_stage_that_says_nothing_else_the_last_lines_are_the_error(tmp_path):
    stage, passed = taken(tmp_path / "x.log", *map(str, range(20)), "ERROR: failed to reproduce 'x': failed to run: x")
    assert passed == [str(number) for number in range(20)]
    assert stage.error() == "\n".join(map(str, range(5, 20)))


def test_dvcs_own_error_is_one_where_there_is_no_other(tmp_path):
    stage, _ = taken(tmp_path / "x.log", "ERROR: output 'a' does not exist")
    assert stage.error() == "ERROR: output 'a' does not exist"


def test_what_only_looked_like_an_error_is_passed_on(tmp_path, monkeypatch):
    _, passed = taken(tmp_path / "x.log", "error: not mine", "two", failed=False)
    assert passed == ["error: not mine", "two"]
    monkeypatch.setattr(output, "HOLD_SECONDS", -1.0)
    stage, passed = taken(tmp_path / "x.log", "error: an hour ago", "step 2", "error: now")
    assert passed == ["error: an hour ago", "step 2"]
    assert stage.error() == "now"


def test_lines_after_what_only_looked_like_an_error_are_all_passed_on_in_order(tmp_path):
    lines = ["error: a word of the data", *(f"step {number}" for number in range(1000))]
    _, passed = taken(tmp_path / "x.log", *lines, failed=False)
    assert passed == lines


def test_a_long_error_keeps_its_start_and_its_end_and_says_how_many_lines_are_in_the_file(tmp_path):
    lines = ["Traceback (most recent call last):", *(f"  frame {number}" for number in range(998)), "ValueError: no"]
    stage, passed = taken(tmp_path / "x.log", "one", *lines)
    said = stage.error().splitlines()
    assert said == [*lines[:50], f"[750 more lines are in {tmp_path / 'x.log'}]", *lines[-200:]]
    assert passed == ["one", *lines[:-200]]
    stage, _ = taken(tmp_path / "y.log", *lines[:240])
    assert stage.error().splitlines() == lines[:240]


def test_a_long_error_whose_file_cannot_be_written_says_that_its_lines_are_above(tmp_path):
    (tmp_path / "logs").write_text("in the way")
    stage, _ = taken(tmp_path / "logs" / "x.log", "error: no", *map(str, range(260)))
    assert "[11 more lines are among the lines above]" in stage.error().splitlines()


def test_an_error_after_a_long_false_one_is_the_error_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "HOLD_SECONDS", -1.0)
    stage, _ = taken(tmp_path / "x.log", "error: not mine", "step 2", "error: now")
    assert stage.error() == "now"
    moments = iter([0.0] * 600 + [60.0] * 20)
    monkeypatch.setattr(output, "HOLD_SECONDS", 10.0)
    monkeypatch.setattr(output.time, "monotonic", lambda: next(moments))
    stage, _ = taken(tmp_path / "y.log", "error: not mine", *map(str, range(600)), "step 3", "error: now")
    assert stage.error() == "now"


def test_output_that_cannot_be_kept_is_said_and_ends_nothing(tmp_path, caplog):
    (tmp_path / "logs").write_text("in the way")
    stage, passed = taken(tmp_path / "logs" / "x.log", "one", "two")
    assert passed == ["one", "two"]
    assert len(caplog.records) == 1
    assert "cannot be kept" in caplog.text
    assert "could not be kept" in stage.place()


def test_the_output_of_the_newest_runs_is_kept_where_only_the_owner_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "RUNS", 3)
    for number in range(6):
        path = output_file(Checkout.at(tmp_path), f"run-{number}", "data/raw/digits.dvc")
        taken(path, "one")
        os.utime(path.parent, (number, number))
        assert output_file(Checkout.at(tmp_path), f"run-{number}", "train").parent == path.parent
    assert path.name == "data-raw-digits.dvc.log"
    assert sorted(folder.name for folder in Checkout.at(tmp_path).stage_logs.iterdir()) == ["run-3", "run-4", "run-5"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
