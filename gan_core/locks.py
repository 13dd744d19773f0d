"""Advisory locks between processes, the only place that asks the system for them.

A lock belongs to an open file or folder. The system drops it when that opening is closed, so also when its process dies.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_POLL_SECONDS = 0.5


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed; False, at once, where another opening of it holds the lock.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(descriptor: int) -> None:
    """Lock an open file or folder until it is closed, after waiting for whoever holds it; raises as :func:`try_lock`."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextmanager
def locked(descriptor: int) -> Iterator[None]:
    """Lock an open file or folder for the length of the block, after waiting for whoever holds it."""
    lock(descriptor)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def file_lock(path: Path, *, patience: float | None = None) -> Iterator[bool]:
    """Hold the lock of the file at ``path``, which is made and stays, for the length of the block.

    Args:
        path: a file for this purpose alone.
        patience: seconds to wait for whoever holds it; None waits for ever.

    Yields:
        Whether the lock is held: False where another process still holds it after ``patience``.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if patience is None:
            lock(descriptor)
            yield True
            return
        deadline = time.monotonic() + patience
        while not (ours := try_lock(descriptor)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        yield ours
    finally:
        os.close(descriptor)


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of ``folder`` for the length of the block: yields False where another process holds it.

    The folder is made; one that was not there before and is empty at the end goes again.
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
