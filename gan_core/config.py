"""Build typed configurations from plain mappings. Everything is checked, and errors name the key and the closest valid one.

A configuration is a frozen, keyword-only dataclass; nested dataclasses correspond to nested mappings. The dataclass checks its
ranges in ``__post_init__`` with :func:`check`.
"""

import ast
import contextlib
import dataclasses
import inspect
import itertools
import math
import re
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from gan_core.errors import SettingsError, did_you_mean

T = TypeVar("T")


def check(condition: bool, message: str) -> None:
    """Raise :class:`SettingsError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise SettingsError(message)


def check_below_one(config: object, *names: str) -> None:
    """Raise :class:`SettingsError` for the first of the fields ``names`` that is not in [0, 1). None is valid."""
    for name in names:
        value = getattr(config, name)
        check(value is None or 0 <= value < 1, f"{name}: must lie in [0, 1), got {value}.")


def check_at_least(config: object, least: float, *names: str) -> None:
    """Raise :class:`SettingsError` for the first of the fields ``names`` that is below ``least``. None is valid."""
    for name in names:
        value = getattr(config, name)
        check(value is None or value >= least, f"{name}: must be at least {least:g}, got {value}.")


def check_choice(config: object, choices: tuple[Any, ...], name: str) -> None:
    """Raise :class:`SettingsError` if the field ``name`` is not one of ``choices``."""
    *most, last = map(str, choices)
    value = getattr(config, name)
    check(value in choices, f"{name}: must be {', '.join(most)} or {last}, got {value}.")


def build(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Build the configuration dataclass ``cls`` from ``values``.

    Args:
        cls: a dataclass; its fields may be int, float, bool, str, tuples, Literals, Optionals, unions of these,
            mappings, or nested dataclasses.
        values: settings as read from YAML or JSON.
        where: dotted prefix for messages, such as ``train``.

    Raises:
        SettingsError: a key is unknown (the message suggests the closest valid one) or missing, or a value has the wrong type
            or is out of range.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"{where or 'settings'}: expected a mapping of settings, got {values!r}.")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in fields:
            raise SettingsError(f"Unknown setting '{prefix}{key}'.{did_you_mean(str(key), fields)}")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for name, field in fields.items():
        if name in values:
            arguments[name] = _coerce(values[name], hints[name], f"{prefix}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SettingsError(f"Missing setting '{prefix}{name}'.")
    try:
        return cls(**arguments)
    except SettingsError as error:
        raise SettingsError(f"{prefix}{error}") from None


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Convert ``value`` to the type ``hint``, or raise a SettingsError that names ``where``."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where=where)
    if origin is typing.Literal:
        if value not in options:
            hinted = did_you_mean(str(value), [str(option) for option in options])
            raise SettingsError(f"{where}: {value!r} is not one of the choices.{hinted}")
        return value
    if origin in (typing.Union, types.UnionType):
        sections = [option for option in options if dataclasses.is_dataclass(option)]
        if len(sections) == 1 and isinstance(value, Mapping):  # its own error says more than that no option fits
            return build(typing.cast(type, sections[0]), value, where=where)
        for option in options:
            with contextlib.suppress(SettingsError):
                return _coerce(value, option, where)
        raise SettingsError(f"{where}: {value!r} is not {_spell(hint)}.")
    if origin is tuple:
        return _tuple(value, options, where)
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise SettingsError(f"{where}: expected a mapping, got {value!r}.")
        of = options[1] if options else Any
        return {str(key): _coerce(item, of, f"{where}.{key}") for key, item in value.items()}
    if hint is type(None):
        if value is None:
            return None
    elif hint is float:
        # YAML 1.1 reads 2e-4 as text, but the user means the number.
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                number = float(value)
            except (ValueError, OverflowError):
                pass
            else:
                # Infinity is never a valid setting, and NaN would pass every range check.
                check(math.isfinite(number), f"{where}: expected a finite number, got {value!r}.")
                return number
    elif hint is int and isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d{1,2}", value):
        if (number := float(value)).is_integer():  # as above: 1e4
            return int(number)
    elif (hint is int and isinstance(value, int) and not isinstance(value, bool)) or (
        hint in (bool, str) and isinstance(value, hint)
    ):
        return value
    raise SettingsError(f"{where}: expected {_spell(hint)}, got {value!r}.")


def _tuple(value: Any, options: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise SettingsError(f"{where}: expected a list, got {value!r}.")
    if len(options) == 2 and options[1] is Ellipsis:
        return tuple(_coerce(item, options[0], f"{where}[{index}]") for index, item in enumerate(value))
    if len(value) != len(options):
        raise SettingsError(f"{where}: expected {len(options)} values, got {len(value)}.")
    pairs = enumerate(zip(value, options, strict=True))
    return tuple(_coerce(item, option, f"{where}[{index}]") for index, (item, option) in pairs)


def _spell(hint: Any) -> str:
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "null"}
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_spell(option) for option in options)
    if origin is typing.Literal:
        return " or ".join(repr(option) for option in options)
    if origin is tuple and options[1:] == (Ellipsis,):
        return f"a list, each item {_spell(options[0])}"
    if origin is tuple:
        return f"a list of {len(options)} ({', '.join(_spell(option) for option in options)})"
    return names.get(hint, str(hint))


def as_dict(config: Any) -> dict[str, Any]:
    """Convert a configuration to nested plain values for JSON and logs. Tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))


def field_docs(config: type) -> dict[str, str]:
    """Return the meaning of each field of a configuration: the first sentence of the docstring below it."""
    found = {}
    for kind in reversed(config.__mro__[:-1]):  # without object
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in itertools.pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                text = " ".join(str(ast.literal_eval(below.value)).split())
                # An ellipsis and "et al." do not end a sentence.
                found[field.target.id] = re.split(r"(?<!\.)(?<!et al)\. ", text)[0].removesuffix(".")
    return found
