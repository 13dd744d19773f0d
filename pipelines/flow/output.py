"""The output of a stage: passed on as it comes, kept in a file, and its error held back, to be told once and last."""

import contextlib
import logging
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from pipelines.runtime.checkout import Checkout

LOG = logging.getLogger(__name__)

RUNS = 20
"""Of how many runs the output is kept."""
HOLD_SECONDS = 10.0
"""What goes on after what looked like its error has not ended by it, and its lines are passed on."""
HELD_LINES = 200
"""At most so many lines are held; of more, the oldest is passed on, so that none is lost when the stage succeeds."""
FIRST_LINES = 50
"""Of a longer error, so many lines from its start are part of the message, too: they say what failed."""
_ERROR = re.compile(r"(?i:error): |Traceback \(most recent call last\)")
_OF_DVC = re.compile(r"ERROR: failed to reproduce ")
"""What DVC says of each stage that fails, after the stage itself has said why."""


class StageOutput:
    """Takes the lines of one attempt at a stage.

    Args:
        pass_on: called with each line that is not held back.
        path: the file that has every line. That it cannot be written is said and ends nothing.
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
        """Take one line."""
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
        """Take the end: without an error, what looked like one is passed on as well."""
        if not failed:
            self._release()
        if self._file is not None:
            with self._writing():
                self._file.close()
            self._file = None

    def error(self) -> str:
        """What a failed stage said at its end: its error, or, where nothing looks like one, its last lines."""
        missing = []
        if self._left_out:
            where = f"in {self.path}" if self.path.is_file() else "among the lines above"
            missing = [f"[{self._left_out:,} more lines are {where}]"]
        own = [line for line in [*self._first, *missing, *self._held] if not _OF_DVC.match(line)]
        if own:
            return "\n".join([re.sub("^error: ", "", own[0]), *own[1:]])
        return "\n".join(self._recent or self._held)

    def place(self) -> str:
        """Where its whole output is, for the end of a message."""
        return f"Its whole output is in {self.path}." if self.path.is_file() else "Its output could not be kept."

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
                "The output of the stage cannot be kept in %s (%s); the stage goes on.", self.path, error.strerror
            )


def output_file(checkout: Checkout, run: str, node: str) -> Path:
    """Where the output of the stage or data source ``node`` in ``run`` is kept; older runs' are removed beyond :data:`RUNS`."""
    above = checkout.stage_logs
    with contextlib.suppress(OSError):  # no room or no folder is said when the file is written
        runs = sorted(above.iterdir(), key=lambda folder: folder.stat().st_mtime) if above.is_dir() else []
        for old in [folder for folder in runs if folder.name != run][: -(RUNS - 1)]:
            shutil.rmtree(old, ignore_errors=True)
    return above / run / f"{re.sub('[^A-Za-z0-9_.-]+', '-', node)}.log"
