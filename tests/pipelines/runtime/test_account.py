"""Gantry runs under a user whom the system does not know by name, as containers have."""

import getpass
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gan_core.data import user_cache_dir
from gan_core.errors import SettingsError
from pipelines.runtime.account import git_signature, user_name

UNKNOWN = 54321


def gantry(*words: str, place: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without a name; only ``variables`` and what Python needs are in its environment."""
    program = "from pipelines.cli import main; main()"
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


def test_a_user_whom_the_system_does_not_know_has_a_number_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", unknown)
    assert user_name() == f"uid-{os.getuid()}"


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder of that user's; skips where that user may not read this interpreter or checkout."""
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


def test_a_stage_tells_what_is_missing_and_not_that_the_user_has_no_name(place: Path) -> None:
    done = gantry("stage", "ingest", place=place, HOME=str(place))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "not a DVC project" in done.stderr


def test_without_a_home_the_variable_to_set_is_named(place: Path) -> None:
    done = gantry("stage", "ingest", place=place)
    assert done.returncode == 1
    assert f"User {UNKNOWN} of this machine has no home directory" in done.stderr
    assert "Set HOME" in done.stderr


def test_the_cache_needs_no_home_where_a_variable_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("GANTRY_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert user_cache_dir() == Path("/caches/gantry")
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(SettingsError, match="Set GANTRY_CACHE_DIR"):
        user_cache_dir()


def test_a_commit_is_signed_as_this_user_where_git_names_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
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
