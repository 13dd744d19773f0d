"""Forward the output of a stage line by line, save it to a file, and hold back its error message until the end."""

import contextlib
import logging
import re
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

from pipelines.runtime.checkout import Checkout

LOG = logging.getLogger(__name__)

KEPT_RUNS = 20
"""Number of runs whose output is kept."""
HOLD_SECONDS = 10.0
"""If the stage still writes this long after a line that looks like an error, it did not end, and the lines are forwarded."""
HELD_LINES = 200
"""Maximum number of lines to hold back. Beyond that, the oldest are forwarded, so that none is lost if the stage succeeds."""
FIRST_LINES = 50
"""Lines from the start of a longer error that are part of the message too, because they say what failed."""
_ERROR = re.compile(r"(?i:error): |Traceback \(most recent call last\)")
_OF_DVC = re.compile(r"ERROR: failed to reproduce ")
"""DVC's line about a failed stage, after the stage's own error."""
_EXITED = re.compile(r"exited with (-?\d+)$")


class StageOutput:
    """Receives the output lines of one attempt to run a stage.

    Args:
        pass_on: called with each line that is not held back.
        path: file for all lines. If it cannot be written, a warning is logged and the stage continues.
    """

    def __init__(self, pass_on: Callable[[str], None], path: Path) -> None:
        self.path = path
        self._pass_on = pass_on
        self._recent: deque[str] = deque(maxlen=15)
        self._held: deque[str] = deque()
        self._first: list[str] = []
        self._left_out = 0
        self._held_since = 0.0
        self._file: TextIO | None = None
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def add(self, line: str) -> None:
        """Receive one line."""
        with self._writing():
            if self._file is not None:
                self._file.write(f"{line}\n")
        if self._held and time.monotonic() - self._held_since > HOLD_SECONDS:
            self._release()
        if self._held or _ERROR.match(line):
            self._held_since = self._held_since if self._held else time.monotonic()
            self._held.append(line)
            if len(self._held) > HELD_LINES:
                self._pass_on_oldest()
        else:
            self._recent.append(line)
            self._pass_on(line)

    def end(self, *, failed: bool) -> None:
        """Close the file. If the stage did not fail, forward the lines that were held back."""
        if not failed:
            self._release()
        if self._file is not None:
            with self._writing():
                self._file.close()
            self._file = None

    def error(self) -> str:
        """The error message of a failed stage, or its last lines and how it ended if no line looks like an error."""
        missing = []
        if self._left_out:
            where = f"in {self.path}" if self.path.is_file() else "among the lines above"
            missing = [f"[{self._left_out:,} more lines are {where}]"]
        own = [line for line in [*self._first, *missing, *self._held] if not _OF_DVC.match(line)]
        if own:
            return "\n".join([re.sub("^error: ", "", own[0]), *own[1:]])
        return "\n".join([*self._recent, *_how_it_ended(self._held)] or self._held)

    def location(self) -> str:
        """A sentence that names the file of the whole output."""
        return f"Its whole output is in {self.path}." if self.path.is_file() else "Its output could not be saved."

    def _release(self) -> None:
        while self._held:
            line = self._held.popleft()
            self._recent.append(line)
            self._pass_on(line)
        self._first, self._left_out = [], 0

    def _pass_on_oldest(self) -> None:
        line = self._held.popleft()
        if len(self._first) < FIRST_LINES:
            self._first.append(line)
        else:
            self._left_out += 1
        self._pass_on(line)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._file = None
            LOG.warning(
                "The output of the stage cannot be saved in %s (%s); the stage continues.", self.path, error.strerror
            )


def _how_it_ended(lines: Iterable[str]) -> list[str]:
    """A sentence about a stage that ended without an error of its own, from DVC's ``lines``; empty if they do not say."""
    for line in lines:
        if found := _EXITED.search(line):
            status = int(found[1])
            number = -status if status < 0 else status - 128
            try:
                by = f", killed by {signal.Signals(number).name}"
            except ValueError:
                by = ""
            killed = (
                " The system kills a process when memory runs out (dmesg says so)." if by.endswith("SIGKILL") else ""
            )
            return [f"The stage ended without a message, with status {status}{by}.{killed}"]
    return []


def output_file(checkout: Checkout, run: str, node: str) -> Path:
    """The file for the output of the stage or data source ``node`` in ``run``. Keeps only the newest :data:`KEPT_RUNS` runs."""
    above = checkout.stage_logs
    with contextlib.suppress(OSError):  # StageOutput reports a full disk or a missing folder when it writes the file
        runs = sorted(above.iterdir(), key=_last_written) if above.is_dir() else []
        for old in [folder for folder in runs if folder.name != run][: -(KEPT_RUNS - 1)]:
            shutil.rmtree(old, ignore_errors=True)
    return above / run / f"{re.sub('[^A-Za-z0-9_.-]+', '-', node)}.log"


def _last_written(run: Path) -> float:
    """When the output of ``run`` was last written. The time of its folder is only that of the start of its last stage."""
    return max(place.stat().st_mtime for place in (run, *run.glob("*.log")))
