"""What git says of a checkout: the commit that results are traced back to, or git's own reason why it does not say."""

import os
import subprocess
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gan_core.errors import StageError

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
"""Variables that git sets for its hooks: they lead to another repository."""
ANY_STATUS = range(-64, 256)
"""For ``empty_on`` of :func:`run_git`: whatever comes of the command."""


class GitError(StageError):
    """git refused a command."""

    def __init__(self, words: Sequence[str], root: Path, reason: str) -> None:
        place = os.fsencode(root).decode("utf-8", "backslashreplace")
        super().__init__(f"git {' '.join(words)} failed in {place}: {reason}")
        self.reason = reason
        """git's own words, in one line."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The commit of a checkout."""

    name: str
    """Its hash, with ``+changes`` where tracked files differ from it; ``none`` outside git or before the first commit;
    ``unknown`` where git does not say."""
    why_unknown: str = ""
    """git's reason; empty where the commit is known, or there is none."""

    @property
    def tags(self) -> dict[str, str]:
        """Lineage tags for a run or a version."""
        reason = {"gantry.git_reason": self.why_unknown} if self.why_unknown else {}
        return {"gantry.git_commit": self.name, **reason}

    @property
    def warning(self) -> str:
        """What a person is to know of it; empty where there is nothing."""
        if not self.why_unknown:
            return ""
        return f"the git commit is unknown, and what is made now does not lead back to its code. git says: {self.why_unknown}"


def current_commit(root: Path) -> Commit:
    """The commit of the checkout ``root``. Never raises: a long training is not lost for want of its commit."""
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
        return Commit(name="unknown", why_unknown=error.reason)
    return Commit(name=head + ("+changes" if changed else ""))


def run_git(
    root: Path, *words: str, empty_on: Container[int] = (), environment: Mapping[str, str] | None = None
) -> str:
    """Run a git command in ``root``; returns what it prints, without the line breaks at its end.

    File names in it are as Python has them (``os.fsdecode``), also those that are not UTF-8.

    Args:
        root: where git looks for the repository. Variables of the environment that name another one are not passed on.
        words: the command and its arguments.
        empty_on: exit statuses that return "" in place of an error.
        environment: environment of git and of the repository's hooks; this process's by default.

    Raises:
        GitError: git is not there, or refuses; names the command, the place and git's own reason, in one line.
    """
    given = os.environ if environment is None else environment
    # Callers look for git's own words in its errors.
    own = {name: value for name, value in given.items() if name not in CALLER_VARIABLES} | {"LC_ALL": "C"}
    try:
        done = subprocess.run(["git", "-C", str(root), *words], env=own, capture_output=True, check=False)
    except OSError as error:
        raise GitError(words, root, f"git cannot be run: {error.strerror or error}") from error
    if done.returncode:
        if done.returncode in empty_on:
            return ""
        reason = " ".join((done.stderr or done.stdout).decode("utf-8", "backslashreplace").split())
        raise GitError(words, root, reason[:500] or f"status {done.returncode}")
    return os.fsdecode(done.stdout).rstrip("\n")
