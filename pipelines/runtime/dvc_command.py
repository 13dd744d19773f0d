"""DVC's commands, which wait for each other.

A DVC command holds the lock of its project while it hashes or moves data, which takes minutes for large data. By default
another one gives up after three seconds: ``dvc repro`` even at the end of a stage that has trained for hours.
"""

import os
import sys
from logging import Logger, LoggerAdapter
from pathlib import Path

from gan_core.locks import try_lock


def dvc_command(*words: str) -> list[str]:
    """The command ``dvc WORDS``. It waits while another process holds the lock of the project."""
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *words]


def announce_wait(root: Path, log: Logger | LoggerAdapter[Logger]) -> None:
    """Log who holds the lock of the DVC project at ``root`` now, if anybody does: DVC itself waits without a word."""
    if holder := _holder(root):
        log.warning("Waiting for another DVC command in %s (%s).", root, holder)


def _holder(root: Path) -> str:
    """The process that holds the lock; empty if none does. The project may be a folder of a larger one, which has the lock."""
    lock = next((above / ".dvc/tmp/lock" for above in (root, *root.parents) if (above / ".dvc").is_dir()), None)
    try:
        descriptor = os.open(lock or root / ".dvc/tmp/lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no command has run yet, or it is that of another user
        return ""
    try:
        if try_lock(descriptor):
            return ""
        process = os.read(descriptor, 100).decode(errors="replace").strip()
    except OSError:  # a file system without locks
        return ""
    finally:
        os.close(descriptor)
    return f"process {process}" if process else "unknown process"
