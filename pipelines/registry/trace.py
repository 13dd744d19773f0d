"""Trace a picture, a version, a run or a commit: generator, versions, run, settings, data, raw files and commit."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.errors import CheckpointError, DamagedFileError, StageError, TrackingError
from gan_core.inference.provenance import read_provenance
from pipelines.registry.contents import version_files
from pipelines.registry.find import lookup_version
from pipelines.runtime.checkout import DVC_LOCK, RAW, Checkout
from pipelines.runtime.dvc_yaml import parse_as_dvc
from pipelines.runtime.git import run_git
from pipelines.tracking.store import connect, explain_server_errors, is_refusal, run_url

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

COMMIT, TRAIN_COMMIT = "gantry.git_commit", "gantry.train_commit"
"""Tags of a version: the commit that it was registered at, and that of its training if it is another one."""
GENERATOR = "gantry.generator"
REGISTER = "register"
"""Name of the stage that registers a version."""
_MAX_VERSIONS = 1000


@dataclass(frozen=True, kw_only=True)
class VersionTrace:
    """The line of one registered version."""

    version: str
    """NAME/NUMBER."""
    aliases: tuple[str, ...]
    generator: str
    run: str
    run_url: str
    commit: str
    """``none`` or ``unknown`` if it is not known; with ``+changes`` if tracked files differed from it."""
    commit_subject: str
    """Date and subject of the commit; empty if this repository does not have it."""
    dataset: str
    """Digest of the prepared data."""
    lineage: Mapping[str, str]
    """All tags of the version that begin with ``gantry.``."""
    settings: Mapping[str, Any]
    """The settings of each stage, from dvc.lock."""
    dvc_lock: Mapping[str, Any]
    """The version's dvc.lock; empty if it has none."""
    raw: Mapping[str, str]
    """DVC's hash of each raw data folder."""
    raw_files: Mapping[str, str]
    """MD5 of each raw file, by its path."""
    notes: tuple[str, ...] = ()
    """What could not be traced, and why."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What is known about a thing."""

    thing: str
    kind: str
    """``picture``, ``version``, ``run`` or ``commit``."""
    picture: Mapping[str, Any] = field(default_factory=dict)
    """For a picture: the generator's digest and the request."""
    run: Mapping[str, str] = field(default_factory=dict)
    """For a run: its tags that begin with ``gantry.``."""
    versions: tuple[VersionTrace, ...] = ()
    """Usually one. Several if the same generator or commit was registered again."""


def trace(thing: str, *, tracking_uri: str, checkout: Checkout) -> Trace:
    """Trace ``thing``: the path of a PNG, NAME/VERSION or NAME@ALIAS, the id of a run, or a commit.

    Raises:
        DataError: the picture does not say which generator made it.
        TrackingError: nothing is known about it here, or the server cannot be reached.
    """
    path = Path(thing)
    with explain_server_errors(tracking_uri):
        client = connect(tracking_uri, create=False)
        if path.is_file():
            picture = read_provenance(path)
            found = _tagged(client, f"tags.`{GENERATOR}` = '{_plain(picture['generator'])}'")
            if not found:
                raise TrackingError(
                    f"{path} was made by generator {picture['generator']}, which is not registered here. Set "
                    "GANTRY_TRACKING_URI to the registry that has it."
                )
            return _trace(thing, "picture", found, client, tracking_uri, checkout, picture=picture)
        if commit := _commit(thing, checkout):
            found = _tagged(client, *(f"tags.`{tag}` LIKE '{commit}%'" for tag in (COMMIT, TRAIN_COMMIT)))
            if not found:
                raise TrackingError(f"No version was trained or registered at commit {commit}. Its runs are in MLflow.")
            return _trace(thing, "commit", found, client, tracking_uri, checkout)
        version = lookup_version(client, thing.removeprefix("models:/"))
        if version is not None:
            is_run = re.fullmatch(r"[0-9a-f]{32}", thing)
            kind, run = ("run", _run_tags(client, thing)) if is_run else ("version", {})
            return _trace(thing, kind, [version], client, tracking_uri, checkout, run=run)
        if re.fullmatch(r"[0-9a-f]{32}", thing) and (run := _run_tags(client, thing)):
            return Trace(thing=thing, kind="run", run=run)
    raise TrackingError(
        f"'{thing}' is neither a file nor a registered version, run or commit that is known here. Give the path of a PNG, "
        "NAME/VERSION, NAME@ALIAS, the id of an MLflow run, or a commit."
    )


def lock_settings(lock: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a version's dvc.lock records, merged over its stages: the settings the results were made with.

    Those of the stage ``register`` are left out: DVC writes them after the stage, so that a version has those of the
    registration before its own.
    """
    merged: dict[str, Any] = {}
    for name, stage in lock.get("stages", {}).items():
        if name != REGISTER:
            for values in stage.get("params", {}).values():
                merged.update(values)
    return merged


def read_lock(folder: Path) -> dict[str, Any]:
    """The dvc.lock among a version's files; empty if there is none.

    Raises:
        TrackingError: it is not valid.
    """
    path = folder / DVC_LOCK
    if not path.is_file():
        return {}
    try:
        lock = parse_as_dvc(path.read_text(encoding="utf-8"), DVC_LOCK)
    except (DamagedFileError, UnicodeDecodeError) as error:
        raise TrackingError(f"The dvc.lock of the version is damaged ({error}). Register it again.") from error
    return lock if isinstance(lock, dict) and isinstance(lock.get("stages"), dict) else {}


def _trace(
    thing: str,
    kind: str,
    versions: Sequence["ModelVersion"],
    client: "MlflowClient",
    tracking_uri: str,
    checkout: Checkout,
    **more: Any,
) -> Trace:
    lines = tuple(_version_trace(version, client, tracking_uri, checkout) for version in versions)
    return Trace(thing=thing, kind=kind, versions=lines, **more)


def _version_trace(
    version: "ModelVersion", client: "MlflowClient", tracking_uri: str, checkout: Checkout
) -> VersionTrace:
    notes: list[str] = []
    lock: dict[str, Any] = {}
    try:
        with version_files(version, tracking_uri) as folder:
            lock = read_lock(folder)
        if not lock:
            notes.append("the version has no dvc.lock, so its settings and raw data are unknown")
    except (CheckpointError, TrackingError) as error:
        notes.append(str(error).rstrip("."))
    raw = _raw_hashes(lock)
    files: dict[str, str] = {}
    for place, digest in raw.items():
        listed = _raw_files(digest, checkout)
        if listed is None:
            notes.append(f"the list of the files of {place} is not in DVC's cache here: dvc fetch {place}.dvc")
        else:
            files.update({f"{place}/{name}" if name else place: md5 for name, md5 in listed.items()})
    commit = version.tags.get(COMMIT, "unknown")
    subject = _subject(commit, checkout)
    if not subject:
        notes.append(f"commit {commit} is not in the repository of {checkout.root}")
    run, experiment = str(version.run_id or ""), ""
    try:
        experiment = client.get_run(run).info.experiment_id
    except Exception as error:
        if not is_refusal(error):
            raise
        notes.append(f"run {run or 'of the version'} is no longer in MLflow")
    model = client.get_registered_model(version.name)
    aliases = tuple(sorted(a for a, number in model.aliases.items() if str(number) == str(version.version)))
    return VersionTrace(
        version=f"{version.name}/{version.version}",
        aliases=aliases,
        generator=version.tags.get(GENERATOR, "unknown"),
        run=run,
        run_url=run_url(tracking_uri, experiment, run) if experiment else "",
        commit=commit,
        commit_subject=subject,
        dataset=version.tags.get("gantry.dataset", "unknown"),
        lineage={name: value for name, value in sorted(version.tags.items()) if name.startswith("gantry.")},
        settings=lock_settings(lock),
        dvc_lock=lock,
        raw=raw,
        raw_files=files,
        notes=tuple(notes),
    )


def _raw_hashes(lock: Mapping[str, Any]) -> dict[str, str]:
    """DVC's hash of each raw data folder that a dvc.lock names."""
    deps = [dep for stage in lock.get("stages", {}).values() for dep in stage.get("deps", ())]
    return {
        dep["path"]: dep["md5"] for dep in deps if str(dep.get("path", "")).startswith(f"{RAW}/") and dep.get("md5")
    }


def _raw_files(digest: str, checkout: Checkout) -> dict[str, str] | None:
    """MD5 of each file of a folder in DVC's cache, by relative path; of a single file, its own. None if it is not cached."""
    from pipelines.runtime.dvc_repo import open_project

    if not digest.endswith(".dir"):
        return {"": digest}
    with open_project(checkout) as repo:
        listing = Path(repo.cache.local_cache_dir) / "files" / "md5" / digest[:2] / digest[2:]
    try:
        return {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _commit(thing: str, checkout: Checkout) -> str:
    """The full hash of the commit ``thing``, 7 to 40 hex digits; empty if it is none."""
    if not re.fullmatch(r"[0-9a-f]{7,40}", thing) or len(thing) == 32:
        return ""
    try:
        found = run_git(checkout.root, "rev-parse", "--verify", "--quiet", f"{thing}^{{commit}}", empty_on=(1, 128))
    except StageError:
        found = ""
    return found or (thing if len(thing) == 40 else "")


def _subject(commit: str, checkout: Checkout) -> str:
    """Date and subject of a commit; empty if the repository does not have it."""
    name = commit.partition("+")[0]
    if not re.fullmatch(r"[0-9a-f]{7,64}", name):
        return ""
    try:
        return run_git(checkout.root, "show", "--no-patch", "--format=%cI %s", name, empty_on=(128,))
    except StageError:
        return ""


def _tagged(client: "MlflowClient", *queries: str) -> list["ModelVersion"]:
    """The versions that any of the filters finds, newest first."""
    found = [version for query in queries for version in client.search_model_versions(query, max_results=_MAX_VERSIONS)]
    once = {(version.name, version.version): version for version in found}
    return sorted(once.values(), key=lambda version: -int(version.creation_timestamp or 0))


def _run_tags(client: "MlflowClient", run: str) -> dict[str, str]:
    """The tags of a run; empty if there is no such run."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_run(run).data.tags
    except MlflowException as error:
        if not is_refusal(error):
            raise
        return {}
    return {name: value for name, value in sorted(tags.items()) if name.startswith("gantry.")}


def _plain(text: str) -> str:
    """A digest as it may appear in a filter of MLflow, which has no escapes."""
    return re.sub(r"[^0-9a-fA-F]", "", text)
