"""Folders that belong to a process. If the process is killed, a later one finds its folders and removes them.

A folder holds a note of its owner's identity, and a lock that the owner holds. Containers of one machine may have the same host
name, and do not see each other's processes: among processes of one boot of a machine, the lock decides. Among others, it may
mean nothing (not every network file system passes locks on), and the identity decides.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from gan_core.cache import user_cache_dir
from gan_core.errors import StageError
from gan_core.files import atomic_write, read_json, write_json
from gan_core.locks import try_lock
from pipelines.runtime.guard import is_process_alive, process_identity, read_boot

_OWNER, _LOCK = "owner.json", "owner.lock"


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def claim_folder(folder: Path, remove: Callable[[Path], object] = _remove_folder) -> Iterator[None]:
    """Make ``folder`` with a note of its owner, this process; ``remove`` it at the end of the block.

    Folder and note appear at once.

    Raises:
        StageError: it exists already. The process of a run that Prefect took for lost, perhaps because the machine slept, may
            go on when another one takes the run up.
    """
    if folder.exists():
        raise StageError(
            f"{folder} is in use by {_describe_owner(folder)}. Wait for it, or end it, and run this again."
        )
    with ExitStack() as lock:
        with atomic_write(folder) as temporary:
            write_json(temporary / _OWNER, process_identity())
            if (held := _hold(temporary / _LOCK)) is not None:
                lock.callback(os.close, held)
        try:
            yield
        finally:
            lock.close()  # first: NFS keeps a folder with an open file
            remove(folder)


def _describe_owner(folder: Path) -> str:
    with suppress(OSError, ValueError, AttributeError):
        host, process, _ = read_json(folder / _OWNER).rsplit(":", 2)
        return f"process {process} on {host}, which may still run"
    return "another process"


def _hold(path: Path) -> int | None:
    """Make a lock file that names this boot and hold its lock; None, and no file, where there are no locks or boots."""
    try:
        boot = read_boot()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError:
        return None
    try:
        try_lock(descriptor)
        os.write(descriptor, boot.encode())
    except OSError:
        os.close(descriptor)
        path.unlink()
        return None
    return descriptor


def find_abandoned(above: Path) -> list[Path]:
    """The claimed folders in ``above`` whose process no longer runs."""
    found = []
    for owner in sorted(above.glob(f"*/{_OWNER}")):
        with suppress(FileNotFoundError):  # its process has just ended and removed it
            identity = read_json(owner)
            held = _is_held(owner.with_name(_LOCK))
            if not held if held is not None else not is_process_alive(identity):
                found.append(owner.parent)
    return found


def _is_held(lock: Path) -> bool | None:
    """Whether the owner of a folder holds its lock; None if that says nothing here: see the top of this module."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # an earlier version of Gantry made none; or another user's
        return None
    try:
        if not try_lock(descriptor):
            return True
        return False if os.read(descriptor, 100).decode() == read_boot() else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A new folder in ``name`` of the user's cache for the files of this process, removed at the end of the block.

    Those of processes of this host that were killed are removed first.
    """
    parent = user_cache_dir() / name
    for left in find_abandoned(parent):
        shutil.rmtree(left, ignore_errors=True)
    claimed = parent / uuid.uuid4().hex
    with claim_folder(claimed):
        folder = claimed / "files"
        folder.mkdir()
        yield folder
