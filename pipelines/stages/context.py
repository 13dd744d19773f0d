"""Run a stage: guard the process, compute the key, lock the work directory, run the body, publish the results as outs."""

import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gan_core.errors import StageError
from gan_core.files import explain_os_errors
from pipelines.runtime.checkout import OPTIONAL_OUTS, Checkout
from pipelines.runtime.guard import dvc_ancestor, enter_guard, ignore_stop_signals, mark_succeeded, process_identity
from pipelines.runtime.key import StageDefinition, read_stage
from pipelines.runtime.work_directory import finished_results, mark_finished, prune_finished, publish, work_directory

LOG = logging.getLogger(__name__)

_PRUNE_PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """The argument of a stage's body."""

    name: str
    key: str
    """Digest of everything that determines the result."""
    work: Path
    """The work directory. Absolute. A stage that is killed and run again with the same key finds its work there."""
    checkout: Checkout
    pipeline_run: str
    """Key of the pipeline run, the same for all its stages."""
    definition: StageDefinition
    """Command, dependencies with their hashes, parameters and outs, as DVC reads them."""


Body = Callable[[StageContext], Mapping[str, Path]]
"""A stage's work: takes the context; returns, for each out, the file or folder in ``context.work`` that becomes it."""


def pipeline_run_key() -> str:
    """The key of the pipeline run that this process belongs to.

    It is GANTRY_PIPELINE_RUN if the flow has set it. Otherwise, under ``dvc repro``, it is derived from that process, so that
    all stages of the command have the same key. Otherwise it is new.
    """
    if given := os.environ.get("GANTRY_PIPELINE_RUN"):
        return given
    dvc = dvc_ancestor()
    if dvc is None:
        return f"hand-{uuid.uuid4().hex[:12]}"
    return f"repro-{hashlib.sha256(process_identity(dvc.pid).encode()).hexdigest()[:12]}"


Inputs = Callable[[StageDefinition, Checkout], Mapping[str, str]]
"""Finds the inputs of a stage that DVC does not know: a digest by name."""


def _no_inputs(definition: StageDefinition, checkout: Checkout) -> Mapping[str, str]:
    return {}


@contextmanager
def open_stage(name: str, checkout: Checkout, inputs: Inputs = _no_inputs) -> Iterator[StageContext]:
    """Lock the work directory of stage ``name`` for the length of the block; yields the context.

    Raises:
        StageError: there is no such stage, a dependency is missing, or another process uses the work directory.
    """
    definition = read_stage(name, checkout)
    definition = definition.with_inputs(inputs(definition, checkout))
    with work_directory(name, definition.key, checkout) as work:
        yield StageContext(
            name=name,
            key=definition.key,
            work=work,
            checkout=checkout,
            pipeline_run=pipeline_run_key(),
            definition=definition,
        )


def run_stage(
    name: str,
    body: Body,
    checkout: Checkout,
    *,
    guard: bool = True,
    storage_uri: Callable[[], str] = lambda: "",
    inputs: Inputs = _no_inputs,
) -> None:
    """Run stage ``name`` and publish its results.

    If the body has already finished with the same key, its results are published again and the body does not run. A stage that
    is not replayable (register, which changes a server) always runs its body.

    With a guard, the process forks at once (see :func:`pipelines.runtime.guard.enter_guard`), so call this before torch or Ray
    are imported, and import them in the body.

    Args:
        name: a stage of dvc.yaml.
        body: its work. ``context.work`` holds what a killed process of the same key has left.
        checkout: the checkout with the dvc.yaml, where the results go.
        guard: whether the process ends with its parent, together with all processes that it started.
        storage_uri: gives the URI of the storage in which the stage keeps work as well; empty without one.
        inputs: finds what else, besides what DVC knows, determines the result.

    Raises:
        StageError: the stage cannot run now, the body did not make one of the stage's outs, or an input of the stage changed
            while the body ran.
    """
    if not guard:
        _run(name, body, checkout, storage_uri, inputs)
        return
    enter_guard()
    try:
        _run(name, body, checkout, storage_uri, inputs)
    finally:
        ignore_stop_signals()


def _run(name: str, body: Body, checkout: Checkout, storage_uri: Callable[[], str], inputs: Inputs) -> None:
    with open_stage(name, checkout, inputs) as context:
        results = finished_results(context.work) if context.definition.replayable else None
        if results is not None:
            LOG.info(
                "Stage '%s' was already finished with key %s; its results are used again. To run it again, remove %s.",
                name,
                context.key,
                context.work,
            )
        else:
            with explain_os_errors(context.work):
                results = {out: context.work / result for out, result in body(context).items()}
            results = _without_unlisted(context, results)
            _check_results(context, results)
            check_inputs(context)
            mark_finished(context.work, results)
        for out, result in results.items():
            publish(result, checkout.out(out))
        for old in prune_finished(context.work):
            LOG.info("Removed %s, the finished work of an earlier key.", old)
        if uri := storage_uri():
            _prune_storage(uri, context)
    mark_succeeded(name)


def _prune_storage(uri: str, context: StageContext) -> None:
    """Do in the storage as in the work directories: mark the work of this stage as finished, remove that of earlier keys."""
    from pipelines.storage import work
    from pipelines.storage.objects import Storage, StorageError

    try:
        storage = Storage(uri, patience=_PRUNE_PATIENCE_SECONDS)
        work.mark_finished(storage, context.name, context.key)
        for old in work.prune_finished(storage, context.name, context.key):
            LOG.info("Removed %s/%s, the finished work of an earlier key.", uri, old)
    except StorageError as error:  # the results are in place: the next run of the stage removes what this one leaves
        LOG.warning("Finished work was not removed: %s", error)


def _without_unlisted(context: StageContext, results: Mapping[str, Path]) -> dict[str, Path]:
    """``results`` without the optional outs that the dvc.yaml of an older project does not list."""
    unlisted = {out for out in results if out in OPTIONAL_OUTS and out not in context.definition.outs}
    for out in sorted(unlisted):
        LOG.info("Stage '%s' does not keep %s: dvc.yaml does not list it among its outs.", context.name, out)
    return {out: result for out, result in results.items() if out not in unlisted}


def _check_results(context: StageContext, results: Mapping[str, Path]) -> None:
    """Raise StageError unless ``results`` covers every out of the stage and nothing else."""
    for out in context.definition.outs:
        if not any(result == out or result.startswith(f"{out}/") for result in results):
            raise StageError(f"Stage '{context.name}' lists the out {out} in dvc.yaml, but its code does not make it.")
    for out, result in results.items():
        if not any(out == known or out.startswith(f"{known}/") for known in context.definition.outs):
            raise StageError(f"Stage '{context.name}' makes {out}, which dvc.yaml does not list among its outs.")
        if not result.exists():
            raise StageError(f"Stage '{context.name}' did not write {result}, which becomes its out {out}.")


def check_inputs(context: StageContext) -> None:
    """Raise StageError if an input of the stage is not what it was when the stage began.

    DVC hashes the inputs after the command has ended, and would record the results as those of the changed inputs.
    """
    changed = context.definition.differences(read_stage(context.name, context.checkout))
    if changed:
        raise StageError(
            f"Stage '{context.name}' has done its work, but its inputs changed meanwhile: {', '.join(changed)}. Its results "
            "are not published, because DVC would record them as those of the changed inputs. Run it again: as it is now, or "
            f"after undoing the change, in which case it goes on from {context.work}."
        )
