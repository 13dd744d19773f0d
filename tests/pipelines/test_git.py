"""The commit of a checkout, or git's own reason why it is unknown."""

import subprocess
from pathlib import Path

import pytest

from gan_core.errors import StageError
from pipelines.flow.workspace import _worktree
from pipelines.git import Commit, current_commit, run_git


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


def test_outside_git_and_before_the_first_commit_there_is_none(tmp_path: Path) -> None:
    assert current_commit(tmp_path) == Commit(name="none")
    git(tmp_path, "init", "-q")
    assert current_commit(tmp_path) == Commit(name="none")
    assert current_commit(tmp_path).warning == ""


def test_a_checkout_of_another_user_is_unknown_with_gits_reason(
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
    assert "index" in commit.why_unknown


def test_without_git_the_commit_is_unknown(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert current_commit(repository).why_unknown == "git cannot be run: No such file or directory"


def test_a_hooks_variables_lead_to_no_other_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(repository / "elsewhere"))
    assert len(current_commit(repository).name) == 40


def test_what_git_refuses_is_said_in_its_words(repository: Path) -> None:
    with pytest.raises(StageError, match="unknown-command"):
        run_git(repository, "unknown-command")
    assert run_git(repository, "rev-parse", "--verify", "--quiet", "nothing", unless_status=1) == ""


def test_a_run_of_a_revision_says_what_git_has_against_the_checkout(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(StageError, match="dubious ownership"), _worktree(repository, "HEAD", {}, "name"):
        pass
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    with pytest.raises(StageError, match="no revision 'none'"), _worktree(repository, "none", {}, "name"):
        pass
