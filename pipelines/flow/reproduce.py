"""Make a registered version again: its commit, data and settings in a worktree, with nothing taken from earlier work."""

import re
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gan_core.errors import DamagedFileError, StageError, TrackingError
from pipelines.flow.graph import read_plan
from pipelines.flow.overrides import apply_overrides
from pipelines.flow.process import run_streaming
from pipelines.flow.workspace import find_commit, has_remote, run_dvc, worktree_workspace
from pipelines.registry.contents import version_files
from pipelines.registry.find import find_version
from pipelines.registry.model_folder import pip_requirements
from pipelines.registry.parent import Parent, find_parent
from pipelines.registry.register import TRAIN_STEPS
from pipelines.registry.trace import COMMIT, REGISTER, lock_settings, read_lock
from pipelines.runtime.checkout import DVC_LOCK, VAR_VARIABLE, Checkout
from pipelines.runtime.cluster import offer_cluster
from pipelines.runtime.dvc_command import dvc_command
from pipelines.runtime.dvc_yaml import parse_as_dvc
from pipelines.runtime.git import ANY_STATUS, run_git
from pipelines.runtime.key import read_stage
from pipelines.stages.parent import pin_parent
from pipelines.tracking.runlog import STAGE_TAG
from pipelines.tracking.store import connect, explain_server_errors
from pipelines.training.run_tags import DEVICE, PARENT, PARENT_DIGEST

TRAIN, TUNE = "train", "tune"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One out of a stage, as recorded with the version and as made again: DVC's hashes."""

    stage: str
    out: str
    recorded: str
    made: str

    @property
    def same(self) -> bool:
        """Whether it came out the same to the byte."""
        return self.recorded == self.made


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What came of making a version again."""

    version: str
    commit: str
    results: tuple[Result, ...]
    device: str
    """Device that trained the version; empty if it is not recorded."""
    device_here: str
    notes: tuple[str, ...]
    """What was not made again, and what differs from the first run besides the results."""

    @property
    def same(self) -> bool:
        """Whether every out came out the same to the byte."""
        return all(result.same for result in self.results)


def reproduce(
    model: str, *, tracking_uri: str, checkout: Checkout, search: bool = False, on_line: Callable[[str], None] = print
) -> Reproduction:
    """Run the stages of a version's commit again, with its data and settings, and compare their results with its dvc.lock.

    It works in a git worktree with an empty ``var`` and a tracking database of its own, both removed at the end: no stage
    resumes earlier work, DVC takes no result from its cache, and nothing is registered.

    Args:
        model: NAME/VERSION, NAME@ALIAS or the id of a run.
        tracking_uri: MLflow server or database that has the version.
        checkout: a checkout of the repository that has the version's commit.
        search: whether to run the search, too. By default its result is taken from DVC's cache: which trials are stopped early
            depends on their speed.
        on_line: called with each line of the stages' output, and with what is done again although it was recorded.

    Raises:
        TrackingError: there is no such version, it has no dvc.lock or no commit, or the version that it started from is gone.
        StageError: the commit or the data is not here, or a stage failed.
    """
    with explain_server_errors(tracking_uri):
        version = find_version(model, tracking_uri)
        name = f"{version.name}/{version.version}"
        with version_files(version, tracking_uri) as folder:
            text, lock = _lock_of(name, folder)
            packages = set((folder / "requirements.txt").read_text(encoding="utf-8").split())
        settings, parent = lock_settings(lock), _parent_of(name, version.tags, checkout, tracking_uri)
        steps = _steps_of(name, version.tags, settings)
        device = _trained_on(tracking_uri, version.run_id)
    recorded = version.tags.get(COMMIT, "unknown")
    commit = recorded.partition("+")[0]
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        raise TrackingError(
            f"Version {name} cannot be made again: its commit is {recorded}. Commit before a run (git commit)."
        )
    other = sorted(_ours(packages) - packages)
    notes = (
        [f"the version was made with other versions of packages than those here: {', '.join(other)}"] if other else []
    )
    if steps is not None:
        notes.append(f"trained {steps} steps, as recorded with the version, without measuring train.minutes again")
    find_commit(checkout, commit)
    overrides = _overrides(settings, _committed_params(checkout, commit))
    tree_name = f"reproduce-{uuid.uuid4().hex[:12]}"
    with (
        tempfile.TemporaryDirectory(prefix="gantry-reproduce-") as temporary,
        worktree_workspace(checkout, revision=commit, overrides=overrides, name=tree_name) as workspace,
    ):
        tree, var = workspace.checkout, Path(temporary) / "var"
        var.mkdir()
        environment = {**workspace.environment, VAR_VARIABLE: str(var), "GANTRY_PIPELINE_RUN": tree_name}
        environment["GANTRY_TRACKING_URI"] = own = f"sqlite:///{var / 'mlflow.db'}"
        tree.dvc_lock.write_text(text, encoding="utf-8")
        environment.pop("GANTRY_STORAGE_URI", None)
        run_dvc(tree, environment, "checkout", "--allow-missing", "--quiet", "--force")
        stages = [node.name for node in read_plan(tree) if node.is_stage and node.name in lock["stages"]]
        stages = [stage for stage in stages if stage != REGISTER]
        if not search and TUNE in stages:
            if why := _missing_search(lock, tree, environment):
                notes.append(f"the search was run again, because its result is not in DVC's cache, {why}")
                on_line(f"The search, which may take hours, runs again: its result is not in DVC's cache, {why}")
            else:
                stages.remove(TUNE)
                notes.append("the search was not run again; its result is the recorded one (--search runs it)")
        with offer_cluster(replace(tree, var=var), environment) as offered:
            for stage in stages:
                if (
                    stage == TRAIN and steps is not None
                ):  # not before, because a search derives its settings from the minutes
                    apply_overrides(tree, {"train.steps": steps})
                if stage in (TUNE, TRAIN) and parent:
                    pin_parent(read_stage(stage, tree), replace(tree, var=var), parent)
                _run(stage, tree, {**environment, **offered}, on_line)
        made = parse_as_dvc(tree.dvc_lock.read_text(encoding="utf-8"), DVC_LOCK)
        notes += _other_code(lock, made, stages)
        pinned = set() if steps is None else {"train.steps", "train.minutes"}
        if other := sorted(_other_settings(lock, made, stages) - pinned):
            notes.append(
                f"settings that the run had left out, and its commit has, differ from those recorded: {', '.join(other)}"
            )
        here = _device(own, f"tags.`{STAGE_TAG}` = '{TRAIN}'")
    if device and here and device != here:
        notes.append(f"the version was trained on {device}, this run on {here}: equal bytes are not to be expected")
    results = [
        Result(stage=stage, out=out, recorded=digest, made=_outs(made, stage).get(out, "none"))
        for stage in stages
        for out, digest in _outs(lock, stage).items()
    ]
    return Reproduction(
        version=name, commit=commit, results=tuple(results), device=device, device_here=here, notes=tuple(notes)
    )


def _parent_of(name: str, tags: Mapping[str, str], checkout: Checkout, tracking_uri: str) -> Parent | None:
    """What the version ``name`` started from, by its tags; None if it started from random weights.

    The aliases of ``train.start_from`` may have moved since, and the worktree's own database has no versions.
    """
    if PARENT not in tags:
        return None
    parent = find_parent(tags[PARENT], checkout, tracking_uri)
    if parent.digest != tags.get(PARENT_DIGEST):
        raise TrackingError(
            f"Version {name} cannot be made again: it started from {tags[PARENT]} with the digest "
            f"{tags.get(PARENT_DIGEST, 'unknown')[:12]}, which has the digest {parent.digest[:12]} now."
        )
    return parent


def _steps_of(name: str, tags: Mapping[str, str], settings: Mapping[str, Any]) -> int | None:
    """The number of steps that ``train.minutes`` were turned into for the version ``name``; None if the user gave the steps."""
    minutes = settings.get("train", {}).get("minutes")
    if minutes is None:
        return None
    steps = tags.get(TRAIN_STEPS, "none")
    if not re.fullmatch(r"[1-9][0-9]*", steps):
        raise TrackingError(
            f"Version {name} cannot be made again: it was trained for {minutes:g} minutes (train.minutes), and its tag "
            f"{TRAIN_STEPS} does not say how many steps that was, but {steps}."
        )
    return int(steps)


def _lock_of(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    lock = read_lock(folder)
    if not lock:
        raise TrackingError(
            f"Version {name} cannot be made again: it has no dvc.lock, which records its data and settings."
        )
    return (folder / "dvc.lock").read_text(encoding="utf-8"), lock


def _ours(packages: set[str]) -> set[str]:
    """The packages that a model needs, as installed here, of those that ``packages`` names."""
    named = {package.partition("==")[0] for package in packages}
    return {package for package in pip_requirements() if package.partition("==")[0] in named}


def _committed_params(checkout: Checkout, commit: str) -> dict[str, Any]:
    """The params.yaml of a commit; empty if it has none."""
    text = run_git(checkout.root, "show", f"{commit}:./{checkout.params.name}", empty_on=ANY_STATUS)
    try:
        values = parse_as_dvc(text, checkout.params.name)
    except DamagedFileError as error:
        raise StageError(f"{checkout.params.name} of commit {commit[:12]} cannot be read: {error.reason}.") from error
    return values if isinstance(values, dict) else {}


def _overrides(settings: Mapping[str, Any], committed: Mapping[str, Any]) -> dict[str, Any]:
    """What to set in the committed params.yaml, by dotted name. It must be set before the data that it names is restored."""
    overrides = _changed(settings, committed)
    if isinstance(committed.get("storage"), dict):  # a storage has the finished work of the first run
        overrides["storage.uri"] = ""
    return overrides


def _missing_search(lock: Mapping[str, Any], tree: Checkout, environment: Mapping[str, str]) -> str:
    """Why the recorded result of the search is not in the worktree, after a look at DVC's remote; empty if it is there."""

    def there() -> bool:
        return all(tree.out(out).exists() for out in _outs(lock, TUNE))

    if there():
        return ""
    if not has_remote(tree):
        return "and there is no remote"
    try:
        run_dvc(tree, environment, "pull", TUNE)
    except StageError as error:
        return f"and pulling it failed: {error}"
    return "" if there() else "nor on the remote"


def _changed(settings: Mapping[str, Any], committed: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the version that differ from those of its commit, by dotted name: ``gantry run --set`` made them."""
    changed: dict[str, Any] = {}
    for section, values in settings.items():
        if not isinstance(values, dict):
            continue
        of_commit = committed.get(section)
        if isinstance(of_commit, dict):
            changed |= {f"{section}.{name}": value for name, value in values.items() if of_commit.get(name) != value}
        else:  # an empty section has no settings to replace
            changed[section] = values
    return changed


def _outs(lock: Mapping[str, Any], stage: str) -> dict[str, str]:
    return {out["path"]: out.get("md5", "none") for out in lock["stages"].get(stage, {}).get("outs", ())}


def _other_code(lock: Mapping[str, Any], made: Mapping[str, Any], stages: list[str]) -> list[str]:
    """Notes on inputs of the first stage that has other ones than recorded: code with uncommitted changes, other data."""
    for stage in stages:
        old, new = (
            {dep["path"]: dep.get("md5") for dep in side["stages"].get(stage, {}).get("deps", ())}
            for side in (lock, made)
        )
        if other := sorted(path for path in old if old[path] != new.get(path)):
            return [f"inputs of stage {stage} differ from those recorded with the version: {', '.join(other)}"]
    return []


def _other_settings(lock: Mapping[str, Any], made: Mapping[str, Any], stages: list[str]) -> set[str]:
    """The settings of these stages, by dotted name, that ``made`` has otherwise than ``lock``, the recorded one.

    What was left out of params.yaml without a commit cannot be left out again by an override.
    """
    found = set()
    for stage in stages:
        old, new = (lock_settings({"stages": {stage: side["stages"].get(stage, {})}}) for side in (lock, made))
        for section in old.keys() | new.keys():
            one, other = old.get(section), new.get(section)
            if isinstance(one, dict) and isinstance(other, dict):
                names = (name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
                found |= {f"{section}.{name}" for name in names}
            elif one != other:
                found.add(section)
    return found


def _run(stage: str, tree: Checkout, environment: Mapping[str, str], on_line: Callable[[str], None]) -> None:
    """Run one stage, whatever DVC's cache has."""
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        on_line(line)

    command = dvc_command("repro", "--force", "--single-item", stage)
    if run_streaming(command, cwd=tree.root, environment=environment, on_line=keep):
        raise StageError(f"Stage {stage} failed in the worktree of the version: {' '.join(lines[-5:])}")


def _trained_on(tracking_uri: str, run_id: str | None) -> str:
    """The device that trained the version of a pipeline run; empty if it is not recorded.

    The run itself has it, also if its train stage was cached. Earlier versions of Gantry recorded it in the stage's run only.
    """
    own = _device(tracking_uri, f"attributes.run_id = '{run_id}'")
    return own or _device(tracking_uri, f"tags.`mlflow.parentRunId` = '{run_id}' and tags.`{STAGE_TAG}` = '{TRAIN}'")


def _device(tracking_uri: str, query: str) -> str:
    """The device by which a run that the filter finds is tagged; empty if there is none."""
    client = connect(tracking_uri)
    page = client.search_experiments()
    experiments = [experiment.experiment_id for experiment in page]
    while page.token:  # MLflow gives at most 1000 at a time
        page = client.search_experiments(page_token=page.token)
        experiments += [experiment.experiment_id for experiment in page]
    found = client.search_runs(experiments, query, max_results=100)
    return next((run.data.tags[DEVICE] for run in found if DEVICE in run.data.tags), "")
