"""What a person sees of training: how far it is, how fast, how long is left, and each FID."""

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

from pipelines.runtime.progress import duration, say
from pipelines.training.curves import FID


class Pace:
    """How long is left, from the mean speed since the first row: a single row's speed jumps about."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._first: tuple[int, float] | None = None

    def left(self, step: int, when: float) -> float | None:
        """Seconds left when ``step`` was done at time ``when`` (seconds); None while only one row is known."""
        if self._first is None or step <= self._first[0]:
            # A rollback to before the first row starts the measurement anew.
            self._first = step, when
            return None
        return (self._steps - step) * (when - self._first[1]) / (step - self._first[0])


class NewRows:
    """The rows that a file of JSON lines is given from now on; what an earlier run left in it is none of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = path.stat().st_size if path.is_file() else 0

    def take(self) -> list[dict[str, Any]]:
        """Those that are whole and were not taken yet, oldest first."""
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
            with contextlib.suppress(ValueError):  # a line that a kill cut short, and the run after it went on behind
                rows.append(json.loads(line))
        return rows


class Progress:
    """Prints how far training is, with a rate and an estimate, from the file that rank 0 writes."""

    def __init__(self, curves: Path, steps: int, every: float = 10.0) -> None:
        self._curves, self._steps, self._every = curves, steps, every
        # Here and not in the thread: what is written before that has started is not an earlier run's.
        self._new = NewRows(curves)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        started, pace, seen = time.monotonic(), Pace(self._steps), False
        while not self._done.wait(self._every if seen or time.monotonic() - started > 60 else 2):
            rows = self._new.take()
            _tell_fids(rows)
            if rows:
                seen = True
                self._tell(rows[-1], pace.left(rows[-1]["step"], self._curves.stat().st_mtime))
        _tell_fids(self._new.take())  # the last step's, which comes just before the end

    def _tell(self, row: dict[str, Any], left: float | None) -> None:
        say(
            "train",
            f"{row['step']}/{self._steps} steps, {row['rate/images_per_second']:.0f} images/s, "
            f"{'' if left is None else f'{duration(left)} left, '}"
            f"D right on real {row['health/real_right']:.2f} / fake {row['health/fake_right']:.2f}, "
            f"diversity {row['health/diversity']:.2f}",
        )


def _tell_fids(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if FID in row:
            say("train", f"FID {row[FID]:.2f} at step {row['step']}")
