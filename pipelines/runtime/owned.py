"""Folders that belong to a process. If the process is killed, a later one finds its folders and removes them."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gan_core.cache import user_cache_dir
from gan_core.files import atomic_write, read_json, write_json
from pipelines.runtime.guard import is_process_alive, process_identity

_OWNER = "owner.json"


def claim_folder(folder: Path) -> None:
    """Make ``folder`` with a note of its owner, this process. Both appear at once.

    Raises:
        FileExistsError: it exists already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already")
    with atomic_write(folder) as temporary:
        write_json(temporary / _OWNER, process_identity())


def find_abandoned(above: Path) -> list[Path]:
    """The claimed folders in ``above`` whose process no longer runs."""
    found = []
    for owner in sorted(above.glob(f"*/{_OWNER}")):
        with suppress(FileNotFoundError):  # its process has just ended and removed it
            if not is_process_alive(read_json(owner)):
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
    claim_folder(claimed)
    try:
        folder = claimed / "files"
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(claimed, ignore_errors=True)
