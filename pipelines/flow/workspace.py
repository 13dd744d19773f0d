"""Where a run works: the checkout itself, or a git worktree of one commit that shares the checkout's DVC cache.

A worktree lives in ``var/worktrees/NAME`` for the length of the run and is removed with it, also when the run fails:
everything of value is elsewhere by then. Work in progress and event logs are in the main checkout's ``var`` (GANTRY_VAR),
where a later run of the same stage key resumes; results are in the shared cache; the record is a DVC experiment.
"""

import datetime
import logging
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gan_core.errors import DataError, SettingsError, StageError, nearest
from gan_core.locks import try_lock
from pipelines.runtime.account import git_signature
from pipelines.runtime.checkout import VAR_VARIABLE, Checkout
from pipelines.runtime.dvc_error import dvc_error
from pipelines.runtime.git import ANY_STATUS, CALLER_VARIABLES, GitError, run_git
from pipelines.runtime.owned import abandoned, claim
from pipelines.runtime.project_files import check_project_files, missing_stages
from pipelines.settings.flow import load_flow_settings
from pipelines.settings.params import read_params
from pipelines.settings.tracking_uri import project_tracking_uri
from pipelines.tracking.store import check_store

LOG = logging.getLogger(__name__)

PREFECT_SECRETS = ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_KEY")


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A folder to run stages in, and their environment."""

    checkout: Checkout
    environment: dict[str, str] = field(default_factory=dict)
    """All of the stages' environment."""
    experiment: str | None = None
    """Name of the DVC experiment that is to record the run; None in the checkout."""


def checkout_workspace(checkout: Checkout) -> Workspace:
    """Run in the checkout, as ``dvc repro`` does."""
    return Workspace(checkout=checkout, environment=_environment())


@contextmanager
def worktree_workspace(
    checkout: Checkout, *, revision: str, overrides: Mapping[str, Any], name: str, from_client: bool = False
) -> Iterator[Workspace]:
    """A worktree of ``revision`` with parameters overridden and its data in place; removed with the block.

    Args:
        checkout: the main checkout.
        revision: a branch, tag or commit; uncommitted changes of the checkout are not in it.
        overrides: values by dotted name in params.yaml.
        name: of the worktree and of the experiment.
        from_client: whether a client of the Prefect server chose the revision: see :func:`find_commit`.

    Raises:
        StageError: no such revision, or the data of that commit is neither in the cache nor on a remote.
        SettingsError: an override that names no setting, or an impossible value.
    """
    with _worktree(checkout, revision, overrides, name, from_client=from_client) as (tree, environment):
        bring_data(tree, environment)
        yield Workspace(checkout=tree, environment=environment, experiment=name)


def check_revision(checkout: Checkout, revision: str, overrides: Mapping[str, Any]) -> None:
    """Check what can be known of later runs of ``revision``: that there is one, and its settings with ``overrides``.

    Raises:
        StageError: no such revision.
        SettingsError: an override that names no setting, a value that is none, or a time limit of a stage that is none.
    """
    with _worktree(checkout, revision, overrides, f"check-{uuid.uuid4().hex[:12]}") as (tree, _):
        check_stages(tree)


def find_commit(checkout: Checkout, revision: str, *, from_client: bool = False) -> str:
    """The id of the commit that git knows as ``revision`` in the repository of ``checkout``.

    Args:
        checkout: the checkout.
        revision: a branch, tag or commit. It is never taken for an option of git.
        from_client: whether a client of the Prefect server named it. Then it has to be on a branch or tag of the repository
            or before its HEAD: a fetched commit of somebody else's is among its objects, too.

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
        raise StageError(f"There is no revision '{revision}' in {checkout.root}: name a branch, a tag or a commit.")
    if from_client:
        holders = _git(checkout, "for-each-ref", "--count=1", "--contains", commit, "refs/heads", "refs/tags")
        if not holders and _git(checkout, "merge-base", commit, "HEAD", empty_on=(1,)) != commit:
            raise StageError(
                f"The revision '{revision}' is on no branch or tag of {checkout.root}: a run through the Prefect server may "
                "not have it."
            )
    return commit


def repository_prefix(checkout: Checkout) -> Path:
    """Where the root of ``checkout`` is in its git repository: ``.`` at its root.

    Raises:
        StageError: there is no repository, or git cannot read it (says why).
    """
    try:
        return Path(_git(checkout, "rev-parse", "--show-prefix") or ".")
    except GitError as error:
        if "not a git repository" not in error.reason:
            raise
        raise StageError(
            f"{checkout.root} is in no git repository, so there is no revision to run. Make one (git init, git add -A, "
            "git commit), or run the folder as it is: gantry run."
        ) from None


@contextmanager
def _worktree(
    checkout: Checkout, revision: str, overrides: Mapping[str, Any], name: str, *, from_client: bool = False
) -> Iterator[tuple[Checkout, dict[str, str]]]:
    """A worktree with checked settings and without data, and the environment of what is run in it."""
    commit = find_commit(checkout, revision, from_client=from_client)
    remove_abandoned(checkout)
    holder = checkout.worktrees / name
    claim(holder)
    top = holder / "tree"
    # The checkout may be a subfolder of a larger repository. Its worktree shares the folder of work in progress.
    tree = Checkout(root=(top / repository_prefix(checkout)).resolve(), var=checkout.var)
    try:
        _git(checkout, "worktree", "add", "--detach", str(top), commit)
        if not tree.dvc_yaml.is_file():
            raise StageError(
                f"Revision '{revision}' has no {tree.dvc_yaml.relative_to(top.resolve())}: it is no Gantry checkout."
            )
        LOG.info("Worktree of %s at %s.", commit[:12], tree.root)
        environment = {
            **_environment(),
            **git_signature(lambda name: _git(checkout, "config", name, empty_on=ANY_STATUS)),
            VAR_VARIABLE: str(tree.var),
            # The code of that commit, not the code that this process runs.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(tree.root), os.environ.get("PYTHONPATH")])),
        }
        share_cache(checkout, tree)
        apply_overrides(tree, overrides)
        if tracking := project_tracking_uri(tree.root, base=checkout.root):
            environment["GANTRY_TRACKING_URI"] = tracking
        check_settings(tree, environment)
        yield tree, environment
    finally:
        _remove(checkout, holder)


def remove_abandoned(checkout: Checkout) -> None:
    """Remove the worktrees of runs whose process was killed."""
    for holder in abandoned(checkout.worktrees):
        LOG.info("Removing the worktree of a killed run, %s.", holder)
        _remove(checkout, holder)


def _remove(checkout: Checkout, holder: Path) -> None:
    _git(checkout, "worktree", "remove", "--force", str(holder / "tree"), empty_on=ANY_STATUS)
    shutil.rmtree(holder, ignore_errors=True)
    try:
        _git(checkout, "worktree", "prune")
    except StageError as error:  # the run itself has ended, well or not: this is no reason to say otherwise
        LOG.warning("git still lists the worktree %s, which is gone: %s", holder / "tree", error)


def _environment() -> dict[str, str]:
    """The environment of a stage: this interpreter's commands first, and nothing that belongs to another run."""
    # A stage has nothing to ask of the Prefect server.
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
    """Give the DVC project ``tree`` the cache and the local settings (remotes' credentials) of ``checkout``.

    Data is linked into the worktree where the file system can, for it is read and never written to.
    """
    from dvc.config import Config
    from dvc.repo import Repo

    with Repo(str(checkout.root)) as repo:
        # As DVC reads them, relative paths are absolute here; saved below, they are relative to the worktree.
        own = repo.config.load_one("local")
        remotes = {**repo.config.load_one("repo")["remote"], **own["remote"]}
        cache: dict[str, Any] = {"dir": str(Path(repo.cache.local_cache_dir).resolve())}
        if "type" not in repo.config["cache"]:
            cache["type"] = ["reflink", "hardlink", "copy"]
    with Config(str(tree.root / ".dvc")).edit("local") as local:
        local.update({section: values for section, values in own.items() if values})
        local["remote"] = remotes
        local["cache"] = {**own["cache"], **cache}


def apply_overrides(checkout: Checkout, overrides: Mapping[str, Any]) -> None:
    """Set values by dotted name in params.yaml; comments and order stay.

    Raises:
        SettingsError: a name that the file does not have, or one that names a whole section. What a section of the file could
            have and does not write out may be set where the settings are checked afterwards (:func:`check_settings`).
    """
    if not overrides:
        return
    from dvc.utils.serialize import modify_yaml

    params = checkout.params
    if not params.is_file():
        raise SettingsError(f"There is no {params.name} to set {', '.join(overrides)} in.")
    read_params(params)
    with modify_yaml(str(params)) as values:
        for name, value in overrides.items():
            place: Any = values
            *sections, last = name.split(".")
            for section in sections:
                if not isinstance(place.get(section), dict):
                    raise SettingsError(f"There is no setting '{name}' in {params.name}.{nearest(section, place)}")
                place = place[section]
            if last not in place and not (sections and _has_own_settings(checkout)):
                raise SettingsError(f"There is no setting '{name}' in {params.name}.{nearest(last, place)}")
            # Below sections some values are a mapping or a word (tune.space: auto): the settings' own check knows which.
            if not sections and isinstance(place.get(last), dict) and not isinstance(value, dict):
                raise SettingsError(f"'{name}' is a section of {params.name}: set one of {', '.join(place[last])}.")
            place[last] = value


def parse_override(text: str) -> tuple[str, Any]:
    """``train.steps=100`` as ("train.steps", 100); the value is read as YAML.

    Raises:
        SettingsError: it has no ``=`` or the value is not YAML.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise SettingsError(f"'{text}' sets nothing: write NAME=VALUE, such as train.steps=100.")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"The value of '{name}' is not YAML: {value}") from error


def check_checkout(checkout: Checkout, stages: Sequence[str]) -> None:
    """Check all that can be known before a run of the checkout is started: settings, raw data, that there are such stages.

    Raises:
        SettingsError: params.yaml is not valid.
        StageError: one of ``stages`` is not in dvc.yaml.
        DataError: the raw data is not there.
        TrackingError: the tracking database is damaged: a run would find out when it registers, after its training.
    """
    from pipelines.flow.graph import read_plan

    check_settings(checkout, _environment())
    if uri := project_tracking_uri(checkout.root):
        check_store(uri)
    check_stages(checkout)
    if stages:
        read_plan(checkout, stages)
    if _has_own_settings(checkout):
        check_raw_data(checkout)


def check_raw_data(checkout: Checkout) -> None:
    """Raise DataError where the raw data that params.yaml names is not in place; says what is, and where to get it."""
    folder, name = checkout.raw, read_params(checkout.params)["data"]["name"]
    if checkout.raw_data(name).exists():
        return
    if (pointer := checkout.raw_pointer(name)).exists():
        place = pointer.relative_to(checkout.root)
        raise DataError(
            f"The raw data {folder / name} is not in place. Bring it back from DVC's cache (dvc checkout {place}) or remote "
            f"(dvc pull {place}), or fetch a public dataset again: gantry data fetch {name}."
        )
    there = sorted(path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    raise DataError(
        f"data.name: there is no raw data '{name}' in {folder}; it holds {', '.join(there) or 'none'}. Fetch a public dataset "
        f"(gantry data fetch NAME), or add your own pictures: gantry data add {name} PATH."
    )


@contextmanager
def exclusive_run(checkout: Checkout) -> Iterator[None]:
    """Keep other runs of ``checkout`` off for the length of the block: they would wait for each other's files.

    Raises:
        StageError: there is one; says which process.
    """
    path = checkout.run_lock
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        if not try_lock(file.fileno()):
            file.seek(0)
            raise StageError(
                f"A run is going on in {checkout.root} ({file.read().strip() or 'of another process'}). Wait for it, or end "
                "it. A commit can be run beside it: gantry run --revision HEAD."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()}, since {datetime.datetime.now():%Y-%m-%d %H:%M}")
        file.flush()
        yield


def check_stages(checkout: Checkout) -> None:
    """Raise SettingsError where the flow's settings name a stage that dvc.yaml does not have; say which are missing.

    Raises:
        StageError: a file of the project is damaged.
    """
    from pipelines.flow.graph import read_plan

    load_flow_settings(checkout.params).check_stages(node.name for node in read_plan(checkout))
    if missing := missing_stages(checkout):
        # A file that was cut short between two stages looks like one that somebody has shortened.
        LOG.warning(
            "%s has no stage %s, so nothing runs it. If you did not remove it yourself, restore the file: git checkout "
            "dvc.yaml.",
            checkout.dvc_yaml,
            ", ".join(missing),
        )


def check_settings(checkout: Checkout, environment: Mapping[str, str]) -> None:
    """Check params.yaml by the code of ``checkout``, of whatever commit, in an interpreter of its own.

    A project that uses Gantry's flow for stages of its own is passed over: they know what their parameters may be.
    """
    if not _has_own_settings(checkout):
        return
    command = [sys.executable, "-m", "pipelines.settings"]
    done = subprocess.run(
        command, cwd=checkout.root, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        trouble = done.stderr.strip().splitlines() or ["params.yaml is invalid."]
        raise SettingsError(done.stdout.strip() or trouble[-1])


def _has_own_settings(checkout: Checkout) -> bool:
    """Whether params.yaml holds Gantry's settings: a stage of dvc.yaml is one of Gantry's."""
    stages = checkout.dvc_yaml
    text = stages.read_text(encoding="utf-8", errors="replace") if stages.is_file() else ""
    return re.search(r"^ +cmd: gantry stage ", text, re.MULTILINE) is not None


def bring_data(checkout: Checkout, environment: Mapping[str, str]) -> None:
    """Put the data and results of the commit in place, from the cache or else from the default remote.

    Raises:
        StageError: raw data is in neither, or a file of the project is damaged in that commit.
        SettingsError: params.yaml of that commit cannot be read.
    """
    check_project_files(checkout)
    dvc(checkout, environment, "checkout", "--allow-missing", "--quiet")
    missing = missing_data(checkout)
    if missing and has_remote(checkout):
        LOG.info("%s not in the cache; pulling from the remote.", ", ".join(missing))
        try:
            dvc(checkout, environment, "pull", *missing)
        except StageError as error:
            LOG.warning("%s", error)
        missing = missing_data(checkout)
    if missing:
        raise StageError(
            f"The data of this commit is not in DVC's cache: {', '.join(missing)}. In the checkout, run dvc commit "
            f"{' '.join(missing)}, or set a remote that has it (dvc remote add -d)."
        )


def missing_data(checkout: Checkout) -> list[str]:
    """The data sources (``.dvc`` files) that the pipeline needs and whose data is not in place."""
    from pipelines.flow.graph import read_plan

    sources = [node for node in read_plan(checkout) if not node.is_stage]
    return [node.name for node in sources if not all(checkout.out(out).exists() for out in node.outs)]


def has_remote(checkout: Checkout) -> bool:
    """Whether a default DVC remote is set."""
    from dvc.repo import Repo

    with Repo(str(checkout.root)) as repo:
        return bool(repo.config["core"].get("remote"))


def dvc(checkout: Checkout, environment: Mapping[str, str], *words: str) -> str:
    """Run a DVC command that is over soon; returns its output.

    Raises:
        StageError: it failed; with the last lines of its output.
    """
    command = [sys.executable, "-m", "dvc", *words]
    # A folder's name may be no text in the encoding of the system; it comes back from the system's own form unchanged.
    done = subprocess.run(
        command,
        cwd=checkout.root,
        env=dict(environment),
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )
    if done.returncode:
        raise StageError(f"dvc {' '.join(words)} failed in {checkout.root}: {dvc_error(done.stdout + done.stderr)}")
    return done.stdout.strip()


def _git(checkout: Checkout, *words: str, empty_on: Container[int] = ()) -> str:
    """:func:`run_git` in the environment of a stage, for hooks of the repository are programs, too."""
    return run_git(checkout.root, *words, empty_on=empty_on, environment=_environment())
