"""Running a stage: guarded process, key, work directory, body, results moved into the stage's outs."""

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
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import _ended, dvc_ancestor, enter_guard, identity, stop_no_more
from pipelines.runtime.key import StageDefinition, read_stage
from pipelines.runtime.work_directory import finish, finished, prune, publish, work_directory

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """What a stage's body is given."""

    name: str
    key: str
    """Digest of everything that determines the result; the name of Ray's run."""
    work: Path
    """Where work in progress is kept: a killed stage of the same key finds it again. Absolute."""
    checkout: Checkout
    pipeline_run: str
    """The same for all stages of one pipeline run."""
    definition: StageDefinition
    """Command, dependencies with their hashes, parameters and outs, as DVC knows them."""


Body = Callable[[StageContext], Mapping[str, Path]]
"""A stage's work: from its context to its results, as a file or folder in ``context.work`` for each of its outs."""


def pipeline_run_key() -> str:
    """Names the pipeline run that this process is a part of.

    GANTRY_PIPELINE_RUN where the flow has set it; else derived from the ``dvc repro`` above, so that all stages of one
    such command agree; else new.
    """
    if given := os.environ.get("GANTRY_PIPELINE_RUN"):
        return given
    dvc = dvc_ancestor()
    if dvc is None:
        return f"hand-{uuid.uuid4().hex[:12]}"
    return f"repro-{hashlib.sha256(identity(dvc.pid).encode()).hexdigest()[:12]}"


@contextmanager
def stage(name: str, checkout: Checkout) -> Iterator[StageContext]:
    """Hold the work directory of stage ``name`` for the length of the block.

    Raises:
        StageError: no such stage, a missing dependency, or its work directory is taken.
    """
    definition = read_stage(name, checkout)
    with work_directory(name, definition.key, checkout) as work:
        yield StageContext(
            name=name,
            key=definition.key,
            work=work,
            checkout=checkout,
            pipeline_run=pipeline_run_key(),
            definition=definition,
        )


def run_stage(name: str, body: Body, checkout: Checkout, *, guard: bool = True) -> None:
    """Run stage ``name``: the body once for each key, however often the process is killed on the way.

    A stage that is not replayable (register, which acts on a server) runs its body each time.

    With a guard the process splits in two at once (see :func:`pipelines.runtime.guard.enter_guard`), so this is called
    before torch or Ray are imported: import them in the body.

    Args:
        name: a stage of dvc.yaml.
        body: its work. It finds what an earlier, killed process of the same key left in ``context.work``.
        checkout: where dvc.yaml is, and where the results go.
        guard: whether the process is to die with the one that started it and to take along what it started.

    Raises:
        StageError: the stage cannot run here and now, or the body did not make one of the stage's outs.
    """
    if not guard:
        _run(name, body, checkout)
        return
    enter_guard()
    try:
        _run(name, body, checkout)
    finally:
        stop_no_more()


def _run(name: str, body: Body, checkout: Checkout) -> None:
    with stage(name, checkout) as context:
        results = finished(context.work) if context.definition.replayable else None
        if results is not None:
            LOG.info(
                "Stage '%s' was finished with key %s; its results are put in place again. To do it anew, remove %s.",
                name,
                context.key,
                context.work,
            )
        else:
            with explain_os_errors(context.work):
                results = {out: context.work / result for out, result in body(context).items()}
            _check_results(context, results)
            finish(context.work, results)
        for out, result in results.items():
            publish(result, checkout.out(out))
        for old in prune(context.work):
            LOG.info("Removed %s, finished work of an earlier key.", old)
    _ended.append(name)


def _check_results(context: StageContext, results: Mapping[str, Path]) -> None:
    """Raise StageError unless ``results`` has each out of the stage, or each file below it, and nothing else."""
    for out in context.definition.outs:
        if not any(result == out or result.startswith(f"{out}/") for result in results):
            raise StageError(f"Stage '{context.name}' has the out {out} in dvc.yaml, and its code does not make it.")
    for out, result in results.items():
        if not any(out == known or out.startswith(f"{known}/") for known in context.definition.outs):
            raise StageError(f"Stage '{context.name}' makes {out}, which is not among its outs in dvc.yaml.")
        if not result.exists():
            raise StageError(f"Stage '{context.name}' ended without {result}, which is to become {out}.")
