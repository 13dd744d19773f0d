"""The flow ``pipeline``: one Prefect task for each stage of DVC's graph, in DVC's order.

A task starts ``dvc repro --single-item STAGE`` and passes its lines to the run's log. Its state is called ``Ran`` or
``Cached``, as DVC decides; a failed stage ends the flow with the stage's last lines.
"""

import contextlib
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectException
from prefect.logging.handlers import APILogWorker
from prefect.runtime import flow_run as current_run
from prefect.states import Cancelled, Completed, Failed, State

from gan_core.errors import GantryError, StageError
from pipelines.cluster import offer_cluster
from pipelines.flow import owner
from pipelines.flow.artifacts import publish_artifacts
from pipelines.flow.graph import Node, read_plan
from pipelines.flow.process import OvertimeError, StoppedError, last_lines, stream
from pipelines.flow.settings import FlowSettings, load_flow_settings
from pipelines.flow.workspace import Workspace, checkout_workspace, dvc, has_remote, worktree_workspace
from pipelines.redaction import redact, redact_logs

LOG = logging.getLogger(__name__)

CANCEL_SECONDS = 3.0
"""How often a run asks the server whether somebody cancelled it."""
HINTS = (
    "To track the changes with git",
    "git add ",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
    "Data and pipelines are up to date",
)
"""What DVC says after each stage, for a person at a prompt."""
SKIPPED = ("didn't change, skipping", "is cached - skipping run")
"""What DVC says of a stage that it need not run."""


def _without_empty_traceback(record: logging.LogRecord) -> bool:
    """Prefect logs a failed attempt with the traceback of the exception that there is not: as ``NoneType: None``."""
    if record.exc_info and record.exc_info[0] is None:
        record.exc_info = None
    return True


logging.getLogger("prefect.task_runs").addFilter(_without_empty_traceback)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What became of one stage in a run."""

    stage: str
    state: str
    """Ran, Cached, Failed, TimedOut, Cancelled or Crashed."""
    seconds: float


class PipelineError(StageError):
    """A stage failed. ``results`` has what became of the stages up to it."""

    def __init__(self, message: str, results: Sequence[StageResult]) -> None:
        super().__init__(message)
        self.results = list(results)


@flow(name="pipeline", persist_result=False, validate_parameters=True)
def pipeline(
    checkout: str,
    stages: list[str] | None = None,
    revision: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> list[StageResult] | State:
    """Run the pipeline.

    Args:
        checkout: absolute path of the Gantry checkout.
        stages: run these and what they need; all of dvc.yaml when empty.
        revision: run this commit in a worktree of its own; without it, run in the checkout as it is.
        overrides: values of params.yaml by dotted name, for this run; needs ``revision``.

    A run that fails ends in a Failed state whose result is the error: a PipelineError, or a GantryError that says why it
    could not start.
    """
    redact_logs()  # a scheduled run is a process of Prefect's, not of the command line
    root = Path(checkout).resolve()
    with get_client(sync_client=True) as client:
        owner.sign(client, client.read_flow_run(_run_id()), root)
    try:
        return _run(root, stages or [], revision, overrides or {})
    except GantryError as error:
        # Errors that a user is meant to see, without a traceback.
        get_run_logger().error(str(error))
        return Failed(message=redact(str(error)), data=error)


def _run(
    root: Path, stages: Sequence[str], revision: str | None, overrides: Mapping[str, Any]
) -> list[StageResult] | State:
    if overrides and not revision:
        raise StageError("Overrides are for runs of a revision: in the checkout, params.yaml says what is run.")
    with contextlib.ExitStack() as stack:
        if revision:
            place = worktree_workspace(root, revision=revision, overrides=overrides, name=run_name())
            workspace = stack.enter_context(place)
        else:
            workspace = checkout_workspace(root)
        plan = read_plan(workspace.root, stages)
        settings = load_flow_settings(workspace.root)
        settings.check_stages(node.name for node in read_plan(workspace.root))
        workspace.environment["GANTRY_PIPELINE_RUN"] = run_name()
        workspace.environment.update(stack.enter_context(offer_cluster(workspace.root, workspace.environment)))
        stop = stack.enter_context(_watch_for_cancelling())
        return _run_plan(workspace, plan, settings, stop)


def run_name() -> str:
    """Names the current flow run: what Prefect calls it, and enough of its id to be the only one."""
    return f"{current_run.get_name()}-{str(_run_id())[:8]}"


def _run_id() -> UUID:
    return UUID(current_run.get_id())


def _run_plan(
    workspace: Workspace, plan: Sequence[Node], settings: FlowSettings, stop: threading.Event
) -> list[StageResult] | State:
    results: list[StageResult] = []
    for node in plan:
        began = time.monotonic()
        attempt = run_node.with_options(
            name=node.name,
            task_run_name=node.name,
            retries=settings.retries if node.is_stage else 0,
            retry_delay_seconds=settings.retry_delay_s,
        )
        state = attempt(workspace, node, settings.timeout_s.get(node.name), stop, return_state=True)
        results.append(
            StageResult(stage=node.name, state=state.name or state.type.value, seconds=time.monotonic() - began)
        )
        if state.is_cancelled() or stop.is_set():
            return Cancelled(message=f"Cancelled in stage '{node.name}'.")
        if not state.is_completed():
            raise PipelineError(state.message or f"Stage '{node.name}' failed.", results)
    if workspace.experiment:
        record.with_options(task_run_name="record")(workspace)
    return results


@task(cache_policy=NO_CACHE, persist_result=False)
def run_node(workspace: Workspace, node: Node, timeout_s: float | None, stop: threading.Event) -> State:
    """Run one stage, or bring one data source up to date, as DVC finds necessary."""
    logger = get_run_logger()
    lines: deque[str] = deque(maxlen=200)
    skipped = False

    def on_line(line: str) -> None:
        nonlocal skipped
        lines.append(line)
        skipped = skipped or any(words in line for words in SKIPPED)
        if not line.strip().startswith(HINTS):
            logger.info(line)

    command = [sys.executable, "-m", "dvc", "repro", "--single-item", node.name]
    try:
        status = stream(
            command,
            cwd=workspace.root,
            environment=workspace.environment,
            on_line=on_line,
            stop=stop,
            timeout_s=timeout_s,
        )
    except StoppedError:
        return Cancelled(message="Its processes were ended.")
    except OvertimeError as error:
        return Failed(name="TimedOut", message=f"Stage '{node.name}': {error} Last lines:\n{last_lines(lines)}")
    if status:
        return Failed(message=f"Stage '{node.name}' failed (status {status}). Last lines:\n{last_lines(lines)}")
    publish_artifacts(workspace.root, node.outs)
    return Completed(name="Cached" if skipped else "Ran")


@task(cache_policy=NO_CACHE, persist_result=False)
def record(workspace: Workspace) -> None:
    """Record a run of a worktree as a DVC experiment, and push its data where a remote is set."""
    logger = get_run_logger()
    assert workspace.experiment is not None
    dvc(workspace.root, workspace.environment, "exp", "save", "--force", "-n", workspace.experiment)
    logger.info("Recorded as experiment %s (dvc exp show).", workspace.experiment)
    if not has_remote(workspace.root):
        return
    try:
        dvc(workspace.root, workspace.environment, "push")
    except StageError as error:
        raise StageError(f"All stages ran and are recorded as {workspace.experiment}, but {error}") from error
    logger.info("Pushed to the remote.")


@contextmanager
def _watch_for_cancelling() -> Iterator[threading.Event]:
    """An event that is set when somebody cancels the current flow run, in the UI or by the command line."""
    cancelled, over = threading.Event(), threading.Event()
    run = _run_id()

    def watch() -> None:
        warned = False
        with get_client(sync_client=True) as client:
            while not over.wait(CANCEL_SECONDS):
                try:
                    state = client.read_flow_run(run).state
                except (httpx.HTTPError, PrefectException, OSError) as error:
                    if not warned:
                        LOG.warning("The Prefect server does not answer (%s); the run goes on.", error)
                    warned = True
                    continue
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    cancelled.set()
                    return

    # The thread needs this thread's settings: the address of the server is one.
    thread = threading.Thread(target=copy_context().run, args=(watch,), name="cancel-watch", daemon=True)
    thread.start()
    try:
        yield cancelled
    finally:
        over.set()
        thread.join(timeout=2 * CANCEL_SECONDS)


def mark_crashed(checkout: Path) -> list[str]:
    """Mark the flow runs of ``checkout`` whose process was killed as crashed; returns their names."""
    return owner.mark_crashed(pipeline.name, checkout)


def flush(seconds: float = 20.0) -> None:
    """Send what Prefect has yet to send (log lines, states of tasks), before the server is ended."""
    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=seconds)
