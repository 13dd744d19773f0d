"""Folders that belong to a process: seen with their owner or not at all."""

import shutil
from pathlib import Path

import pytest

from gan_core.files import write_json
from pipelines.runtime import owned
from pipelines.runtime.guard import identity
from pipelines.runtime.owned import abandoned, claim

GONE = f"{identity().rsplit(':', 2)[0]}:{2**22 + 1}:1"


def test_what_this_process_claims_is_not_abandoned(tmp_path: Path) -> None:
    claim(tmp_path / "here" / "mine")
    write_json(tmp_path / "here" / "killed" / "owner.json", GONE)
    assert abandoned(tmp_path / "here") == [tmp_path / "here" / "killed"]
    assert abandoned(tmp_path / "nowhere") == []


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    claim(tmp_path / "mine")
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(FileExistsError, match="mine"):
        claim(tmp_path / "mine")
    assert (tmp_path / "mine" / "file").exists()


def test_one_that_its_process_removes_meanwhile_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_json(tmp_path / name / "owner.json", GONE)

    def gone_in_between(path: Path) -> str:
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        return real(path)

    real = owned.read_json
    monkeypatch.setattr(owned, "read_json", gone_in_between)
    assert abandoned(tmp_path) == [tmp_path / "b"]
