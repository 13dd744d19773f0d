"""Parse dvc.lock and params.yaml as DVC does, which follows YAML 1.2.

PyYAML follows YAML 1.1: it reads a number such as 5e-05, as DVC writes it to dvc.lock, as text, and no and on as booleans.
Values of the two files can be compared with each other and with DVC's only if one parser has read them all.
"""

from typing import Any

from gan_core.errors import DamagedFileError


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
