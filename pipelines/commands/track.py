"""``gantry track``: list or send the events that the tracking server does not have yet."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from pipelines.runtime.checkout import Checkout
from pipelines.runtime.redaction import redact_credentials
from pipelines.tracking.abandoned import end_abandoned
from pipelines.tracking.events import REFUSED, count_events, find_logs, read_events
from pipelines.tracking.replay import Cursor
from pipelines.tracking.shipper import sync as send
from pipelines.tracking.tree import LogTree


@click.group()
def track() -> None:
    """List or send the events that the tracking server does not have yet."""


@track.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--again",
    is_flag=True,
    help="Send also what was sent before, all but files: after a backup of the tracking database was restored.",
)
def sync(as_json: bool, again: bool) -> None:
    """Send all waiting events in var/track (or $GANTRY_VAR/track) to the tracking server."""
    # Imported here: --help need not wait for torch.
    from pipelines.settings.schema import load_settings

    settings, logs = load_settings().track, Checkout.at().events
    end_abandoned(logs)
    tree = LogTree(logs, tracking_uri=settings.uri, experiment=settings.experiment)
    if again:
        tree.forget_sent()
    waiting = tree.count_pending()
    with tqdm(total=waiting, unit=" events", disable=as_json or not waiting) as bar:
        sent = send(
            logs,
            tracking_uri=settings.uri,
            experiment=settings.experiment,
            progress=lambda left: bar.update(max(0, waiting - left - bar.n)),
        )
    if as_json:
        click.echo(json.dumps({"sent": sent, "tracking_uri": redact_credentials(settings.uri)}))
    else:
        uri = redact_credentials(settings.uri)
        click.echo(f"{sent} events sent to {uri}." if sent else f"Nothing to send: {uri} has all events.")


@track.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """List the logged runs with their number of sent and waiting events. Does not contact the tracking server."""
    from pipelines.settings.schema import load_settings

    settings, logs = load_settings().track, Checkout.at().events
    end_abandoned(logs)
    destination = LogTree(logs, tracking_uri=settings.uri, experiment=settings.experiment).destination
    rows = []
    for folder in find_logs(logs):
        with suppress(FileNotFoundError):  # another process has removed a log that was sent completely
            rows.append(_describe(folder, destination))
    rows.sort(key=lambda row: row["started"])
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(f"No runs are logged in {logs}.")
        return
    click.echo(f"{'run':32} {'status':9} {'events':>8} {'waiting':>8} {'refused':>8}  MLflow run")
    for row in rows:
        click.echo(
            f"{row['name'][:32]:32} {row['status']:9} {row['events']:8} {row['waiting']:8} {row['refused']:8}  "
            f"{row['run_id'] or '-'}"
        )


def _describe(folder: Path, destination: str) -> dict[str, Any]:
    """The run of one log, its status, and how many of its events were sent."""
    cursor = Cursor.load(folder, destination)
    name, key, started, ended = folder.name, None, 0, "RUNNING"
    for event, _ in read_events(folder):
        if event and event["kind"] == "open":
            name, key, started, ended = event["name"], event["key"], started or event["time"], "RUNNING"
        elif event and event["kind"] == "finish":
            ended = event["status"]
    refused = folder / REFUSED
    return {
        "name": name,
        "key": key,
        "started": started,
        "status": ended,
        "events": count_events(folder),
        "waiting": cursor.count_pending(folder) if cursor.destination == destination else 0,
        "refused": len(refused.read_text(encoding="utf-8").splitlines()) if refused.is_file() else 0,
        "run_id": cursor.run_id,
        "folder": str(folder),
    }
