"""A small file system of its own for one command, where this machine lets a user mount one."""

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
    """What a command did on a small disk."""

    status: int
    output: str
    """Both streams."""
    left: tuple[str, ...]
    """Files and folders on the disk at the end, relative to it."""


@functools.cache
def _mountable() -> bool:
    command = ["unshare", "-rm", "sh", "-c", f"{_MOUNT}", "sh", "1m", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:  # no Linux
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
    """Run ``command`` with a disk of ``size`` mounted at the folder ``disk``, which it alone sees.

    ``before`` is a shell command that fills it first. Skips the test where nothing can be mounted.
    """
    if not _mountable():
        pytest.skip("needs Linux, and the right to mount in a namespace of one's own")
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
    """``gantry`` of this checkout as a command."""
    return [sys.executable, "-c", "from pipelines.cli import main; main()", *words]
