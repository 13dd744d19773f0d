"""``gantry run``, ``gantry serve`` and ``gantry ui``."""

import asyncio
import atexit
import importlib
import logging
import os
import time
import webbrowser
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gan_core.errors import GantryError, StageError
from pipelines.flow.client_requests import ServedPipeline
from pipelines.flow.outcome import result_summary
from pipelines.flow.overrides import parse_override
from pipelines.flow.prefect_yaml import check_name
from pipelines.flow.schedule import check_schedule
from pipelines.flow.server import PORT, check_database_space, connect_prefect, explain_server_errors, is_gone
from pipelines.flow.serving import check_served_name, drop_outdated_runs, only_server, served_description
from pipelines.flow.terminal import TerminalHandler, terminal_log
from pipelines.flow.web import USER, listen, run_server, sign_in_page
from pipelines.flow.workspace import check_checkout, check_revision, exclusive_run, remove_abandoned
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import STOP_SIGNALS, enter_guard
from pipelines.runtime.redaction import redact_credentials
from pipelines.settings.tracking_uri import SQLITE, project_tracking_uri
from pipelines.tracking.moved import correct_places
from pipelines.tracking.store import MLFLOW_PORT, check_schema, check_store, ensure_database

if TYPE_CHECKING:
    from prefect.runner import Runner

    from pipelines.flow.flow import StageResult

LOGGER = logging.getLogger("pipelines")
PORTS = click.IntRange(1, 65535)
_PORT_HELP = "Port of the {0}. Default: {1}, or any free port if {1} is taken."
MLFLOW_HOSTS = ("127.0.0.1", "localhost", "[[]::1]")
"""Host names under which MLflow's pages answer, as patterns of MLflow."""
SERVER_CHECK_SECONDS = 10.0
"""Seconds between two checks whether the Prefect server still runs."""


@click.command()
@click.argument("stages", nargs=-1)
@click.option("--revision", metavar="REV", help="Run this branch, tag or commit in a git worktree of its own.")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="Override a setting of params.yaml for this run, such as train.steps=100. Needs --revision.",
)
def run(stages: tuple[str, ...], revision: str | None, sets: tuple[str, ...]) -> None:
    """Run the pipeline now, through Prefect: STAGES and the stages that they need. Default: all stages.

    Without --revision, it runs in this folder, as `dvc repro` does. With --revision, it is recorded as a DVC experiment.
    """
    if sets and not revision:
        raise StageError(
            "--set needs --revision (for example --revision HEAD). Without a revision, edit params.yaml instead."
        )
    checkout = project_checkout()
    run_pipeline(checkout, list(stages), revision, dict(parse_override(text) for text in sets))
    if not stages and revision is None and (lines := result_summary(checkout)):
        click.echo("\n".join(["", *lines, "  look at it     gantry ui", "  promote it     gantry promote"]))


def run_pipeline(checkout: Checkout, stages: list[str], revision: str | None, overrides: dict[str, Any]) -> None:
    """Run the flow of ``checkout`` and print the outcome of each stage. The arguments are those of :func:`run`.

    Raises:
        GantryError: a setting is invalid, a stage failed, or the run was cancelled.
    """
    handler = _log_to_terminal()
    with ExitStack() as stack:
        if revision is None:
            # A run of a revision is checked in its worktree, by the code of the revision.
            check_checkout(checkout, stages)
            stack.enter_context(exclusive_run(checkout))
        # Prefect takes seconds to import, and so does its server to start. A command that fails earlier waits for neither.
        with ThreadPoolExecutor(max_workers=1) as beside:
            beside.submit(importlib.import_module, "pipelines.flow.flow")
            connection = stack.enter_context(connect_prefect(checkout))
        from pipelines.flow.flow import PipelineError, pipeline_flow
        from pipelines.flow.owner import mark_crashed

        LOGGER.removeHandler(handler)
        stack.enter_context(terminal_log())
        stack.enter_context(connection.clients())
        with explain_server_errors(connection):
            mark_crashed(checkout, own_server=connection.auth is not None)
        remove_abandoned(checkout)
        resume = " Finished stages are kept: run the same command again to continue."
        try:
            with explain_server_errors(connection, "stopped answering during the run", resume):
                state: Any = pipeline_flow(checkout)(stages, revision, overrides, return_state=True)
        except KeyboardInterrupt:
            click.echo("Interrupted. Run the same command again: the interrupted stage resumes.", err=True)
            raise
        if state.is_cancelled():
            raise StageError(state.message or "The run was cancelled.")
        outcome: Any = state.result(raise_on_failure=False)
        if isinstance(outcome, PipelineError):
            click.echo(summary(outcome.results), err=True)
            raise outcome
        if isinstance(outcome, GantryError):
            raise outcome
        if not state.is_completed():
            if connection.auth:
                check_database_space(connection)
            raise StageError(
                f"The flow run ended in state {state.name}: {state.message}. The Prefect server is at {connection.url}."
            )
        click.echo(summary(outcome))


@click.command()
@click.option("--cron", required=True, help="When to run, as five cron fields: '0 3 * * *' is daily at 3:00.")
@click.option("--timezone", default=None, help="Time zone of the schedule, such as Europe/Berlin. Default: UTC.")
@click.option("--name", default="scheduled", show_default=True, help="Name of the Prefect deployment.")
@click.option(
    "--revision", default="HEAD", show_default=True, help="Branch, tag or commit to run, resolved again at each run."
)
@click.option(
    "--set", "sets", multiple=True, metavar="NAME=VALUE", help="Override a setting of params.yaml for these runs."
)
@click.option(
    "--limit", type=click.IntRange(1), default=1, show_default=True, help="Maximum number of runs at the same time."
)
@click.option("--port", type=PORTS, help=_PORT_HELP.format("Prefect server that this command starts", PORT))
def serve(
    cron: str, timezone: str | None, name: str, revision: str, sets: tuple[str, ...], limit: int, port: int | None
) -> None:
    """Run the pipeline on a schedule, each time in its own git worktree, until Ctrl-C.

    Each run is recorded as a DVC experiment. If a DVC remote is set, its data is pushed there.
    """
    check_schedule(cron, timezone)
    check_name("--name", name)
    overrides = dict(parse_override(text) for text in sets)
    checkout = project_checkout()
    check_revision(checkout, revision, overrides)
    # Prefect's runner starts the runs as processes. Only the guard ends them if this process is killed.
    enter_guard(grace=30.0)
    handler = _log_to_terminal()
    with ExitStack() as stack:
        stack.enter_context(only_server(checkout, name))
        connection = stack.enter_context(connect_prefect(checkout, port=port, long_lived=True))
        stack.enter_context(connection.clients())
        from prefect.flows import EntrypointType
        from prefect.runner import Runner
        from prefect.schedules import Cron

        from pipelines.flow.flow import pipeline_flow
        from pipelines.flow.owner import mark_crashed

        LOGGER.removeHandler(handler)
        stack.enter_context(explain_server_errors(connection))
        check_served_name(checkout, name)
        mark_crashed(checkout, own_server=connection.auth is not None)
        remove_abandoned(checkout)
        runner = Runner(name=name, limit=limit, pause_on_shutdown=True)
        # The default is in the system's temporary folder, where it belongs to the first user who serves anything.
        runner._tmp_dir = checkout.prefect / "runner" / str(os.getpid())
        parameters = {"revision": revision, "overrides": overrides}
        deployment: Any = runner.add_flow(
            # Runner starts this flow object, which holds its checkout, not what the server says about the code's location.
            pipeline_flow(checkout, ServedPipeline(revision=revision, overrides=overrides)),
            name=name,
            schedule=Cron(cron, timezone=timezone),
            parameters=parameters,
            description=served_description(checkout),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        drop_outdated_runs(deployment, parameters)
        pages = connection.url.removesuffix("/api") + (" (gantry ui --open signs in)" if connection.auth else "")
        click.echo(f"Deployment pipeline/{name}: {cron}. Prefect: {pages}. Ctrl-C ends it.")
        # A server that the environment names may come back. A server of this checkout does not.
        asyncio.run(_serve(runner, connection.url if connection.auth else None, connection.auth))


async def _serve(runner: "Runner", url: str | None = None, auth: str | None = None) -> None:
    """Run due runs until a stop signal; then cancel the running ones while the server can still record it.

    Raises:
        StageError: the server at ``url`` has ended, for example one that ``gantry ui`` had started.
    """
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    serving = asyncio.create_task(runner.start())
    while not runner.started and not serving.done():
        await asyncio.sleep(0.05)
    for number in STOP_SIGNALS:
        # After the runner has set its own handlers, which do not wait for the runs that they end.
        loop.add_signal_handler(number, ending.set)
    waiting = asyncio.create_task(ending.wait())
    gone = asyncio.create_task(_until_gone(url, auth))
    await asyncio.wait((serving, waiting, gone), return_when=asyncio.FIRST_COMPLETED)
    if gone.done():
        serving.cancel()
        raise StageError(
            f"The Prefect server at {url} has ended, and the schedule with it. Start gantry serve again: it starts its own "
            "server. A run in progress was interrupted; its stage resumes in the next run."
        )
    if ending.is_set():
        click.echo("Stopping. A run in progress is cancelled; its stage resumes in the next run.")
        await runner.astop()
    waiting.cancel()
    gone.cancel()
    await serving


async def _until_gone(url: str | None, auth: str | None = None) -> None:
    """Return when three checks in a row find no server at ``url``. Never returns if ``url`` is None."""
    missed = 0
    while url is None or missed < 3:
        await asyncio.sleep(SERVER_CHECK_SECONDS)
        missed = missed + 1 if url is not None and await asyncio.to_thread(is_gone, url, auth) else 0


@click.command()
@click.option("--mlflow-port", type=PORTS, help=_PORT_HELP.format("MLflow pages", MLFLOW_PORT))
@click.option("--prefect-port", type=PORTS, help=_PORT_HELP.format("Prefect server", PORT))
@click.option("--open", "open_browser", is_flag=True, help="Open both in the browser, signed in.")
def ui(mlflow_port: int | None, prefect_port: int | None, open_browser: bool) -> None:
    """Serve the web pages of MLflow and Prefect on this machine, until Ctrl-C.

    The pages ask for a password, because every user of the machine can reach them. It is in var/prefect/auth.
    """
    checkout = project_checkout()
    enter_guard(grace=10.0)
    _log_to_terminal()
    with ExitStack() as stack:
        pages = [_mlflow_page(checkout, mlflow_port, stack)]
        while True:
            with connect_prefect(checkout, port=prefect_port, long_lived=True, may_share=True) as connection:
                address, auth = connection.url.removesuffix("/api"), connection.auth
                pages.append(Page(title="Prefect", address=address, own=auth is not None))
                _announce(checkout, pages, open_browser)
                click.echo("Ctrl-C stops them.")
                # A server that the environment names may come back, so it is never replaced.
                while auth is None or not is_gone(connection.url, auth):
                    time.sleep(SERVER_CHECK_SECONDS)
            pages = []
            click.echo("The Prefect server has ended, perhaps with the run that started it. Starting another.")


@dataclass(frozen=True, kw_only=True)
class Page:
    """The web pages of one server."""

    title: str
    address: str
    own: bool
    """Whether the server belongs to this checkout and asks for its password."""


def _announce(checkout: Checkout, pages: Sequence[Page], open_browser: bool) -> None:
    """Print the addresses of the pages and how to sign in; open them if ``open_browser``."""
    for page in pages:
        click.echo(f"{page.title + ':':9}{page.address}")
    if any(page.own for page in pages):
        click.echo(
            f"Sign in   as {USER}. The password is in {checkout.auth}, as {USER}:PASSWORD; Prefect's page asks for that whole "
            "line. Or let gantry ui --open sign you in."
        )
    for page in pages if open_browser else ():
        if page.own:
            signed_in = sign_in_page(checkout, page.title.lower(), page.address)
            atexit.register(signed_in.unlink, missing_ok=True)
            webbrowser.open(signed_in.as_uri())
        else:
            webbrowser.open(page.address)


def _mlflow_page(checkout: Checkout, port: int | None, stack: ExitStack) -> Page:
    """MLflow's pages: those of the tracking server, or those of a server that is started here on the checkout's store."""
    uri = project_tracking_uri(checkout.root)
    if uri is None:
        raise StageError("params.yaml has no track.uri, so there is no MLflow store to show. Set track.uri.")
    if uri.startswith(("http://", "https://")):
        return Page(title="MLflow", address=redact_credentials(uri), own=False)
    check_store(uri)
    check_schema(uri)
    ensure_database(uri)
    if uri.startswith(SQLITE):
        correct_places(Path(uri.removeprefix(SQLITE)))
    environment = {
        **os.environ,
        # Not as an argument: a database URI may hold a password, and every user of the machine can read arguments.
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # A second check of the Host header, behind that of pipelines.flow.auth_middleware.
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*MLFLOW_HOSTS, *(f"{host}:*" for host in MLFLOW_HOSTS)]),
    }
    listening = listen(MLFLOW_PORT if port is None else port, only=port is not None)
    log = checkout.mlflow_log
    address = stack.enter_context(run_server("mlflow", checkout, listening, environment, log))
    return Page(title="MLflow", address=address, own=True)


def summary(results: Iterable["StageResult"]) -> str:
    """A line for each stage: its name, its outcome and its duration."""
    rows: Sequence[Any] = list(results)
    if not rows:
        return "No stage ran."
    width = max(len(row.stage) for row in rows)
    return "\n".join(f"{row.stage:{width}}  {row.state:9}  {row.seconds:8.1f} s" for row in rows)


def project_checkout() -> Checkout:
    """The checkout at the current directory, which must be its root."""
    checkout = Checkout.at()
    if not checkout.dvc_yaml.is_file():
        raise StageError(f"There is no dvc.yaml in {checkout.root}. Run gantry in the root folder of a Gantry project.")
    return checkout


def _log_to_terminal() -> logging.Handler:
    """Print Gantry's own log to stderr, until Prefect is imported and takes over. Returns the handler."""
    handler = TerminalHandler()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    return handler
