"""The model card: what a version is, how good it is and by which protocol, where it came from, how to use it."""

from collections.abc import Iterable, Mapping
from typing import Any

_USE = """\
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
"""


def model_card(
    *, name: str, info: Mapping[str, Any], figure: Mapping[str, Any], tags: Mapping[str, str], files: Iterable[str]
) -> str:
    """The card as Markdown.

    Args:
        name: registered model.
        info: the generator's description (``generator.json``).
        figure: a measured figure with its protocol.
        tags: lineage tags.
        files: names of the files beside the card; pictures among them are shown.
    """
    parts = [f"# {name}", f"A {_kind(info)}."]
    parts += [f"![{file}]({file})" for file in files if file.endswith(".png")]
    parts += [
        "## Figures",
        f"**{_figure(figure)}** (lower is better). Comparable only with figures of the same protocol:",
        _table("protocol", figure["protocol"]),
        "## Lineage",
        _table("from", {key.removeprefix("gantry."): value for key, value in tags.items()}),
        "## Settings",
        _table("setting", info["config"]),
        "## Use",
        _USE.format(name=name),
    ]
    return "\n\n".join(parts)


def version_description(*, info: Mapping[str, Any], figure: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """What the registry's pages say of a version: the figure first, because lists of versions show the first line only.

    The registry keeps 5000 characters and shows no pictures; those are in the card.
    """
    parts = [
        f"{_figure(figure)}, {_kind(info)}",
        f"Protocol: {figure['stamp']}.",
        _table("from", {key.removeprefix("gantry."): value for key, value in tags.items()}),
        "The model card, with samples, is README.md among the model's files.",
    ]
    return "\n\n".join(parts)[:5000]


def _kind(info: Mapping[str, Any]) -> str:
    shape = info["shape"]
    kind = f"{info['family']} generator, {shape['height']}x{shape['width']} pixels, {shape['channels']} channel(s)"
    return f"{kind}, {shape['classes']} classes" if shape.get("classes") else kind


def _figure(figure: Mapping[str, Any]) -> str:
    return f"{figure['name'].upper()} {figure['value']:.2f}"


def _table(title: str, values: Mapping[str, Any]) -> str:
    rows = [f"| {title} | |", "|---|---|", *(f"| {key} | `{value}` |" for key, value in values.items())]
    return "\n".join(rows)
