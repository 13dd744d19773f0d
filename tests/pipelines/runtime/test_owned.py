"""Folders that belong to a process: a folder and its owner note appear at once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gan_core.errors import StageError
from gan_core.files import write_json
from pipelines.runtime import owned, presence
from pipelines.runtime.guard import process_identity
from pipelines.runtime.owned import claim_folder, find_abandoned
from tests.pipelines.toy import environment

GONE = f"{process_identity().rsplit(':', 2)[0]}:{2**22 + 1}:1"


def test_folders_of_a_running_process_are_not_abandoned(tmp_path: Path) -> None:
    with claim_folder(tmp_path / "here" / "mine"):
        write_json(tmp_path / "here" / "killed" / "owner.json", GONE)
        assert find_abandoned(tmp_path / "here") == [tmp_path / "here" / "killed"]
    assert not (tmp_path / "here" / "mine").exists()
    assert find_abandoned(tmp_path / "nowhere") == []


def test_a_folder_can_be_claimed_only_once(tmp_path: Path) -> None:
    with claim_folder(tmp_path / "mine"):
        (tmp_path / "mine" / "file").touch()
        used = rf"/mine is in use by process {os.getpid()} on .*, which may still run\. Wait for it"
        with pytest.raises(StageError, match=used), claim_folder(tmp_path / "mine"):
            pass
        assert (tmp_path / "mine" / "file").exists()


def test_a_folder_of_a_process_that_cannot_be_seen_is_not_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with claim_folder(tmp_path / "mine"):
        # As in another container of this machine with the same host name: there is no such process.
        monkeypatch.setattr(owned, "is_process_alive", lambda identity: False)
        assert find_abandoned(tmp_path) == []
        # On another machine with the same name, that boot is unknown, and a lock may not be passed on.
        monkeypatch.setattr(presence, "read_boot", lambda: "another")
        monkeypatch.setattr(presence, "try_lock", lambda descriptor: True)
        assert find_abandoned(tmp_path) == [tmp_path / "mine"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux names the boot of a machine")
def test_a_folder_of_a_killed_container_is_abandoned_whatever_its_host_name_was(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, socket, sys\n"
        "from pipelines.runtime.owned import claim_folder\n"
        "socket.gethostname = lambda: '4f2c81d0a3e9'\n"
        "with claim_folder(pathlib.Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "left"], env=environment(), check=False)
    assert find_abandoned(tmp_path) == [tmp_path / "left"]


def test_a_folder_that_its_process_has_just_removed_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_json(tmp_path / name / "owner.json", GONE)

    def gone_in_between(path: Path) -> str:
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        return real(path)

    real = owned.read_json
    monkeypatch.setattr(owned, "read_json", gone_in_between)
    assert find_abandoned(tmp_path) == [tmp_path / "b"]
