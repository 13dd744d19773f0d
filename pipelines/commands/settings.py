"""``gantry settings``: every setting of params.yaml with its default and what it means."""

import textwrap

import click

from gan_core.errors import SettingsError, nearest

_WIDTH = 110


@click.command()
@click.argument("name", required=False)
def settings(name: str | None) -> None:
    """List the settings of params.yaml: each with its default and what it means.

    NAME is a section (train), one setting (train.batch), or a family (biggan), whose settings stand in the section model.
    """
    # Imported here: --help need not wait for torch.
    from gan_core.families import FAMILIES
    from pipelines.settings.describe import all_settings, settings_of_family

    everything = list(all_settings())
    rows = list(settings_of_family(name) if name in FAMILIES else (r for r in everything if _within(r[0], name)))
    if not rows:
        dotted_names = [dotted for dotted, _, _ in everything]
        known = [*dict.fromkeys(dotted.split(".")[0] for dotted in dotted_names), *FAMILIES, *dotted_names]
        of_family = " Those of a family: gantry settings FAMILY." if str(name).startswith("model.") else ""
        raise SettingsError(f"There is no section, setting or family '{name}'.{nearest(str(name), known)}{of_family}")
    for dotted, default, meaning in rows:
        click.echo(f"{dotted}: {default}")
        plain = meaning.replace("``", "")
        lines = textwrap.wrap(plain, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
        click.echo("\n".join(lines))
    if name in (None, "model"):
        click.echo(f"\nThe rest of model is the family's: gantry settings FAMILY ({', '.join(FAMILIES)}).")


def _within(dotted: str, name: str | None) -> bool:
    return name is None or dotted == name or dotted.startswith(f"{name}.")
