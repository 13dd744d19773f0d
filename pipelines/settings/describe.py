"""Every setting of params.yaml as a row: its name, its default and what it means, read from the settings' own classes."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, get_type_hints

from gan_core.config import field_docs
from gan_core.families import FAMILIES
from pipelines.settings.schema import Settings


def all_settings() -> Iterator[tuple[str, str, str]]:
    """Every setting but the families': dotted name, default as JSON, meaning."""
    for section, kind in get_type_hints(Settings).items():
        if dataclasses.is_dataclass(kind):
            yield from (row for row in settings_of(section, kind) if row[0] != "model.config")


def settings_of_family(name: str) -> Iterator[tuple[str, str, str]]:
    """The settings of the family ``name``, which stand in the section ``model``, likewise."""
    yield from settings_of("model", FAMILIES[name].Config)


def settings_of(section: str, kind: Any) -> Iterator[tuple[str, str, str]]:
    """The fields of the configuration class ``kind``, likewise, named as in ``section``."""
    told = field_docs(kind)
    for field in dataclasses.fields(kind):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        dotted, meaning = f"{section}.{field.name}", told.get(field.name, "")
        if default is dataclasses.MISSING:
            yield dotted, "has to be given", meaning
        elif dataclasses.is_dataclass(default):
            yield from settings_of(dotted, type(default))
        else:
            yield dotted, json.dumps(default), meaning
