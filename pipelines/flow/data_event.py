"""Publish changed raw data: commit its pointer, push data and commit, and tell the Prefect server, which starts deployments."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

from gan_core.errors import StageError
from pipelines.flow.prefect_yaml import DATA_CHANGED, PROJECT, own_deployments
from pipelines.flow.pull import ORIGIN
from pipelines.flow.server import connect_prefect, explain_server_errors
from pipelines.flow.workspace import has_remote, run_dvc
from pipelines.runtime.account import git_signature
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.git import ANY_STATUS, run_git

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.types import DateTime

REACTION_SECONDS = 60.0
"""How long to wait until the checkout's own server has ordered the runs that changed data starts. It takes a second or two."""


def check_publishable(checkout: Checkout) -> None:
    """Raise StageError unless prefect.yaml has a deployment that changed data starts and the current commit is on a branch."""
    project, entries = own_deployments(checkout)
    if not any(_starts_on_data(entry, project) for entry in entries.values()):
        raise StageError(
            f"--publish: {checkout.root / 'prefect.yaml'} has no deployment that changed data starts. Make one: gantry deploy."
        )
    if not run_git(checkout.root, "branch", "--show-current"):
        raise StageError(f"--publish: {checkout.root} is on no branch. Check one out: git switch BRANCH.")


def publish_data(checkout: Checkout, name: str) -> list[str]:
    """Commit the pointer of the raw data ``name``, push it, and emit the event; returns a line for each step.

    Raises:
        StageError: git or DVC fails, or the Prefect server cannot be reached. Steps before that are done: run it again.
    """
    check_publishable(checkout)
    project, entries = own_deployments(checkout)
    told = []
    pointer = checkout.raw_pointer(name).relative_to(checkout.root).as_posix()
    ignore = checkout.raw.relative_to(checkout.root) / ".gitignore"
    files = [pointer, *([ignore.as_posix()] if (checkout.root / ignore).is_file() else [])]
    run_git(checkout.root, "add", "--", *files)
    if run_git(checkout.root, "diff", "--cached", "--name-only", "--", *files):
        signature = git_signature(lambda key: run_git(checkout.root, "config", key, empty_on=ANY_STATUS))
        environment = {**os.environ, **signature}
        run_git(
            checkout.root, "commit", "--quiet", "-m", f"Change the data {name}", "--", *files, environment=environment
        )
        told.append(f"committed {pointer}")
    if has_remote(checkout):
        run_dvc(checkout, os.environ, "push", "--quiet", pointer)
        told.append("pushed the data (dvc push)")
    if run_git(checkout.root, "remote", "get-url", ORIGIN, empty_on=ANY_STATUS):
        run_git(checkout.root, "push", "--quiet", ORIGIN, "HEAD")
        told.append(f"pushed the commit (git push {ORIGIN})")
    with (
        connect_prefect(checkout, may_share=True) as connection,
        connection.clients(),
        explain_server_errors(connection),
    ):
        from prefect.client.orchestration import get_client
        from prefect.events import Event, Resource

        resource = Resource.model_validate({"prefect.resource.id": f"gantry.data.{name}", PROJECT: project})
        event = Event(event=DATA_CHANGED, resource=resource)
        with get_client(sync_client=True) as client:
            # Not by emit_event, which sends in the background and only warns if the server does not take the event.
            client.request("POST", "/events", json=[event.model_dump(mode="json")])
            told.append(f"told the Prefect server ({DATA_CHANGED})")
            # A server that was started here ends with this block, and forgets an event that it has not acted on.
            if connection.auth is not None:
                names = [one for one, entry in entries.items() if _starts_on_data(entry, project)]
                told += _wait_for_runs(client, names, event.occurred)
    return told


def _wait_for_runs(client: "SyncPrefectClient", names: Iterable[str], since: "DateTime") -> list[str]:
    """Wait until an automation has ordered a run of each of these deployments; returns a line for each."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
    )
    from prefect.exceptions import ObjectNotFound

    from pipelines.flow.flow_runs import FLOW_NAME, read_flow_runs

    deployments = {}
    for title in (f"{FLOW_NAME}/{name}" for name in names):
        with suppress(ObjectNotFound):
            deployments[title] = client.read_deployment_by_name(title).id
    if not deployments:
        return ["the server has no deployment that changed data starts, so nothing runs: gantry deploy makes it"]
    later = FlowRunFilter(expected_start_time=FlowRunFilterExpectedStartTime(after_=since))

    def is_ordered(deployment: UUID) -> bool:
        known = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
        runs = read_flow_runs(client, deployment_filter=known, flow_run_filter=later)
        return any(not run.auto_scheduled for run in runs)  # those of its schedule are not of this event

    deadline = time.monotonic() + REACTION_SECONDS
    while (waiting := [title for title, known in deployments.items() if not is_ordered(known)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.5)
    late = f"has no new run after {REACTION_SECONDS:.0f} s; look at its automations in Prefect's page"
    return [f"{title} {late if title in waiting else 'has a new run'}" for title in deployments]


def _starts_on_data(entry: dict, project: str) -> bool:
    return any(
        trigger.get("enabled", True)
        and DATA_CHANGED in (trigger.get("expect") or ())
        and (trigger.get("match") or {}).get(PROJECT, project) == project
        for trigger in entry.get("triggers") or []
    )
