"""``gantry reproduce VERSION``: make a version again and compare it to the byte."""

import json
from dataclasses import asdict

import click

from pipelines.registry.ledger import escape_nonprintable
from pipelines.runtime.checkout import Checkout


@click.command()
@click.argument("version")
@click.option("--search", is_flag=True, help="Run the search again, too, instead of taking its recorded result.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def reproduce(context: click.Context, version: str, search: bool, as_json: bool) -> None:
    """Make VERSION again from its commit, data and settings, and say whether it came out the same to the byte.

    VERSION is NAME/VERSION or NAME@ALIAS. The stages run in a git worktree, which is removed at the end; nothing is
    registered. Equal bytes are to be expected on the same kind of device with the same packages. The exit status is 1 if
    something differs.
    """
    # Imported here: --help need not wait for torch.
    from pipelines.flow.reproduce import reproduce as run
    from pipelines.settings.schema import load_settings

    found = run(
        version,
        tracking_uri=load_settings().track.uri,
        checkout=Checkout.at(),
        search=search,
        on_line=lambda line: click.echo(line, err=True),
    )
    if as_json:
        results = [{**asdict(result), "same": result.same} for result in found.results]
        click.echo(json.dumps({**asdict(found), "results": results, "same": found.same}, indent=2))
    else:
        for result in found.results:
            same = "same" if result.same else f"DIFFERS: {result.made}, recorded {result.recorded}"
            click.echo(escape_nonprintable(f"{result.stage:9} {result.out:32} {same}"))
        for note in found.notes:
            click.echo(escape_nonprintable(f"note: {note}."))
        verdict = "is the same to the byte" if found.same else "differs"
        click.echo(
            f"{found.version} of commit {found.commit[:12]} {verdict}, on {found.device_here or 'an unknown device'}."
        )
    if not found.same:
        context.exit(1)
