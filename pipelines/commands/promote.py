"""``gantry promote``, ``gantry rollback`` and ``gantry ledger``."""

import json
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import click

from gan_core.errors import SettingsError, TrackingError
from pipelines.registry.ledger import TAG_PREFIX, Move, Outcome, escape_nonprintable
from pipelines.registry.verify import Report
from pipelines.runtime.checkout import Checkout

if TYPE_CHECKING:
    from pipelines.registry.gate import Comparison


@click.command()
@click.argument("name", required=False)
@click.option("--version", help="Version to promote. Default: the challenger.")
@click.option("--dry-run", is_flag=True, help="Show the verdict of every gate, and promote nothing.")
@click.option("--force", is_flag=True, help="Promote even if gates block. Needs --reason.")
@click.option(
    "--measure",
    is_flag=True,
    help="Measure a version again, on the data and with the settings of this checkout, if it lacks a figure or the figures "
    "are not comparable (for example because the data changed).",
)
@click.option("--reason", help="Reason to record in the ledger.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def promote(
    name: str | None,
    version: str | None,
    dry_run: bool,
    force: bool,
    measure: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """Make the challenger the champion if it passes the gates.

    The gates are the section promote of params.yaml (gantry settings promote): a better figure under the same protocol, by
    more than the noise, without losing variety, copying training pictures or collapsing in training. A gate that is on and
    cannot be judged blocks, too.

    NAME is the registered model. Default: register.name in params.yaml.
    """
    # Imported here: --help need not wait for torch.
    from pipelines.registry import promote as registry
    from pipelines.settings.schema import load_settings

    if force and (measure or dry_run):
        other = "--measure" if measure else "--dry-run"
        raise SettingsError(f"--force skips the gates that {other} is for. Use only one of them.")
    settings = load_settings()
    name = name or settings.register.name
    remeasure = None
    if measure:
        from pipelines.registry.measure import measure_version

        remeasure = partial(measure_version, name, checkout=Checkout.at(), settings=settings)
    if dry_run:
        found = registry.check_gates(
            name, tracking_uri=settings.track.uri, version=version, gates=settings.promote, measure=remeasure
        )
        _print_verdicts(found, as_json)
        return
    move = registry.promote(
        name,
        tracking_uri=settings.track.uri,
        version=version,
        gates=settings.promote,
        force=force,
        reason=reason,
        measure=remeasure,
    )
    _print_move(name, move, as_json)


@click.command()
@click.argument("name", required=False)
@click.option("--reason", help="Reason to record in the ledger.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rollback(name: str | None, reason: str | None, as_json: bool) -> None:
    """Undo the last promotion: the previous champion is the champion again.

    NAME is the registered model. Default: register.name in params.yaml.
    """
    from pipelines.registry import promote as registry
    from pipelines.settings.schema import load_settings

    settings = load_settings()
    name = name or settings.register.name
    _print_move(name, registry.rollback(name, tracking_uri=settings.track.uri, reason=reason), as_json)


@click.command()
@click.argument("name", required=False)
@click.option("--verify", is_flag=True, help="Check that no entry was changed. Exit status 1 if one was.")
@click.option("--expect", metavar="DIGEST", help="With --verify: the head that an earlier --verify printed.")
@click.option("--gates", is_flag=True, help="List the verdict of each gate below each promotion.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ledger(name: str | None, verify: bool, expect: str | None, gates: bool, as_json: bool) -> None:
    """List every promotion and rollback, oldest first, with time, user and reason.

    NAME is the registered model. Default: register.name in params.yaml.
    """
    from pipelines.registry import promote as registry
    from pipelines.settings.schema import load_settings

    if expect is not None and not verify:
        raise SettingsError("--expect needs --verify: give both.")
    settings = load_settings()
    name = name or settings.register.name
    if verify:
        _verify(name, registry.verify_ledger(name, tracking_uri=settings.track.uri, expected=expect), as_json)
        return
    found = registry.load_ledger(name, tracking_uri=settings.track.uri)
    for bad in found.unreadable:
        click.secho(escape_nonprintable(f"The tag {TAG_PREFIX}{bad.id} is not a valid entry: {bad.why}."), err=True)
    if as_json:
        moves = [{**asdict(move), "outcome": str(found.outcomes[move.id])} for move in found.moves()]
        click.echo(json.dumps(moves, indent=2))
        return
    if not (found.entries or found.unreadable):
        click.echo(f"{name}: no version has been promoted yet.")
    for move in found.moves():
        outcome = found.outcomes[move.id]
        notes = "".join([", forced" if move.forced else "", "" if outcome is Outcome.MADE else f", {outcome}"])
        what = f"{move.previous or 'none'} -> {move.version or 'none'}"
        click.echo(escape_nonprintable(f"{move.at}  {move.kind:8}  {what:14}  {move.by}{notes}: {move.reason}"))
        for verdict in move.gates if gates else ():
            click.echo(escape_nonprintable(f"    {verdict}"))
    click.echo(f"Champion now: {f'version {found.champion}' if found.champion else 'none'}.")


def _verify(name: str, report: Report, as_json: bool) -> None:
    """Print the report; raise TrackingError with the first break, if there is one."""
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
            escape_nonprintable(f"The ledger of '{name}' was changed. First change: {report.breaks[0]}{more}.")
        )
    if not as_json:
        champion = f"version {report.champion}" if report.champion else "none"
        click.echo(
            f"{name}: {report.entries} entries, {report.chained} of them in an unbroken chain. The champion is {champion}, as "
            f"in the ledger. The figures of {report.figures} promotions have not changed since."
        )
        click.echo(f"Head: {report.head or 'none'}. Keep it elsewhere and pass it to --expect later.")


def _print_verdicts(found: "Comparison", as_json: bool) -> None:
    """Print the verdicts as a table, and whether the version would be promoted."""
    new, old = found.challenger, found.challenger if found.is_champion else found.champion
    if as_json:
        verdicts = [verdict.as_dict() for verdict in found.verdicts]
        sides = {"name": new.name, "version": new.version, "champion": old.version if old else None}
        promotes = not found.is_champion and not found.blocking
        click.echo(json.dumps({**sides, "promotes": promotes, "gates": verdicts}, indent=2))
        return
    if found.is_champion:
        click.echo(f"{new.name}: version {new.version} is already the champion; gantry promote would change nothing.")
        return
    click.echo(f"{new.name}: version {new.version} against {f'the champion, version {old.version}' if old else 'none'}")
    rows = [("gate", "bound", "verdict", "found"), *((v.gate, v.bound, str(v.state), v.found) for v in found.verdicts)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo(escape_nonprintable("  ".join([*cells, row[3]]).rstrip()))
    for verdict in found.verdicts:
        if verdict.blocks and verdict.remedy:
            click.echo(escape_nonprintable(f"{verdict.gate}: {verdict.remedy}."))
    click.echo("It would be promoted." if not found.blocking else "It would not be promoted.")


def _print_move(name: str, move: Move | None, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"name": name, "moved": move is not None, "move": asdict(move) if move else None}))
    elif move is None:
        click.echo(f"{name}: this version is already the champion; nothing changed.")
    else:
        after = f"version {move.version}" if move.version else "no version"
        before = f"version {move.previous}" if move.previous else "no version"
        click.echo(escape_nonprintable(f"{name}: champion is now {after}, was {before} ({move.reason})."))
        if move.found and move.found != move.reason:
            click.echo(f"Measured: {move.found}.")
