"""Model cards and version descriptions: figures with their protocol, lineage, settings, and how to use the model."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from gan_core.families import FAMILIES
from gan_core.inference.conditions import domain_names
from gan_core.inference.generator import Generator
from gan_core.metrics.protocol import better_is
from pipelines.registry.ledger import Move
from pipelines.registry.markdown import MAX_PROSE_LENGTH, code_span, escape_markdown
from pipelines.runtime.progress import format_figure

MAX_DESCRIPTION = 5000
"""In characters, the registry's limit."""
_ROOM_FOR_GATES = 1500
_FIGURES_SHOWN = 12
_GATES = "## Gates"
_SECTION = re.compile(rf"\n\n{_GATES}\n\nPromoted [^\n]*(\n\n- [^\n]*(\n- [^\n]*)*)?")
"""The part of a description that :func:`describe_gates` writes."""
_CAPTIONS = {
    "neighbours.png": "The generated pictures that are closest to a training picture, each beside it.",
}
_DRAW = """\
```python
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/{name}@champion")
pictures = model.predict(pandas.DataFrame({{"n": [16], "seed": [0]}}))
open("first.png", "wb").write(pictures["png"][0])
```

Or start a server with `mlflow models serve -m {uri} --env-manager local` and send requests over HTTP
(`ADDRESS` is the address that the server prints; the response contains the PNGs as base64):

```sh
curl -H "Content-Type: application/json" -d '{{"dataframe_records": [{{"n": 1, "seed": 0}}]}}' ADDRESS/invocations
```

{classes}All rows of a request must have the same columns. Send rows with other columns in a separate request.
"""
_TRANSLATE = """\
```python
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/{name}@champion")
picture = open("picture.png", "rb").read()
translated = model.predict(pandas.DataFrame({{"image": [picture]{python}}}))
open("translated.png", "wb").write(translated["png"][0])
```

{given}Pictures of any size are accepted, and the result has the same size. In place of `image`, a row may have `pixels`:
nested lists of rows, pixels and 1, 3 or 4 channel values from 0 to 255.

Or start a server with `mlflow models serve -m {uri} --env-manager local` and send requests over HTTP
(`ADDRESS` is the address that the server prints; requests and responses contain pictures as base64):

```sh
echo '{{"dataframe_records": [{{"image": "'$(base64 -w0 picture.png)'"{json}}}]}}' |
  curl -H "Content-Type: application/json" -d @- ADDRESS/invocations
```

All rows of a request must have the same columns. Send rows with other columns in a separate request.

To translate a whole folder: {folders}.
"""


def model_card(
    *,
    name: str,
    generator: Generator,
    figure: Mapping[str, Any],
    figures: Sequence[Mapping[str, Any]],
    tags: Mapping[str, str],
    files: Iterable[str],
    notes: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Write the model card as Markdown.

    Args:
        name: registered model.
        generator: the registered generator.
        figure: the figure that versions are compared by, with its protocol.
        figures: all measured figures.
        tags: lineage tags.
        files: names of the files beside the card; PNGs among them are shown, those that it knows with a caption.
        notes: ``intended_use`` and ``data_licence``, as a person wrote them.
    """
    info = generator.info
    parts = [f"# {escape_markdown(name)}", f"A {_kind(info)}."]
    for file in files:
        if file.endswith(".png"):
            parts += [f"![{escape_markdown(file)}]({quote(file)})", *([_CAPTIONS[file]] if file in _CAPTIONS else [])]
    if generator.translates:
        parts.append(_sample_columns(generator))
    parts += [
        "## Figures",
        *([_figures(figures, figure)] if len(figures) > 1 else []),
        f"**{_figure(figure)}** ({_better(figure)} is better). Compare it only with figures measured under the same protocol:",
        _table("protocol 1", figure["protocol"]),
        *_other_protocols(figures, figure),
        "## Intended use and limits",
        escape_markdown(notes.get("intended_use") or "Not stated (register.intended_use).", most=MAX_PROSE_LENGTH),
        _limits(generator),
        "## Data",
        f"Dataset {code_span(tags.get('gantry.data', 'unknown'))}, prepared data {code_span(info.get('dataset', 'unknown'))}.",
        f"Licence: {escape_markdown(notes.get('data_licence') or 'not stated (register.data_licence)', most=MAX_PROSE_LENGTH)}",
        "## Lineage",
        _table("source", {key.removeprefix("gantry."): value for key, value in tags.items()}),
        "## Settings",
        _table("setting", info["config"]),
        "## Use",
        f"The examples use the champion. For this version, write {code_span(f'{name}/N')} with its number in place of "
        f"{code_span(f'{name}@champion')}.",
        _translation_usage(name, generator) if generator.translates else _sampling_usage(name, generator),
    ]
    return "\n\n".join(parts)


def version_description(
    *,
    name: str,
    generator: Generator,
    figure: Mapping[str, Any],
    figures: Sequence[Mapping[str, Any]],
    tags: Mapping[str, str],
    files: Iterable[str],
    model_id: str,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The model card as the page of a version in MLflow shows it: with its pictures, and as much as fits into a description.

    The figure comes first, because lists of versions show only the first line.

    Args:
        name: registered model.
        generator: the registered generator.
        figure: the figure that versions are compared by.
        figures: all measured figures.
        tags: lineage tags.
        files: names of the files beside the card.
        model_id: id of the MLflow logged model that holds the files.
        notes: as for :func:`model_card`.
    """
    files_at = f"ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files?artifact_file_path="
    # Relative to MLflow's page. Its Markdown drops pictures that are embedded (data:), and knows no other address.
    pictures = [f"![{escape_markdown(file)}]({files_at}{quote(file)})" for file in files if file.endswith(".png")]
    captions = [_CAPTIONS[file] for file in files if file in _CAPTIONS]
    head = [
        f"{_figure(figure)}, {_kind(generator.info)}",
        *pictures[:1],
        f"Protocol: {escape_markdown(figure['stamp'])}.",
    ]
    link = f"The whole card is [README.md]({files_at}README.md) among the model's files."
    tail = [*pictures[1:], *captions, link]
    room = MAX_DESCRIPTION - _ROOM_FOR_GATES - len("\n\n".join([*head, *tail]))
    shown = _fitting(_short_parts(name, generator, figures, tags, notes), room)
    return "\n\n".join([*head, *shown, *tail])


def _short_parts(
    name: str,
    generator: Generator,
    figures: Sequence[Mapping[str, Any]],
    tags: Mapping[str, str],
    notes: Mapping[str, str],
) -> list[str]:
    """The parts of a description after its head, the most important first."""
    rows = ["| figure | value | 95 % interval | better is |", "|---|---|---|---|"]
    for each in figures[:_FIGURES_SHOWN]:
        title = f"{each['name']} {each['protocol'].get('direction') or ''}".strip()
        cells = [escape_markdown(title), format_figure(each["value"]), _interval(each), _better(each)]
        rows.append(f"| {' | '.join(cells)} |")
    more = len(figures) - _FIGURES_SHOWN
    source = {key.removeprefix("gantry."): value for key, value in tags.items()}
    return [
        *(["\n".join(rows)] if figures else []),
        *([f"{more} more figures are in the card."] if more > 0 else []),
        f"Use: {escape_markdown(notes.get('intended_use') or 'not stated')}. {_limits(generator)}",
        f"Data: {code_span(tags.get('gantry.data', 'unknown'))}, licence: "
        f"{escape_markdown(notes.get('data_licence') or 'not stated')}.",
        # Not NAME@champion, which is another version. The number is not known before the version has this description.
        f"Try it, with the number of this version for N: {code_span(_command(shlex.quote(f'{name}/N'), generator))}",
        _table("source", source),
    ]


def _command(model: str, generator: Generator) -> str:
    """A command that uses the generator; ``model``: its name for the shell."""
    if generator.translates:
        target = example_target(generator)
        return f"gantry translate {model} IN OUT" + (f" --target {shlex.quote(target)}" if target else "")
    return f"gantry sample {model} --n 16 --seed 0 --out sheet.png"


def _fitting(parts: Sequence[str], room: int) -> list[str]:
    """The parts, from the first, that fit into ``room`` characters, each with an empty line before it."""
    kept: list[str] = []
    for part in parts:
        room -= len(part) + 2
        if room < 0:
            break
        kept.append(part)
    return kept


def describe_gates(description: str, move: Move) -> str:
    """The description of a version with the verdicts of its promotion, in place of those of an earlier one.

    What someone has written below the earlier verdicts stays, above the new ones.
    """
    verdicts = "\n".join(f"- {escape_markdown(verdict, most=MAX_PROSE_LENGTH)}" for verdict in move.gates)
    forced = ", forced" if move.forced else ""
    section = f"{_GATES}\n\nPromoted {escape_markdown(move.at)} by {escape_markdown(move.by)}{forced}.\n\n{verdicts}"
    before = _SECTION.sub("", description).rstrip()
    return f"{before[: MAX_DESCRIPTION - len(section) - 2]}\n\n{section}"


def example_target(generator: Generator) -> str | None:
    """Name of a target domain for examples; None if the generator has only one target."""
    names, known = domain_names(generator), [to for _, to in generator.directions if to is not None]
    if not known:
        return None
    # Use the number if the name has characters that cannot be typed.
    return names[known[0]] if known[0] < len(names) and names[known[0]].isprintable() else str(known[0])


def _limits(generator: Generator) -> str:
    """What the pictures of a generator may not be taken for."""
    what = "translations are plausible, not true" if generator.translates else "pictures show nothing that exists"
    return (
        f"Its {what}. It has the biases and the gaps of its training data, and was measured on that kind of data only: the "
        "figures say nothing about other pictures. A low share of copies does not exclude that single pictures resemble "
        "training pictures; look at the closest pairs before publishing."
    )


def _kind(info: Mapping[str, Any]) -> str:
    shape = info["shape"]
    channels = "1 channel" if shape["channels"] == 1 else f"{shape['channels']} channels"
    size = f"{shape['height']}x{shape['width']} pixels, {channels}"
    kind = f"{escape_markdown(info['family'])} generator, {size}"
    return f"{kind}, {shape['classes']} classes" if shape.get("classes") else kind


def _figure(figure: Mapping[str, Any]) -> str:
    direction = figure["protocol"].get("direction")
    suffix = f" ({escape_markdown(direction)})" if direction else ""
    return f"{escape_markdown(figure['name'].upper())} {format_figure(figure['value'])}{suffix}"


def _interval(figure: Mapping[str, Any]) -> str:
    low, high = figure.get("low"), figure.get("high")
    return "" if low is None or high is None else f"{format_figure(low)} to {format_figure(high)}"


def _better(figure: Mapping[str, Any]) -> str:
    return better_is(figure["name"], bool(figure.get("higher_is_better")))


def _figures(figures: Sequence[Mapping[str, Any]], objective: Mapping[str, Any]) -> str:
    """Table of all figures with their intervals, baselines (such as the figure of the untranslated source pictures), and the
    numbers of their protocols."""
    protocols = _protocols(figures, objective)
    rows = [
        "| figure | direction | value | 95 % interval | baseline | better is | protocol |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure in figures:
        trivial = figure.get("baseline")
        direction = figure["protocol"].get("direction") or ""
        cells = [
            escape_markdown(figure["name"]),
            escape_markdown(direction),
            format_figure(figure["value"]),
            _interval(figure),
        ]
        cells += [
            "" if trivial is None else format_figure(trivial),
            _better(figure),
            str(protocols.index(_conditions(figure)) + 1),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _conditions(figure: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol of a figure without what its row of the table shows."""
    return {name: value for name, value in figure["protocol"].items() if name not in ("metric", "direction")}


def _protocols(figures: Sequence[Mapping[str, Any]], objective: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The different protocols of the figures, that of the objective first."""
    found: list[dict[str, Any]] = []
    for figure in (objective, *figures):
        if _conditions(figure) not in found:
            found.append(_conditions(figure))
    return found


def _other_protocols(figures: Sequence[Mapping[str, Any]], objective: Mapping[str, Any]) -> list[str]:
    """For each protocol but that of the objective, in what it differs."""
    first, *others = _protocols(figures, objective)
    lines = []
    for number, protocol in enumerate(others, start=2):
        values = {name: value for name, value in protocol.items() if name not in first or first[name] != value}
        said = ", ".join(f"{escape_markdown(name)} {code_span(value) or 'empty'}" for name, value in values.items())
        lines.append(f"- Protocol {number} is protocol 1 with {said}.")
    return ["\n".join(lines)] if lines else []


def _sample_columns(generator: Generator) -> str:
    """Caption of the sample sheet: its columns, in the order of the families' ``display``."""
    names, info = domain_names(generator), generator.info
    if not any(to is not None for _, to in generator.directions):
        columns = ["source", "translation", "target"]
    elif "unpaired" in FAMILIES[info["family"]].kinds:
        columns = [names[0], f"to {names[1]}", names[1], f"to {names[0]}"]
    else:
        columns = [
            "source",
            *(f"{name} switched" if info["shape"].get("attributes") else f"to {name}" for name in names),
        ]
    return f"Columns of each row of samples: {', '.join(map(escape_markdown, columns))}."


def _sampling_usage(name: str, generator: Generator) -> str:
    classes, count = "", generator.info["shape"].get("classes")
    if count:
        named = domain_names(generator)
        known = (
            ", ".join(f"{number} {escape_markdown(name)}" for number, name in enumerate(named)) or f"0 to {count - 1}"
        )
        classes = (
            f'To sample one class, add its number or name as `label`: `{{"n": 4, "seed": 0, "label": 0}}`. Classes: {known}. '
            "Without `label`, classes are drawn with their frequencies in the training data.\n\n"
        )
    return _DRAW.format(name=name, uri=_served(name), classes=classes)


def _served(name: str) -> str:
    """The URI of the champion for the shell: names may have spaces."""
    return shlex.quote(f"models:/{name}@champion")


def _translation_usage(name: str, generator: Generator) -> str:
    target, uri = example_target(generator), _served(name)
    command = f"gantry translate {shlex.quote(f'{name}@champion')} IN OUT"
    if target is None:
        return _TRANSLATE.format(name=name, uri=uri, given="", python="", json="", folders=code_span(command))
    given = f"`target` is one of {', '.join(map(code_span, domain_names(generator)))}, by name or number. "
    if generator.takes_styles:
        given += (
            "To take the style from a picture of the target domain, add it as `reference`, in the same form as `image`; "
            "without it, the style is drawn from `seed`. "
        )
    quoted = json.dumps(target)
    python, sent = f', "target": [{quoted}]', f', "target": {quoted}'.replace("'", "'\\''")
    option = f" --target {shlex.quote(target)}" + (" [--like PICTURE]" if generator.takes_styles else "")
    folders = code_span(command + option)
    return _TRANSLATE.format(name=name, uri=uri, given=given, python=python, json=sent, folders=folders)


def _table(title: str, values: Mapping[str, Any]) -> str:
    rows = [
        f"| {title} | |",
        "|---|---|",
        *(f"| {escape_markdown(key)} | {code_span(value, in_table=True)} |" for key, value in values.items()),
    ]
    return "\n".join(rows)
