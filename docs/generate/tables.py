"""Tables of settings with name, default, range and meaning, generated from the dataclasses of the settings."""

import ast
import dataclasses
import inspect
import itertools
import json
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from gan_core.presets.recipes import Recipe
from pipelines.settings.schema import Settings

_WORDS = {int: "whole number", float: "number", bool: "true, false", str: "text", type(None): "null"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting."""

    name: str
    """Dotted name, as in params.yaml."""
    default: str
    """The default as JSON; ``required`` if there is none."""
    range: str
    """The allowed values, in words."""
    meaning: str
    """The docstring below the field."""


def sections() -> dict[str, type]:
    """The sections of params.yaml and their types, in the order of the file."""
    return {name: kind for name, kind in get_type_hints(Settings).items() if dataclasses.is_dataclass(kind)}


def rows(kind: type, prefix: str) -> Iterator[Row]:
    """The settings of the dataclass ``kind``, with nested ones flattened and ``prefix`` before their names."""
    meanings, ranges, hints = _docstrings(kind), _checked(kind), get_type_hints(kind)
    for field in dataclasses.fields(kind):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        name = f"{prefix}.{field.name}"
        if dataclasses.is_dataclass(default):
            yield from rows(type(default), name)
        elif name != "model.config":  # the family's own settings, on the family's page
            given = default is not dataclasses.MISSING
            yield Row(
                name=name,
                default=json.dumps(default) if given else "required",
                range=_range(hints[field.name], ranges.get(field.name, [])),
                meaning=meanings.get(field.name, ""),
            )


def table(kind: type, prefix: str) -> str:
    """The settings of ``kind`` as a Markdown table."""
    lines = ["| setting | default | range | meaning |", "|---|---|---|---|"]
    for row in rows(kind, prefix):
        default = f"`{row.default}`" if row.default != "required" else row.default
        lines.append(f"| `{row.name}` | {default} | {_cell(row.range)} | {_cell(row.meaning)} |")
    return "\n".join(lines) + "\n"


def recipe_table(recipe: Recipe) -> str:
    """The settings of ``preset: auto`` and the search space of ``tune.space: auto``, as a Markdown table."""
    settings = [
        *((f"networks for {pixels} pixels", values, "model") for pixels, values in sorted(recipe.model.items())),
        ("training", recipe.train, "train"),
        *(
            (f"training at {pixels} pixels, GPU", v, "train")
            for pixels, v in sorted(recipe.train_by_resolution.items())
        ),
        ("networks on a CPU, upper limit", recipe.model_on_cpu, "model"),
        ("training on a CPU", recipe.train_on_cpu, "train"),
    ]
    parts = [
        (what, [f"`{section}.{k}: {json.dumps(v)}`" for k, v in values.items()]) for what, values, section in settings
    ]
    parts.append(("searched by `tune.space: auto`", [f"`{name}`" for name in recipe.search]))
    parts.append(("augmentation if there are few pictures", [recipe.augmentation]))
    parts.append(("a first useful result after", [f"{recipe.kimg:,} thousand images"]))
    lines = ["| `preset: auto` | value |", "|---|---|"]
    lines += [f"| {what} | {', '.join(values)} |" for what, values in parts if values]
    return "\n".join(lines) + "\n"


def plain_markdown(docstring: str) -> str:
    """Remove the reStructuredText roles of a docstring: ``:func:`name` `` becomes `name`."""
    return re.sub(r":(?:func|class|mod|meth|attr|data|exc|obj):`~?([^`]+)`", r"`\1`", docstring)


def _cell(text: str) -> str:
    return plain_markdown(text).replace("|", "\\|").replace("<", "&lt;")


def _docstrings(kind: type) -> dict[str, str]:
    """The whole docstring below each field of ``kind`` and of its bases."""
    found = {}
    for definition in _definitions(kind):
        for field, below in itertools.pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                found[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return found


def _checked(kind: type) -> dict[str, list[str]]:
    """The range of each field, taken from the error messages of the checks of ``kind``."""
    found: dict[str, list[str]] = {}
    for definition in _definitions(kind):
        scope = _scope_of(kind, definition.name)
        loops = {
            loop.target.id: _texts(loop.iter)
            for loop in ast.walk(definition)
            if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name)
        }
        for call in ast.walk(definition):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and len(call.args) > 1:
                for name, demand in _demands(call, scope, loops):
                    if demand not in found.setdefault(name, []):
                        found[name].append(demand)
    return found


def _demands(call: ast.Call, scope: dict[str, Any], loops: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    function, arguments = typing.cast(ast.Name, call.func).id, call.args
    names = [text for argument in arguments for text in _texts(argument)]
    if function == "check_below_one":
        yield from ((name, "[0, 1)") for name in names)
    elif function == "check_at_least":
        yield from ((name, f"at least {ast.unparse(arguments[1])}") for name in names)
    elif function == "check_choice":
        choices = eval(compile(ast.Expression(arguments[1]), "choices", "eval"), scope)
        yield ast.literal_eval(arguments[2]), ", ".join(map(str, choices))
    elif function == "check":
        said = _spelled(arguments[1], scope)
        match = re.match(r"(\S+): (?:each side )?must (?:be|lie in) (.+?)(?:, got |\.?$)", said)
        if match and "{" not in match[2]:  # a limit that depends on other settings is in the docstring
            for name in loops.get(match[1].strip("{}"), [match[1]]):
                yield name, match[2]


def _spelled(message: ast.expr, scope: dict[str, Any]) -> str:
    """Fill in a message: names of constants become their values, and the value of a field becomes the field's name."""
    if not isinstance(message, ast.JoinedStr):
        return str(message.value) if isinstance(message, ast.Constant) else ""
    parts = []
    for part in message.values:
        if isinstance(part, ast.FormattedValue):
            name = ast.unparse(part.value).removeprefix("self.")
            parts.append(str(scope[name]) if isinstance(scope.get(name), int | float) else f"{{{name}}}")
        elif isinstance(part, ast.Constant):
            parts.append(part.value)
    return re.sub(r" \({\w+}\)", "", "".join(parts))


def _texts(node: ast.expr) -> list[str]:
    """The texts in a literal, such as ``"a"``, ``("a", "b")`` or ``*("a", "b")``."""
    return [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def _scope_of(kind: type, name: str) -> dict[str, Any]:
    """The namespace of the module that defines the base ``name`` of ``kind``."""
    (base,) = (base for base in kind.__mro__ if base.__name__ == name)
    return vars(inspect.getmodule(base))


def _definitions(kind: type) -> Iterator[ast.ClassDef]:
    """The source of ``kind`` and of its bases, the bases first."""
    for base in reversed(kind.__mro__[:-1]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        yield definition


def _range(hint: Any, demands: list[str]) -> str:
    """The allowed values of a setting of the type ``hint``, with its range."""
    words = _type(hint)
    if not demands:
        return words
    kept = ", or null" if type(None) in typing.get_args(hint) and "null" not in demands[0] else ""
    whole = "whole number, " if hint in (int, int | None) and "," not in demands[0] and " or " not in demands[0] else ""
    return f"{whole}{' and '.join(demands)}{kept}"


def _type(hint: Any) -> str:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{option}`" for option in options)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(option) for option in options)
    if origin is tuple:
        return f"list of {_type(options[0])}s" if options[1:] == (Ellipsis,) else f"list of {len(options)}"
    if origin in (dict, Mapping) or hint is dict:
        return "mapping"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))
