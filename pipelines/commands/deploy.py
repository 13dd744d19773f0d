"""``gantry deploy``, ``gantry worker`` and ``gantry backfill``: scheduled runs on the workers of a Prefect work pool."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from gan_core.errors import SettingsError, StageError, did_you_mean
from pipelines.commands.run import project_checkout
from pipelines.flow.client_requests import ServedPipeline, check_overrides, resolve_request
from pipelines.flow.overrides import parse_override
from pipelines.flow.prefect_yaml import (
    CLONE,
    LOCAL,
    Options,
    changed_entry,
    check_name,
    check_own,
    concurrency,
    new_entry,
    own_deployments,
    prefect_yaml,
    read_deployments,
    write_entry,
)
from pipelines.flow.pull import CHECKOUT_VARIABLE, ORIGIN, repository_name
from pipelines.flow.schedule import check_schedule
from pipelines.flow.server import Connection, connect_prefect, explain_server_errors
from pipelines.flow.serving import only_server
from pipelines.flow.workspace import check_revision, find_commit, repository_prefix
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.git import ANY_STATUS, run_git
from pipelines.runtime.guard import enter_guard
from pipelines.runtime.redaction import redact_credentials
from pipelines.runtime.shared_folder import share_runner_folder
from pipelines.settings.flow import load_flow_settings

_NAME = click.option(
    "--name", default=None, help="Name of the deployment. Default: the only one in prefect.yaml, or nightly."
)


@click.command()
@_NAME
@click.option("--cron", default=None, help="When to run, as five cron fields: '0 3 * * *' is daily at 3:00.")
@click.option("--no-schedule", is_flag=True, help="No schedule: runs start by hand, on changed data, or by backfill.")
@click.option("--timezone", default=None, help="Time zone of the schedule, such as Europe/Berlin. Default: UTC.")
@click.option(
    "--revision",
    metavar="REV",
    default=None,
    help="Branch, tag or commit to run. Default: the current branch; HEAD with --local or without a branch.",
)
@click.option("--pool", default=None, help="Prefect work pool; made if it is missing. Default: gantry.")
@click.option(
    "--limit", type=click.IntRange(1), default=None, help="Maximum number of runs at the same time. Default: 1."
)
@click.option(
    "--collision",
    type=click.Choice(["enqueue", "cancel-new"]),
    default=None,
    help="What a run does that is due while others are in progress: wait (enqueue, the default), or not run (cancel-new).",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="Override a setting of model, train, tune or evaluate for the runs.",
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag of the deployment and its runs.")
@click.option("--description", default=None, help="Description in Prefect's page.")
@click.option(
    "--clone/--local",
    "clone",
    default=None,
    help="Workers clone the git remote origin, or run in the checkout of gantry worker. Default: clone if there is a remote.",
)
@click.option("--remove", is_flag=True, help="Remove the deployment and its automations.")
def deploy(
    name: str | None,
    cron: str | None,
    no_schedule: bool,
    timezone: str | None,
    revision: str | None,
    pool: str | None,
    limit: int | None,
    collision: str | None,
    sets: tuple[str, ...],
    tags: tuple[str, ...],
    description: str | None,
    clone: bool | None,
    remove: bool,
) -> None:
    """Write a deployment to prefect.yaml, and apply it to the Prefect server: schedule, work pool, automations.

    Workers (prefect worker start, or gantry worker) then run the pipeline. Without options, it applies prefect.yaml as it is:
    commit that file. It prints what changed; a second time, nothing does.

    The server is the one in PREFECT_API_URL, or that of this checkout.
    """
    checkout = project_checkout()
    project, entries = read_deployments(checkout)
    name = name or _only_name(checkout)
    check_name("--name", name)
    if remove:
        _remove(checkout, project, name, entries)
        return
    if cron is not None and no_schedule:
        raise SettingsError("--cron and --no-schedule contradict each other. Give one of them.")
    old = entries.get(name)
    if old is not None:
        check_own(checkout, name, old)
    if cron is not None or timezone is not None:
        check_schedule(cron or "0 0 * * *", timezone)
    overrides = dict(parse_override(text) for text in sets)
    has_origin = bool(run_git(checkout.root, "remote", "get-url", ORIGIN, empty_on=ANY_STATUS))
    if clone and not has_origin:
        raise StageError(
            f"--clone: {checkout.root} has no git remote '{ORIGIN}'. Add one: git remote add {ORIGIN} URL."
        )
    if old is None and clone is None:
        clone = has_origin
    if old is None and revision is None:
        revision = (run_git(checkout.root, "branch", "--show-current") if clone else "") or "HEAD"
    options = Options(
        revision=revision,
        cron="" if no_schedule else cron,
        timezone=timezone,
        pool=pool,
        limit=limit,
        collision=collision.upper().replace("-", "_") if collision else None,
        overrides=overrides if sets else None,
        tags=tags or None,
        description=description,
        pull=None if clone is None else _pull_step(checkout, revision or _revision(old)) if clone else {LOCAL: {}},
    )
    project = project or _project_name(checkout)
    entry = changed_entry(new_entry(name, project, options) if old is None else old, options)
    parameters = entry["parameters"]
    given = parameters.get("revision")
    if given is not None and not isinstance(given, str):  # YAML reads a hash of digits only as a number
        raise SettingsError(f"prefect.yaml, deployment '{name}': the revision {given} is not text. Put it in quotes.")
    resolve_request(ServedPipeline(revision=None), given, parameters.get("overrides") or {})
    check_revision(checkout, _revision(entry), parameters.get("overrides") or {})
    # Its runs would go to the process that serves it, and not to the workers.
    with only_server(checkout, name), _prefect(checkout) as connection:
        from pipelines.flow.deployment import apply_deployment

        changes = apply_deployment(entry, load_flow_settings(checkout.params), new=old is None)
        if write_entry(checkout, project, name, entry):
            changes = [f"{prefect_yaml(checkout).name}: {'changed' if old else 'written'}; commit it", *changes]
        for line in changes or ["Nothing changed."]:
            click.echo(redact_credentials(line))
        _say_next(entry, connection)


def _say_next(entry: dict[str, Any], connection: Connection) -> None:
    schedules = (
        "; ".join(f"{one['cron']} ({one.get('timezone') or 'UTC'})" for one in entry["schedules"]) or "no schedule"
    )
    limit = concurrency(entry)
    collision = "waits" if limit["collision_strategy"] == "ENQUEUE" else "is cancelled"
    pool = entry["work_pool"]["name"]
    click.echo(
        f"Deployment pipeline/{entry['name']}: {schedules}, revision {_revision(entry)}, at most {limit['limit']} at a time "
        f"(another one {collision}), pool {pool}."
    )
    click.echo(
        f"Prefect: {connection.url.removesuffix('/api')}{' while gantry worker or gantry ui runs' if connection.auth else ''}"
    )
    command = f"prefect worker start --pool {pool}"
    local = any(LOCAL in step for step in entry.get("pull") or [])
    click.echo(f"Start a worker: {f'gantry worker --pool {pool}' if connection.auth or local else command}")


def _remove(checkout: Checkout, project: str, name: str, entries: dict[str, Any]) -> None:
    if name in entries:
        check_own(checkout, name, entries[name])
    with _prefect(checkout):
        from pipelines.flow.deployment import remove_deployment

        told = remove_deployment(name)
    if write_entry(checkout, project, name, None):
        told.append(f"removed from {prefect_yaml(checkout).name}; commit it")
    if not told:
        raise StageError(
            f"There is no deployment '{name}' in {prefect_yaml(checkout)} or on the Prefect server."
            f"{did_you_mean(name, own_deployments(checkout)[1])}"
        )
    for line in told:
        click.echo(line)


@click.command()
@click.option("--pool", default=None, help="Work pool. Default: that of the deployments in prefect.yaml, or gantry.")
@click.option("--name", default=None, help="Name of the worker in Prefect's page.")
@click.option(
    "--limit", type=click.IntRange(1), default=1, show_default=True, help="Runs of this worker at the same time."
)
def worker(pool: str | None, name: str | None, limit: int) -> None:
    """Run deployments of this checkout's work pool, until Ctrl-C: `prefect worker start` for one machine.

    Unlike Prefect's command, it lets deployments without a git remote run in this checkout, and it starts a Prefect server of
    this checkout if PREFECT_API_URL names none.
    """
    checkout = project_checkout()
    if pool is None:
        _, entries = own_deployments(checkout)
        named = {(entry.get("work_pool") or {}).get("name") for entry in entries.values()}
        pools = sorted(str(one) for one in named if one)
        if len(pools) > 1:
            raise SettingsError(
                f"The deployments in prefect.yaml use several work pools. Choose one: --pool {'|'.join(pools)}."
            )
        pool = pools[0] if pools else "gantry"
    share_runner_folder()
    enter_guard(grace=30.0)
    with connect_prefect(checkout, long_lived=True) as connection:
        click.echo(f"Worker of pool {pool}. Prefect: {connection.url.removesuffix('/api')}. Ctrl-C ends it.")
        words = [
            "worker",
            "start",
            "--pool",
            pool,
            "--type",
            "process",
            "--install-policy",
            "never",
            "--limit",
            str(limit),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words, *(["--name", name] if name else [])],
            # The password of the server is in the environment, not in the arguments, which every user can read.
            env={**os.environ, **connection.environment(), CHECKOUT_VARIABLE: str(checkout.root)},
            check=False,
        )
    if done.returncode:
        raise StageError(f"The worker ended with status {done.returncode}; its messages are above.")


@click.command()
@click.argument("revisions", nargs=-1, required=True, metavar="REV|REV..REV...")
@_NAME
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="Override a setting of model, train, tune or evaluate for these runs.",
)
def backfill(revisions: tuple[str, ...], name: str | None, sets: tuple[str, ...]) -> None:
    """Run a deployment once for each of these revisions, oldest first. A..B means the commits after A up to B.

    A revision that was backfilled before with the same settings does not run again; the command prints the state of its run.
    """
    checkout = project_checkout()
    overrides = dict(parse_override(text) for text in sets)
    check_overrides(ServedPipeline(revision=None), overrides)
    name = name or _only_name(checkout)
    check_name("--name", name)
    commits = list(dict.fromkeys(commit for words in revisions for commit in _commits(checkout, words)))
    with _prefect(checkout):
        from pipelines.flow.deployment import backfill as order

        for one in order(name, commits, overrides):
            subject = run_git(checkout.root, "log", "-1", "--format=%s", one.commit)
            click.echo(
                f"{one.commit[:12]}  {'ordered' if one.new else 'there':8} {one.state:10} {one.run}  {subject[:60]}"
            )


def _commits(checkout: Checkout, words: str) -> list[str]:
    """The commits of ``A..B``, oldest first, or the commit of a single revision."""
    first, dots, last = words.partition("..")
    if not dots:
        return [find_commit(checkout, words)]
    span = f"{find_commit(checkout, first)}..{find_commit(checkout, last or 'HEAD')}"
    commits = run_git(checkout.root, "rev-list", "--reverse", span).split()
    if not commits:
        raise StageError(f"There are no commits in {words}. Name the older revision first.")
    return commits


@contextmanager
def _prefect(checkout: Checkout) -> Iterator[Connection]:
    with (
        connect_prefect(checkout, may_share=True) as connection,
        connection.clients(),
        explain_server_errors(connection),
    ):
        yield connection


def _only_name(checkout: Checkout) -> str:
    names = sorted(own_deployments(checkout)[1])
    if len(names) > 1:
        raise SettingsError(f"prefect.yaml has several deployments. Choose one: --name {'|'.join(names)}.")
    return names[0] if names else "nightly"


def _revision(entry: dict[str, Any] | None) -> str:
    return str((entry or {}).get("parameters", {}).get("revision") or "HEAD")


def _pull_step(checkout: Checkout, revision: str) -> dict[str, Any]:
    """The step with which a worker clones the remote of ``checkout``."""
    given = run_git(checkout.root, "remote", "get-url", ORIGIN)
    address = redact_credentials(given)
    if address != given:
        click.echo(
            f"The address of {ORIGIN} holds credentials, which prefect.yaml does not. Workers need their own.", err=True
        )
    subfolder = repository_prefix(checkout).as_posix()
    return {
        CLONE: {"repository": address, "revision": revision, **({"subfolder": subfolder} if subfolder != "." else {})}
    }


def _project_name(checkout: Checkout) -> str:
    address = run_git(checkout.root, "remote", "get-url", ORIGIN, empty_on=ANY_STATUS)
    return repository_name(address) or checkout.root.name
