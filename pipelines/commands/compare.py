"""``gantry compare``: runs, registered versions and revisions beside each other."""

import json
from pathlib import Path
from typing import Any

import click

_WIDTH = 32


@click.command()
@click.argument("things", nargs=-1, required=True, metavar="RUN|VERSION|REV...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--html", "page_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a page that opens offline."
)
def compare(things: tuple[str, ...], as_json: bool, page_file: Path | None) -> None:
    """Compare runs, registered versions and revisions with the first of them.

    Each is the id of an MLflow run, the name of a run of the pipeline or of a DVC experiment, a registered version
    (NAME/VERSION, NAME@ALIAS, NAME), or a revision of git. Shows the settings that differ, the figures with their 95 %
    intervals and whether the difference is more than noise, and the cost. Figures of different protocols are never compared.
    """
    # Imported here: --help need not wait for torch.
    from gan_core.files import write_text
    from pipelines.registry.compared import find_side
    from pipelines.registry.comparison import compare as compare_sides
    from pipelines.registry.comparison_page import page
    from pipelines.runtime.checkout import Checkout
    from pipelines.settings.schema import load_settings

    if len(things) < 2:
        raise click.UsageError("Name at least two things to compare.")
    checkout = Checkout.at()
    settings = load_settings(checkout.params)
    sides = [find_side(thing, checkout, settings, draw=page_file is not None) for thing in things]
    found = compare_sides(sides)
    if page_file:
        write_text(page_file, page(sides, found))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    _print(found)
    if page_file:
        click.echo(f"\nWritten: {page_file}")


def _print(found: dict[str, Any]) -> None:
    names = [side["name"] for side in found["compared"]]
    _row("", names)
    for title, cells in found["figures"].items():
        _row(title, [_figure(cell) for cell in cells])
        for name, cell in zip(names[1:], cells[1:], strict=True):
            if cell and "because" in cell:
                click.echo(f"    {name}: {cell['against_first']}: {cell['because']}")
    for title, rows in (("settings that differ", found["settings"]), ("cost", found["cost"])):
        click.echo(f"\n{title}" if rows else f"\n{title}: none")
        for name, cells in rows.items():
            _row(
                name,
                ["-" if cell is None else f"{cell:.5g}" if isinstance(cell, float) else str(cell) for cell in cells],
            )
    if found["settings_of_some"]:
        click.echo(f"\nOnly some of them have the settings {', '.join(found['settings_of_some'])}")
    for side in found["compared"]:
        for what in side["missing"]:
            click.echo(f"\n{side['name']} lacks {what}")


def _row(title: str, cells: list[str]) -> None:
    # Never cut: the end of a number may be its exponent, and the end of a setting the difference.
    click.echo(f"{title:30} " + " ".join(f"{cell:{_WIDTH}}" for cell in cells).rstrip())


def _figure(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    return f"{cell['value']:.5g}" + ("" if cell["low"] is None else f" [{cell['low']:.5g}, {cell['high']:.5g}]")
