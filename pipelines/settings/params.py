"""params.yaml as plain values, and the one thing in it that the environment may overrule. Imports nothing heavy."""

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
    """The sections of a parameters file; none for an empty one.

    DVC reads the same file by YAML 1.2 and PyYAML reads it by YAML 1.1. What the two understand differently (``010``,
    ``1:30``) and what is no setting (dates, tags, binary data) is refused.

    Raises:
        SettingsError: too large, not UTF-8, not YAML, not a mapping, a name that appears twice, or a value that is none of
            text, numbers, true, false, null, lists and mappings; says where.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise SettingsError(f"it has {size:,} bytes, and {_MAX_BYTES:,} are the most that are read. Shorten it.")
        text = path.read_text(encoding="utf-8-sig")
        if found := conflict(text):
            raise SettingsError(found)
        values = yaml.load(text, Loader=_Loader)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from None
    except RecursionError:
        raise SettingsError(f"{path}: lists or mappings are nested too deeply. Settings need three levels.") from None
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected sections (data:, model:, train: ...), got {values!r}.")
    return values


def conflict(text: str) -> str:
    """What to say of the marks that a merge of git's has left in ``text``; empty where there are none."""
    found = _CONFLICT.search(text)
    if found is None:
        return ""
    return (
        f"line {text.count(chr(10), 0, found.start()) + 1}: git has left a merge conflict here ({found[0].strip()[:40]}). Keep "
        "one side of each conflict and remove the lines that begin with <<<<<<<, ======= and >>>>>>>."
    )


class _Loader(yaml.SafeLoader):
    """YAML reduced to what settings are made of. Each error names the line and the remedy."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _check_size(node)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As in PyYAML, but a name that appears twice is an error: of two values, one would be lost without a word."""
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
            f"line {_line(node)}: {_short(node.value)} is a date in YAML, and no setting is one. Put it in quotes."
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
            raise SettingsError(f"line {_line(node)}: {_short(node.value)} is no number that can be read.") from None

    def construct_unknown(self, node: yaml.Node) -> Any:
        raise SettingsError(
            f"line {_line(node)}: the tag {node.tag.replace(_YAML_TAG, '!!')} is no kind of setting. Remove it: a setting is "
            "text, a number, true, false, null, a list or a mapping."
        )


for _tag in ("int", "float"):
    _Loader.add_constructor(_YAML_TAG + _tag, _Loader.construct_number)
_Loader.add_constructor(_YAML_TAG + "timestamp", _Loader.construct_date)
for _tag in ("binary", "omap", "pairs", "set"):
    _Loader.add_constructor(_YAML_TAG + _tag, _Loader.construct_unknown)
_Loader.add_constructor(None, _Loader.construct_unknown)


def _check_size(root: yaml.Node) -> None:
    """Raise SettingsError when aliases make the document endless, or far larger than its text is."""
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
                f"line {_line(node)}: with its aliases written out, this holds more than {_MAX_VALUES:,} values. Use fewer."
            )
        return total

    size(root)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _short(text: str) -> str:
    """``text``, cut where nobody would read on."""
    return text if len(text) <= 40 else f"{text[:20]}... ({len(text):,} characters)"
