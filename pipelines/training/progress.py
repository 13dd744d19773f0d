"""Print the progress of training: steps, rate, time left and FIDs."""

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

from gan_core.errors import GantryError
from gan_core.training.length import read_length
from pipelines.runtime.progress import format_duration, say
from pipelines.training.curves import FID
from pipelines.training.places import CURVES


class TimeEstimate:
    """Estimates the time left from the mean speed since the first row, because the speed of a single row varies."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._first: tuple[int, float] | None = None

    def seconds_left(self, step: int, when: float) -> float | None:
        """Seconds left after ``step`` was finished at time ``when`` (seconds); None for the first row."""
        if self._first is None or step <= self._first[0]:
            # A rollback to before the first row restarts the measurement.
            self._first = step, when
            return None
        return (self._steps - step) * (when - self._first[1]) / (step - self._first[0])


class RowReader:
    """Reads the rows that are appended to a JSON lines file from now on, without those of earlier runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = path.stat().st_size if path.is_file() else 0

    def read_new(self) -> list[dict[str, Any]]:
        """The complete rows since the last call, oldest first."""
        if not self._path.is_file():
            return []
        with open(self._path, "rb") as file:
            file.seek(self._read)
            whole, _, _ = file.read().rpartition(b"\n")
        if not whole:
            return []
        self._read += len(whole) + 1
        rows = []
        for line in whole.split(b"\n"):
            with contextlib.suppress(ValueError):  # an incomplete line of a killed run
                rows.append(json.loads(line))
        return rows


class Progress:
    """Context manager that prints the progress of training from the file that rank 0 writes."""

    def __init__(self, work: Path, steps: int | None, every: float = 10.0) -> None:
        """
        Args:
            work: work directory of training.
            steps: number of steps; None if the workers decide it, and record it in ``work``.
            every: seconds between two lines.
        """
        self._work, self._curves, self._steps, self._every = work, work / CURVES, steps, every
        # Created here rather than in the thread, so that rows written before the thread starts count.
        self._new = RowReader(self._curves)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        started, seen = time.monotonic(), False
        pace = TimeEstimate(self._steps) if self._steps is not None else None
        while not self._done.wait(self._every if seen or time.monotonic() - started > 60 else 2):
            if pace is None:
                with contextlib.suppress(GantryError):  # the workers report a damaged record
                    if length := read_length(self._work):
                        say("train", length.describe())
                        self._steps, pace = length.steps, TimeEstimate(length.steps)
            rows = self._new.read_new()
            _tell_fids(rows)
            if rows and pace is not None:
                seen = True
                self._tell(rows[-1], pace.seconds_left(rows[-1]["step"], self._curves.stat().st_mtime))
        _tell_fids(self._new.read_new())  # the FID of the last step, written just before the end

    def _tell(self, row: dict[str, Any], left: float | None) -> None:
        say(
            "train",
            f"{row['step']}/{self._steps} steps, {row['rate/images_per_second']:.0f} images/s, "
            f"{'' if left is None else f'{format_duration(left)} left, '}"
            f"D right on real {row['health/real_right']:.2f} / fake {row['health/fake_right']:.2f}, "
            f"diversity {row['health/diversity']:.2f}",
        )


def _tell_fids(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if FID in row:
            say("train", f"FID {row[FID]:.2f} at step {row['step']}")
