"""The printed progress of training: time left from the mean speed, and each row once."""

import json
from pathlib import Path

import pytest

from pipelines.training.places import CURVES
from pipelines.training.progress import Progress, RowReader, TimeEstimate


def test_the_time_left_follows_the_mean_speed_since_the_first_row() -> None:
    pace = TimeEstimate(100)
    assert pace.seconds_left(10, 1000.0) is None
    assert pace.seconds_left(20, 1010.0) == 80
    assert pace.seconds_left(30, 1010.5) == pytest.approx(70 * 10.5 / 20), "one fast row is not the speed of the run"
    assert pace.seconds_left(5, 1020.0) is None, "rolled back to before the first row"
    assert pace.seconds_left(10, 1025.0) == 90


def write(path: Path, *steps: int, end: str = "\n") -> None:
    with open(path, "a") as file:
        file.write("".join(json.dumps({"step": step}) + "\n" for step in steps).removesuffix("\n") + end)


def test_each_new_row_is_read_once_and_rows_of_earlier_runs_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    early = RowReader(path)
    assert early.read_new() == []
    write(path, 150, 160, 170)
    resumed = RowReader(path)
    assert resumed.read_new() == []
    write(path, 152, 154)
    assert [row["step"] for row in resumed.read_new()] == [152, 154]
    write(path, 156, 158, end="")  # the last line is still incomplete
    assert [row["step"] for row in resumed.read_new()] == [156]
    write(path, end="\n")
    assert [row["step"] for row in resumed.read_new()] == [158]
    assert [row["step"] for row in early.read_new()] == [150, 160, 170, 152, 154, 156, 158]


def test_an_incomplete_line_of_a_killed_run_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    rows = RowReader(path)
    path.write_text('{"step": 10}\n{"step": 2{"step": 12}\n{"step": 14}\n')
    assert [row["step"] for row in rows.read_new()] == [10, 14]


def test_the_fid_of_the_last_step_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / CURVES
    with Progress(tmp_path, steps=20, every=60):
        path.write_text(json.dumps({"step": 20, "quality/fid": 81.25}) + "\n")
    assert capsys.readouterr().out.count("FID 81.25 at step 20") == 1
