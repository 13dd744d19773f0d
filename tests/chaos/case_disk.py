"""A disk that is really full: ``var`` is on a small file system. This also covers writes outside Python."""

import itertools
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.chaos.case import Case, NotSupported, Suite
from tests.chaos.case_stages import check_rerun
from tests.chaos.checks import make_old
from tests.chaos.place import STAGES, Place, orphans


def cases() -> list[Case]:
    """One case for each stage, with a random size of the file system."""
    return [
        Case(name=f"no-room-{stage}", run=partial(without_room, stage=stage), small=stage == "train")
        for stage in STAGES
    ]


def without_room(suite: Suite, numbers: random.Random, *, stage: str) -> None:
    """Run the stage with too little disk space: it reports that, and resumes when there is more."""
    with suite.baseline.before[stage].copy() as place, _small(place) as disk:
        used = disk.used()
        disk.resize(used + round(_need(suite, stage) * numbers.uniform(0.05, 0.95)))
        first = place.stage(stage)
        suite.notes.append(f"{disk.size - used} kB, status {first.status}")
        left = orphans()
        assert not left, f"still running: {'; '.join(left)}"
        if first.status:
            assert "Traceback" not in first.output, f"a traceback:\n{first.output[-3000:]}"
            full = ("no space left", "disk is full", "disk full", "no room")
            assert any(words in first.output.lower() for words in full), (
                f"does not say that the disk is full:\n{first.output[-2000:]}"
            )
        disk.resize(used + 200_000)
        make_old(place)
        check_rerun(suite, place, stage)


def _need(suite: Suite, stage: str) -> int:
    """Kilobytes that the stage adds to ``var`` in the undisturbed run."""
    following = dict(itertools.pairwise(STAGES)).get(stage)
    after = suite.baseline.before[following] if following else suite.baseline.after
    return max(50, _size(after.root / "var") - _size(suite.baseline.before[stage].root / "var"))


def _size(folder: Path) -> int:
    """Kilobytes of the files in ``folder``, as ``du`` counts them; 0 if there are none."""
    return sum(path.lstat().st_blocks for path in folder.rglob("*")) // 2


class _Disk:
    """A tmpfs mounted over a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.size = folder, 0

    def used(self) -> int:
        """Kilobytes in use."""
        line = subprocess.run(["df", "-k", str(self._folder)], capture_output=True, text=True, check=True).stdout
        return int(line.splitlines()[-1].split()[2])

    def resize(self, kilobytes: int) -> None:
        """Set its size."""
        self.size = kilobytes
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(self._folder)], check=True)


@contextmanager
def _small(place: Place) -> Iterator[_Disk]:
    """Put the checkout's ``var`` on its own file system for the length of the block."""
    var = place.root / "var"
    kept = place.root.parent / "var-before"
    if var.exists():
        var.rename(kept)
    var.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(var)], capture_output=True, text=True
    )
    if mounted.returncode:
        raise NotSupported(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        if kept.exists():
            subprocess.run(["cp", "-a", f"{kept}/.", str(var)], check=True)
        yield _Disk(var)
    finally:
        subprocess.run(["umount", "-l", str(var)], check=True)
