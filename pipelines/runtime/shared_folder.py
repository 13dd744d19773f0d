"""Folders in the system's temporary folder that a library uses for all users of a machine.

Such a library makes its folder as any other, so that only the first user of the machine can write to it.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from gan_core.errors import StageError


def share_runner_folder() -> None:
    """Let every user of this machine start workers of Prefect; raises StageError as :func:`_share`."""
    _share(Path(tempfile.gettempdir(), "runner_storage"), "Prefect's worker")


def share_lock_folder() -> None:
    """Let every user of this machine resume a search of Ray Tune; raises StageError as :func:`_share`."""
    from ray._common.utils import get_default_system_temp_dir
    from ray.air._internal.filelock import RAY_LOCKFILE_DIR

    _share(Path(get_default_system_temp_dir(), RAY_LOCKFILE_DIR), "Ray Tune")


def _share(folder: Path, who: str) -> None:
    """Make ``folder`` so that every user may write to it, or make an own one so.

    Raises:
        StageError: another user has made it, and nobody else may write to it.
    """
    with suppress(FileExistsError):
        folder.mkdir(parents=True)
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o1777)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StageError(
            f"{who} needs the folder {folder}, but another user has made it, and nobody else may write to it. Let its owner "
            f"run chmod 1777 {folder}, or set TMPDIR to a folder of your own."
        )
