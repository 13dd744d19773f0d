"""What git says of a checkout: the commit that results are traced back to, or git's own reason why it does not say."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gan_core.errors import StageError

_OF_A_CALLER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Variables that git sets for its hooks: they would lead to another repository."""


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
        except StageError as error:
            if "not a git repository" in str(error):
                return Commit(name="none")
            raise
        head = run_git(root, "rev-parse", "--verify", "--quiet", "HEAD", unless_status=1)
        if not head:  # no commit yet
            return Commit(name="none")
        changed = run_git(root, "status", "--porcelain", "--untracked-files=no")
    except StageError as error:
        return Commit(name="unknown", why_unknown=str(error))
    return Commit(name=head + ("+changes" if changed else ""))


def run_git(root: Path, *words: str, unless_status: int = 0) -> str:
    """Run a git command in ``root``; returns what it prints, or "" where it ends with ``unless_status``.

    Raises:
        StageError: git is not there, or refuses; with its own reason in one line.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _OF_A_CALLER} | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise StageError(f"git cannot be run: {error.strerror or error}") from error
    if done.returncode and done.returncode != unless_status:
        said = " ".join((done.stderr or done.stdout).split())
        raise StageError(said[:500] or f"git {words[0]} ended with status {done.returncode}")
    return done.stdout.strip() if not done.returncode else ""
