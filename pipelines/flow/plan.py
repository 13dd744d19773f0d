"""Which stages a run would execute and why, from DVC's status. Changes nothing but DVC's own cache of file hashes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gan_core.errors import StageError
from pipelines.flow.graph import Node, node_name, read_plan
from pipelines.runtime.checkout import Checkout
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


def plan_stages(checkout: Checkout, targets: tuple[str, ...] = ()) -> list[PlannedStage]:
    """What ``gantry run`` would do to each stage, in its order.

    Args:
        checkout: a DVC project, in the current directory.
        targets: names of stages. If empty, all.

    Raises:
        StageError: there is no DVC project, no dvc.yaml, or no such stage.
    """
    nodes = read_plan(checkout, targets)
    planned: list[PlannedStage] = []
    makers: dict[str, str] = {}
    with open_project(checkout) as repo, repo.lock:  # as dvc status: not while dvc repro runs
        stages = {node_name(stage, checkout): stage for stage in repo.index.stages}
        for node in nodes:
            stage = stages[node.name]
            status: list[Any] = next(iter(stage.status(check_updates=False).values()), [])
            makers_of = {path: _makers(path, makers) for path in _inputs(stage, checkout)}
            upstream = set().union(*makers_of.values())
            absent = [path for path, names in makers_of.items() if not names and not checkout.out(path).exists()]
            # The results that a stage restores are seldom those that are there now, by which DVC judges the stages after it.
            changing = ("runs", "may run", "restored")
            unsettled = [one.name for one in planned if one.name in upstream and one.action in changing]
            missing = [one.name for one in planned if one.name in upstream and one.action == "missing"]
            if node.is_stage and absent:
                reason = describe_missing(node.name, absent[0])
                planned.append(PlannedStage(name=node.name, action="missing", reason=reason))
            else:
                planned.append(_plan(node, status, unsettled, missing, checkout, stage))
            makers |= dict.fromkeys(node.outs, node.name)
    return planned


def _inputs(stage: Any, checkout: Checkout) -> list[str]:
    return [checkout.place(dep.fs_path) for dep in stage.deps if dep.is_in_repo]


def _makers(path: str, makers: Mapping[str, str]) -> set[str]:
    """The stages that make ``path``, what contains it, or what it contains; ``makers``: the stage by out."""
    above = {path, *map(str, Path(path).parents)}
    return {name for out, name in makers.items() if out in above or out.startswith(f"{path}/")}


def _plan(
    node: Node, status: list[Any], unsettled: list[str], missing: list[str], checkout: Checkout, stage: Any
) -> PlannedStage:
    reasons = "; ".join(_explain(entry) for entry in status)
    if not node.is_stage:
        if not any((checkout.root / out).exists() for out in node.outs):
            remedy = "it is not on this machine: dvc pull, or gantry data add"
            return PlannedStage(name=node.name, action="missing", reason=remedy)
        action: Action = "runs" if status else "up to date"
        return PlannedStage(name=node.name, action=action, reason=f"DVC records it again: {reasons}" if status else "")
    if missing:
        return PlannedStage(name=node.name, action="missing", reason=f"needs {', '.join(missing)}")
    if unsettled:
        also = f"; {reasons}" if reasons else ""
        # With a change of its own it runs for certain; otherwise only if the stages before change their results.
        own = bool(status) and any(not _only_missing_inputs(entry) for entry in status)
        return PlannedStage(
            name=node.name, action="runs" if own else "may run", reason=f"after {', '.join(unsettled)}{also}"
        )
    if not status:
        return PlannedStage(name=node.name, action="up to date", reason="")
    return _with_earlier_work(node.name, reasons, checkout, stage)


def _with_earlier_work(name: str, reasons: str, checkout: Checkout, stage: Any) -> PlannedStage:
    """A stage with changes of its own: whether an earlier run with the same inputs has finished, or was interrupted."""
    from dvc.exceptions import DvcException
    from dvc.stage.cache import RunCacheNotFoundError

    try:
        stage.save_deps()  # in memory; the run cache is searched by these hashes
        stage.repo.stage_cache.restore(stage, dry=True)
        return PlannedStage(name=name, action="restored", reason=f"{reasons}; DVC's run cache has its results")
    except (RunCacheNotFoundError, DvcException):
        pass  # not there, or an input does not exist, which read_stage explains
    try:
        definition = read_stage(name, checkout)
        definition = definition.with_inputs(recorded_inputs(definition, checkout))
    except StageError as error:
        return PlannedStage(name=name, action="missing", reason=str(error))
    work = checkout.work(name, definition.key)
    if definition.replayable and finished_results(work) is not None:
        return PlannedStage(
            name=name, action="restored", reason=f"{reasons}; it has finished before, with the same inputs"
        )
    if step := newest_checkpoint_step(work / CHECKPOINTS):
        return PlannedStage(name=name, action="runs", reason=f"{reasons}; it resumes at step {step}")
    return PlannedStage(name=name, action="runs", reason=reasons)


def _only_missing_inputs(entry: Any) -> bool:
    """Whether a change says only that something does not exist yet, which an earlier stage makes."""
    return (
        isinstance(entry, Mapping)
        and set(entry) == {"changed deps"}
        and set(entry["changed deps"].values()) == {"deleted"}
    )


def _explain(entry: Any) -> str:
    """One change that DVC reports, in words."""
    if not isinstance(entry, Mapping):
        return {"changed command": "its command has changed", "always changed": "it always runs"}.get(entry, str(entry))
    ((kind, changes),) = entry.items()
    told = []
    for place, how in changes.items():
        if isinstance(how, Mapping):
            told += [f"{name} of {place} is {state}" for name, state in how.items()]
        else:
            # DVC calls deleted what was never there, too.
            told.append(f"{place} is {'missing' if how == 'deleted' else how}")
    most = 4
    more = f" and {len(told) - most} more" if len(told) > most else ""
    return f"{'inputs' if kind == 'changed deps' else 'results'}: {', '.join(told[:most])}{more}"
