"""``gantry settings``: every setting of params.yaml with its default and what it means."""

import dataclasses
import json
import textwrap
from collections.abc import Iterator
from typing import Any, get_type_hints

import click

from gan_core.config import meanings
from gan_core.errors import SettingsError, nearest
from gan_core.families import FAMILIES
from pipelines.settings.schema import Settings

_WIDTH = 110


@click.command()
@click.argument("name", required=False)
def settings(name: str | None) -> None:
    """List the settings of params.yaml: each with its default and what it means.

    NAME is a section (train), one setting (train.batch), or a family (biggan), whose settings stand in the section model.
    """
    everything = list(_all())
    rows = (
        list(_of("model", FAMILIES[name].Config))
        if name in FAMILIES
        else [r for r in everything if _within(r[0], name)]
    )
    if not rows:
        known = [*get_type_hints(Settings), *FAMILIES, *(dotted for dotted, _, _ in everything)]
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


def _all() -> Iterator[tuple[str, str, str]]:
    """Every setting but the families': dotted name, default as JSON, meaning."""
    for section, kind in get_type_hints(Settings).items():
        if dataclasses.is_dataclass(kind):
            yield from (row for row in _of(section, kind) if row[0] != "model.config")


def _of(section: str, kind: Any) -> Iterator[tuple[str, str, str]]:
    told = meanings(kind)
    for field in dataclasses.fields(kind):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        dotted, meaning = f"{section}.{field.name}", told.get(field.name, "")
        if default is dataclasses.MISSING:
            yield dotted, "has to be given", meaning
        elif dataclasses.is_dataclass(default):
            yield from _of(dotted, type(default))
        else:
            yield dotted, json.dumps(default), meaning
