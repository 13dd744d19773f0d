"""Run a command with a small file system mounted, if this machine lets users mount one."""

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkout import ROOT

_MOUNT = 'mount -t tmpfs -o "size=$1" none "$2"'


@dataclass(frozen=True)
class Ended:
    """Result of a command on a small disk."""

    status: int
    """Exit status."""
    output: str
    """Standard output and standard error."""
    left: tuple[str, ...]
    """Relative paths of the files and folders that are left on the disk."""


@functools.cache
def _mountable() -> bool:
    command = ["unshare", "-rm", "sh", "-c", f"{_MOUNT}", "sh", "1m", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:  # not Linux
        return False


def run_on_small_disk(
    command: Sequence[object],
    disk: Path,
    *,
    size: str = "64k",
    before: str = ":",
    cwd: Path | None = None,
    **extra: str,
) -> Ended:
    """Run ``command`` with a disk mounted at the folder ``disk``, visible only to this command.

    Skips the test if mounting is not possible.

    Args:
        command: the command and its arguments.
        disk: folder to mount the disk at.
        size: size of the disk, as mount spells it.
        before: shell command to run first, for instance to fill the disk.
        cwd: working directory of the command.
        extra: environment variables of the command.
    """
    if not _mountable():
        pytest.skip("needs Linux, and permission to mount in a new namespace")
    disk.mkdir(parents=True, exist_ok=True)
    listing = 'echo "--left--"; cd "$DISK" && find . -mindepth 1 -printf "%P\\n"'
    script = f'{_MOUNT} && {before} && shift 2 && {{ "$@" 2>&1; status=$?; {listing}; exit $status; }}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", size, str(disk), *map(str, command)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DISK": str(disk), **extra},
        capture_output=True,
        text=True,
        check=False,
    )
    output, _, left = done.stdout.partition("--left--\n")
    return Ended(done.returncode, output + done.stderr, tuple(sorted(left.split())))


def gantry(*words: object) -> list[object]:
    """The command line of this checkout's ``gantry``."""
    return [sys.executable, "-c", "from pipelines.cli import main; main()", *words]
