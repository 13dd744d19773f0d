"""Training curves: the rows that rank 0 wrote, as a table for plots."""

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


def write_curves(source: Path, target: Path) -> None:
    """The curves as CSV, for `dvc plots`; columns that DVC can name (no slashes).

    The FID's column is there, empty, also where no FID was measured: a plot that dvc.yaml names has to find it.
    """
    frame = read_curves(source)
    if FID not in frame:
        frame[FID] = None
    frame = frame.rename(columns=lambda name: name.replace("/", "_"))
    frame.drop(columns=["rate_images_per_second"], errors="ignore").to_csv(target, index=False)
