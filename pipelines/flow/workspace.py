"""The folder in which a run works: the checkout itself, or a git worktree of one commit that shares the checkout's DVC cache.

A worktree is in ``var/worktrees/NAME`` and is removed at the end of the run, even if the run fails, because all that matters is
elsewhere: work in progress and event logs in the main checkout's ``var`` (GANTRY_VAR), where a later run of the same stage key
resumes; results in the shared cache; the record of the run as a DVC experiment.
"""

import functools
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gan_core.errors import DataError, StageError
from gan_core.files import write_text
from pipelines.flow.overrides import apply_overrides, check_settings, has_own_settings
from pipelines.flow.pull import at_origin
from pipelines.runtime.account import git_signature
from pipelines.runtime.checkout import VAR_VARIABLE, Checkout
from pipelines.runtime.code import PACKAGES, check_own_code
from pipelines.runtime.dvc_command import announce_wait, dvc_command
from pipelines.runtime.dvc_error import dvc_error
from pipelines.runtime.git import ANY_STATUS, CALLER_VARIABLES, NEVER_ASK, GitError, run_git
from pipelines.runtime.owned import claim_folder, find_abandoned
from pipelines.runtime.process_lock import process_lock
from pipelines.runtime.project_files import check_project_files, missing_stages
from pipelines.runtime.redaction import redact_credentials
from pipelines.settings.flow import load_flow_settings
from pipelines.settings.params import read_params
from pipelines.settings.tracking_uri import project_tracking_uri
from pipelines.tracking.store import check_schema, check_store

LOG = logging.getLogger(__name__)

_STATE = "dvc-state"
"""File beside a worktree with the path of DVC's own files for it."""
PREFECT_SECRETS = ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_KEY")


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folder and the environment in which stages run."""

    checkout: Checkout
    environment: dict[str, str] = field(default_factory=dict)
    """The whole environment of the stages."""
    experiment: str | None = None
    """Name of the DVC experiment that records the run; None for a run in the checkout."""
    origin: str | None = None
    """The git repository to which the experiment is pushed, if the checkout is a worker's clone of it. Data and run cache are
    then pulled from DVC's remote, because other hosts may have made them."""


def checkout_workspace(checkout: Checkout) -> Workspace:
    """The checkout itself as workspace, as for ``dvc repro``."""
    return Workspace(checkout=checkout, environment=_environment())


@contextmanager
def worktree_workspace(
    checkout: Checkout,
    *,
    revision: str,
    overrides: Mapping[str, Any],
    name: str,
    from_client: bool = False,
    origin: str | None = None,
) -> Iterator[Workspace]:
    """Make a worktree of ``revision`` with overridden parameters and with its data; remove it after the block.

    Args:
        checkout: the main checkout.
        revision: a branch, tag or commit. Uncommitted changes are not part of it.
        overrides: values by dotted name in params.yaml.
        name: name of the worktree and of the experiment.
        from_client: whether a client of the Prefect server chose the revision; see :func:`find_commit`.
        origin: the repository of which ``checkout`` is a worker's clone. HEAD is then that of the repository.

    Raises:
        StageError: there is no such revision, or its data is neither in the cache nor on a remote.
        SettingsError: an override names no setting or has an invalid value.
    """
    if origin is not None:
        revision = at_origin(revision)
        check_fetched(checkout, revision, origin)
    with _worktree(checkout, revision, overrides, name, from_client=from_client) as (tree, environment):
        if origin is not None:
            environment |= NEVER_ASK  # nobody watches the terminal of a worker
        restore_data(tree, environment)
        yield Workspace(checkout=tree, environment=environment, experiment=name, origin=origin)


def check_fetched(checkout: Checkout, revision: str, origin: str) -> None:
    """Raise StageError if the clone ``checkout`` of ``origin`` lacks ``revision``: it was deleted there, or never pushed."""
    wanted = f"{revision}^{{commit}}"
    if not _git(checkout, "rev-parse", "--verify", "--quiet", "--end-of-options", wanted, empty_on=ANY_STATUS):
        place = redact_credentials(origin)
        raise StageError(
            f"Revision '{revision}' is not in {place} (fetched on host {socket.gethostname()}): it was deleted there, or never "
            f"pushed. Push it (git push origin {revision}), or deploy another one: gantry deploy --revision REV."
        )


def check_revision(checkout: Checkout, revision: str, overrides: Mapping[str, Any]) -> None:
    """Check in advance what later runs of ``revision`` need: that the revision exists, and its settings with ``overrides``.

    Raises:
        StageError: there is no such revision.
        SettingsError: an override names no setting, a value is invalid, or a time limit names no stage.
    """
    with _worktree(checkout, revision, overrides, f"check-{uuid.uuid4().hex[:12]}") as (tree, _):
        check_stages(tree)


def find_commit(checkout: Checkout, revision: str, *, from_client: bool = False) -> str:
    """The hash of the commit ``revision`` in the git repository of ``checkout``.

    Args:
        checkout: the checkout.
        revision: a branch, tag or commit. Git never reads it as an option.
        from_client: whether a client of the Prefect server chose it. Then it must be on a branch or tag of the repository or
            before its HEAD, because the repository may also hold fetched commits of other people.

    Raises:
        StageError: there is no repository, it cannot be read, or it has no such commit.
    """
    repository_prefix(checkout)
    commit = _git(
        checkout,
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        f"{revision}^{{commit}}",
        empty_on=ANY_STATUS,
    )
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        raise StageError(f"There is no revision '{revision}' in {checkout.root}. Name a branch, a tag or a commit.")
    if from_client:
        holders = _git(checkout, "for-each-ref", "--count=1", "--contains", commit, "refs/heads", "refs/tags")
        if not holders and _git(checkout, "merge-base", commit, "HEAD", empty_on=(1,)) != commit:
            raise StageError(
                f"The revision '{revision}' is not on a branch or tag of {checkout.root}, so a run through the Prefect server "
                "may not use it."
            )
    return commit


def repository_prefix(checkout: Checkout) -> Path:
    """The path of ``checkout`` within its git repository; ``.`` for the root of the repository.

    Raises:
        StageError: there is no repository, or git cannot read it.
    """
    try:
        return Path(_git(checkout, "rev-parse", "--show-prefix") or ".")
    except GitError as error:
        if "not a git repository" not in error.reason:
            raise
        raise StageError(
            f"{checkout.root} is not in a git repository, so it has no revisions. Make a repository (git init, git add -A, "
            "git commit), or run the folder as it is: gantry run."
        ) from None


@contextmanager
def _worktree(
    checkout: Checkout, revision: str, overrides: Mapping[str, Any], name: str, *, from_client: bool = False
) -> Iterator[tuple[Checkout, dict[str, str]]]:
    """Make a worktree with checked settings and without data; yields it and the environment of its stages."""
    commit = find_commit(checkout, revision, from_client=from_client)
    remove_abandoned(checkout)
    holder = checkout.worktrees / name
    top = holder / "tree"
    # The checkout may be a subfolder of a larger repository. Its worktree shares var, which has the work in progress.
    tree = Checkout(root=(top / repository_prefix(checkout)).resolve(), var=checkout.var)
    with claim_folder(holder, functools.partial(_remove, checkout)):
        # Without hooks: that of dvc install would check out data before the worktree has a cache, and its failure is git's.
        _git(checkout, "-c", f"core.hooksPath={os.devnull}", "worktree", "add", "--detach", str(top), commit)
        if not tree.dvc_yaml.is_file():
            raise StageError(
                f"Revision '{revision}' has no {tree.dvc_yaml.relative_to(top.resolve())}, so it is not a Gantry project."
            )
        LOG.info("Worktree of %s at %s.", commit[:12], tree.root)
        if os.pathsep in str(tree.root) and any((tree.root / package).is_dir() for package in PACKAGES):
            raise StageError(
                f"{checkout.root} has a '{os.pathsep}' in its path, where Python ends an entry of PYTHONPATH: the stages would "
                "run the installed code, not that of the commit. Rename the folder, or run it as it is: gantry run."
            )
        environment = {
            **_environment(),
            **git_signature(lambda name: _git(checkout, "config", name, empty_on=ANY_STATUS)),
            VAR_VARIABLE: str(tree.var),
            # So that stages import the code of the commit, not the code of this process.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(tree.root), os.environ.get("PYTHONPATH")])),
        }
        share_cache(checkout, tree)
        _note_state(holder, tree)
        apply_overrides(tree, overrides)
        if tracking := project_tracking_uri(tree.root, base=checkout.root):
            environment["GANTRY_TRACKING_URI"] = tracking
        check_settings(tree, environment)
        yield tree, environment


def remove_abandoned(checkout: Checkout) -> None:
    """Remove the worktrees of runs whose process was killed."""
    for holder in find_abandoned(checkout.worktrees):
        LOG.info("Removing the worktree of a killed run, %s.", holder)
        _remove(checkout, holder)


def _remove(checkout: Checkout, holder: Path) -> None:
    # Twice --force: of a process that was killed while it made the worktree, git finds it locked.
    words = ("worktree", "remove", "--force", "--force", str(holder / "tree"))
    _git(checkout, *words, empty_on=ANY_STATUS)
    with suppress(OSError):  # the process was killed before it had noted it
        shutil.rmtree((holder / _STATE).read_text(encoding="utf-8"), ignore_errors=True)
    shutil.rmtree(holder, ignore_errors=True)
    # If git refused a damaged worktree, it forgets the one that is gone. Not by git worktree prune, which would also forget the
    # user's own worktrees in places that cannot be reached now, such as outside this container.
    _git(checkout, *words, empty_on=ANY_STATUS)


def _note_state(holder: Path, tree: Checkout) -> None:
    """Note the folder outside of the project where DVC keeps hashes of the files of ``tree``, so that :func:`_remove` finds it.

    DVC has one for each path that ever was a project (in /var/tmp), and never removes it. No other worktree can use it again.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with suppress(DvcException), Repo(str(tree.root)) as repo:  # a damaged project, which is reported later
        write_text(holder / _STATE, repo.site_cache_dir)


def _environment() -> dict[str, str]:
    """The environment of a stage: this interpreter's commands come first in PATH, and variables of other runs are removed."""
    # A stage does not use the Prefect server.
    foreign = (
        "PREFECT__",
        *PREFECT_SECRETS,
        "DVC_STAGE",
        "DVC_ROOT",
        "MLFLOW_RUN_ID",
        *CALLER_VARIABLES,
    )
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
    }


def share_cache(checkout: Checkout, tree: Checkout) -> None:
    """Make the DVC project ``tree`` use the cache and the local settings (credentials of remotes) of ``checkout``.

    If the file system allows it, data is linked into the worktree and not copied, because it is only read.
    """
    from configobj import ConfigObj
    from dvc.config import Config, _pack_named
    from dvc.repo import Repo

    class _LocalConfig(Config):
        """DVC reads its configuration as UTF-8 but writes it as ASCII, and paths may have other letters.

        It also lets every user read it, and the local one may hold credentials.
        """

        def _save_config(self, level: str, conf_dict: dict[str, Any]) -> None:
            Path(self.files[level]).parent.mkdir(parents=True, exist_ok=True)
            with open(self.files[level], "wb", opener=functools.partial(os.open, mode=0o600)) as file:
                ConfigObj(_pack_named(conf_dict), encoding="utf-8").write(file)

    with Repo(str(checkout.root)) as repo:
        # DVC makes relative paths absolute when it reads them. When it saves them below, they are relative to the worktree.
        own = repo.config.load_one("local")
        remotes = {**repo.config.load_one("repo")["remote"], **own["remote"]}
        cache: dict[str, Any] = {"dir": str(Path(repo.cache.local_cache_dir).resolve())}
        if "type" not in repo.config["cache"]:
            cache["type"] = ["reflink", "hardlink", "copy"]
    with _LocalConfig(str(tree.root / ".dvc")).edit("local") as local:
        local.update({section: values for section, values in own.items() if values})
        local["remote"] = remotes
        local["cache"] = {**own["cache"], **cache}


def check_checkout(checkout: Checkout, stages: Sequence[str]) -> None:
    """Check all that can be checked before a run of the checkout starts: settings, raw data, names of stages, tracking store.

    Raises:
        SettingsError: params.yaml is invalid.
        StageError: one of ``stages`` is not in dvc.yaml, or the stages would run another copy of the code than the checkout's.
        DataError: the raw data does not exist.
        TrackingError: the tracking database is damaged, or not one of the installed MLflow. (A run would find out only when it
            registers, after its training.)
    """
    from pipelines.flow.graph import read_plan

    check_own_code(checkout.root)
    # Checking the settings takes seconds, in an interpreter of its own.
    with ThreadPoolExecutor(max_workers=1) as beside:
        settings = beside.submit(check_settings, checkout, _environment())
        try:
            if uri := project_tracking_uri(checkout.root):
                check_store(uri)
                check_schema(uri)
            check_stages(checkout)
            if stages:
                read_plan(checkout, stages)
            if has_own_settings(checkout):
                check_raw_data(checkout)
        except Exception:
            settings.result()  # an error of the settings may be the cause of this one, so it takes precedence
            raise
        settings.result()


def check_raw_data(checkout: Checkout) -> None:
    """Raise DataError if the raw data that params.yaml names does not exist. The message lists what exists, and a remedy."""
    folder, name = checkout.raw, read_params(checkout.params)["data"]["name"]
    if checkout.raw_data(name).exists():
        return
    if (pointer := checkout.raw_pointer(name)).exists():
        place = pointer.relative_to(checkout.root)
        raise DataError(
            f"The raw data {folder / name} does not exist. Restore it from DVC's cache (dvc checkout {place}) or remote "
            f"(dvc pull {place}), or fetch a public dataset again: gantry data fetch {name}."
        )
    there = sorted(path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    raise DataError(
        f"data.name: there is no raw data '{name}' in {folder}, which has {', '.join(there) or 'none'}. Fetch a public dataset "
        f"(gantry data fetch NAME), or add your own pictures: gantry data add {name} PATH."
    )


@contextmanager
def exclusive_run(checkout: Checkout) -> Iterator[None]:
    """Lock ``checkout`` for the length of the block, so that no two runs use its files at the same time.

    Raises:
        StageError: another run holds the lock. The message has its process id.
    """
    with process_lock(checkout.run_lock) as holder:
        if holder:
            raise StageError(
                f"Another run is in progress in {checkout.root} ({holder}). Wait for it, or end it. To run a commit at the "
                "same time: gantry run --revision HEAD."
            )
        yield


def check_stages(checkout: Checkout) -> None:
    """Check the names of stages in the section flow, and warn if dvc.yaml lacks some of Gantry's stages.

    Raises:
        SettingsError: the section flow names a stage that dvc.yaml does not have.
        StageError: a file of the project is damaged.
    """
    from pipelines.flow.graph import read_plan

    load_flow_settings(checkout.params).check_stages(node.name for node in read_plan(checkout))
    if missing := missing_stages(checkout):
        # A file that is truncated between two stages looks like one from which the user removed stages.
        LOG.warning(
            "%s has no stage %s, so it does not run. If you did not remove it yourself, restore the file: git checkout "
            "dvc.yaml.",
            checkout.dvc_yaml,
            ", ".join(missing),
        )


def restore_data(checkout: Checkout, environment: Mapping[str, str]) -> None:
    """Restore the data and results of the commit from DVC's cache or, if they are not there, from the default remote.

    Raises:
        StageError: raw data is in neither, or a project file of the commit is damaged.
        SettingsError: params.yaml of the commit cannot be read.
    """
    check_project_files(checkout)
    run_dvc(checkout, environment, "checkout", "--allow-missing", "--quiet")
    missing = missing_data(checkout)
    if missing and has_remote(checkout):
        LOG.info("%s not in the cache; pulling from the remote.", ", ".join(missing))
        try:
            run_dvc(checkout, environment, "pull", *missing)
        except StageError as error:
            LOG.warning("%s", error)
        missing = missing_data(checkout)
    if missing:
        raise StageError(
            f"The data of this commit is not in DVC's cache: {', '.join(missing)}. Run dvc commit {' '.join(missing)} in the "
            "checkout, or set a remote that has the data (dvc remote add -d)."
        )


def missing_data(checkout: Checkout) -> list[str]:
    """The data sources (``.dvc`` files) that the pipeline needs and whose data does not exist."""
    from pipelines.flow.graph import read_plan

    sources = [node for node in read_plan(checkout) if not node.is_stage]
    return [node.name for node in sources if not all(checkout.out(out).exists() for out in node.outs)]


def has_remote(checkout: Checkout) -> bool:
    """Whether a default DVC remote is set."""
    from dvc.repo import Repo

    with Repo(str(checkout.root)) as repo:
        return bool(repo.config["core"].get("remote"))


def run_dvc(checkout: Checkout, environment: Mapping[str, str], *words: str) -> str:
    """Run a short DVC command; returns its output.

    Raises:
        StageError: the command failed. The message has the last lines of its output, without secrets: Prefect keeps the message
            of a task's error as it is.
    """
    announce_wait(checkout.root, LOG)
    # surrogateescape keeps names of folders that cannot be decoded.
    done = subprocess.run(
        dvc_command(*words),
        cwd=checkout.root,
        env=dict(environment),
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )
    if done.returncode:
        why = dvc_error(done.stdout + done.stderr)
        raise StageError(redact_credentials(f"dvc {' '.join(words)} failed in {checkout.root}: {why}"))
    return done.stdout.strip()


def _git(checkout: Checkout, *words: str, empty_on: Container[int] = ()) -> str:
    """:func:`run_git` with the environment of a stage, because hooks of the repository run in it."""
    return run_git(checkout.root, *words, empty_on=empty_on, environment=_environment())
