"""The model card: what a version is, how good it is and by which protocol, where it came from, how to use it."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from gan_core.families import FAMILIES
from gan_core.inference.conditions import domain_names
from gan_core.inference.generator import Generator
from pipelines.registry.markdown import code, escape
from pipelines.runtime.progress import compact

_DRAW = """\
```python
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/{name}@champion")
pictures = model.predict(pandas.DataFrame({{"n": [16], "seed": [0]}}))
open("first.png", "wb").write(pictures["png"][0])
```

Or over HTTP, from `mlflow models serve -m models:/{name}@champion --env-manager local` (the PNGs come as base64):

```sh
curl -H "Content-Type: application/json" -d '{{"dataframe_records": [{{"n": 1, "seed": 0}}]}}' ADDRESS/invocations
```

{classes}All rows of a request have the same columns: what one leaves out, leave out of all, or send two requests.
"""
_TRANSLATE = """\
```python
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/{name}@champion")
picture = open("picture.png", "rb").read()
translated = model.predict(pandas.DataFrame({{"image": [picture]{python}}}))
open("translated.png", "wb").write(translated["png"][0])
```

{given} A picture may have any size and keeps it; `pixels` takes nested lists (rows of pixels of 1, 3 or 4 numbers, 0 to
255) in place of `image`. Over HTTP, from `mlflow models serve -m models:/{name}@champion --env-manager local`, pictures go
and come as base64:

```sh
echo '{{"dataframe_records": [{{"image": "'$(base64 -w0 picture.png)'"{json}}}]}}' |
  curl -H "Content-Type: application/json" -d @- ADDRESS/invocations
```

All rows of a request have the same columns: what one leaves out, leave out of all, or send two requests.

Whole folders: {folders}.
"""


def model_card(
    *,
    name: str,
    generator: Generator,
    figure: Mapping[str, Any],
    figures: Sequence[Mapping[str, Any]],
    tags: Mapping[str, str],
    files: Iterable[str],
) -> str:
    """The card as Markdown.

    Args:
        name: registered model.
        generator: what is registered.
        figure: the measured figure that versions are compared by, with its protocol.
        figures: everything that was measured.
        tags: lineage tags.
        files: names of the files beside the card; pictures among them are shown.
    """
    info = generator.info
    parts = [f"# {escape(name)}", f"A {_kind(info)}."]
    parts += [f"![{escape(file)}]({quote(file)})" for file in files if file.endswith(".png")]
    if generator.translates:
        parts.append(_columns_of_the_sheet(generator))
    parts += [
        "## Figures",
        *([_figures(figures)] if len(figures) > 1 else []),
        f"**{_figure(figure)}** (lower is better). Comparable only with figures of the same protocol:",
        _table("protocol", figure["protocol"]),
        "## Lineage",
        _table("from", {key.removeprefix("gantry."): value for key, value in tags.items()}),
        "## Settings",
        _table("setting", info["config"]),
        "## Use",
        _translating(name, generator) if generator.translates else _drawing(name, generator),
    ]
    return "\n\n".join(parts)


def version_description(*, info: Mapping[str, Any], figure: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """What the registry's pages say of a version: the figure first, because lists of versions show the first line only.

    The registry keeps 5000 characters and shows no pictures; those are in the card.
    """
    parts = [
        f"{_figure(figure)}, {_kind(info)}",
        f"Protocol: {escape(figure['stamp'])}.",
        _table("from", {key.removeprefix("gantry."): value for key, value in tags.items()}),
        "The model card, with samples, is README.md among the model's files.",
    ]
    return "\n\n".join(parts)[:5000]


def example_target(generator: Generator) -> str | None:
    """A domain that the generator translates to, by name, to be used in examples; None where there is nothing to choose."""
    names, known = domain_names(generator), [to for _, to in generator.directions if to is not None]
    if not known:
        return None
    # A name that cannot be typed stays out of an example.
    return names[known[0]] if known[0] < len(names) and names[known[0]].isprintable() else str(known[0])


def _kind(info: Mapping[str, Any]) -> str:
    shape = info["shape"]
    kind = (
        f"{escape(info['family'])} generator, {shape['height']}x{shape['width']} pixels, {shape['channels']} channel(s)"
    )
    return f"{kind}, {shape['classes']} classes" if shape.get("classes") else kind


def _figure(figure: Mapping[str, Any]) -> str:
    direction = figure["protocol"].get("direction")
    return f"{escape(figure['name'].upper())} {figure['value']:.2f}{f' ({escape(direction)})' if direction else ''}"


def _figures(figures: Sequence[Mapping[str, Any]]) -> str:
    """Every figure with its interval and what the trivial answer, the source itself, is worth by it."""
    rows = ["| figure | direction | value | 95 % | the source itself | better |", "|---|---|---|---|---|---|"]
    for figure in figures:
        low, high, trivial = figure.get("low"), figure.get("high"), figure.get("baseline")
        interval = "" if low is None or high is None else f"{compact(low)} to {compact(high)}"
        direction = figure["protocol"].get("direction") or ""
        cells = [escape(figure["name"]), escape(direction), compact(figure["value"]), interval]
        cells += ["" if trivial is None else compact(trivial), "higher" if figure.get("higher_is_better") else "lower"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _columns_of_the_sheet(generator: Generator) -> str:
    """What the pictures of a row of the sheet are; as the families' ``display`` has them."""
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
    return f"In each row of the pictures: {', '.join(map(escape, columns))}."


def _drawing(name: str, generator: Generator) -> str:
    classes, count = "", generator.info["shape"].get("classes")
    if count:
        named = domain_names(generator)
        known = ", ".join(f"{number} {escape(name)}" for number, name in enumerate(named)) or f"0 to {count - 1}"
        classes = (
            f'`label` asks for one class by its number, as in `{{"n": 4, "seed": 0, "label": 0}}`: {known}. Without it the '
            "pictures have the classes of the training data.\n\n"
        )
    return _DRAW.format(name=name, classes=classes)


def _translating(name: str, generator: Generator) -> str:
    target = example_target(generator)
    if target is None:
        return _TRANSLATE.format(
            name=name, given="", python="", json="", folders=code(f"gantry translate {name}@champion IN OUT")
        )
    given = f"`target` is one of {', '.join(map(code, domain_names(generator)))}, by name or number."
    if generator.takes_styles:
        given += (
            " `reference`, a picture of that domain given like `image`, is what the style is taken from; without it `seed` "
            "names one."
        )
    quoted = json.dumps(target)
    python, sent = f', "target": [{quoted}]', f', "target": {quoted}'.replace("'", "'\\''")
    option = f" --target {shlex.quote(target)}" + (" [--like PICTURE]" if generator.takes_styles else "")
    folders = code(f"gantry translate {name}@champion IN OUT{option}")
    return _TRANSLATE.format(name=name, given=given, python=python, json=sent, folders=folders)


def _table(title: str, values: Mapping[str, Any]) -> str:
    rows = [
        f"| {title} | |",
        "|---|---|",
        *(f"| {escape(key)} | {code(value, in_table=True)} |" for key, value in values.items()),
    ]
    return "\n".join(rows)
