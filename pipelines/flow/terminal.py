"""The log of a run on a person's terminal: a line a message, and one live bar for the stage that is at work.

Prefect's own console repeats the level, the flow and the task in each line, and says things that matter to Prefect alone.
Its server still gets everything. Where the output is no terminal, progress is plain lines, at most one every ten seconds.
"""

import logging
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

PLAIN_SECONDS = 10.0
"""Least time between two lines of progress where no bar can be drawn."""
_BAR = 24
"""Characters of the bar itself."""
_INTERNAL = re.compile(
    r"Running stage '|> gantry stage |> python |Beginning flow run|View at |Finished in state |(Updat|Generat)ing lock file"
)
"""What Prefect and DVC say of their own work. Failures are told at the end of the command."""
_UNCHANGED = re.compile(r"(Stage )?'.*' (didn't change, skipping|is cached - skipping run)")
_STEPS = re.compile(r"(?P<done>\d+)/(?P<total>\d+) (?P<rest>.+)")
_TQDM = re.compile(
    r"(?P<label>.*?):? *\d+%\|[^|]*\| *(?P<done>\d+)/(?P<total>\d+) \[[^<\]]*<(?P<left>[^,\]]*), *(?P<rate>[^\]]*)\]"
)


class TerminalHandler(logging.Handler):
    """Prints log records of a flow run to ``stream``."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(logging.INFO)
        self.stream = stream or sys.stderr
        self._live = self.stream.isatty()
        self._bar = ""
        self._last_plain = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Print ``record``, or draw the progress that it reports."""
        try:
            if getattr(record, "told_by_command", False):
                return
            stage = str(getattr(record, "task_run_name", "") or "")
            for line in record.getMessage().splitlines():
                text = line.removeprefix(f"[{stage}] ") if stage else line
                if not _INTERNAL.match(text):
                    self._show(stage, text, record.levelno)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Remove the bar."""
        self.acquire()
        try:
            self._draw("")
        finally:
            self.release()
        super().close()

    def _show(self, stage: str, text: str, level: int) -> None:
        head = f"{stage:9} " if stage else ""
        if level < logging.WARNING and (progress := read_progress(text)):
            if self._live:
                self._draw(head + progress.bar())
                return
            if progress.done < progress.total and time.monotonic() - self._last_plain < PLAIN_SECONDS:
                return
            self._last_plain = time.monotonic()
            text = str(progress)
        if _UNCHANGED.fullmatch(text):
            text = "unchanged"
        if level >= logging.WARNING:
            text = f"{logging.getLevelName(level).lower()}: {text}"
        bar = self._bar
        self._draw("")
        self.stream.write(f"{time.strftime('%H:%M:%S')}  {head}{text}\n")
        self.stream.flush()
        if head and bar.startswith(head):
            self._draw(bar)

    def _draw(self, bar: str) -> None:
        if self._live and (bar or self._bar):
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r\x1b[2K{bar[:width]}")
            self.stream.flush()
        self._bar = bar


@dataclass(frozen=True)
class Progress:
    """How far a stage is."""

    done: int
    total: int
    rest: str
    """What is counted, the rate, and the time left."""

    def __str__(self) -> str:
        return f"{self.done:,}/{self.total:,} {self.rest}"

    def bar(self) -> str:
        """A drawn bar, and the same in words."""
        filled = _BAR * min(self.done, self.total) // max(self.total, 1)
        return f"[{'#' * filled}{'.' * (_BAR - filled)}] {self}"


def read_progress(text: str) -> Progress | None:
    """The progress that a line of a stage reports, Gantry's own or tqdm's; None for any other line."""
    if found := _STEPS.fullmatch(text):
        rest = found["rest"]
    elif found := _TQDM.fullmatch(text):
        left = "" if "?" in found["left"] else f", {found['left']} left"
        rest = f"{found['label']}, {found['rate']}{left}"
    else:
        return None
    return Progress(int(found["done"]), int(found["total"]), rest)


@contextmanager
def terminal_log() -> Iterator[None]:
    """Print the logs of Prefect and Gantry by a :class:`TerminalHandler` in place of Prefect's console, in the block."""
    from prefect.logging.handlers import PrefectConsoleHandler

    handler = TerminalHandler()
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    replaced = [
        (logger, console)
        for logger in loggers
        for console in logger.handlers
        if isinstance(console, PrefectConsoleHandler)
    ]
    for logger, console in replaced:
        logger.removeHandler(console)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, console in replaced:
            logger.removeHandler(handler)
            logger.addHandler(console)
        handler.close()
