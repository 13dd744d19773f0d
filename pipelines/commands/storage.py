"""``gantry storage``: what the storage of several hosts holds, and its removal."""

import json
from dataclasses import asdict

import click

from gan_core.disk import format_bytes
from gan_core.errors import SettingsError
from pipelines.storage.objects import Storage
from pipelines.storage.prune import OTHER, Stored, list_stored, prune


@click.command()
@click.option("--prune", "removing", is_flag=True, help="Remove what nobody uses and has not been used for --days.")
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Days since the last use, for --prune. 0 removes all that is not in use now.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def storage(removing: bool, days: float, as_json: bool) -> None:
    """List what storage.uri holds, by whom it is used, and since when it is not; remove it with --prune.

    The storage holds prepared data (data/DIGEST), Inception weights (weights/DIGEST), and the work of stages (work/STAGE/KEY).
    What runs anywhere keeps what it uses. What is removed is sent or made again when it is needed, but unfinished work begins
    anew.
    """
    # Imported here: --help need not wait for torch.
    from pipelines.settings.schema import load_settings

    uri = load_settings().storage.resolve_uri()
    if not uri:
        raise SettingsError("There is no storage. Set storage.uri in params.yaml, or GANTRY_STORAGE_URI.")
    place = Storage(uri)
    things = list_stored(place)
    due = [thing for thing in things if thing.removable and thing.unused_days >= days]
    removed = {thing.name for thing in prune(place, due)} if removing else set()
    if as_json:
        click.echo(json.dumps([{**asdict(thing), "removed": thing.name in removed} for thing in things], indent=2))
        return
    for thing in things:
        state = "removed" if thing.name in removed else _state(thing)
        click.echo(f"{thing.name:72}  {format_bytes(thing.size):>10}  {state}")
    left = sum(thing.size for thing in things if thing.name not in removed)
    click.echo(f"{uri}: {format_bytes(left)} in {len(things) - len(removed)} item(s).")
    if due and not removing:
        freed = format_bytes(sum(thing.size for thing in due))
        click.echo(f"--prune would remove {len(due)} item(s) of {freed}, unused for at least {days:g} days.")


def _state(thing: Stored) -> str:
    if thing.held:
        return "; ".join(f"in use by {name} (process {holder.process} on {holder.host})" for name, holder in thing.held)
    if thing.name == OTHER:
        return f"{thing.objects} small objects, such as leases"
    kind = ("finished, " if thing.finished else "unfinished, ") if thing.name.startswith("work/") else ""
    return f"{kind}unused for {thing.unused_days:.1f} days"
