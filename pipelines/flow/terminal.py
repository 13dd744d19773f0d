"""Print the log of a run in the terminal: one line per message, and a live progress bar for the running stage.

Prefect's own console repeats the level, the flow and the task in each line and logs Prefect's internals. The Prefect server
still gets the full log. If the output is not a terminal, progress is printed as plain lines, at most one every ten seconds.
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
"""Shortest time between two plain lines of progress."""
_BAR = 24
"""Width of the bar in characters."""
_INTERNAL = re.compile(
    r"Running stage '|> gantry stage |> python |Beginning flow run|View at |Finished in state |(Updat|Generat)ing lock file"
)
"""Prefect's and DVC's messages about their own work. The command prints failures at its end."""
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
        """Print ``record``, or draw its progress as a bar."""
        try:
            if getattr(record, "shown_by_command", False):
                return
            stage = str(getattr(record, "task_run_name", "") or "")
            for line in record.getMessage().splitlines():
                text = line.removeprefix(f"[{stage}] ") if stage else line
                if not _INTERNAL.match(text):
                    self._show(stage, text, record.levelno)
        except Exception:  # as the handlers of logging do: a message that cannot be printed must not fail the flow
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
        if level < logging.WARNING and (progress := parse_progress(text)):
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
    """The progress of a stage."""

    done: int
    total: int
    rest: str
    """The unit, the rate and the time left."""

    def __str__(self) -> str:
        return f"{self.done:,}/{self.total:,} {self.rest}"

    def bar(self) -> str:
        """The progress as a bar, followed by the same in words."""
        filled = _BAR * min(self.done, self.total) // max(self.total, 1)
        return f"[{'#' * filled}{'.' * (_BAR - filled)}] {self}"


def parse_progress(text: str) -> Progress | None:
    """Parse a progress line of a stage, in Gantry's or tqdm's format; None for any other line."""
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
    """Replace Prefect's console handlers with a :class:`TerminalHandler` for the length of the block."""
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
