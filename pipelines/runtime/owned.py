"""Folders that belong to a process. If the process is killed, a later one finds its folders and removes them.

A folder holds a note of its owner's identity, and a lock that the owner holds (:mod:`pipelines.runtime.presence`).
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
from pipelines.runtime.guard import is_process_alive, process_identity
from pipelines.runtime.presence import hold, is_held

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
            if (held := hold(temporary / _LOCK)) is not None:
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


def find_abandoned(above: Path) -> list[Path]:
    """The claimed folders in ``above`` whose process no longer runs."""
    found = []
    for owner in sorted(above.glob(f"*/{_OWNER}")):
        with suppress(FileNotFoundError):  # its process has just ended and removed it
            identity = read_json(owner)
            held = is_held(owner.with_name(_LOCK))
            if not held if held is not None else not is_process_alive(identity):
                found.append(owner.parent)
    return found


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
