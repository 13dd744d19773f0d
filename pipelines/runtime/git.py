"""Run git, and find the commit of a checkout."""

import os
import subprocess
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gan_core.errors import StageError
from pipelines.runtime.redaction import redact_credentials

CALLER_VARIABLES = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
)
"""Variables that git sets for its hooks. They would make git use another repository."""
NEVER_ASK = {"GIT_TERMINAL_PROMPT": "0"}
"""Variables that keep git, and DVC's client of git, from asking for a password on the terminal."""
ANY_STATUS = range(-64, 256)
"""For ``empty_on`` of :func:`run_git`: no exit status is an error."""


class GitError(StageError):
    """A git command failed. Its message has no secrets, because Prefect and MLflow keep it."""

    def __init__(self, arguments: Sequence[str], root: Path, reason: str) -> None:
        place = os.fsencode(root).decode("utf-8", "backslashreplace")
        self.reason = redact_credentials(reason)
        """git's own error message, in one line."""
        super().__init__(redact_credentials(f"git {' '.join(arguments)} failed in {place}: {self.reason}"))


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The commit of a checkout."""

    name: str
    """Its hash, with ``+changes`` if tracked files differ from it; ``none`` outside git or before the first commit;
    ``unknown`` if git fails."""
    reason_unknown: str = ""
    """git's error message if the commit is ``unknown``; empty otherwise."""

    @property
    def tags(self) -> dict[str, str]:
        """The lineage tags of an MLflow run or a registered version."""
        reason = {"gantry.git_reason": self.reason_unknown} if self.reason_unknown else {}
        return {"gantry.git_commit": self.name, **reason}

    @property
    def warning(self) -> str:
        """A warning if the commit is unknown; empty otherwise."""
        if not self.reason_unknown:
            return ""
        return f"the git commit is unknown, so results cannot be traced back to their code. git says: {self.reason_unknown}"


def current_commit(root: Path) -> Commit:
    """The commit of the checkout ``root``. Never raises: an unknown commit must not end a long training run."""
    try:
        try:
            run_git(root, "rev-parse", "--git-dir")
        except GitError as error:
            if "not a git repository" in error.reason:
                return Commit(name="none")
            raise
        head = run_git(root, "rev-parse", "--verify", "--quiet", "HEAD", empty_on=(1,))
        if not head:  # no commit yet
            return Commit(name="none")
        changed = run_git(root, "status", "--porcelain", "--untracked-files=no")
    except GitError as error:
        return Commit(name="unknown", reason_unknown=error.reason)
    return Commit(name=head + ("+changes" if changed else ""))


def run_git(
    root: Path,
    *arguments: str,
    empty_on: Container[int] = (),
    environment: Mapping[str, str] | None = None,
    may_ask: bool = True,
) -> str:
    """Run a git command in ``root`` and return its output without the line breaks at its end.

    The output is decoded with ``os.fsdecode``, so file names that are not UTF-8 are kept.

    Args:
        root: where git looks for the repository. Environment variables that name another repository are not passed on.
        arguments: the git command and its arguments.
        empty_on: exit statuses for which "" is returned instead of raising an error.
        environment: environment of git and of the repository's hooks. Default: that of this process.
        may_ask: whether git and ssh may ask for a password or a host key on the terminal. If False, they fail instead.

    Raises:
        GitError: git is not installed, or the command fails. The message has the command, the folder and git's reason.
    """
    given = os.environ if environment is None else environment
    # LC_ALL=C: callers look for English words in git's errors.
    own = {name: value for name, value in given.items() if name not in CALLER_VARIABLES} | {"LC_ALL": "C"}
    stdin = None
    if not may_ask:
        own |= NEVER_ASK
        stdin = subprocess.DEVNULL
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            env=own,
            stdin=stdin,
            capture_output=True,
            check=False,
            start_new_session=not may_ask,  # without a terminal, which ssh would open by its name
        )
    except OSError as error:
        raise GitError(arguments, root, f"git cannot be run: {error.strerror or error}") from error
    if done.returncode:
        if done.returncode in empty_on:
            return ""
        reason = " ".join((done.stderr or done.stdout).decode("utf-8", "backslashreplace").split())
        raise GitError(arguments, root, reason[:500] or f"status {done.returncode}")
    return os.fsdecode(done.stdout).rstrip("\n")
