"""Parse dvc.lock and params.yaml as DVC does, which follows YAML 1.2, and edit YAML files so that YAML 1.1 reads the same.

PyYAML follows YAML 1.1: it reads a number such as 5e-05, as DVC writes it to dvc.lock, as text, and no and on as booleans.
Values of the two files can be compared with each other and with DVC's only if one parser has read them all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from gan_core.errors import DamagedFileError

_TEXT = "tag:yaml.org,2002:str"


def parse_as_dvc(text: str, name: str) -> Any:
    """The values in the YAML ``text`` of the file ``name``; an empty mapping if it has none.

    Raises:
        DamagedFileError: it is not valid YAML.
    """
    # Imported here: DVC takes a second to import.
    from dvc.utils.serialize import ParseError, parse_yaml

    try:
        return parse_yaml(text, name)
    except ParseError as error:
        why = " ".join(str(error.__cause__ or error).split())
        damaged = DamagedFileError(f"{name} is damaged: it is not valid YAML ({why}). Restore it.")
        damaged.reason = f"it is not valid YAML: {why}"
        raise damaged from error


@contextmanager
def edit_yaml(path: Path) -> Iterator[Any]:
    """The values of the YAML file at ``path``, which the block changes in place. Comments, order and quotes are kept.

    (DVC's own function drops quotes that YAML 1.2 does not need: PyYAML then reads the text "no" or "1:30" as something else.)
    """
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 1 << 20  # long texts stay on their line
    values = editor.load(path.read_text(encoding="utf-8-sig"))
    values = {} if values is None else values
    yield values
    with path.open("w", encoding="utf-8") as file:
        editor.dump(values, file)


def quote_ambiguous(value: Any) -> Any:
    """``value`` for :func:`edit_yaml`, in quotes where it is or holds a text that YAML 1.1 reads as something else."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, dict):
        return {quote_ambiguous(name): quote_ambiguous(part) for name, part in value.items()}
    if isinstance(value, list):
        return [quote_ambiguous(part) for part in value]
    if isinstance(value, str) and yaml.SafeLoader("").resolve(yaml.ScalarNode, value, (True, False)) != _TEXT:
        return DoubleQuotedScalarString(value)
    return value
