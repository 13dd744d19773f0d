"""Cartoon faces drawn from random numbers: pictures of any size that need no download and no licence, with what they show.

Each face has a seed of its own, so that the first hundred of a set are the first hundred of any larger one.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

HAIR = {"black": (38, 34, 48), "brown": (120, 72, 40), "blond": (236, 200, 104), "red": (200, 64, 48)}
SKIN = ((255, 224, 196), (244, 202, 164), (214, 160, 118), (150, 104, 74))
EYES = ((66, 120, 200), (88, 150, 80), (130, 84, 44), (150, 80, 170))
ATTRIBUTES = ("glasses", "hat", "smile")
DETAIL = 2
"""Pixels drawn for each pixel of the picture, along a side."""
Style = Literal["day", "night", "outline"]
Colour = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Face:
    """What a picture shows; lengths are shares of its side."""

    hair: int
    skin: Colour
    eyes: Colour
    background: Colour
    clothes: Colour
    attributes: tuple[bool, ...]
    x: float
    y: float
    width: float
    height: float
    eye: float
    gap: float
    gaze: float
    fringe: tuple[float, ...]
    length: float


def face(seed: int) -> Face:
    """The face number ``seed``."""
    rng = np.random.default_rng([71, seed])

    def colour(low: int, high: int) -> Colour:
        return tuple(int(value) for value in rng.integers(low, high, 3))

    return Face(
        hair=int(rng.integers(len(HAIR))),
        skin=SKIN[rng.integers(len(SKIN))],
        eyes=EYES[rng.integers(len(EYES))],
        background=colour(120, 250),
        clothes=colour(30, 230),
        attributes=tuple(bool(value) for value in rng.random(len(ATTRIBUTES)) < (0.3, 0.3, 0.5)),
        x=0.5 + float(rng.normal(0, 0.03)),
        y=0.54 + float(rng.normal(0, 0.02)),
        width=float(rng.uniform(0.24, 0.30)),
        height=float(rng.uniform(0.27, 0.33)),
        eye=float(rng.uniform(0.055, 0.08)),
        gap=float(rng.uniform(0.11, 0.14)),
        gaze=float(rng.uniform(-0.35, 0.35)),
        fringe=tuple(float(value) for value in rng.uniform(0.02, 0.14, 6)),
        length=float(rng.uniform(0.05, 0.4)),
    )


def draw(of: Face, size: int, style: Style = "day") -> np.ndarray:
    """The picture of a face: uint8 (3, size, size); an ``outline`` is (1, size, size), black on white."""
    side = size * DETAIL
    canvas = Image.new("RGB", (side, side), of.background)
    pen = ImageDraw.Draw(canvas)
    ink, hair = (30, 24, 30), HAIR[list(HAIR)[of.hair]]
    line = max(1, side // 90)
    x, y, w, h = of.x, of.y, of.width, of.height

    def box(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        return left * side, top * side, right * side, bottom * side

    def points(*places: tuple[float, float]) -> list[tuple[float, float]]:
        return [(across * side, down * side) for across, down in places]

    dark = tuple(value * 3 // 4 for value in hair)
    pen.rounded_rectangle(
        box(x - w - 0.07, y - h, x + w + 0.07, min(y + of.length, 1.2)), side * 0.12, fill=dark, outline=ink, width=line
    )
    pen.rounded_rectangle(
        box(x - 0.32, y + h + 0.02, x + 0.32, 1.3), side * 0.1, fill=of.clothes, outline=ink, width=line
    )
    pen.rectangle(box(x - 0.06, y + h - 0.05, x + 0.06, y + h + 0.07), fill=of.skin)
    pen.ellipse(box(x - w, y - h, x + w, y + h), fill=of.skin, outline=ink, width=line)
    for side_of in (-1, 1):
        middle, down, eye = x + side_of * of.gap, y + 0.05, of.eye
        pen.ellipse(
            box(middle - eye, down - eye * 1.3, middle + eye, down + eye * 1.3),
            fill=(250, 250, 255),
            outline=ink,
            width=line,
        )
        shift = of.gaze * eye
        pen.ellipse(
            box(middle + shift - eye * 0.6, down - eye * 0.9, middle + shift + eye * 0.6, down + eye * 0.95),
            fill=of.eyes,
        )
        pen.ellipse(
            box(middle + shift - eye * 0.3, down - eye * 0.45, middle + shift + eye * 0.3, down + eye * 0.45), fill=ink
        )
        pen.ellipse(
            box(middle + shift - eye * 0.4, down - eye * 0.7, middle + shift, down - eye * 0.3), fill=(255, 255, 255)
        )
    mouth = y + h * 0.62
    if of.attributes[2]:
        pen.chord(
            box(x - 0.07, mouth - 0.05, x + 0.07, mouth + 0.05), 0, 180, fill=(190, 50, 60), outline=ink, width=line
        )
    else:
        pen.line(points((x - 0.04, mouth), (x + 0.04, mouth)), fill=ink, width=2 * line)
    strands = len(of.fringe)
    left = x - w - 0.02
    step = 2 * (w + 0.02) / strands
    edge = [(left, y - h * 0.35)]
    for index, drop in enumerate(of.fringe):
        edge += [(left + step * (index + 0.5), y - h * 0.55 + drop), (left + step * (index + 1), y - h * 0.6)]
    pen.polygon(
        points(*edge, (x + w * 0.8, y - h - 0.03), (x, y - h - 0.09), (x - w * 0.8, y - h - 0.03)),
        fill=hair,
        outline=ink,
    )
    if of.attributes[1]:
        pen.rectangle(
            box(x - w - 0.1, y - h - 0.02, x + w + 0.1, y - h + 0.04), fill=of.clothes, outline=ink, width=line
        )
        pen.rectangle(box(x - w * 0.75, y - h - 0.18, x + w * 0.75, y - h), fill=of.clothes, outline=ink, width=line)
    if of.attributes[0]:
        for side_of in (-1, 1):
            middle, down, lens = x + side_of * of.gap, y + 0.05, of.eye * 1.5
            pen.rounded_rectangle(
                box(middle - lens, down - lens, middle + lens, down + lens), side * 0.03, outline=ink, width=2 * line
            )
        pen.line(points((x - 0.03, y + 0.05), (x + 0.03, y + 0.05)), fill=ink, width=2 * line)
    if style == "outline":
        grey = canvas.convert("L").filter(ImageFilter.FIND_EDGES).reduce(DETAIL)
        edges = np.asarray(grey).astype(np.float32)
        edges[[0, -1], :] = edges[:, [0, -1]] = 0
        return (255 - np.clip(edges * 4, 0, 255)).astype(np.uint8)[None]
    pixels = np.asarray(canvas.reduce(DETAIL)).astype(np.float32).transpose(2, 0, 1)
    if style == "night":
        pixels = (
            pixels * np.array([0.30, 0.34, 0.55], np.float32)[:, None, None]
            + np.array([4, 6, 26], np.float32)[:, None, None]
        )
    return np.clip(pixels, 0, 255).astype(np.uint8)


def faces(first: int, count: int, size: int, style: Style = "day") -> np.ndarray:
    """Faces ``first`` to ``first + count``: uint8 (count, channels, size, size)."""
    return np.stack([draw(face(seed), size, style) for seed in range(first, first + count)])


def hair_colours(first: int, count: int) -> np.ndarray:
    """Index into :data:`HAIR` of each face, int64 (count,)."""
    return np.array([face(seed).hair for seed in range(first, first + count)], np.int64)


def attributes(first: int, count: int) -> np.ndarray:
    """Which of :data:`ATTRIBUTES` each face has, int64 (count, 3) of 0 and 1."""
    return np.array([face(seed).attributes for seed in range(first, first + count)], np.int64)
