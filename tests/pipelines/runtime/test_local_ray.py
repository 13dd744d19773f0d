"""A Ray cluster that only its owner can reach: its folder, its variables, and the watch over its processes."""

import errno
import os
import stat
import subprocess
import sys
import time

import pytest

from gan_core.errors import StageError
from pipelines.runtime import local_ray as module
from pipelines.runtime.guard import process_identity
from pipelines.runtime.local_ray import ProcessWatch, private_environment, session_folder
from pipelines.runtime.redaction import redact_credentials


@pytest.fixture
def room(monkeypatch):
    """Allow socket paths as long as those of tests."""
    monkeypatch.setattr(module, "_LONGEST_SOCKET", 10_000)


def test_only_the_owner_can_enter_the_folder_of_logs_and_sockets(tmp_path, room):
    wanted = tmp_path / "ray"
    wanted.mkdir(mode=0o777)
    wanted.chmod(0o777)  # as Ray left it
    folder = session_folder(wanted)
    assert os.path.dirname(folder) == str(wanted)
    assert stat.S_IMODE(wanted.stat().st_mode) == 0o700


def test_a_path_too_long_for_a_socket_is_replaced_by_a_private_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "t"))
    private = tmp_path / "t" / f"gantry-ray-{os.getuid()}"
    monkeypatch.setattr(module, "_LONGEST_SOCKET", len(str(private)) + module._LONGEST_BELOW)
    assert session_folder(tmp_path / ("long" * 20)) == str(private / "s")
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not list(tmp_path.glob("long*"))


def test_a_folder_without_sockets_is_replaced_by_a_private_one(tmp_path, room, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "t"))

    class WindowsDisk(module.socket.socket):
        def bind(self, address):
            if address.startswith(str(tmp_path / "project")):
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(module.socket, "socket", WindowsDisk)
    monkeypatch.setattr(module.Path, "unlink", lambda path: None)
    assert session_folder(tmp_path / "project") == str(tmp_path / "t" / f"gantry-ray-{os.getuid()}" / "s")


def test_a_folder_of_another_user_is_rejected(tmp_path, room, monkeypatch):
    (tmp_path / "ray").mkdir()
    monkeypatch.setattr(module.os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    with pytest.raises(StageError, match="belongs to another user"):
        session_folder(tmp_path / "ray")
    monkeypatch.undo()
    (tmp_path / "link").symlink_to(tmp_path / "ray")
    monkeypatch.setattr(module, "_LONGEST_SOCKET", 10_000)
    with pytest.raises(StageError, match="is not a folder"):
        session_folder(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(StageError, match="is not a folder"):
        session_folder(tmp_path / "file")


def test_old_sessions_logs_are_removed_but_not_those_of_a_living_owner(tmp_path, room):
    dead = 2**22 + 1
    names = [f"session_2026-11-2{day}_00-00-00_000000_{dead}" for day in range(5)]
    names[0] = f"session_2026-11-20_00-00-00_000000_{os.getpid()}"
    for name in names:
        (tmp_path / "s" / name).mkdir(parents=True)
    session_folder(tmp_path)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [names[0], *names[2:]]


def test_the_token_is_secret_and_the_environment_changes_neither_it_nor_the_interface(monkeypatch):
    for name, value in {
        "RAY_AUTH_MODE": "disabled",
        "RAY_AUTH_TOKEN": "x",
        "RAY_raylet_start_wait_time_s": "9",
    }.items():
        monkeypatch.setenv(name, value)
    token = module.new_token()
    settings = private_environment(token)
    assert (settings["RAY_AUTH_MODE"], settings["RAY_AUTH_TOKEN"]) == ("token", token)
    assert settings["RAY_raylet_start_wait_time_s"] == "9", "a user's own limit of time is kept"
    assert redact_credentials(token, {}) == "***"


def test_a_dead_process_interrupts_the_main_thread():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    watch = ProcessWatch({"helper": process_identity(process.pid)}, every=0.1)

    def work() -> None:
        with watch:
            assert watch.find_dead() is None
            process.kill()
            process.wait()
            time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert watch.died == f"helper, process {process.pid},"
