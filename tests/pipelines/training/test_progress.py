"""What is seen of training: an estimate from the mean speed, and each row once."""

import json
from pathlib import Path

import pytest

from pipelines.training.progress import NewRows, Pace, Progress


def test_the_estimate_follows_the_mean_speed_since_the_first_row() -> None:
    pace = Pace(100)
    assert pace.left(10, 1000.0) is None
    assert pace.left(20, 1010.0) == 80
    assert pace.left(30, 1010.5) == pytest.approx(70 * 10.5 / 20), "one fast row is not the speed of the run"
    assert pace.left(5, 1020.0) is None, "rolled back to before the first row"
    assert pace.left(10, 1025.0) == 90


def write(path: Path, *steps: int, end: str = "\n") -> None:
    with open(path, "a") as file:
        file.write("".join(json.dumps({"step": step}) + "\n" for step in steps).removesuffix("\n") + end)


def test_each_row_is_taken_once_and_those_of_an_earlier_run_never(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    early = NewRows(path)
    assert early.take() == []
    write(path, 150, 160, 170)
    resumed = NewRows(path)
    assert resumed.take() == []
    write(path, 152, 154)
    assert [row["step"] for row in resumed.take()] == [152, 154]
    write(path, 156, 158, end="")  # the last line is not whole yet
    assert [row["step"] for row in resumed.take()] == [156]
    write(path, end="\n")
    assert [row["step"] for row in resumed.take()] == [158]
    assert [row["step"] for row in early.take()] == [150, 160, 170, 152, 154, 156, 158]


def test_a_line_that_a_kill_cut_short_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    rows = NewRows(path)
    path.write_text('{"step": 10}\n{"step": 2{"step": 12}\n{"step": 14}\n')
    assert [row["step"] for row in rows.take()] == [10, 14]


def test_a_fid_is_told_also_when_training_ends_right_behind_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "curves.jsonl"
    with Progress(path, steps=20, every=60):
        path.write_text(json.dumps({"step": 20, "quality/fid": 81.25}) + "\n")
    assert capsys.readouterr().out.count("FID 81.25 at step 20") == 1
