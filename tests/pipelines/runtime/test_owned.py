"""Folders that belong to a process: a folder and its owner note appear at once."""

import shutil
from pathlib import Path

import pytest

from gan_core.files import write_json
from pipelines.runtime import owned
from pipelines.runtime.guard import process_identity
from pipelines.runtime.owned import claim_folder, find_abandoned

GONE = f"{process_identity().rsplit(':', 2)[0]}:{2**22 + 1}:1"


def test_folders_of_a_running_process_are_not_abandoned(tmp_path: Path) -> None:
    claim_folder(tmp_path / "here" / "mine")
    write_json(tmp_path / "here" / "killed" / "owner.json", GONE)
    assert find_abandoned(tmp_path / "here") == [tmp_path / "here" / "killed"]
    assert find_abandoned(tmp_path / "nowhere") == []


def test_a_folder_can_be_claimed_only_once(tmp_path: Path) -> None:
    claim_folder(tmp_path / "mine")
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(FileExistsError, match="mine"):
        claim_folder(tmp_path / "mine")
    assert (tmp_path / "mine" / "file").exists()


def test_a_folder_that_its_process_has_just_removed_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_json(tmp_path / name / "owner.json", GONE)

    def gone_in_between(path: Path) -> str:
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        return real(path)

    real = owned.read_json
    monkeypatch.setattr(owned, "read_json", gone_in_between)
    assert find_abandoned(tmp_path) == [tmp_path / "b"]
