"""The commit of a checkout, or git's own reason why it is unknown."""

import os
import subprocess
from pathlib import Path

import pytest

from gan_core.errors import StageError
from pipelines.flow.workspace import _worktree
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.git import ANY_STATUS, Commit, GitError, current_commit, run_git


def git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit of one file."""
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_the_commit_and_whether_files_differ_from_it(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    assert current_commit(repository) == Commit(name=head)
    assert current_commit(repository).tags == {"gantry.git_commit": head}
    (repository / "new").write_text("")
    assert current_commit(repository).name == head
    (repository / "file").write_text("b")
    assert current_commit(repository).name == f"{head}+changes"


def test_the_commit_is_none_outside_git_and_before_the_first_commit(tmp_path: Path) -> None:
    assert current_commit(tmp_path) == Commit(name="none")
    git(tmp_path, "init", "-q")
    assert current_commit(tmp_path) == Commit(name="none")
    assert current_commit(tmp_path).warning == ""


def test_the_commit_of_another_users_checkout_is_unknown_with_gits_reason(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    commit = current_commit(repository)
    assert commit.name == "unknown"
    assert commit.tags["gantry.git_commit"] == "unknown"
    for said in (commit.tags["gantry.git_reason"], commit.warning):
        assert "detected dubious ownership" in said
        assert "safe.directory" in said


def test_a_checkout_that_git_cannot_compare_is_not_called_unchanged(repository: Path) -> None:
    (repository / ".git" / "index").write_bytes(b"junk")
    commit = current_commit(repository)
    assert commit.name == "unknown"
    assert "index" in commit.reason_unknown


def test_without_git_the_commit_is_unknown(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert current_commit(repository).reason_unknown == "git cannot be run: No such file or directory"


def test_variables_of_a_git_hook_do_not_change_the_repository(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_DIR", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"):
        monkeypatch.setenv(name, str(repository / "elsewhere"))
    assert len(current_commit(repository).name) == 40
    assert len(run_git(repository, "rev-parse", "HEAD", environment=os.environ)) == 40


def test_git_runs_with_the_given_environment(repository: Path) -> None:
    given = {"PATH": os.environ["PATH"], "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "a.b", "GIT_CONFIG_VALUE_0": "c"}
    assert run_git(repository, "config", "a.b", environment=given) == "c"
    assert run_git(repository, "config", "a.b", empty_on=(1,)) == ""


def test_folder_names_come_back_unchanged(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    for name in (os.fsdecode(b"caf\xe9 b"), " a\nb "):
        (tmp_path / name).mkdir()
        assert run_git(tmp_path / name, "rev-parse", "--show-prefix") == f"{name}/"


def test_an_error_quotes_gits_reason(repository: Path) -> None:
    with pytest.raises(
        GitError, match=f"git unknown-command failed in {repository}: git: 'unknown-command' is not a git"
    ):
        run_git(repository, "unknown-command")
    assert run_git(repository, "rev-parse", "--verify", "--quiet", "nothing", empty_on=(1,)) == ""
    assert len(run_git(repository, "rev-parse", "HEAD", empty_on=ANY_STATUS)) == 40


def test_a_reason_that_quotes_bytes_can_be_printed(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    with pytest.raises(GitError, match=r"caf\\xe9.*not a git repository") as raised:
        run_git(folder, "rev-parse", "HEAD")
    str(raised.value).encode()
    raised.value.reason.encode()


def test_a_run_of_a_revision_reports_gits_reason(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(StageError, match="dubious ownership"), _worktree(Checkout.at(repository), "HEAD", {}, "name"):
        pass
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    with pytest.raises(StageError, match="no revision 'none'"), _worktree(Checkout.at(repository), "none", {}, "name"):
        pass
