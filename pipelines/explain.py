"""``gantry settings``: every setting of params.yaml with its default and what it means."""

import dataclasses
import json
import textwrap
from collections.abc import Iterator
from typing import Any, get_type_hints

import click

from gan_core.config import as_dict, meanings
from gan_core.errors import SettingsError, nearest
from gan_core.families import FAMILIES
from pipelines.settings import ModelSettings, Settings

_WIDTH = 110


@click.command()
@click.argument("name", required=False)
def settings(name: str | None) -> None:
    """List the settings of params.yaml: each with its default and what it means.

    NAME is a section (train), one setting (train.batch), or a family (biggan), whose settings stand in the section model.
    """
    rows = list(_of_family(name)) if name in FAMILIES else [row for row in _all() if _within(row[0], name)]
    if not rows:
        known = [*get_type_hints(Settings), *FAMILIES]
        raise SettingsError(f"There is no section, setting or family '{name}'.{nearest(str(name), known)}")
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
        if section == "model":
            told = meanings(ModelSettings)
            yield "model.family", '"dcgan"', f"One of {', '.join(FAMILIES)}"
            yield "model.preset", '"none"', told["preset"]
        elif dataclasses.is_dataclass(kind):
            yield from _of(section, kind)


def _of_family(name: str) -> Iterator[tuple[str, str, str]]:
    yield from _of("model", FAMILIES[name].Config)


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
            yield dotted, json.dumps(as_dict(default) if dataclasses.is_dataclass(default) else default), meaning
