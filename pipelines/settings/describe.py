"""List the settings of params.yaml with their defaults and descriptions, read from the settings classes."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, get_type_hints

from gan_core.config import field_docs
from gan_core.families import FAMILIES
from pipelines.settings.schema import Settings


def all_settings() -> Iterator[tuple[str, str, str]]:
    """Yield all settings except those of the families: dotted name, default as JSON (or ``required``), and description."""
    for section, kind in get_type_hints(Settings).items():
        if dataclasses.is_dataclass(kind):
            yield from (row for row in section_settings(section, kind) if row[0] != "model.config")


def family_settings(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield the settings of the family ``name``, which belong in the section ``model``, as :func:`all_settings` does."""
    yield from section_settings("model", FAMILIES[name].Config)


def section_settings(section: str, kind: Any) -> Iterator[tuple[str, str, str]]:
    """Yield the fields of the dataclass ``kind`` as settings of ``section``, as :func:`all_settings` does."""
    descriptions = field_docs(kind)
    for field in dataclasses.fields(kind):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        dotted, description = f"{section}.{field.name}", descriptions.get(field.name, "")
        if default is dataclasses.MISSING:
            yield dotted, "required", description
        elif dataclasses.is_dataclass(default):
            yield from section_settings(dotted, type(default))
        else:
            yield dotted, json.dumps(default), description
