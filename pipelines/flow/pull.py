"""The pull steps of a deployment: what a Prefect worker does before a run, to have a checkout of the project on its host.

A worker keeps one clone for each project in the user's cache folder. Later runs only fetch what is new, use the same DVC cache,
and resume the work in progress of a killed run. Prefect's own step ``git_clone`` makes a shallow clone in a folder that ends
with the run, so that each run would pull all data again and begin its stages from the start.
"""

import contextlib
import functools
import hashlib
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

from gan_core.cache import user_cache_dir
from gan_core.errors import StageError
from gan_core.locks import file_lock
from pipelines.runtime.git import ANY_STATUS, GitError, run_git
from pipelines.runtime.redaction import redact_credentials

CHECKOUT_VARIABLE = "GANTRY_CHECKOUT"
"""The checkout of a worker on the same machine; ``gantry worker`` sets it."""
ORIGIN = "origin"
ORIGIN_HEAD = f"refs/remotes/{ORIGIN}/HEAD"
"""Where a clone notes the HEAD of its repository."""
STALE_SECONDS = 300.0
"""A lock file of git that is older was left by a process that was killed: git locks the longest for a checkout."""


def clone(repository: str, revision: str, subfolder: str = ".") -> dict[str, Any]:
    """Clone a git repository on this host, or fetch what is new in it. The clone is kept for later runs.

    Args:
        repository: address of the repository, without credentials: git's own credential helper or ssh key is used.
        revision: the branch, tag or commit that the clone shows. If it is gone, the clone shows the repository's HEAD, and the
            run then says that its revision is gone.
        subfolder: path of the project within the repository.

    Returns:
        The folder of the project, as Prefect expects it from a pull step.

    Raises:
        StageError: the repository cannot be reached, or has no such subfolder. The message names this host.
    """
    folder = clone_folder(repository)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A worker may have a terminal, but nobody watches it: a question there would hold up the run, and the lock, without end.
    git = functools.partial(run_git, may_ask=False)
    with file_lock(folder.with_name(f"{folder.name}.lock")):
        try:
            _remove_stale_locks(folder)
            git(folder.parent, "init", "--quiet", str(folder))  # also completes one that was killed
            git(folder, "config", f"remote.{ORIGIN}.url", repository)
            # HEAD is detached below, so that the branches here can be the repository's own branches.
            branches = "+refs/heads/*:refs/heads/*"
            git(folder, "checkout", "--quiet", "--detach", empty_on=ANY_STATUS)
            git(folder, "fetch", "--quiet", "--prune", "--force", "--tags", "--update-head-ok", ORIGIN, branches)
        except GitError as error:
            raise StageError(
                f"Host {socket.gethostname()} cannot fetch {redact_credentials(repository)}: {error.reason.rstrip('.')}. Check "
                "the address in prefect.yaml, and that this host's user may read the repository (ssh key or git credential "
                "helper)."
            ) from error
        # It fails if HEAD of the repository is a branch that nobody has pushed.
        git(folder, "fetch", "--quiet", ORIGIN, f"+HEAD:{ORIGIN_HEAD}", empty_on=ANY_STATUS)
        wanted = f"{at_origin(revision)}^{{commit}}"
        known = git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", wanted, empty_on=(1, 128))
        known = known or git(folder, "rev-parse", "--verify", "--quiet", ORIGIN_HEAD, empty_on=(1, 128))
        if not known:
            raise StageError(
                f"{redact_credentials(repository)} has no revision '{revision}', and its HEAD is no branch that was pushed. "
                f"Push it (git push origin {revision}), or deploy another one: gantry deploy --revision REV."
            )
        git(folder, "checkout", "--quiet", "--force", "--detach", known)
    project = folder / subfolder
    if not project.is_dir():
        raise StageError(
            f"{redact_credentials(repository)} has no folder {subfolder} at revision {revision}, which prefect.yaml names."
        )
    return {"directory": str(project)}


def _remove_stale_locks(folder: Path) -> None:
    """Remove the lock files of git processes in the clone ``folder`` that were killed, perhaps with this host.

    Git itself never does: each later run on this host would fail.
    """
    repository = folder / ".git"
    for lock in (*repository.glob("*.lock"), *repository.glob("refs/**/*.lock")):
        with contextlib.suppress(FileNotFoundError):  # a run in a worktree of the clone has just finished with it
            if time.time() - lock.stat().st_mtime > STALE_SECONDS:
                lock.unlink()


def local_checkout() -> dict[str, Any]:
    """Use the checkout in which ``gantry worker`` was started, for a project without a git remote.

    Raises:
        StageError: the worker was not started by ``gantry worker``.
    """
    place = os.environ.get(CHECKOUT_VARIABLE, "")
    if not place or not (Path(place) / "dvc.yaml").is_file():
        raise StageError(
            f"The worker on host {socket.gethostname()} knows no checkout of this project, and the deployment names no git "
            "remote. Start gantry worker in the checkout, or add a remote (git remote add origin URL) and run gantry deploy "
            "--clone."
        )
    return {"directory": place}


def at_origin(revision: str) -> str:
    """``revision`` for use in a clone. HEAD means that of the repository: the clone's own is what the last run asked for."""
    return re.sub(r"^HEAD(?![\w./-])", ORIGIN_HEAD, revision)


def clone_folder(repository: str) -> Path:
    """Where this host keeps its clone of ``repository``: a folder in the user's cache."""
    name = repository_name(repository) or "project"
    return user_cache_dir() / "deployments" / f"{name}-{hashlib.sha256(repository.encode()).hexdigest()[:12]}"


def repository_name(address: str) -> str:
    """The last part of the address of a git repository; "" if it has none. It may follow a colon: ``git@host:toy.git``."""
    return re.split("[/:]", address.rstrip("/"))[-1].removesuffix(".git")
