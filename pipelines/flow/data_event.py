"""Publish changed raw data: commit its pointer, push data and commit, and tell the Prefect server, which starts deployments."""

import os

from gan_core.errors import StageError
from pipelines.flow.prefect_yaml import DATA_CHANGED, PROJECT, own_deployments
from pipelines.flow.pull import ORIGIN
from pipelines.flow.server import connect_prefect, explain_server_errors
from pipelines.flow.workspace import has_remote, run_dvc
from pipelines.runtime.account import git_signature
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.git import ANY_STATUS, run_git


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
    project, _ = own_deployments(checkout)
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
        from prefect.events import emit_event

        emit_event(DATA_CHANGED, resource={"prefect.resource.id": f"gantry.data.{name}", PROJECT: project})
    told.append(f"told the Prefect server ({DATA_CHANGED})")
    return told


def _starts_on_data(entry: dict, project: str) -> bool:
    return any(
        trigger.get("enabled", True)
        and DATA_CHANGED in (trigger.get("expect") or ())
        and (trigger.get("match") or {}).get(PROJECT, project) == project
        for trigger in entry.get("triggers") or []
    )
