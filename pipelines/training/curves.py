"""Training curves: the rows that rank 0 wrote, as tables for plots."""

import json
from pathlib import Path

import pandas as pd

FID = "quality/fid"


def read_curves(path: Path) -> pd.DataFrame:
    """Metrics by step; where a resumed run repeated steps, the later rows stand. A line cut short by a kill is left out."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["step"]] = row
    return pd.DataFrame([rows[step] for step in sorted(rows)])


def write_curves(source: Path, curves: Path, fids: Path) -> None:
    """The curves as CSV, for `dvc plots`; columns that DVC can name (no slashes).

    FIDs are a table of their own: they were measured at few of the steps, and DVC draws a value that is missing as 0.
    """
    frame = read_curves(source)
    measured = frame[["step", FID]].dropna() if FID in frame else pd.DataFrame({"step": [], FID: []})
    measured.rename(columns={FID: "fid"}).to_csv(fids, index=False)
    frame = frame.drop(columns=["rate/images_per_second", FID], errors="ignore")
    frame.rename(columns=lambda name: name.replace("/", "_")).to_csv(curves, index=False)
