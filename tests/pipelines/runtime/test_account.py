"""Gantry runs under a user that the system does not know, as in containers."""

import getpass
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.runtime.account import git_signature, user_name

UNKNOWN = 54321


def gantry(*words: str, place: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without a name; only ``variables`` and what Python needs are in its environment."""
    return run_python("from pipelines.cli import main; main()", *words, place=place, **variables)


def run_python(program: str, *words: str, place: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=place,
        env={**kept, "PYTHONPATH": str(Path(__file__).parents[3]), **variables},
        user=UNKNOWN,
        group=UNKNOWN,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_unknown_user_is_named_by_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", unknown)
    assert user_name() == f"uid-{os.getuid()}"


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder of that user. Skips if that user cannot read this interpreter or checkout."""
    if os.getuid() != 0:
        pytest.skip("only root may become another user")
    with pytest.raises(KeyError):
        pwd.getpwuid(UNKNOWN)
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, UNKNOWN, UNKNOWN)
        try:
            readable = gantry("--version", place=Path(folder), HOME=folder).returncode == 0
        except PermissionError:
            readable = False
        if not readable:
            pytest.skip("the interpreter or the checkout lies in a folder that other users may not read")
        yield Path(folder)


def test_a_stage_reports_missing_data_not_the_unknown_user(place: Path) -> None:
    done = gantry("stage", "ingest", place=place, HOME=str(place))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "not a DVC project" in done.stderr


def test_without_a_home_directory_the_error_names_the_variable(place: Path) -> None:
    done = gantry("stage", "ingest", place=place)
    assert done.returncode == 1
    assert f"User {UNKNOWN} of this machine has no home directory" in done.stderr
    assert "Set HOME" in done.stderr


def test_a_worker_of_prefect_gives_dvc_a_user_name(place: Path) -> None:
    program = "import pipelines.flow.deployed, getpass; print(getpass.getuser())"
    assert run_python(program, place=place, HOME=str(place)).stdout == f"uid-{UNKNOWN}\n"


def test_a_commit_is_signed_as_this_user_without_git_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_COMMITTER_NAME", "Nightly")
    signature = git_signature(lambda name: "")
    assert signature["GIT_AUTHOR_NAME"] == user_name()
    assert signature["GIT_COMMITTER_NAME"] == "Nightly"
    assert signature["GIT_AUTHOR_EMAIL"].startswith(f"{user_name()}@")
    assert set(git_signature({"user.name": "Ada", "user.email": ""}.__getitem__)) == {
        "GIT_AUTHOR_EMAIL",
        "GIT_COMMITTER_EMAIL",
    }
    assert git_signature({"user.name": "Ada", "user.email": "ada@example.org"}.__getitem__) == {}
