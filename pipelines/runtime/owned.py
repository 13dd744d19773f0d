"""Folders that belong to a process: when it was killed, the next one finds them."""

from contextlib import suppress
from pathlib import Path

from gan_core.files import read_json, replacing, write_json
from pipelines.runtime.guard import identity, lives

_OWNER = "owner.json"


def claim(folder: Path) -> None:
    """Make ``folder`` for this process. Whoever sees it sees its owner, too.

    Raises:
        FileExistsError: it is there already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already")
    with replacing(folder) as temporary:
        write_json(temporary / _OWNER, identity())


def abandoned(above: Path) -> list[Path]:
    """The claimed folders in ``above`` whose process is gone."""
    found = []
    for owner in sorted(above.glob(f"*/{_OWNER}")):
        with suppress(FileNotFoundError):  # its process has just ended well, and has removed it
            if not lives(read_json(owner)):
                found.append(owner.parent)
    return found
