"""Training curves: tables for plots, from the rows that rank 0 writes."""

import json
from pathlib import Path

import pandas as pd

FID = "quality/fid"


def read_curves(path: Path) -> pd.DataFrame:
    """Read the metrics by step. If a resumed run repeated steps, later rows replace earlier ones. Skips incomplete lines."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["step"]] = row
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
