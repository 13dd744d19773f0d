"""The comparison as one HTML page that opens without a network. All names are escaped; nothing on the page is a script."""

import base64
import html
from collections.abc import Sequence
from typing import Any

from pipelines.registry.compared import GRID, Side

_STYLE = """body{font:15px/1.4 sans-serif;margin:24px;color:#222}table{border-collapse:collapse;margin:8px 0 24px}
td,th{border:1px solid #ccc;padding:4px 8px;text-align:left;vertical-align:top;max-width:420px}td{overflow-wrap:anywhere}
th{background:#f2f2f2}td{font-variant-numeric:tabular-nums}.better{color:#0a6b2d}.worse{color:#a3161a}small{color:#666}.row{display:flex;gap:16px;flex-wrap:wrap}
figure{margin:0 0 16px;max-width:480px}img{max-width:480px;image-rendering:pixelated;width:100%}"""
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")
_PICTURES = {
    GRID: "Grids of one seed: the same latents, if the generators have the same kind of latent",
    "samples.png": "Contact sheets of the evaluation",
    "neighbours.png": "Generated pictures that are closest to a training picture, each beside it",
}
_CURVES = ("fid", "loss_generator", "loss_discriminator", "health_diversity", "health_real_right", "health_fake_right")
_MOST_POINTS, _MOST_TEXT = 400, 300
_LARGEST_PICTURE = 8 << 20
_WIDTH, _HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 10, 28
"""Margins of a chart, for the numbers of its axes."""


def page(sides: Sequence[Side], found: dict[str, Any]) -> str:
    """The page: tables of figures, settings and cost; pictures side by side; curves of all sides on one axis.

    FIDs during training that have different protocols are not on one axis.
    """
    names = [side.name for side in sides]
    parts = [
        f"<h1>{_text(' and '.join(names))}</h1>",
        "<h2>Figures</h2>",
        _figures(names, found["figures"]),
        "<h2>Settings that differ</h2>",
        _table(names, found["settings"], _text) if found["settings"] else "<p>None.</p>",
        *(
            [f"<p>Only some have {_text(', '.join(found['settings_of_some']))}.</p>"]
            if found["settings_of_some"]
            else []
        ),
        "<h2>Cost</h2>",
        _table(names, found["cost"], _number) if found["cost"] else "<p>Not known.</p>",
    ]
    missing = [f"<li>{_text(side.name)}: {_text(what)}</li>" for side in sides for what in side.missing]
    parts += ["<h2>Not there</h2><ul>", *missing, "</ul>"] if missing else []
    for file, title in _PICTURES.items():
        shown = "".join(_picture(side, file) for side in sides if file in side.pictures)
        parts += [f"<h2>{title}</h2><div class=row>{shown}</div>"] if shown else []
    curves = "".join(_chart(name, sides, shown) for name in _CURVES for shown in _comparable(name, sides))
    parts += [f"<h2>Curves against kimg</h2><div class=row>{curves}</div>"] if curves else []
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang=en><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>gantry compare</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _text(value: object) -> str:
    text = "" if value is None else str(value)
    return html.escape(text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}...")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _figures(names: Sequence[str], rows: dict[str, Any]) -> str:
    """The table of figures. A protocol that all sides share is shown once, in a column of its own."""
    shared: dict[str, str] = {}
    for title, cells in rows.items():
        stamps = {cell["stamp"] for cell in cells if cell}
        shared[title] = stamps.pop() if len(stamps) == 1 else ""
    head = "".join(f"<th>{_text(name)}</th>" for name in [*names, "protocol"])
    body = "".join(
        f"<tr><th>{_text(title)}</th>{''.join(f'<td>{_figure(cell, own=not shared[title])}</td>' for cell in cells)}"
        f"<td><small>{_text(shared[title])}</small></td></tr>"
        for title, cells in rows.items()
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"


def _figure(cell: dict[str, Any] | None, *, own: bool) -> str:
    """A cell of the table; ``own``: whether to show its protocol."""
    if cell is None:
        return ""
    ends = "" if cell["low"] is None else f" <small>[{cell['low']:.5g}, {cell['high']:.5g}]</small>"
    verdict = cell.get("against_first")
    kind = verdict if verdict in ("better", "worse") else ""
    said = f"<br><b class='{kind}'>{_text(verdict)}</b> <small>{_text(cell['because'])}</small>" if verdict else ""
    stamp = f"<br><small>{_text(cell['stamp'])}</small>" if own else ""
    return f"{cell['value']:.5g}{ends}{said}{stamp}"


def _table(names: Sequence[str], rows: dict[str, Any], show: Any) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in names)
    body = "".join(
        f"<tr><th>{_text(name)}</th>{''.join(f'<td>{show(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"


def _picture(side: Side, file: str) -> str:
    content = side.pictures[file]
    if len(content) > _LARGEST_PICTURE:
        return f"<p>{_text(side.name)}: the picture has {len(content) >> 20} MiB and is left out.</p>"
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{_text(side.name)}</figcaption></figure>'
    )


def _comparable(name: str, sides: Sequence[Side]) -> list[list[int]]:
    """The numbers of the sides that have the curve ``name``, in groups that may be drawn on one axis."""
    groups: dict[object, list[int]] = {}
    for index, side in enumerate(sides):
        if name in side.curves:
            # Of unknown protocols, each has an axis of its own.
            key = (side.protocol_of_fid_curve or index) if name == "fid" else ""
            groups.setdefault(key, []).append(index)
    return [*groups.values()]


def _chart(name: str, sides: Sequence[Side], shown: Sequence[int]) -> str:
    """One SVG with the curves of the sides with the numbers ``shown``, on one axis."""
    curves = {index: _thinned(sides[index].curves[name]) for index in shown}
    points = [point for curve in curves.values() for point in curve]
    right = max(x for x, _ in points) or 1.0
    low, high = min(y for _, y in points), max(y for _, y in points)
    span = (high - low) or 1.0

    def across(x: float) -> float:
        return _LEFT + x / right * (_WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        return _TOP + (high - y) / span * (_HEIGHT - _TOP - _BOTTOM)

    lines = ""
    for index, curve in curves.items():
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in curve)
        colour = _COLOURS[index % len(_COLOURS)]
        lines += f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>'
    key = ", ".join(
        f'<span style="color:{_COLOURS[index % len(_COLOURS)]}">{_text(sides[index].name)}</span>' for index in curves
    )
    axis = ""
    for y in (low, (low + high) / 2, high) if high > low else (low,):
        axis += (
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down(y):.1f}" y2="{down(y):.1f}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{down(y) + 4:.1f}" font-size="11" text-anchor="end">{y:.3g}</text>'
        )
    for x, label in ((0.0, "0"), (right / 2, f"{right / 2:.3g}"), (right, f"{right:.3g} kimg")):
        anchor = "end" if x == right else "middle"
        axis += f'<text x="{across(x):.1f}" y="{_HEIGHT - 8}" font-size="11" text-anchor="{anchor}">{label}</text>'
    return (
        f'<figure><svg width="{_WIDTH}" height="{_HEIGHT}">{axis}{lines}</svg>'
        f"<figcaption><b>{_text(name)}</b>: {key}</figcaption></figure>"
    )


def _thinned(curve: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    every = -(-len(curve) // _MOST_POINTS)
    return [*curve[:-1:every], curve[-1]]
