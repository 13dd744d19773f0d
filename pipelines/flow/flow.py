"""The Prefect flow of a checkout: one task for each stage of DVC's graph, in DVC's order.

A task runs ``dvc repro --single-item STAGE`` and forwards its output to the log of the run. Its final state is ``Ran`` or
``Cached``, as DVC decides. A failed stage ends the flow with the stage's error.
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
from prefect.exceptions import PrefectException
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import flow_run as current_run
from prefect.states import Cancelled, Completed, Failed, State

from gan_core.errors import GantryError, StageError
from pipelines.flow.artifacts import publish_artifacts
from pipelines.flow.client_requests import ServedPipeline, resolve_request
from pipelines.flow.data_change import FIRST_STAGE, judge_change
from pipelines.flow.flow_runs import FLOW_NAME
from pipelines.flow.graph import Node, read_plan
from pipelines.flow.output import StageOutput, output_file
from pipelines.flow.owner import own_run
from pipelines.flow.process import ProcessStoppedError, ProcessTimeoutError, run_streaming
from pipelines.flow.pull import ORIGIN
from pipelines.flow.workspace import Workspace, checkout_workspace, has_remote, run_dvc, worktree_workspace
from pipelines.registry.registration import lost_registration
from pipelines.runtime.checkout import REGISTERED, Checkout
from pipelines.runtime.cluster import offer_cluster
from pipelines.runtime.dvc_command import announce_wait, dvc_command
from pipelines.runtime.redaction import redact_credentials, redact_logs
from pipelines.settings.flow import FlowSettings, TrainAbove, load_flow_settings

LOG = logging.getLogger(__name__)

UNCHANGED = "Unchanged"
"""Name of the state of the task that compares the data, if it has not changed enough to train."""
CANCEL_SECONDS = 3.0
"""Seconds between two checks whether the run was cancelled."""
RECORDING_STAGES = ("evaluate", "register")
"""The stages that record the results of the pipeline in MLflow when they run."""
RESULTS_SECONDS = 120.0
"""Time limit of recording the results of cached stages, which takes seconds."""
DVC_HINTS = (
    "To track the changes with git",
    "git add ",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
    "Data and pipelines are up to date",
)
"""Starts of DVC's hints after each stage, which are meant for a user at a prompt."""
DVC_SKIPPED = ("didn't change, skipping", "is cached - skipping run")
"""Parts of DVC's message about a stage that need not run."""


def _is_not_repeated(record: logging.LogRecord) -> bool:
    """Filter out Prefect's error about a failed task, because its next message says how the task finished."""
    return not (record.levelno >= logging.ERROR and str(record.msg).startswith("Task run failed with state"))


logging.getLogger("prefect.task_runs").addFilter(_is_not_repeated)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The outcome of one stage in a run."""

    stage: str
    state: str
    """Ran, Cached, Skipped, Failed, TimedOut, Cancelled or Crashed."""
    seconds: float


class PipelineError(StageError):
    """A stage failed. ``results`` has the outcome of each stage up to it."""

    def __init__(self, message: str, results: Sequence[StageResult]) -> None:
        super().__init__(message)
        self.results = list(results)


def pipeline_flow(checkout: Checkout, served: ServedPipeline | None = None) -> Flow[..., Any]:
    """Make the Prefect flow of ``checkout``. No parameter of the flow can choose another checkout.

    Args:
        checkout: a Gantry checkout.
        served: what ``gantry serve`` fixed. Clients of the Prefect server then start the runs, and their requests are limited
            (:mod:`pipelines.flow.client_requests`). None for the runs of a command.

    The flow has these parameters:

    - stages: run these stages and those that they depend on. If empty, all stages of dvc.yaml.
    - revision: run this commit in its own git worktree. Without it, run in the checkout itself or, if served, run the served
      revision.
    - overrides: values of params.yaml by dotted name, for this run. They need a revision.

    A failed run ends in a Failed state whose result is the error: a PipelineError, or another GantryError if the run could not
    start.
    """

    # An inner function is sent by value, with its checkout, to the process of a scheduled run.
    @flow(name=FLOW_NAME, persist_result=False, validate_parameters=True)
    def pipeline(
        stages: list[str] | None = None, revision: str | None = None, overrides: dict[str, Any] | None = None
    ) -> list[StageResult] | State:
        return run_flow(checkout, served, stages or [], revision, overrides or {})

    return pipeline


def run_flow(
    checkout: Checkout,
    served: ServedPipeline | None,
    stages: Sequence[str],
    revision: str | None,
    overrides: Mapping[str, Any],
) -> list[StageResult] | State:
    """The body of the flow of :func:`pipeline_flow`, which describes the arguments."""
    redact_logs()  # Prefect starts the process of a scheduled run, so the command line has not done it
    with own_run(_run_id(), checkout):
        try:
            if served is not None:
                asked = revision
                revision, overrides = resolve_request(served, revision, overrides)
                check_takeovers(checkout)
                from_client = asked not in (None, served.revision)
                origin, scheduled = served.origin, not stages
                return _run(
                    checkout, stages, revision, overrides, from_client=from_client, origin=origin, scheduled=scheduled
                )
            return _run(checkout, stages, revision, overrides)
        except GantryError as error:
            # Logged without a traceback. Not printed in the terminal, because the command prints it at its end.
            _hide_from_terminal()
            get_run_logger().error(str(error), extra={"shown_by_command": served is None})
            return Failed(message=redact_credentials(str(error).splitlines()[0]), data=error)


def _run(
    checkout: Checkout,
    stages: Sequence[str],
    revision: str | None,
    overrides: Mapping[str, Any],
    *,
    from_client: bool = False,
    origin: str | None = None,
    scheduled: bool = False,
) -> list[StageResult] | State:
    if overrides and not revision:
        raise StageError("Overrides need a revision. For a run in the checkout, edit params.yaml instead.")
    with contextlib.ExitStack() as stack:
        if revision:
            place = worktree_workspace(
                checkout,
                revision=revision,
                overrides=overrides,
                name=run_name(),
                from_client=from_client,
                origin=origin,
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
        return _run_plan(workspace, plan, settings, stop, bounds=settings.train_above if scheduled else None)


def check_takeovers(checkout: Checkout) -> None:
    """Raise StageError if the workers of this flow run were lost more often than ``flow.max_takeovers`` allows.

    Otherwise a run that kills its host, for example because it needs more memory than there is, would go from host to host.
    """
    limit = load_flow_settings(checkout.params).max_takeovers
    taken_up = current_run.get_run_count() - 1
    if taken_up > limit:
        raise StageError(
            f"The workers of this run were lost {taken_up} times, and flow.max_takeovers is {limit}. Look at the logs of "
            "the hosts (memory, disk, power), then run the deployment again: its stage resumes."
        )
    if taken_up > 0:
        get_run_logger().warning("Taken up after its worker was lost (%d of at most %d times).", taken_up, limit)


def run_name() -> str:
    """A unique name of the current flow run: Prefect's name for it and the start of its id.

    It is sanitised, because it becomes the name of a folder and of a DVC experiment, and a client of the server may give a run
    any name.
    """
    called = re.sub(r"[^A-Za-z0-9]+", "-", current_run.get_name() or "")[:60].strip("-")
    return f"{called or 'run'}-{str(_run_id())[:8]}"


def _run_id() -> UUID:
    return UUID(current_run.get_id())


def _is_for_terminal(record: logging.LogRecord) -> bool:
    return not getattr(record, "shown_by_command", False)


def _hide_from_terminal() -> None:
    """Make Prefect's terminal handler skip log records with a true ``shown_by_command``. Its server still gets them."""
    for name in ("", "prefect"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.addFilter(_is_for_terminal)  # adding the same filter again has no effect


def _run_plan(
    workspace: Workspace,
    plan: Sequence[Node],
    settings: FlowSettings,
    stop: threading.Event,
    *,
    bounds: TrainAbove | None = None,
) -> list[StageResult] | State:
    """Run the nodes of ``plan``. With ``bounds``, those after ingestion only if the data has changed by more than these."""
    results: list[StageResult] = []
    for number, node in enumerate(plan, start=1):
        began = time.monotonic()
        retries = settings.retries if node.is_stage else 0
        attempt = run_node.with_options(
            name=node.name,
            task_run_name=node.name,
            retries=retries,
            retry_delay_seconds=settings.retry_delay_s,
        )
        # Carries the full error out of the task: the message of the task's state is only one line.
        attempts = Attempts(limit=1 + retries, path=output_file(workspace.checkout, run_name(), node.name))
        state = attempt(workspace, node, settings.timeout_s.get(node.name), stop, attempts, return_state=True)
        results.append(
            StageResult(stage=node.name, state=state.name or state.type.value, seconds=time.monotonic() - began)
        )
        if state.is_cancelled() or stop.is_set():
            return Cancelled(message=f"Cancelled in stage '{node.name}'.")
        if not state.is_completed():
            raise PipelineError(attempts.error or state.message or f"Stage '{node.name}' failed.", results)
        if bounds and node.name == FIRST_STAGE:
            compared = compare_data.with_options(task_run_name="compare data")(
                workspace, bounds, stop, return_state=True
            )
            if compared.is_cancelled() or stop.is_set():
                return Cancelled(message="Cancelled while the data was compared.")
            if not compared.is_completed():
                raise PipelineError(compared.message or "The data could not be compared.", results)
            if compared.name == UNCHANGED:
                skipped = [StageResult(stage=later.name, state="Skipped", seconds=0.0) for later in plan[number:]]
                return Completed(name="Skipped", message=f"Not trained: {compared.message}", data=[*results, *skipped])
    if needs_results(results):
        record_results.with_options(task_run_name="results")(workspace, stop)
    if workspace.experiment:
        record.with_options(task_run_name="record")(workspace, [node.name for node in plan])
    return results


@task(cache_policy=NO_CACHE, persist_result=False)
def compare_data(workspace: Workspace, bounds: TrainAbove, stop: threading.Event) -> State:
    """Compare the prepared data with the champion's; the state says whether to train (Changed or Unchanged), and why."""
    logger = get_run_logger()
    try:
        verdict = judge_change(workspace, bounds, on_line=logger.info, stop=stop)
    except ProcessStoppedError:
        return Cancelled(message="The comparison was cancelled.")
    logger.info("%s: %s.", "Training" if verdict.train else "Not training", verdict.reason)
    return Completed(name="Changed" if verdict.train else UNCHANGED, message=verdict.reason)


class Attempts:
    """The attempts to run one stage. Not a dataclass, because Prefect may pass a copy of a dataclass to a task.

    Args:
        limit: maximum number of attempts.
        path: file for the output of all attempts.
    """

    def __init__(self, *, limit: int, path: Path) -> None:
        self.limit, self.path = limit, path
        self.made = 0
        self.error: str | None = None
        """The full error of the last attempt."""


@task(cache_policy=NO_CACHE, persist_result=False)
def run_node(
    workspace: Workspace, node: Node, timeout_s: float | None, stop: threading.Event, attempts: Attempts
) -> State:
    """Run one stage or update one data source, if DVC finds it necessary."""
    logger = get_run_logger()
    skipped = False
    attempts.made += 1

    def pass_on(line: str) -> None:
        if not line.strip().startswith(DVC_HINTS):
            logger.info(line)

    def on_line(line: str) -> None:
        nonlocal skipped
        skipped = skipped or any(words in line for words in DVC_SKIPPED)
        output.add(line)

    def failed(name: str, what: str, why: str) -> State:
        attempts.error = "\n".join(filter(None, [f"Stage '{node.name}' {what}", why, output.location()]))
        if attempts.made < attempts.limit:  # the error of the last attempt is printed at the end of the run
            logger.warning("Attempt %d of %d: %s", attempts.made, attempts.limit, attempts.error)
        return Failed(name=name, message=f"Stage '{node.name}' {what}")

    output = StageOutput(pass_on, attempts.path)
    # On a worker's clone, another host may have run the stage: --pull takes its result from DVC's remote.
    pull = ["--pull"] if workspace.origin is not None and has_remote(workspace.checkout) else []

    def repro(*options: str) -> int:
        announce_wait(workspace.checkout.root, logger)
        return run_streaming(
            dvc_command("repro", *options, "--single-item", node.name),
            cwd=workspace.checkout.root,
            environment=workspace.environment,
            on_line=on_line,
            stop=stop,
            timeout_s=timeout_s,
        )

    status: int | None = None
    try:
        status = repro(*pull)
        if skipped and not status and REGISTERED in node.outs and (lost := _lost_registration(workspace)):
            logger.warning("%s. Registering it again.", lost)
            skipped, status = False, repro("--force")
    except ProcessStoppedError:
        return Cancelled(message="The stage was cancelled and its processes were ended.")
    except ProcessTimeoutError as error:
        return failed("TimedOut", str(error), "")
    finally:
        output.end(failed=bool(status))
    if status:
        return failed("Failed", f"failed (status {status}).", output.error())
    publish_artifacts(workspace.checkout, node.outs)
    return Completed(name="Cached" if skipped else "Ran")


def _lost_registration(workspace: Workspace) -> str:
    """See :func:`lost_registration`. A registry that cannot be reached is only warned of: the results are in place."""
    try:
        return lost_registration(workspace.checkout)
    except GantryError as error:
        get_run_logger().warning("It is not known whether the registered version still exists. %s", error)
        return ""


def needs_results(results: Sequence[StageResult]) -> bool:
    """Whether the flow must record the results of a run in MLflow, because the stages that do so were cached."""
    states = {result.stage: result.state for result in results if result.stage in RECORDING_STAGES}
    return bool(states) and "Ran" not in states.values()


@task(cache_policy=NO_CACHE, persist_result=False)
def record_results(workspace: Workspace, stop: threading.Event) -> None:
    """Record the results of a run of cached stages in MLflow. A failure is a warning: the results are in place."""
    logger = get_run_logger()
    try:
        status = run_streaming(
            [sys.executable, "-m", "pipelines.stages.results"],
            cwd=workspace.checkout.root,
            environment=workspace.environment,
            on_line=logger.info,
            stop=stop,
            timeout_s=RESULTS_SECONDS,
        )
        why = f"status {status}, see above" if status else ""
    except (ProcessStoppedError, ProcessTimeoutError) as error:
        why = str(error)
    if why:
        logger.warning(
            "The results are in place, but MLflow's run of the pipeline does not show all of them (%s).", why
        )


@task(cache_policy=NO_CACHE, persist_result=False)
def record(workspace: Workspace, targets: Sequence[str]) -> None:
    """Record the run of a worktree as a DVC experiment and, if a DVC remote is set, push its data.

    A worker's clone also pushes the run cache and, with ``flow.push_experiments``, the experiment itself to its repository.

    Args:
        workspace: the workspace of the run.
        targets: the nodes of the run. Only their data is recorded; other data of the checkout may be missing in the worktree.
    """
    logger = get_run_logger()
    assert workspace.experiment is not None
    run_dvc(workspace.checkout, workspace.environment, "exp", "save", "--force", "-n", workspace.experiment, *targets)
    logger.info("Recorded as experiment %s (dvc exp show).", workspace.experiment)
    checkout, environment, origin = workspace.checkout, workspace.environment, workspace.origin
    try:
        if has_remote(checkout):
            run_cache = ["--run-cache"] if origin is not None else []
            run_dvc(checkout, environment, "push", *run_cache, *targets)
            logger.info("Pushed to the remote.")
        if origin is not None and load_flow_settings(checkout.params).push_experiments:
            run_dvc(checkout, environment, "exp", "push", "--no-cache", ORIGIN, workspace.experiment)
            logger.info("Pushed the experiment to %s (there: dvc exp pull origin %s).", origin, workspace.experiment)
    except StageError as error:
        raise StageError(f"All stages ran and are recorded as {workspace.experiment}, but {error}") from error


@contextmanager
def _watch_for_cancelling() -> Iterator[threading.Event]:
    """Yield an event that is set when the current flow run is cancelled, in Prefect's UI or with its command line."""
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
                        LOG.warning("The Prefect server does not answer (%s); the run continues.", error)
                    warned = True
                    continue
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    cancelled.set()
                    return

    # The thread needs a copy of this context, which has Prefect's settings, such as the server's address.
    thread = threading.Thread(target=copy_context().run, args=(watch,), name="cancel-watch", daemon=True)
    thread.start()
    try:
        yield cancelled
    finally:
        over.set()
        thread.join(timeout=2 * CANCEL_SECONDS)
