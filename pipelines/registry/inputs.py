"""Inputs of the register stage: read the outputs of earlier stages and check them before use."""

import csv
import math
from pathlib import Path
from typing import Any

from gan_core.config import build
from gan_core.errors import DamagedFileError, SettingsError, StageError
from gan_core.files import read_json
from gan_core.metrics.protocol import Figure


def read_measured(path: Path) -> dict[str, Any]:
    """Read the output of the evaluate stage: ``fid``; ``objective``, if it is another figure; and ``figures``, all of them.

    Raises:
        StageError: the file is missing or damaged, or an entry in it is not a valid figure; names the entry.
    """
    remedy = "Remove the file and evaluate again: gantry run"
    try:
        measured = read_json(path)
    except FileNotFoundError:
        raise StageError(f"{path} is missing. Evaluate first: gantry run.") from None
    except DamagedFileError as error:
        raise StageError(f"{path} is damaged: {error.reason}. {remedy}.") from error
    if not isinstance(measured, dict) or not isinstance(measured.get("fid"), dict):
        raise StageError(f"{path} has no figure to register. {remedy}.")
    figures = measured.get("figures", [])
    if not isinstance(figures, list):
        raise StageError(f"{path}: figures is not a list. {remedy}.")
    objective = [("objective", measured["objective"])] if "objective" in measured else []
    for place, figure in [
        ("fid", measured["fid"]),
        *objective,
        *((f"figures[{n}]", figure) for n, figure in enumerate(figures)),
    ]:
        if not isinstance(figure, dict):
            raise StageError(f"{path}: {place} is not a figure. {remedy}.")
        try:
            build(Figure, _without_derived(figure), where=place)
        except SettingsError as error:
            raise StageError(f"{path}: {str(error).rstrip('.')}. {remedy}.") from error
    return measured


def objective_of(measured: dict[str, Any]) -> dict[str, Any]:
    """The figure that versions are compared by, of :func:`read_measured`."""
    return measured.get("objective", measured["fid"])


def read_figures(path: Path) -> list[Figure]:
    """All figures of the evaluate stage, in its order.

    Raises:
        StageError: as :func:`read_measured`.
    """
    measured = read_measured(path)
    figures = measured.get("figures") or [measured["fid"]]
    return [build(Figure, _without_derived(figure)) for figure in figures]


def _without_derived(figure: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figure.items() if name not in ("protocol_digest", "stamp")}


def check_curves(*tables: Path) -> None:
    """Check that ``tables`` of training curves hold numbers with ascending steps. Missing files are accepted.

    Raises:
        StageError: a table is not valid; names the file and the line.
    """
    for path in tables:
        if path.is_file() and (fault := _fault(path)):
            line, what = fault
            raise StageError(
                f"{path}, line {line}: {what}. The file was changed after training, so nothing is registered. Remove it; "
                "gantry run restores it."
            )


def _fault(path: Path) -> tuple[int, str] | None:
    """Line number and description of the first fault in a table; None if it is valid."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return _fault_in(csv.reader(file, strict=True))
    except UnicodeDecodeError as error:
        with path.open("rb") as raw:
            return raw.read(error.start).count(b"\n") + 1, "the text is not UTF-8"


def _fault_in(rows: Any) -> tuple[int, str] | None:
    try:
        header: list[str] = next(rows, [])
        if "step" not in header or len(set(header)) != len(header):
            return 1, f"the header has no column 'step', or a duplicate column: {','.join(header)[:60]!r}"
        step, last = header.index("step"), -math.inf
        for row in rows:
            if len(row) != len(header):
                return rows.line_num, f"{len(row)} values, but the header has {len(header)}"
            for name, text in zip(header, row, strict=True):
                if not _is_number(text) and (text or name == "step"):
                    return rows.line_num, f"{name} is {text[:40]!r}, which is not a number"
            if not last < float(row[step]):
                return rows.line_num, f"step {row[step]} comes after step {last:.0f}"
            last = float(row[step])
    except csv.Error as error:
        return rows.line_num, f"the text is not CSV ({error})"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
