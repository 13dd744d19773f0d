"""Advisory locks between processes (flock). No other module asks the system for locks.

A lock belongs to an open file descriptor. The system releases it when the descriptor is closed, even if the process dies.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_POLL_SECONDS = 0.5


def _flock(descriptor: int, operation: int) -> None:
    """Ask the system; an error, except that another one holds the lock, names the file and what to do."""
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        path = f"descriptor {descriptor}"
        with suppress(OSError):  # only Linux knows the path of an open file
            path = os.readlink(f"/proc/self/fd/{descriptor}")
        why = f"it cannot be locked ({error.strerror}). Use a folder on a file system that supports locks (flock)"
        raise OSError(error.errno, why, path) from error


def try_lock(descriptor: int) -> bool:
    """Try to lock an open file or folder until it is closed. Returns False at once if another descriptor holds the lock.

    Raises:
        OSError: the file system does not support locks.
    """
    try:
        _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(descriptor: int) -> None:
    """Lock an open file or folder until it is closed. Waits while another descriptor holds the lock.

    Raises:
        OSError: the file system does not support locks.
    """
    _flock(descriptor, fcntl.LOCK_EX)


def share(descriptor: int) -> None:
    """Hold a shared lock of an open file until it is closed, in place of any lock that it holds; waits for an exclusive one.

    Several openings may share a lock; :func:`try_lock` and :func:`lock` succeed only while none does. The change from one kind
    of lock to the other is not atomic.
    """
    _flock(descriptor, fcntl.LOCK_SH)


@contextmanager
def locked(descriptor: int) -> Iterator[None]:
    """Lock an open file or folder within the block. Waits while another descriptor holds the lock."""
    lock(descriptor)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def file_lock(path: Path, *, timeout: float | None = None) -> Iterator[bool]:
    """Hold the lock file at ``path`` within the block. The file is created, and remains.

    Args:
        path: a file used only as a lock.
        timeout: seconds to wait while another process holds the lock; None waits forever.

    Yields:
        Whether the lock is held: False if another process still holds it after ``timeout``.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if timeout is None:
            lock(descriptor)
            yield True
            return
        deadline = time.monotonic() + timeout
        while not (ours := try_lock(descriptor)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        yield ours
    finally:
        os.close(descriptor)


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of ``folder`` within the block; yields False if another process holds it.

    Creates the folder, and removes it again if it is new and still empty at the end.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)
        if new:
            with suppress(OSError):
                folder.rmdir()
