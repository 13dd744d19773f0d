"""Which stages a run would execute and why, from DVC's status.

Writes nothing but DVC's own cache of file hashes, and the digests of Gantry's code that a project's stages depend on.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gan_core.errors import GantryError, StageError
from pipelines.flow.graph import Node, node_name, read_plan
from pipelines.registry.registration import lost_registration
from pipelines.runtime.checkout import PARAMS, REGISTERED, Checkout
from pipelines.runtime.code import DIGEST_FOLDER, write_digests
from pipelines.runtime.dvc_repo import open_project
from pipelines.runtime.key import describe_missing, read_stage
from pipelines.runtime.work_directory import finished_results
from pipelines.stages.parent import recorded_inputs
from pipelines.training.fit import newest_checkpoint_step
from pipelines.training.places import CHECKPOINTS

Action = Literal["runs", "restored", "may run", "up to date", "missing"]


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """What happens to a stage, or to a data source, in the next run."""

    name: str
    action: Action
    """``runs``; ``restored``: results of an earlier run with the same inputs are used again; ``may run``: if an earlier stage
    changes its results; ``up to date``; ``missing``: an input does not exist, so that the run would fail."""
    reason: str
    """Why, in a few words. May be empty if ``changes`` says it, or if there is nothing to say."""
    changes: tuple[str, ...] = ()
    """What has changed since the stage last ran, settings first: "train.steps is modified". Empty if it has never run."""
    remedy: str = ""
    """What is wrong and what to do about it, if ``reason`` has no room for that."""


def plan_stages(checkout: Checkout, targets: tuple[str, ...] = ()) -> list[PlannedStage]:
    """What ``gantry run`` would do to each stage, in its order.

    Args:
        checkout: a DVC project, in the current directory.
        targets: names of stages. If empty, all.

    Raises:
        StageError: there is no DVC project, no dvc.yaml, or no such stage.
    """
    from dvc.logger import set_loggers_level

    nodes = read_plan(checkout, targets)
    planned: list[PlannedStage] = []
    makers: dict[str, str] = {}
    ancestors: dict[str, set[str]] = {}
    # The lock as for dvc status: not while dvc repro runs. DVC would print on stdout that it restores a stage.
    with open_project(checkout) as repo, repo.lock, set_loggers_level(logging.WARNING):
        # The stage of the digests always runs. Written now, they show which of the stages after it that changes.
        digesting = {node.name for node in nodes if any(out.startswith(f"{DIGEST_FOLDER}/") for out in node.outs)}
        if digesting:
            write_digests(checkout.root)
        stages = {node_name(stage, checkout): stage for stage in repo.index.stages}
        for node in nodes:
            stage = stages[node.name]
            status: list[Any] = next(iter(stage.status(check_updates=False).values()), [])
            makers_of = {path: _makers(path, makers) for path in _inputs(stage, checkout)}
            upstream: set[str] = set().union(*makers_of.values())
            ancestors[node.name] = upstream.union(*(ancestors[name] for name in upstream))
            absent = [path for path, names in makers_of.items() if not names and not checkout.out(path).exists()]
            # The results that a stage restores are seldom those that are there now, by which DVC judges the stages after it.
            changing = ("runs", "may run", "restored")
            before = [one for one in planned if one.name in upstream and one.name not in digesting]
            unsettled = _last([one.name for one in before if one.action in changing], ancestors)
            missing = _last([one.name for one in before if one.action == "missing"], ancestors)
            if node.is_stage and absent:
                reason, remedy = f"{absent[0]} does not exist", describe_missing(node.name, absent[0])
                planned.append(PlannedStage(name=node.name, action="missing", reason=reason, remedy=remedy))
            else:
                planned.append(_plan(node, status, unsettled, missing, checkout, stage))
            makers |= dict.fromkeys(node.outs, node.name)
    return planned


def _last(names: list[str], ancestors: Mapping[str, set[str]]) -> list[str]:
    """Those of ``names`` that no other of them depends on: whoever waits for these waits for all."""
    return [name for name in names if not any(name in ancestors[other] for other in names)]


def _inputs(stage: Any, checkout: Checkout) -> list[str]:
    return [checkout.place(dep.fs_path) for dep in stage.deps if dep.is_in_repo]


def _makers(path: str, makers: Mapping[str, str]) -> set[str]:
    """The stages that make ``path``, what contains it, or what it contains; ``makers``: the stage by out."""
    above = {path, *map(str, Path(path).parents)}
    return {name for out, name in makers.items() if out in above or out.startswith(f"{path}/")}


def _plan(
    node: Node, status: list[Any], unsettled: list[str], missing: list[str], checkout: Checkout, stage: Any
) -> PlannedStage:
    changes = _changes(status)
    if not node.is_stage:
        if not any((checkout.root / out).exists() for out in node.outs):
            remedy = "it is not on this machine: dvc pull, or gantry data add"
            return PlannedStage(name=node.name, action="missing", reason=remedy)
        action: Action = "runs" if status else "up to date"
        return PlannedStage(
            name=node.name, action=action, reason="DVC records it again" if status else "", changes=changes
        )
    if missing:
        return PlannedStage(name=node.name, action="missing", reason=f"needs {', '.join(missing)}")
    if not unsettled and "always changed" in status:
        return PlannedStage(name=node.name, action="runs", reason="it always runs")
    if not any(out.hash_info for out in stage.outs):  # they come from dvc.lock
        if not unsettled:
            return _with_earlier_work(node.name, "it has not run yet", (), checkout, stage)
        return PlannedStage(name=node.name, action="runs", reason="it has not run yet")
    if unsettled:
        # With a change of its own it runs for certain; otherwise only if the stages before change their results.
        own = bool(status) and any(not _only_missing_inputs(entry) for entry in status)
        return PlannedStage(
            name=node.name,
            action="runs" if own else "may run",
            reason=f"after {', '.join(unsettled)}",
            changes=changes,
        )
    if not status:
        return _up_to_date(node, checkout)
    return _with_earlier_work(node.name, "", changes, checkout, stage)


def _up_to_date(node: Node, checkout: Checkout) -> PlannedStage:
    """A stage without changes. The one that registers runs all the same if the registry has lost its version."""
    try:
        lost = lost_registration(checkout) if REGISTERED in node.outs else ""
    except GantryError as error:
        reason, why = "it is not known whether its version still exists", (str(error),)
        return PlannedStage(name=node.name, action="up to date", reason=reason, changes=why)
    if lost:
        return PlannedStage(name=node.name, action="runs", reason="its version is gone", changes=(lost,))
    return PlannedStage(name=node.name, action="up to date", reason="")


def _with_earlier_work(
    name: str, reason: str, changes: tuple[str, ...], checkout: Checkout, stage: Any
) -> PlannedStage:
    """A stage that has to run: whether an earlier run with the same inputs has finished, or was interrupted."""
    from dvc.exceptions import DvcException
    from dvc.stage.cache import RunCacheNotFoundError
    from dvc_data.hashfile.hash_info import HashInfo

    try:
        if stage.changed_stage() or not stage.deps_cached():
            # All in memory: the run cache is searched by the inputs as they are now. DVC would take the results of dvc.lock,
            # which are those of other inputs, for theirs.
            stage.save_deps()
            for out in stage.outs:
                out.hash_info = HashInfo()
        stage.repo.stage_cache.restore(stage, dry=True)
        return PlannedStage(name=name, action="restored", reason="DVC's run cache has its results", changes=changes)
    except (RunCacheNotFoundError, DvcException):
        pass  # not there, or an input does not exist, which read_stage explains
    try:
        definition = read_stage(name, checkout)
        definition = definition.with_inputs(recorded_inputs(definition, checkout))
    except StageError as error:
        return PlannedStage(name=name, action="missing", reason="it cannot run", changes=changes, remedy=str(error))
    work = checkout.work(name, definition.key)
    if definition.replayable and finished_results(work) is not None:
        reason = "it has finished before, with the same inputs"
        return PlannedStage(name=name, action="restored", reason=reason, changes=changes)
    if step := newest_checkpoint_step(work / CHECKPOINTS):
        reason = f"it resumes at step {step}"
    return PlannedStage(name=name, action="runs", reason=reason, changes=changes)


def _only_missing_inputs(entry: Any) -> bool:
    """Whether a change says only that something does not exist yet, which an earlier stage makes."""
    return (
        isinstance(entry, Mapping)
        and set(entry) == {"changed deps"}
        and set(entry["changed deps"].values()) == {"deleted"}
    )


def _changes(status: Iterable[Any]) -> tuple[str, ...]:
    """The changes that DVC reports, in words: those of settings, then of inputs, then of results."""
    settings, others = [], []
    for entry in status:
        if not isinstance(entry, Mapping):
            others += {"changed command": ["its command is modified"], "always changed": []}.get(entry, [str(entry)])
            continue
        ((_, changes),) = entry.items()
        for place, how in changes.items():
            if isinstance(how, Mapping):
                file = "" if place == PARAMS else f" of {place}"
                settings += [f"{name}{file} is {state}" for name, state in how.items()]
            else:
                what = "Gantry's code" if place.startswith(f"{DIGEST_FOLDER}/") else place
                # DVC calls deleted what was never there, too.
                others.append(f"{what} is {'missing' if how == 'deleted' else how}")
    return (*settings, *others)
