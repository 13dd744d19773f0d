"""``gantry promote``, ``gantry rollback`` and ``gantry ledger``."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from gan_core.errors import SettingsError
from pipelines.registry import promote as registry
from pipelines.registry.ledger import Move, carried_out
from pipelines.settings import load_settings


@click.command()
@click.argument("name", required=False)
@click.option("--version", help="Version to promote; the challenger by default.")
@click.option("--force", is_flag=True, help="Pass over the gates (same protocol, lower FID); needs --reason.")
@click.option(
    "--measure",
    is_flag=True,
    help="Where the figures do not compare (the data has changed, say), measure the champion anew, on the data of this "
    "checkout, as the challenger was.",
)
@click.option("--reason", help="Why, for the ledger.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def promote(
    name: str | None, version: str | None, force: bool, measure: bool, reason: str | None, as_json: bool
) -> None:
    """Make the challenger the champion if it is better by the same protocol.

    NAME is the registered model, by default register.name of params.yaml.
    """
    if force and measure:
        raise SettingsError("--force passes over what --measure measures for: give one of them.")
    settings = load_settings()
    name = name or settings.register.name
    anew = None
    if measure:
        from pipelines.registry.measure import measure_version  # torch and the metrics: seconds

        anew = partial(measure_version, name, root=Path.cwd(), settings=settings)
    move = registry.promote(
        name,
        tracking_uri=settings.track.uri,
        version=version,
        force=force,
        reason=reason,
        measure=anew,
    )
    _tell(name, move, as_json)


@click.command()
@click.argument("name", required=False)
@click.option("--reason", help="Why, for the ledger.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rollback(name: str | None, reason: str | None, as_json: bool) -> None:
    """Undo the last promotion: the champion before it is champion again.

    NAME is the registered model, by default register.name of params.yaml.
    """
    settings = load_settings()
    name = name or settings.register.name
    _tell(name, registry.rollback(name, tracking_uri=settings.track.uri, reason=reason), as_json)


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ledger(name: str | None, as_json: bool) -> None:
    """List every move of the champion, oldest first: when, by whom, and why.

    NAME is the registered model, by default register.name of params.yaml.
    """
    settings = load_settings()
    name = name or settings.register.name
    moves = registry.history(name, tracking_uri=settings.track.uri)
    if as_json:
        click.echo(json.dumps([asdict(move) for move in moves], indent=2))
        return
    if not moves:
        click.echo(f"{name}: no version was promoted yet.")
    for move, made in zip(moves, carried_out(moves, None), strict=True):
        notes = "".join([", forced" if move.forced else "", "" if made else ", cut short or undone by hand"])
        what = f"{move.previous or 'none'} -> {move.version or 'none'}"
        click.echo(f"{move.at}  {move.kind:8}  {what:14}  {move.by}{notes}: {move.reason}")


def _tell(name: str, move: Move | None, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"name": name, "moved": move is not None, "move": asdict(move) if move else None}))
    elif move is None:
        click.echo(f"{name}: that version is the champion already; nothing was moved.")
    else:
        after = f"version {move.version}" if move.version else "no version"
        before = f"version {move.previous}" if move.previous else "no version"
        click.echo(f"{name}: champion is now {after}, was {before} ({move.reason}).")
        if move.found and move.found != move.reason:
            click.echo(f"Measured: {move.found}.")
