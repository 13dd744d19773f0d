"""The flow of a checkout: one Prefect task for each stage of DVC's graph, in DVC's order.

A task starts ``dvc repro --single-item STAGE`` and passes its lines to the run's log. Its state is called ``Ran`` or
``Cached``, as DVC decides; a failed stage ends the flow with the stage's last lines.
"""

import contextlib
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import Flow, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectException
from prefect.logging.handlers import APILogWorker, PrefectConsoleHandler
from prefect.runtime import flow_run as current_run
from prefect.states import Cancelled, Completed, Failed, State

from gan_core.errors import GantryError, StageError
from pipelines.flow import owner
from pipelines.flow.artifacts import publish_artifacts
from pipelines.flow.graph import Node, read_plan
from pipelines.flow.output import StageOutput, output_file
from pipelines.flow.process import OvertimeError, StoppedError, stream
from pipelines.flow.submitted import Served, settle
from pipelines.flow.workspace import Workspace, checkout_workspace, dvc, has_remote, worktree_workspace
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import offer_cluster
from pipelines.runtime.redaction import redact_credentials, redact_logs
from pipelines.settings.flow import FlowSettings, load_flow_settings

LOG = logging.getLogger(__name__)

FLOW_NAME = "pipeline"
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


def _told_once(record: logging.LogRecord) -> bool:
    """Pass over what Prefect says of a failed task just before it says how the task finished."""
    return not (record.levelno >= logging.ERROR and str(record.msg).startswith("Task run failed with state"))


logging.getLogger("prefect.task_runs").addFilter(_told_once)


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


def pipeline_of(checkout: Checkout, served: Served | None = None) -> Flow[..., Any]:
    """The flow of ``checkout``: no parameter of the flow can name another.

    Args:
        checkout: a Gantry checkout.
        served: what ``gantry serve`` fixed. Runs then come from clients of the Prefect server, who may not ask for everything
            (:mod:`pipelines.flow.submitted`); None for the runs of a command.

    The flow's parameters are

    - stages: run these and what they need; all of dvc.yaml when empty;
    - revision: run this commit in a worktree of its own; without it, run in the checkout as it is, or, when served, the
      revision that is served;
    - overrides: values of params.yaml by dotted name, for this run; needs a revision.

    A run that fails ends in a Failed state whose result is the error: a PipelineError, or a GantryError that says why it
    could not start.
    """

    # A function in a function travels by value to the process of a scheduled run, and the checkout with it.
    @flow(name=FLOW_NAME, persist_result=False, validate_parameters=True)
    def pipeline(
        stages: list[str] | None = None, revision: str | None = None, overrides: dict[str, Any] | None = None
    ) -> list[StageResult] | State:
        return run_flow(checkout, served, stages or [], revision, overrides or {})

    return pipeline


def run_flow(
    checkout: Checkout, served: Served | None, stages: Sequence[str], revision: str | None, overrides: Mapping[str, Any]
) -> list[StageResult] | State:
    """What the flow of :func:`pipeline_of` does."""
    redact_logs()  # a scheduled run is a process of Prefect's, not of the command line
    with get_client(sync_client=True) as client:
        owner.sign(client, client.read_flow_run(_run_id()), checkout)
    try:
        if served is not None:
            asked = revision
            revision, overrides = settle(served, revision, overrides)
            return _run(checkout, stages, revision, overrides, from_client=asked not in (None, served.revision))
        return _run(checkout, stages, revision, overrides)
    except GantryError as error:
        # Errors that a user is meant to see, without a traceback. A command tells it at its own end, and once is enough.
        _keep_off_terminal()
        get_run_logger().error(str(error), extra={"told_by_command": served is None})
        return Failed(message=redact_credentials(str(error).splitlines()[0]), data=error)


def _run(
    checkout: Checkout,
    stages: Sequence[str],
    revision: str | None,
    overrides: Mapping[str, Any],
    *,
    from_client: bool = False,
) -> list[StageResult] | State:
    if overrides and not revision:
        raise StageError("Overrides are for runs of a revision: in the checkout, params.yaml says what is run.")
    with contextlib.ExitStack() as stack:
        if revision:
            place = worktree_workspace(
                checkout, revision=revision, overrides=overrides, name=run_name(), from_client=from_client
            )
            workspace = stack.enter_context(place)
        else:
            workspace = checkout_workspace(checkout)
        plan = read_plan(workspace.checkout, stages)
        settings = load_flow_settings(workspace.checkout.params)
        settings.check_stages(node.name for node in read_plan(workspace.checkout))
        workspace.environment["GANTRY_PIPELINE_RUN"] = run_name()
        workspace.environment.update(stack.enter_context(offer_cluster(workspace.checkout, workspace.environment)))
        stop = stack.enter_context(_watch_for_cancelling())
        return _run_plan(workspace, plan, settings, stop)


def run_name() -> str:
    """Names the current flow run: what Prefect calls it, and enough of its id to be the only one.

    It becomes the name of a folder and of a DVC experiment, and a client of the server may call a run anything.
    """
    called = re.sub(r"[^A-Za-z0-9]+", "-", current_run.get_name() or "")[:60].strip("-")
    return f"{called or 'run'}-{str(_run_id())[:8]}"


def _run_id() -> UUID:
    return UUID(current_run.get_id())


def _is_for_terminal(record: logging.LogRecord) -> bool:
    return not getattr(record, "told_by_command", False)


def _keep_off_terminal() -> None:
    """Have Prefect's terminal handler pass over log records with a true ``told_by_command``; its server gets them."""
    for name in ("", "prefect"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.addFilter(_is_for_terminal)  # once, however often a flow fails in this process


def _run_plan(
    workspace: Workspace, plan: Sequence[Node], settings: FlowSettings, stop: threading.Event
) -> list[StageResult] | State:
    results: list[StageResult] = []
    for node in plan:
        began = time.monotonic()
        retries = settings.retries if node.is_stage else 0
        attempt = run_node.with_options(
            name=node.name,
            task_run_name=node.name,
            retries=retries,
            retry_delay_seconds=settings.retry_delay_s,
        )
        # What the task says of its stage stays in this process; the state of a task is for a line.
        attempts = Attempts(most=1 + retries, path=output_file(workspace.checkout, run_name(), node.name))
        state = attempt(workspace, node, settings.timeout_s.get(node.name), stop, attempts, return_state=True)
        results.append(
            StageResult(stage=node.name, state=state.name or state.type.value, seconds=time.monotonic() - began)
        )
        if state.is_cancelled() or stop.is_set():
            return Cancelled(message=f"Cancelled in stage '{node.name}'.")
        if not state.is_completed():
            raise PipelineError(attempts.error or state.message or f"Stage '{node.name}' failed.", results)
    if workspace.experiment:
        record.with_options(task_run_name="record")(workspace, [node.name for node in plan])
    return results


class Attempts:
    """The attempts at one stage; no dataclass, which Prefect may hand to a task as a copy.

    Args:
        most: how many there may be.
        path: where the output of all of them is kept.
    """

    def __init__(self, *, most: int, path: Path) -> None:
        self.most, self.path = most, path
        self.made = 0
        self.error: str | None = None
        """Why the last one failed, in full."""


@task(cache_policy=NO_CACHE, persist_result=False)
def run_node(
    workspace: Workspace, node: Node, timeout_s: float | None, stop: threading.Event, attempts: Attempts
) -> State:
    """Run one stage, or bring one data source up to date, as DVC finds necessary."""
    logger = get_run_logger()
    skipped = False
    attempts.made += 1

    def pass_on(line: str) -> None:
        if not line.strip().startswith(HINTS):
            logger.info(line)

    def on_line(line: str) -> None:
        nonlocal skipped
        skipped = skipped or any(words in line for words in SKIPPED)
        output.add(line)

    def failed(name: str, what: str, why: str) -> State:
        attempts.error = "\n".join(filter(None, [f"Stage '{node.name}' {what}", why, output.place()]))
        if attempts.made < attempts.most:  # the last one is told at the end
            logger.warning("Attempt %d of %d: %s", attempts.made, attempts.most, attempts.error)
        return Failed(name=name, message=f"Stage '{node.name}' {what}")

    output = StageOutput(pass_on, attempts.path)
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", node.name]
    status: int | None = None
    try:
        status = stream(
            command,
            cwd=workspace.checkout.root,
            environment=workspace.environment,
            on_line=on_line,
            stop=stop,
            timeout_s=timeout_s,
        )
    except StoppedError:
        return Cancelled(message="Its processes were ended.")
    except OvertimeError as error:
        return failed("TimedOut", str(error), "")
    finally:
        output.end(failed=bool(status))
    if status:
        return failed("Failed", f"failed (status {status}).", output.error())
    publish_artifacts(workspace.checkout, node.outs)
    return Completed(name="Cached" if skipped else "Ran")


@task(cache_policy=NO_CACHE, persist_result=False)
def record(workspace: Workspace, targets: Sequence[str]) -> None:
    """Record a run of a worktree as a DVC experiment, and push its data where a remote is set.

    Args:
        workspace: where it ran.
        targets: what was run. A data set of the checkout that the run did not need may be absent.
    """
    logger = get_run_logger()
    assert workspace.experiment is not None
    dvc(workspace.checkout, workspace.environment, "exp", "save", "--force", "-n", workspace.experiment, *targets)
    logger.info("Recorded as experiment %s (dvc exp show).", workspace.experiment)
    if not has_remote(workspace.checkout):
        return
    try:
        dvc(workspace.checkout, workspace.environment, "push", *targets)
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


def mark_crashed(checkout: Checkout) -> list[str]:
    """Mark the flow runs of ``checkout`` whose process was killed as crashed; returns their names."""
    return owner.mark_crashed(FLOW_NAME, checkout)


def flush(seconds: float = 20.0) -> None:
    """Send what Prefect has yet to send (log lines, states of tasks), before the server is ended."""
    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=seconds)
