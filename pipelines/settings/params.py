"""Read params.yaml as plain values, before the schema checks them. Imports nothing heavy."""

import re
from pathlib import Path
from typing import Any

import yaml

from gan_core.errors import SettingsError

_MAX_BYTES = 1 << 20
_MAX_VALUES = 100_000
_YAML_TAG = "tag:yaml.org,2002:"
_CONFLICT = re.compile(r"^(<{7}|>{7}|\|{7})( .*)?$|^={7}$", re.MULTILINE)


def read_params(path: Path | str) -> dict[str, Any]:
    """Read the sections of a parameters file. An empty file has none.

    DVC parses the same file as YAML 1.2, PyYAML as YAML 1.1. Values that the two parse differently (``010``, ``1:30``) and
    values that cannot be settings (dates, tags, binary data) are refused.

    Raises:
        SettingsError: the file is too large, not UTF-8, not YAML or not a mapping; a key appears twice; a value is not text,
            a number, true, false, null, a list or a mapping. The message names the file and, where known, the line.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise SettingsError(f"the file has {size:,} bytes; the limit is {_MAX_BYTES:,}. Shorten it.")
        text = path.read_text(encoding="utf-8-sig")
        if conflict := find_merge_conflict(text):
            raise SettingsError(conflict)
        values = parse_value(text)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from None
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: must consist of sections (data:, model:, train: ...), got {values!r}.")
    return values


def parse_value(text: str) -> Any:
    """Parse the YAML of a whole parameters file, or of one value, by the rules of :func:`read_params`.

    Raises:
        yaml.YAMLError: it is not YAML.
        SettingsError: a value in it cannot be a setting.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise SettingsError("lists or mappings are nested too deeply. Settings need at most three levels.") from None


def find_merge_conflict(text: str) -> str:
    """Describe the first git merge conflict in ``text``, with its line; return an empty string if there is none."""
    found = _CONFLICT.search(text)
    if found is None:
        return ""
    return (
        f"line {text.count(chr(10), 0, found.start()) + 1}: unresolved git merge conflict ({found[0].strip()[:40]}). Keep "
        "one side of each conflict and remove the lines that begin with <<<<<<<, ======= and >>>>>>>."
    )


class _Loader(yaml.SafeLoader):
    """A YAML loader for the values that settings can have. Each error names the line and the remedy."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _check_size(node)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As in PyYAML, but a key that appears twice is an error: PyYAML drops the first value silently."""
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in first:
                    raise SettingsError(
                        f"'{key.value}' appears twice, in line {first[key.value]} and in line {_line(key)}. Keep one of them."
                    )
                first[key.value] = _line(key)
        return node

    def construct_date(self, node: yaml.ScalarNode) -> Any:
        raise SettingsError(
            f"line {_line(node)}: YAML reads {_short(node.value)} as a date, and no setting is a date. Put it in quotes."
        )

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        digits = node.value.lstrip("+-").replace("_", "")
        if ":" in digits or re.fullmatch(r"0\d+(\.\d*)?", digits):
            raise SettingsError(
                f"line {_line(node)}: YAML 1.1 and YAML 1.2 read {_short(node.value)} as different numbers. Write it as "
                "a plain decimal number, or put it in quotes if it is text."
            )
        try:
            integer = node.tag == "tag:yaml.org,2002:int"
            return self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)
        except ValueError:
            raise SettingsError(f"line {_line(node)}: {_short(node.value)} is not a valid number.") from None

    def construct_unknown(self, node: yaml.Node) -> Any:
        raise SettingsError(
            f"line {_line(node)}: the tag {node.tag.replace(_YAML_TAG, '!!')} is not allowed. Remove it: a setting is text, a "
            "number, true, false, null, a list or a mapping."
        )


for _tag in ("int", "float"):
    _Loader.add_constructor(_YAML_TAG + _tag, _Loader.construct_number)
_Loader.add_constructor(_YAML_TAG + "timestamp", _Loader.construct_date)
for _tag in ("binary", "omap", "pairs", "set"):
    _Loader.add_constructor(_YAML_TAG + _tag, _Loader.construct_unknown)
_Loader.add_constructor(None, _Loader.construct_unknown)


def _check_size(root: yaml.Node) -> None:
    """Raise SettingsError if aliases make the document endless or expand it to more than ``_MAX_VALUES`` values."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node), 0)
        if known is None:
            raise SettingsError(f"line {_line(node)}: this anchor contains an alias of itself. Write the value out.")
        if known:
            return known
        sizes[id(node)] = None
        below: Any = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for entry in below for part in (entry if isinstance(entry, tuple) else (entry,))]
        sizes[id(node)] = total = 1 + sum(map(size, parts))
        if total > _MAX_VALUES:
            raise SettingsError(
                f"line {_line(node)}: with its aliases expanded, this has more than {_MAX_VALUES:,} values. Use fewer aliases."
            )
        return total

    size(root)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _short(text: str) -> str:
    """Shorten ``text`` for an error message."""
    return text if len(text) <= 40 else f"{text[:20]}... ({len(text):,} characters)"
