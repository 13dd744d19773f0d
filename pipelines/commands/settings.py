"""``gantry settings``: list the settings of params.yaml, each with its default and its meaning."""

import dataclasses
import json
import textwrap

import click

from gan_core.errors import SettingsError, did_you_mean

_WIDTH = 110


@click.command()
@click.argument("name", required=False)
@click.option("--diff", is_flag=True, help="List what in params.yaml departs from the family's recipe instead.")
@click.option("--json", "as_json", is_flag=True, help="With --diff: print JSON.")
def settings(name: str | None, diff: bool, as_json: bool) -> None:
    """List the settings of params.yaml, each with its default and its meaning.

    NAME is a section (train), one setting (train.batch), or a family (biggan), whose settings belong in the section model.

    With --diff, list the settings of model, train and tune.space in params.yaml that differ from what the family's recipe has
    for the prepared data and this device, as model.preset: auto would choose; where a recipe says nothing, the default counts.
    """
    if diff:
        _diff(name, as_json)
        return
    if as_json:
        raise click.UsageError("--json goes with --diff.")
    # Imported here: --help need not wait for torch.
    from gan_core.families import FAMILIES
    from pipelines.settings.describe import all_settings, family_settings

    everything = list(all_settings())
    rows = list(family_settings(name) if name in FAMILIES else (r for r in everything if _within(r[0], name)))
    if not rows:
        dotted_names = [dotted for dotted, _, _ in everything]
        known = [*dict.fromkeys(dotted.split(".")[0] for dotted in dotted_names), *FAMILIES, *dotted_names]
        of_family = " For the settings of a family: gantry settings FAMILY." if str(name).startswith("model.") else ""
        raise SettingsError(
            f"There is no section, setting or family '{name}'.{did_you_mean(str(name), known)}{of_family}"
        )
    for dotted, default, meaning in rows:
        click.echo(f"{dotted}: {default}")
        plain = meaning.replace("``", "")
        lines = textwrap.wrap(plain, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
        click.echo("\n".join(lines))
    if name in (None, "model"):
        click.echo(
            f"\nThe other settings of model depend on the family: gantry settings FAMILY ({', '.join(FAMILIES)})."
        )


def _diff(name: str | None, as_json: bool) -> None:
    from gan_core.data import DATASET_FILE, PreparedDataset
    from gan_core.precision import choose_device
    from pipelines.runtime.checkout import Checkout
    from pipelines.settings.departures import departures
    from pipelines.settings.schema import load_settings

    checkout = Checkout.at()
    given = load_settings(checkout.params)
    prepared = (checkout.prepared / DATASET_FILE).is_file()
    info = PreparedDataset(checkout.prepared).info if prepared else None
    found = [departure for departure in departures(given, info, choose_device()) if _within(departure.name, name)]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(departure) for departure in found], indent=2))
        return
    if not prepared:
        click.echo(
            "There is no prepared data yet (dvc repro ingest): compared with the defaults, not with the recipe.\n"
        )
    for departure in found:
        where = " (left out of params.yaml)" if departure.left_out else ""
        click.echo(f"{departure.name}: {json.dumps(departure.value)}{where}")
        click.echo(f"    {given.model.family}: {json.dumps(departure.recipe)} ({departure.reason})")
    if not found:
        click.echo(f"Nothing departs from the recipe of {given.model.family}.")


def _within(dotted: str, name: str | None) -> bool:
    return name is None or dotted == name or dotted.startswith(f"{name}.")
