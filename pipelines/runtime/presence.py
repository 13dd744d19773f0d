"""A lock that a process holds while it uses something: whether it is held tells others whether the process still runs.

Containers of one machine may have the same host name, or another one after each start, and do not see each other's processes.
Among processes of one boot of a machine, the lock decides. Among others, it may mean nothing (not every network file system
passes locks on), and :func:`pipelines.runtime.guard.is_process_alive` decides.
"""

import os
from contextlib import suppress
from pathlib import Path

from gan_core.locks import share, try_lock
from pipelines.runtime.guard import read_boot


def hold(path: Path) -> int | None:
    """Hold the lock file ``path`` until the descriptor that this returns is closed; several processes may hold it.

    Returns:
        None where there are no locks, or the system does not name its boots.
    """
    try:
        boot = read_boot()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return None
    try:
        share(descriptor)
    except OSError:
        os.close(descriptor)
        return None
    with suppress(OSError):  # on a full disk: the lock then says nothing
        os.pwrite(descriptor, boot.encode(), 0)
    return descriptor


def is_held(path: Path) -> bool | None:
    """Whether a process holds the lock file ``path``; None if that cannot be told from here."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # an earlier version of Gantry made none; or it is another user's
        return None
    try:
        if not try_lock(descriptor):
            return True
        return False if os.read(descriptor, 100).decode() == read_boot() else None
    except OSError:
        return None
    finally:
        os.close(descriptor)
