"""Decode pictures in a child process with limits on time and memory, so that a hostile file costs one picture at most.

A third-party decoder may crash, loop forever or allocate all memory, and its own process cannot stop that. Decoders therefore
run in a *worker*: a small child process that the kernel ends when a picture exceeds its CPU time, wall-clock time or memory.
A worker starts at first use, serves any number of calls (one picture or a run of pictures each), and is replaced when it ends.
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
"""CPU seconds for one picture: ten times what the largest allowed picture takes in the slowest format."""
WALL_SECONDS = 180.0
"""Wall-clock seconds for one picture; generous because it may be on a slow disk."""
MEMORY = 4 * 2**30
"""Bytes that decoding may allocate in addition to the worker's memory at its start."""

NO_ITEM = -1
"""Stands in for a picture's number while the call decodes none."""
_ITEM = struct.Struct("q")
_MACHINE_SIGNALS = (signal.SIGKILL, signal.SIGALRM)
"""Signals that may end a worker although its picture is good: other programs took the memory, or the disk was stuck."""
_REASONS: dict[int, tuple[str, str]] = {
    signal.SIGXCPU: ("too-slow", f"decoding took more than {CPU_SECONDS} s of CPU time"),
    signal.SIGALRM: ("too-slow", f"decoding took more than {WALL_SECONDS:.0f} s"),
    signal.SIGKILL: ("crashed", "the system ended the decoder, probably for lack of memory"),
}
_here: "_Progress | None" = None
"""In a worker, its record of the current picture; None in any other process."""


class WorkerEndedError(Exception):
    """The worker ended during a call.

    Attributes:
        item: number of the picture that it was decoding, or :data:`NO_ITEM`.
        reason: as that of a PictureError.
        detail: as that of a PictureError.
        retryable: whether the machine, and not the picture, may be at fault.
    """

    def __init__(self, item: int, reason: str, detail: str, *, retryable: bool) -> None:
        super().__init__(f"{reason}: {detail}")
        self.item = item
        self.reason = reason
        self.detail = detail
        self.retryable = retryable


def decode(content: bytes | np.ndarray, channels: int) -> np.ndarray:
    """Run :func:`gan_core.images.pictures.decode` in a worker; also raises PictureError ``too-slow`` and ``crashed``."""
    return call_decoder(pictures.decode, content, channels)


def prepare(content: bytes | np.ndarray, *, size: tuple[int, int], channels: int, mode: Fit) -> np.ndarray:
    """Run :func:`gan_core.images.pictures.prepare` in a worker; also raises PictureError ``too-slow`` and ``crashed``."""
    return call_decoder(pictures.prepare, content, size=size, channels=channels, mode=mode)


def call_decoder(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Return ``function(*arguments, **named)``, which decodes one picture, from a worker. A worker runs it in place.

    A call is repeated once if the worker ended and the machine may be at fault.

    Raises:
        PictureError: as the function raises; ``too-slow`` or ``crashed`` if the worker ended.
    """
    attempts = itertools.count(1)
    while True:
        try:
            return call(function, *arguments, **named)
        except WorkerEndedError as error:
            if not error.retryable or next(attempts) == 2:
                raise PictureError(error.reason, error.detail) from error


def call(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Return ``function(*arguments, **named)`` from a worker. A worker runs it in place.

    Args:
        function: importable by name. If it decodes several pictures, it calls :func:`begin` before each.
        arguments: picklable, as are ``named`` and the result.
        named: keyword arguments.

    Raises:
        WorkerEndedError: a limit, a crash or the system ended the worker.
        Exception: as the function raises.
    """
    if _here is not None:
        return function(*arguments, **named)
    with _borrowed() as worker:
        return worker.call(function, arguments, named)


def begin(item: int) -> None:
    """In a worker, start the time limits of picture ``item`` of the call. Does nothing in any other process."""
    if _here is not None:
        _here.begin(item)


def finish() -> None:
    """In a worker, stop the time limits: the rest of the call decodes nothing. Does nothing in any other process."""
    if _here is not None:
        _here.finish()


@contextlib.contextmanager
def no_files() -> Iterator[None]:
    """In a worker, make the kernel refuse to open any file within the block. Does nothing in any other process."""
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
            # The kernel closes the write end when this process ends, however it ends.
            watched, self._lifeline = os.pipe()
            passed.callback(os.close, watched)
            ours.callback(os.close, self._lifeline)
            descriptors = (theirs.fileno(), self._notes.fileno(), watched)
            path = os.pathsep.join(place or os.getcwd() for place in sys.path)
            try:
                self._process = subprocess.Popen(
                    # -P: a folder of pictures may hold a numpy.py.
                    [sys.executable, "-P", "-c", f"from gan_core.images.sandbox import serve; serve{descriptors}"],
                    env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    stdin=subprocess.DEVNULL,
                    pass_fds=descriptors,
                )
            except OSError as error:
                raise GantryError(
                    f"The process that decodes pictures does not start ({error.strerror}: {sys.executable}). Close other "
                    "programs if memory or processes are short, and run again."
                ) from error
            ours.pop_all()  # close() closes them from here on

        try:
            self._connection.recv()
        except (EOFError, ConnectionError):
            self.close()
            raise GantryError(
                f"The process that decodes pictures does not start (exit status {self._process.returncode}). Read its "
                "messages on stderr for the reason."
            ) from None
        except BaseException:  # Ctrl-C
            self.close()
            raise
        self.whole = True
        """Whether it is ready for a call."""

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return the result of ``function``; raises as the module's :func:`call` does."""
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
        """Kill the process, whatever it is doing."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        os.close(self._lifeline)
        self._notes.close()

    def _ended(self) -> WorkerEndedError:
        status = self._process.wait()
        self._notes.seek(0)
        (item,) = _ITEM.unpack(self._notes.read(_ITEM.size))
        reason, detail = "crashed", f"the decoder ended its process with exit status {status}"
        if status < 0:
            reason, detail = _REASONS.get(-status, ("crashed", f"the decoder crashed ({signal.Signals(-status).name})"))
        return WorkerEndedError(item, reason, detail, retryable=-status in _MACHINE_SIGNALS)


class _Progress:
    """A worker's record of the current picture, and the time limits of that picture."""

    def __init__(self, descriptor: int) -> None:
        self._note = mmap.mmap(descriptor, _ITEM.size)
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_CPU)

    def begin(self, item: int) -> None:
        _ITEM.pack_into(self._note, 0, item)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        # The kernel counts CPU time since the start of the process, in whole seconds.
        self._limit_cpu(int(time.process_time()) + 1 + CPU_SECONDS)

    def finish(self) -> None:
        _ITEM.pack_into(self._note, 0, NO_ITEM)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._limit_cpu(self._hard)

    def _limit_cpu(self, limit: int) -> None:
        if limit != self._soft:  # saves a system call for most of many small pictures
            soft = limit if self._hard < 0 else min(limit, self._hard)
            resource.setrlimit(resource.RLIMIT_CPU, (soft, self._hard))
            self._soft = limit


def serve(connection_at: int, notes_at: int, lifeline_at: int) -> None:
    """Main function of a worker: serve calls until the parent is gone."""
    global _here
    # The parent handles Ctrl-C of the terminal. Both time limits end this process.
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
    """Limit the memory of this process, on Linux. Mapped files do not count: a Parquet file may be larger than memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not os.path.exists("/proc/self/status"):
        return
    with open("/proc/self/status", encoding="ascii") as status:
        data = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (data + MEMORY if hard < 0 else min(data + MEMORY, hard), hard))


_idle: list[_Worker] = []
"""Idle workers. The number of workers grows to the largest number of concurrent calls."""


@contextlib.contextmanager
def _borrowed() -> Iterator[_Worker]:
    """Reserve a worker for this thread within the block."""
    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
    try:
        yield worker
    finally:
        # A worker whose call was interrupted would answer the next call with the old result.
        if worker.whole:
            _idle.append(worker)
        else:
            worker.close()


@atexit.register
def close_workers() -> None:
    """End all workers without a call. New ones start when needed."""
    while _idle:
        _idle.pop().close()


# A forked process would share the workers and mix up their answers.
os.register_at_fork(after_in_child=_idle.clear)
