"""A disk that is really full: ``var`` is on a small file system. This covers writes outside Python too, of Ray and Prefect."""

import itertools
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pipelines.runtime.resources import usable_cpus
from tests.chaos.case import Case, NotSupported, Suite, repeat_until_it_comes
from tests.chaos.case_flow import LOCAL, check_finished, works_at
from tests.chaos.case_stages import check_rerun
from tests.chaos.checks import check_same, make_old
from tests.chaos.place import STAGES, Ended, Place, orphans, outs

ROOM_KB = 400_000
"""Enough for a run with its Ray cluster."""


def cases() -> list[Case]:
    """One case for each stage and for whole runs, with a random moment or size."""
    return [
        *(
            Case(name=f"no-room-{stage}", run=partial(without_room, stage=stage), small=stage == "train")
            for stage in STAGES
        ),
        Case(name="no-room-run", run=partial(run_without_room, cluster=False), small=False, seconds=1200),
        Case(name="no-room-run-ray", run=partial(run_without_room, cluster=True), small=False, seconds=1200),
    ]


def without_room(suite: Suite, numbers: random.Random, *, stage: str) -> None:
    """Run the stage with too little disk space: it reports that, and resumes when there is more."""

    def once() -> bool:
        with suite.baseline.before[stage].copy() as place, _small(place) as disk:
            used = disk.used()
            disk.resize(used + round(_need(suite, stage) * numbers.uniform(0.05, 0.95)))
            first = place.stage(stage)
            suite.notes.append(f"{disk.size - used} kB, status {first.status}")
            _check_said(first)
            disk.resize(used + 200_000)
            make_old(place)
            check_rerun(suite, place, stage)
        return first.status != 0

    repeat_until_it_comes(once, stage)


def run_without_room(suite: Suite, numbers: random.Random, *, cluster: bool) -> None:
    """The disk fills up during a stage of the flow, for its files, its Prefect server and its Ray cluster alike."""
    extra = {} if cluster else LOCAL
    wanted = None
    if cluster:
        with suite.baseline.before["train"].copy() as alone:
            # Rounding depends on the number of threads: a worker of a real cluster has one per core.
            assert alone.stage("train", GANTRY_CHAOS_LOCAL=str(usable_cpus())).status == 0
            wanted = outs(alone.root, "train")

    def once() -> bool:
        with suite.baseline.before["ingest"].copy() as place, _small(place) as disk:
            place.environment.pop("GANTRY_PIPELINE_RUN", None)
            disk.resize(ROOM_KB)
            stage = "train" if cluster else numbers.choice(STAGES)
            run = place.command("gantry", "run", **extra)
            run.until(partial(works_at, place, stage), 400, f"stage {stage}")
            time.sleep(numbers.uniform(0, 15 if cluster else 3))  # a cluster takes seconds to start
            room = numbers.choice((0, 40, 400))
            disk.resize(disk.used() + room)
            suite.notes.append(f"{room} kB left in {stage}")
            first = run.wait(600)
            suite.notes.append(f"status {first.status}")
            _check_said(first)
            disk.resize(ROOM_KB)
            make_old(place)
            last = place.command("gantry", "run", **extra).wait(600)
            assert last.status == 0, f"the run after it ended with {last.status}:\n{last.output[-4000:]}"
            if wanted is not None:
                check_same(place, "train", wanted)
            check_finished(suite, place, ("ingest", "tune") if cluster else STAGES)
        return first.status != 0

    repeat_until_it_comes(once, "the run")


def _check_said(first: Ended) -> None:
    """Check that a command on a full disk ended all its processes, and says that the disk is full if it failed."""
    left = orphans()
    assert not left, f"still running: {'; '.join(left)}"
    if first.status:
        assert "Traceback" not in first.output, f"a traceback:\n{first.output[-3000:]}"
        full = ("no space left", "disk is full", "disk full", "no room")
        assert any(words in first.output.lower() for words in full), (
            f"does not say that the disk is full:\n{first.output[-2000:]}"
        )


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


def unmount_below(folder: Path) -> None:
    """Unmount what runs that were killed have left mounted below ``folder``."""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        if (place := line.split()[1]).startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", place], check=True)


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
