"""Run a child process, forward its output line by line, and end it with all its descendants."""

import contextlib
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from gan_core.errors import StageError
from pipelines.runtime.guard import guarded_command
from pipelines.runtime.redaction import redact_credentials

PROGRESS_SECONDS = 5.0
GRACE_SECONDS = 12.0
"""How long a command and its descendants may take to end after SIGTERM."""
KILL_SECONDS = GRACE_SECONDS + 8
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class ProcessStoppedError(StageError):
    """The process was ended on request."""


class ProcessTimeoutError(StageError):
    """The process was ended because it exceeded its time limit."""


def run_streaming(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    stop: threading.Event | None = None,
    timeout_s: float | None = None,
) -> int:
    """Run ``command`` and call ``on_line`` with each line of its output; return its exit status.

    The command and all its descendants end with this call, even if ``on_line`` raises, a signal arrives or this process is
    killed. A progress bar, which rewrites its line, becomes one line every few seconds.

    Args:
        command: the command and its arguments.
        cwd: its working directory.
        environment: its whole environment.
        on_line: called with each line, without line break, colours and secrets.
        stop: ends the command when another thread sets it.
        timeout_s: time limit in seconds; None for no limit.

    Raises:
        ProcessStoppedError: ``stop`` was set.
        ProcessTimeoutError: the command took longer than ``timeout_s``.
    """
    process = subprocess.Popen(
        guarded_command(command, grace=GRACE_SECONDS),
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        with _redelivered_signals() as raise_again:
            _pass_on_lines(process, on_line, stop, timeout_s, raise_again)
        return process.wait()
    finally:
        _end(process)
        process.stdout.close()


def _pass_on_lines(
    process: subprocess.Popen[bytes],
    on_line: Callable[[str], None],
    stop: threading.Event | None,
    timeout_s: float | None,
    raise_again: Callable[[], None],
) -> None:
    """Call ``on_line`` until the output ends."""
    assert process.stdout is not None
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    lines = _Lines(on_line)
    while True:
        raise_again()
        if stop is not None and stop.is_set():
            raise ProcessStoppedError("Stopped on request.")
        if deadline is not None and time.monotonic() > deadline:
            raise ProcessTimeoutError(f"exceeded its time limit of {timeout_s:g} s.")
        if select.select([process.stdout], [], [], 0.2)[0]:
            content = os.read(process.stdout.fileno(), 1 << 16)
            if not content:
                break
            lines.feed(content)
    lines.end()


@contextlib.contextmanager
def _redelivered_signals() -> Iterator[Callable[[], None]]:
    """Yield a function that calls the handlers of received SIGINT and SIGTERM again, in case their exception was swallowed.

    Python prints and drops an exception that is raised in a finaliser or in the callback of a weak reference, and log handlers
    have many of both. Outside the main thread, the function does nothing.
    """
    received: list[int] = []
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        handlers[number](number, frame)

    def raise_again() -> None:
        if received:
            handlers[received[0]](received[0], None)

    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    handlers[number] = handler
                    signal.signal(number, note)
        yield raise_again
    finally:
        for kept, handler in handlers.items():
            signal.signal(kept, handler)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the guard, which ends the command and its descendants; after :data:`KILL_SECONDS`, kill the session."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Lines:
    """Splits output into lines. A line that is rewritten in place is forwarded every :data:`PROGRESS_SECONDS`."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self._progress = b""
        self._next_progress = 0.0

    def feed(self, content: bytes) -> None:
        *whole, self._rest = (self._rest + content).replace(b"\r\n", b"\n").split(b"\n")
        for line in whole:
            # Of a progress bar, keep only the last state.
            self._pass_on(line.rstrip(b"\r").rpartition(b"\r")[2])
            self._progress = b""
        *rewritten, self._rest = self._rest.split(b"\r") if b"\r" in self._rest else [self._rest]
        if rewritten:
            self._progress = rewritten[-1]
        if self._progress.strip() and time.monotonic() >= self._next_progress:
            self._pass_on(self._progress)
            self._progress = b""
            self._next_progress = time.monotonic() + PROGRESS_SECONDS

    def end(self) -> None:
        self._pass_on(self._rest or self._progress)

    def _pass_on(self, line: bytes) -> None:
        text = _ESCAPES.sub("", line.decode("utf-8", "replace")).rstrip()
        if text:
            self._on_line(redact_credentials(text))
