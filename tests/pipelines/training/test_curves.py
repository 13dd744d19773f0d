"""Tables for plots: all rows of the curves, and the FIDs in a separate table."""

import json
from pathlib import Path

import pandas as pd

from pipelines.training.curves import append_row, read_curves, write_curves


def written(tmp_path: Path, rows: list[dict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    source, curves, fids = (tmp_path / name for name in ("curves.jsonl", "curves.csv", "fid.csv"))
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_curves(source, curves, fids)
    return pd.read_csv(curves), pd.read_csv(fids)


def test_fids_are_written_to_a_separate_table(tmp_path: Path) -> None:
    rows = [{"step": step, "loss/generator": 1.0, "rate/images_per_second": 9.0} for step in (20, 40, 60)]
    rows[1]["quality/fid"] = 50.0
    curves, fids = written(tmp_path, rows)
    assert list(curves.columns) == ["step", "loss_generator"]
    assert list(curves["step"]) == [20, 40, 60]
    assert fids.to_dict("list") == {"step": [40], "fid": [50.0]}


def test_without_a_fid_the_table_has_only_its_header(tmp_path: Path) -> None:
    _, fids = written(tmp_path, [{"step": 20, "loss/generator": 1.0}])
    assert (list(fids.columns), len(fids)) == (["step", "fid"], 0)


def test_a_later_row_replaces_an_earlier_one_of_the_same_step(tmp_path: Path) -> None:
    curves, fids = written(tmp_path, [{"step": 20, "quality/fid": 9.0}, {"step": 20, "quality/fid": 8.0}])
    assert (list(curves["step"]), list(fids["fid"])) == ([20], [8.0])


def test_a_line_that_a_killed_worker_left_incomplete_spoils_no_other_and_is_counted(tmp_path: Path, caplog) -> None:
    path = tmp_path / "curves.jsonl"
    append_row(path, {"step": 10})
    with path.open("a") as file:
        file.write('{"step": 2')
    for step in (30, 40):
        append_row(path, {"step": step})
    assert list(read_curves(path)["step"]) == [10, 30, 40]
    assert "1 line(s) cannot be read (the first is line 2)" in caplog.text
