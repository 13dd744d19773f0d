"""``gantry promote``, ``gantry rollback`` and ``gantry ledger``."""

import json
from dataclasses import asdict
from functools import partial

import click

from gan_core.errors import SettingsError, TrackingError
from pipelines.registry.ledger import TAG_PREFIX, Move, Outcome, escape_nonprintable
from pipelines.registry.verify import Report
from pipelines.runtime.checkout import Checkout


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
    # Imported here: --help need not wait for torch.
    from pipelines.registry import promote as registry
    from pipelines.settings.schema import load_settings

    if force and measure:
        raise SettingsError("--force passes over what --measure measures for: give one of them.")
    settings = load_settings()
    name = name or settings.register.name
    anew = None
    if measure:
        from pipelines.registry.measure import measure_version

        anew = partial(measure_version, name, checkout=Checkout.at(), settings=settings)
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
    from pipelines.registry import promote as registry
    from pipelines.settings.schema import load_settings

    settings = load_settings()
    name = name or settings.register.name
    _tell(name, registry.rollback(name, tracking_uri=settings.track.uri, reason=reason), as_json)


@click.command()
@click.argument("name", required=False)
@click.option("--verify", is_flag=True, help="Check that nothing in it was changed; exit status 1 where something was.")
@click.option("--expect", metavar="DIGEST", help="With --verify: the head that an earlier --verify printed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ledger(name: str | None, verify: bool, expect: str | None, as_json: bool) -> None:
    """List every move of the champion, oldest first: when, by whom, and why.

    NAME is the registered model, by default register.name of params.yaml.
    """
    from pipelines.registry import promote as registry
    from pipelines.settings.schema import load_settings

    if expect and not verify:
        raise SettingsError("--expect is for --verify: give both.")
    settings = load_settings()
    name = name or settings.register.name
    if verify:
        _verify(name, registry.verify_ledger(name, tracking_uri=settings.track.uri, expected=expect), as_json)
        return
    found = registry.load_ledger(name, tracking_uri=settings.track.uri)
    if as_json:
        moves = [{**asdict(move), "outcome": str(found.outcomes[move.id])} for move in found.moves()]
        click.echo(json.dumps(moves, indent=2))
        return
    if not (found.entries or found.unreadable):
        click.echo(f"{name}: no version was promoted yet.")
    for move in found.moves():
        outcome = found.outcomes[move.id]
        notes = "".join([", forced" if move.forced else "", "" if outcome is Outcome.MADE else f", {outcome}"])
        what = f"{move.previous or 'none'} -> {move.version or 'none'}"
        click.echo(escape_nonprintable(f"{move.at}  {move.kind:8}  {what:14}  {move.by}{notes}: {move.reason}"))
    for bad in found.unreadable:
        click.secho(escape_nonprintable(f"The tag {TAG_PREFIX}{bad.id} holds no entry: {bad.why}."), err=True)
    click.echo(f"Champion now: {f'version {found.champion}' if found.champion else 'none'}.")


def _verify(name: str, report: Report, as_json: bool) -> None:
    """Print what was found; raises TrackingError that names the first break, if there is one."""
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    else:
        for note in report.notes:
            click.echo(escape_nonprintable(f"note: {note}."))
        for broken in report.breaks:
            click.echo(escape_nonprintable(f"broken: {broken}."))
    if report.breaks:
        more = f" ({len(report.breaks) - 1} more)" if len(report.breaks) > 1 else ""
        raise TrackingError(
            escape_nonprintable(f"The ledger of '{name}' is not as it was written. First: {report.breaks[0]}{more}.")
        )
    if not as_json:
        champion = f"version {report.champion}" if report.champion else "none"
        click.echo(
            f"{name}: {report.entries} entries, {report.chained} of them in an unbroken chain; champion {champion}, as the "
            f"ledger says; the figures of {report.figures} promotions are those they went by."
        )
        click.echo(f"Head: {report.head or 'none'}. Keep it elsewhere, and give it to --expect later.")


def _tell(name: str, move: Move | None, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"name": name, "moved": move is not None, "move": asdict(move) if move else None}))
    elif move is None:
        click.echo(f"{name}: that version is the champion already; nothing was moved.")
    else:
        after = f"version {move.version}" if move.version else "no version"
        before = f"version {move.previous}" if move.previous else "no version"
        click.echo(escape_nonprintable(f"{name}: champion is now {after}, was {before} ({move.reason})."))
        if move.found and move.found != move.reason:
            click.echo(f"Measured: {move.found}.")
