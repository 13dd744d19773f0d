"""``gantry run``, ``gantry serve`` and ``gantry ui``."""

import asyncio
import atexit
import logging
import os
import time
import webbrowser
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from gan_core.errors import GantryError, StageError
from pipelines.flow.outcome import result_summary
from pipelines.flow.schedule import check_schedule
from pipelines.flow.server import PORT, answering, is_gone, server, with_room
from pipelines.flow.submitted import Served
from pipelines.flow.terminal import TerminalHandler, terminal_log
from pipelines.flow.web import USER, listen, own_auth, own_server, sign_in_page
from pipelines.flow.workspace import check_checkout, check_revision, exclusive_run, parse_override, remove_abandoned
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import STOPS, enter_guard
from pipelines.runtime.redaction import redact_credentials
from pipelines.settings.tracking_uri import project_tracking_uri
from pipelines.tracking.store import MLFLOW_PORT, check_store

if TYPE_CHECKING:
    from prefect.runner import Runner

    from pipelines.flow.flow import StageResult

LOGGER = logging.getLogger("pipelines")
PORTS = click.IntRange(1, 65535)
_PORT_HELP = "Port of the {0}. Default: {1}, or any free port if {1} is taken."
MLFLOW_HOSTS = ("127.0.0.1", "localhost", "[[]::1]")
"""Names of this machine that MLflow's pages answer to, as its patterns write them."""
SERVER_SECONDS = 10.0
"""How often a schedule asks whether its server is there."""


@click.command()
@click.argument("stages", nargs=-1)
@click.option("--revision", metavar="REV", help="Run this branch, tag or commit in a git worktree of its own.")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="A value of params.yaml for this run only, such as train.steps=100. Needs --revision.",
)
def run(stages: tuple[str, ...], revision: str | None, sets: tuple[str, ...]) -> None:
    """Run the pipeline now, through Prefect: STAGES and what they need, or all of it.

    Without --revision it runs in this checkout, as `dvc repro` does. With it, the run is recorded as a DVC experiment.
    """
    if sets and not revision:
        raise StageError(
            "--set is for runs of a revision (--revision HEAD): in the checkout, params.yaml says what is run; edit it."
        )
    checkout = _checkout()
    run_pipeline(checkout, list(stages), revision, dict(parse_override(text) for text in sets))
    if not stages and revision is None and (lines := result_summary(checkout)):
        click.echo("\n".join(["", *lines, "  look at it     gantry ui", "  promote it     gantry promote"]))


def run_pipeline(checkout: Checkout, stages: list[str], revision: str | None, overrides: dict[str, Any]) -> None:
    """Run the flow of ``checkout`` and print what became of each stage; see :func:`run`.

    Raises:
        GantryError: a setting is not valid, a stage failed, or the run was cancelled.
    """
    handler, elsewhere = _log_to_terminal(), "PREFECT_API_URL" in os.environ
    with ExitStack() as stack:
        if revision is None:
            # A run of a revision is checked in its worktree, by its own code.
            check_checkout(checkout, stages)
            stack.enter_context(exclusive_run(checkout))
        url = stack.enter_context(server(checkout))
        # Prefect reads its settings when it is imported: not before the server is known.
        from pipelines.flow.flow import PipelineError, flush, mark_crashed, pipeline_of

        LOGGER.removeHandler(handler)
        stack.enter_context(terminal_log())
        stack.callback(flush)
        auth = None if elsewhere else own_auth(checkout)
        with answering(url, auth):
            mark_crashed(checkout)
        remove_abandoned(checkout)
        going_on = " Stages that had ended stay done: the same command goes on from there."
        try:
            with answering(url, auth, "went away during the run", going_on):
                state: Any = pipeline_of(checkout)(stages, revision, overrides, return_state=True)
        except KeyboardInterrupt:
            click.echo("Ended. The stage that was running resumes where it was when it is run again.", err=True)
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
            if auth:
                with_room()
            raise StageError(f"The flow run ended as {state.name}: {state.message}. Prefect's address is {url}.")
        click.echo(summary(outcome))


@click.command()
@click.option("--cron", required=True, help="When to run, in five fields: '0 3 * * *' is daily at three.")
@click.option("--timezone", default=None, help="Of the schedule, such as Europe/Berlin; UTC by default.")
@click.option("--name", default="scheduled", show_default=True, help="Of the deployment.")
@click.option("--revision", default="HEAD", show_default=True, help="What to run: resolved anew at each run.")
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="A value of params.yaml for these runs.")
@click.option("--limit", type=click.IntRange(1), default=1, show_default=True, help="Runs at once.")
@click.option("--port", type=PORTS, help=_PORT_HELP.format("Prefect server that this command starts", PORT))
def serve(
    cron: str, timezone: str | None, name: str, revision: str, sets: tuple[str, ...], limit: int, port: int | None
) -> None:
    """Run the pipeline on a schedule, each time in a git worktree of its own, until Ctrl-C.

    Each run is recorded as a DVC experiment and pushed where a remote is set.
    """
    check_schedule(cron, timezone)
    overrides = dict(parse_override(text) for text in sets)
    checkout = _checkout()
    check_revision(checkout, revision, overrides)
    # The runs are processes of Prefect's runner: nothing else would end them if this one is killed.
    enter_guard(grace=30.0)
    handler = _log_to_terminal()
    elsewhere = "PREFECT_API_URL" in os.environ
    with ExitStack() as stack:
        url = stack.enter_context(server(checkout, port=port, lasting=True))
        auth = None if elsewhere else own_auth(checkout)
        from prefect.flows import EntrypointType
        from prefect.runner import Runner
        from prefect.schedules import Cron

        from pipelines.flow.flow import mark_crashed, pipeline_of

        LOGGER.removeHandler(handler)
        stack.enter_context(answering(url, auth))
        mark_crashed(checkout)
        remove_abandoned(checkout)
        runner = Runner(name=name, limit=limit, pause_on_shutdown=True)
        # By default in the machine's folder for temporary files, where the first user who serves anything owns it.
        runner._tmp_dir = checkout.prefect / "runner" / str(os.getpid())
        runner.add_flow(
            # Runner starts this flow itself, with its checkout, whatever the server says of where its code is.
            pipeline_of(checkout, Served(revision=revision, overrides=overrides)),
            name=name,
            schedule=Cron(cron, timezone=timezone),
            parameters={"revision": revision, "overrides": overrides},
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        pages = url.removesuffix("/api") + (" (gantry ui --open signs in)" if auth else "")
        click.echo(f"Deployment pipeline/{name}: {cron}. Prefect: {pages}. Ctrl-C ends it.")
        # A server that the environment names may be away and come back; nobody starts one of this checkout again.
        asyncio.run(_serve(runner, None if elsewhere else url, auth))


async def _serve(runner: "Runner", url: str | None = None, auth: str | None = None) -> None:
    """Run what is due until a signal says to end; then end what runs, while there still is a server to tell of it.

    Raises:
        StageError: the server at ``url`` has ended (``gantry ui`` had started it, say).
    """
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    serving = asyncio.create_task(runner.start())
    while not runner.started and not serving.done():
        await asyncio.sleep(0.05)
    for number in STOPS:
        # After the runner has set its own, which does not wait for the runs that it ends.
        loop.add_signal_handler(number, ending.set)
    waiting = asyncio.create_task(ending.wait())
    gone = asyncio.create_task(_until_gone(url, auth))
    await asyncio.wait((serving, waiting, gone), return_when=asyncio.FIRST_COMPLETED)
    if gone.done():
        serving.cancel()
        raise StageError(
            f"The Prefect server at {url} has ended, so nothing is scheduled any more. Start gantry serve again: it starts a "
            "server of its own. A run in progress was ended; its stage resumes."
        )
    if ending.is_set():
        click.echo("Ending. A run in progress is cancelled; its stage resumes when it is run again.")
        await runner.astop()
    waiting.cancel()
    gone.cancel()
    await serving


async def _until_gone(url: str | None, auth: str | None = None) -> None:
    """Return when a server was gone three times in a row; never without one to ask."""
    missed = 0
    while url is None or missed < 3:
        await asyncio.sleep(SERVER_SECONDS)
        missed = missed + 1 if url is not None and await asyncio.to_thread(is_gone, url, auth) else 0


@click.command()
@click.option("--mlflow-port", type=PORTS, help=_PORT_HELP.format("MLflow pages", MLFLOW_PORT))
@click.option("--prefect-port", type=PORTS, help=_PORT_HELP.format("Prefect server", PORT))
@click.option("--open", "open_browser", is_flag=True, help="Open both in the browser, signed in.")
def ui(mlflow_port: int | None, prefect_port: int | None, open_browser: bool) -> None:
    """Show the runs: MLflow's and Prefect's pages on this machine, until Ctrl-C.

    The pages ask for a password, for every user of the machine can reach them: it is in var/prefect/auth.
    """
    checkout = _checkout()
    enter_guard(grace=10.0)
    _log_to_terminal()
    with ExitStack() as stack:
        pages, elsewhere = [_mlflow_page(checkout, mlflow_port, stack)], "PREFECT_API_URL" in os.environ
        while True:
            with server(checkout, port=prefect_port, lasting=True, guest=True) as url:
                auth = None if elsewhere else own_auth(checkout)
                pages.append(Page(title="Prefect", address=url.removesuffix("/api"), own=not elsewhere))
                _show(checkout, pages, open_browser)
                click.echo("Ctrl-C ends what was started here.")
                # One that the environment names may be away and come back: it stays the one.
                while elsewhere or not is_gone(url, auth):
                    time.sleep(SERVER_SECONDS)
            pages = []
            click.echo("The Prefect server has ended, with the run that kept it perhaps; starting another.")


@dataclass(frozen=True, kw_only=True)
class Page:
    """Pages to look at."""

    title: str
    address: str
    own: bool
    """Whether they are this checkout's, which ask for its password."""


def _show(checkout: Checkout, pages: Sequence[Page], open_browser: bool) -> None:
    """Say where pages are and how to sign in; open them, if ``open_browser``."""
    for page in pages:
        click.echo(f"{page.title + ':':9}{page.address}")
    if any(page.own for page in pages):
        click.echo(
            f"Sign in   as {USER}; {checkout.auth} holds the password, as {USER}:PASSWORD. Prefect's page asks for that "
            "whole line. Or: gantry ui --open."
        )
    for page in pages if open_browser else ():
        if page.own:
            signed_in = sign_in_page(checkout, page.title.lower(), page.address)
            atexit.register(signed_in.unlink, missing_ok=True)
            webbrowser.open(signed_in.as_uri())
        else:
            webbrowser.open(page.address)


def _mlflow_page(checkout: Checkout, port: int | None, stack: ExitStack) -> Page:
    """Where MLflow's pages are: a tracking server's own, or those of a process started here on the checkout's store."""
    uri = project_tracking_uri(checkout.root)
    if uri is None:
        raise StageError("params.yaml has no track.uri: there is no MLflow store to show.")
    if uri.startswith(("http://", "https://")):
        return Page(title="MLflow", address=redact_credentials(uri), own=False)
    check_store(uri)
    environment = {
        **os.environ,
        # Not among the arguments, which every user of the machine can read: a database's URI may hold a password.
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # A second check of who asks, behind that of pipelines.flow.door.
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*MLFLOW_HOSTS, *(f"{host}:*" for host in MLFLOW_HOSTS)]),
    }
    listening = listen(MLFLOW_PORT if port is None else port, only=port is not None)
    log = checkout.mlflow_log
    address = stack.enter_context(own_server("mlflow", checkout, listening, environment, log))
    return Page(title="MLflow", address=address, own=True)


def summary(results: Iterable["StageResult"]) -> str:
    """A line for each stage: its name, what became of it, how long it took."""
    rows: Sequence[Any] = list(results)
    if not rows:
        return "No stage was run."
    width = max(len(row.stage) for row in rows)
    return "\n".join(f"{row.stage:{width}}  {row.state:9}  {row.seconds:8.1f} s" for row in rows)


def _checkout() -> Checkout:
    """The checkout at the current directory, which has to be its root."""
    checkout = Checkout.at()
    if not checkout.dvc_yaml.is_file():
        raise StageError(f"There is no dvc.yaml in {checkout.root}. Run gantry in the root of a Gantry checkout.")
    return checkout


def _log_to_terminal() -> logging.Handler:
    """What Gantry itself says, to stderr, until Prefect is imported and takes over."""
    handler = TerminalHandler()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    return handler
