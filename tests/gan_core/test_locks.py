"""A lock belongs to one opening at a time; nobody but gan_core.locks asks the system for one."""

import contextlib
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_core.disk import describe_os_error
from gan_core.locks import file_lock, folder_lock, locked, try_lock

PACKAGES = Path(__file__).parents[2]


def test_a_folder_lock_is_held_by_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with folder_lock(folder) as first, folder_lock(folder) as second:
        assert (first, second) == (True, False)
    assert not folder.exists(), "what was made for it and stayed empty is gone"
    with folder_lock(folder) as again:
        assert again
        (folder / "result").touch()
    assert (folder / "result").exists()


def test_a_file_is_locked_by_one_opening_until_it_is_closed(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert try_lock(first)
    assert not try_lock(second)
    os.close(first)
    assert try_lock(second)
    os.close(second)


def test_a_lock_is_released_at_the_end_of_the_block_although_the_file_stays_open(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT) for _ in range(2))
    with locked(first):
        assert not try_lock(second)
    assert try_lock(second)
    os.close(first)
    os.close(second)


def test_a_timeout_of_0_does_not_wait(tmp_path: Path) -> None:
    with file_lock(tmp_path / "file", timeout=0) as first, file_lock(tmp_path / "file", timeout=0) as second:
        assert (first, second) == (True, False)


def test_a_lock_is_waited_for_and_released_when_its_process_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from gan_core.locks import file_lock\n"
        "with file_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    with subprocess.Popen(command, cwd=PACKAGES, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        began = time.monotonic()
        with file_lock(tmp_path / "file", timeout=0.6) as ours:
            assert not ours
        assert time.monotonic() - began >= 0.6
        holder.kill()
        with file_lock(tmp_path / "file") as ours:
            assert ours


def test_a_file_system_without_locks_is_an_error_that_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:  # as Lustre does, unless it is mounted with flock
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OSError, match="cannot be locked") as caught, folder_lock(tmp_path):
        pass
    said = describe_os_error(caught.value)
    assert said.startswith(f"{tmp_path}: it cannot be locked (Function not implemented). Use a folder on a file system")


def test_only_one_module_asks_the_system_for_locks() -> None:
    sources = [path for package in ("gan_core", "pipelines") for path in (PACKAGES / package).rglob("*.py")]
    asking = [path.relative_to(PACKAGES).as_posix() for path in sources if "fcntl" in path.read_text(encoding="utf-8")]
    assert asking == ["gan_core/locks.py"]


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=20))
def test_a_folder_lock_is_held_by_one_process_at_a_time(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool]]
) -> None:
    """At each step one of four holders acquires or releases the lock; it is acquired if and only if nobody holds it."""
    folder = tmp_path_factory.mktemp("held") / "folder"
    folder.mkdir()
    inside: dict[int, contextlib.ExitStack] = {}
    owner = None
    for who, comes in steps:
        if comes and who not in inside:
            inside[who] = contextlib.ExitStack()
            got = inside[who].enter_context(folder_lock(folder))
            assert got == (owner is None)
            owner = who if got else owner
        elif not comes and who in inside:
            inside.pop(who).close()
            owner = None if owner == who else owner
    for stack in inside.values():
        stack.close()
    with folder_lock(folder) as free:
        assert free
