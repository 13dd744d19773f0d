"""Training curves: the rows that rank 0 writes, and tables of them for plots."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

FID = "quality/fid"
_LOG = logging.getLogger(__name__)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row of JSON to ``path``, on a line of its own even if a killed worker left the last one incomplete."""
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read() != b"\n":
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def read_curves(path: Path) -> pd.DataFrame:
    """Read the metrics by step. If a resumed run repeated steps, later rows replace earlier ones.

    Lines that are not rows, such as one that a killed worker left incomplete, are left out; a warning gives their number.
    """
    rows, wrong = {}, []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row
        except (ValueError, TypeError, LookupError):
            wrong.append(number)
    if wrong:
        _LOG.warning(
            "%s: %d line(s) cannot be read (the first is line %d). The curves lack their steps, unless training repeated them.",
            path,
            len(wrong),
            wrong[0],
        )
    return pd.DataFrame([rows[step] for step in sorted(rows)])


def write_curves(source: Path, curves: Path, fids: Path) -> None:
    """Write the curves as CSV for `dvc plots`, with column names without slashes, which DVC does not support.

    FIDs go to a separate table, because they are measured at few steps and DVC draws missing values as 0.
    """
    frame = read_curves(source)
    measured = frame[["step", FID]].dropna() if FID in frame else pd.DataFrame({"step": [], FID: []})
    measured.rename(columns={FID: "fid"}).to_csv(fids, index=False)
    frame = frame.drop(columns=["rate/images_per_second", FID], errors="ignore")
    frame.rename(columns=lambda name: name.replace("/", "_")).to_csv(curves, index=False)


def last_step(curves: Path | BinaryIO) -> int:
    """The last step in the table that :func:`write_curves` has written: the length of the run. 0 if there is no row."""
    try:
        return int(pd.read_csv(curves)["step"].max())
    except (OSError, LookupError, ValueError):  # no file, no such column, no row
        return 0
