"""Decoding in a process of its own, with limits on time and memory: a hostile picture is put aside, whatever it does.

A decoder that somebody else wrote may crash, loop, or ask for all memory there is. None of that can be stopped from within
its own process. So decoders run in a *worker*: a small child process that the kernel ends when one picture takes too much
of the processor, of the clock or of memory. A worker is started at first use, takes as many calls as there are (one picture
each, or a run of them), and is replaced when it ends.
"""

import atexit
import contextlib
import itertools
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

import numpy as np

from gan_core.errors import GantryError
from gan_core.images import pictures
from gan_core.images.pictures import Fit, PictureError

T = TypeVar("T")

CPU_SECONDS = 60
"""Of the processor, for one picture: ten times what the largest picture that is allowed takes in the slowest format."""
WALL_SECONDS = 180.0
"""By the clock, for one picture: it may lie on a slow disk."""
MEMORY = 4 * 2**30
"""Bytes that decoding may allocate beside what the worker has at its start."""

NO_ITEM = -1
"""In place of a picture's number, where a call is at none."""
_ITEM = struct.Struct("q")
_OF_THE_MACHINE = (signal.SIGKILL, signal.SIGALRM)
"""What may have ended a worker that was at a good picture: memory that others took, a disk or a clock that stood still."""
_REASONS: dict[int, tuple[str, str]] = {
    signal.SIGXCPU: ("too-slow", f"decoding took more than {CPU_SECONDS} s of the processor"),
    signal.SIGALRM: ("too-slow", f"decoding took more than {WALL_SECONDS:.0f} s"),
    signal.SIGKILL: ("crashed", "the system ended the decoder, probably for lack of memory"),
}
_here: "_Progress | None" = None
"""In a worker, where it notes what it is at; None in any other process."""


class WorkerEndedError(Exception):
    """The worker ended during a call.

    ``item`` is the picture that it was at, ``reason`` and ``detail`` are a reject's; ``again`` says that the machine, and not
    the picture, may have been at fault.
    """

    def __init__(self, item: int, reason: str, detail: str, *, again: bool) -> None:
        super().__init__(f"{reason}: {detail}")
        self.item = item
        self.reason = reason
        self.detail = detail
        self.again = again


def decode(content: bytes | np.ndarray, channels: int) -> np.ndarray:
    """:func:`gan_core.images.pictures.decode` in a worker; also raises PictureError for ``too-slow`` and ``crashed``."""
    return picture_of(pictures.decode, content, channels)


def prepare(content: bytes | np.ndarray, *, size: tuple[int, int], channels: int, mode: Fit) -> np.ndarray:
    """:func:`gan_core.images.pictures.prepare` in a worker; also raises PictureError for ``too-slow`` and ``crashed``."""
    return picture_of(pictures.prepare, content, size=size, channels=channels, mode=mode)


def picture_of(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """``function(*arguments, **named)``, which makes one picture, in a worker; in this process where it is a worker.

    Raises:
        PictureError: what the function raises; or ``too-slow``, ``crashed``, where the worker ended (and did so twice, where
            the machine may have been at fault).
    """
    attempts = itertools.count(1)
    while True:
        try:
            return call(function, *arguments, **named)
        except WorkerEndedError as error:
            if not error.again or next(attempts) == 2:
                raise PictureError(error.reason, error.detail) from error


def call(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """``function(*arguments, **named)`` in a worker; in this process where it is a worker itself.

    Args:
        function: importable by name. One that makes several pictures calls :func:`begin` before each.

    Returns:
        What it returns.

    Raises:
        WorkerEndedError: the worker was ended by a limit, by a crash or by the system.
        Exception: what the function raises.
    """
    if _here is not None:
        return function(*arguments, **named)
    with _borrowed() as worker:
        return worker.call(function, arguments, named)


def begin(item: int) -> None:
    """In a worker, start the clocks of picture ``item`` of the call. Nothing in any other process."""
    if _here is not None:
        _here.begin(item)


def finish() -> None:
    """In a worker, stop the clocks: the rest of the call decodes nothing. Nothing in any other process."""
    if _here is not None:
        _here.finish()


@contextlib.contextmanager
def no_files() -> Iterator[None]:
    """In a worker, have the kernel refuse to open any file in the block. Nothing in any other process."""
    if _here is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class _Worker:
    """The parent's side of a worker."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as passed:
            self._connection, theirs = Pipe()
            ours.callback(self._connection.close)
            passed.callback(theirs.close)
            self._notes = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the worker
            ours.callback(self._notes.close)
            self._notes.write(_ITEM.pack(NO_ITEM))
            self._notes.flush()
            # Its writing end is closed with this process, however that ends.
            watched, self._lifeline = os.pipe()
            passed.callback(os.close, watched)
            ours.callback(os.close, self._lifeline)
            descriptors = (theirs.fileno(), self._notes.fileno(), watched)
            path = os.pathsep.join(place or os.getcwd() for place in sys.path)
            try:
                self._process = subprocess.Popen(
                    # -P: a folder of pictures may hold a numpy.py.
                    [sys.executable, "-P", "-c", f"from gan_core.images.bounded import serve; serve{descriptors}"],
                    env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    stdin=subprocess.DEVNULL,
                    pass_fds=descriptors,
                )
            except OSError as error:
                raise GantryError(
                    f"The process that decodes pictures does not start ({error.strerror}: {sys.executable}). Close other "
                    "programs if memory or processes are short, and run again."
                ) from error
            ours.pop_all()  # from here on it is close() that closes them

        try:
            self._connection.recv()
        except (EOFError, ConnectionError):
            self.close()
            raise GantryError(
                f"The process that decodes pictures does not start (status {self._process.returncode}); what it wrote to "
                "stderr says why."
            ) from None
        except BaseException:  # Ctrl-C
            self.close()
            raise
        self.whole = True
        """Whether it waits for a call."""

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The answer of ``function``; raises as the function :func:`call` does."""
        self.whole = False
        try:
            self._connection.send((function, arguments, named))
            trace, value = self._connection.recv()
        except (EOFError, ConnectionError):
            raise self._ended() from None
        self.whole = True
        if trace is None:
            return value
        raise value from (None if isinstance(value, GantryError) else RuntimeError(f"In the worker:\n{trace}"))

    def close(self) -> None:
        """End the process, whatever it is at."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        os.close(self._lifeline)
        self._notes.close()

    def _ended(self) -> WorkerEndedError:
        status = self._process.wait()
        self._notes.seek(0)
        (item,) = _ITEM.unpack(self._notes.read(_ITEM.size))
        reason, detail = "crashed", f"the decoder ended its process with status {status}"
        if status < 0:
            reason, detail = _REASONS.get(-status, ("crashed", f"the decoder crashed ({signal.Signals(-status).name})"))
        return WorkerEndedError(item, reason, detail, again=-status in _OF_THE_MACHINE)


class _Progress:
    """A worker's note of the picture that it is at, and the clocks of that picture."""

    def __init__(self, descriptor: int) -> None:
        self._note = mmap.mmap(descriptor, _ITEM.size)
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_CPU)

    def begin(self, item: int) -> None:
        _ITEM.pack_into(self._note, 0, item)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        # The kernel counts the processor's time since the start of the process, in whole seconds.
        self._limit_processor(int(time.process_time()) + 1 + CPU_SECONDS)

    def finish(self) -> None:
        _ITEM.pack_into(self._note, 0, NO_ITEM)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._limit_processor(self._hard)

    def _limit_processor(self, limit: int) -> None:
        if limit != self._soft:  # not for every one of many small pictures
            soft = limit if self._hard < 0 else min(limit, self._hard)
            resource.setrlimit(resource.RLIMIT_CPU, (soft, self._hard))
            self._soft = limit


def serve(connection_at: int, notes_at: int, lifeline_at: int) -> None:
    """A worker's life: take calls until the parent is gone."""
    global _here
    # The terminal's Ctrl-C is the parent's to answer; both clocks end the process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(lifeline_at,), daemon=True).start()
    connection = Connection(connection_at)
    _here = _Progress(notes_at)
    _limit_memory()
    connection.send("ready")
    while True:
        try:
            function, arguments, named = connection.recv()
        except (EOFError, ConnectionError):
            return
        _here.begin(NO_ITEM)
        try:
            answer: tuple[str | None, Any] = (None, function(*arguments, **named))
        except Exception as error:
            answer = (traceback.format_exc(), error)
        _here.finish()
        connection.send(answer)


def _end_with(lifeline: int) -> None:
    os.read(lifeline, 1)  # returns when the parent is gone
    os._exit(1)


def _limit_memory() -> None:
    """Limit what this process allocates, on Linux. Mapped files do not count: a Parquet file may be larger than memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not os.path.exists("/proc/self/status"):
        return
    with open("/proc/self/status", encoding="ascii") as status:
        data = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (data + MEMORY if hard < 0 else min(data + MEMORY, hard), hard))


_idle: list[_Worker] = []
"""Workers that nobody uses now; as many as there were calls at once."""


@contextlib.contextmanager
def _borrowed() -> Iterator[_Worker]:
    """A worker for this thread alone, for the length of the block."""
    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
    try:
        yield worker
    finally:
        # One whose call was broken off still answers that call.
        if worker.whole:
            _idle.append(worker)
        else:
            worker.close()


@atexit.register
def close_workers() -> None:
    """End the workers that nobody uses; others are started when they are needed."""
    while _idle:
        _idle.pop().close()


# A fork would share them, and mix up the answers.
os.register_at_fork(after_in_child=_idle.clear)
