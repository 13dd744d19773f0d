"""What the page offers for a generator: only what its family can do."""

from typing import Any

from gan_core.families import require
from gan_core.families.noise import NoiseFamily
from gan_core.families.translation import TranslationFamily
from gan_core.inference.conditions import domain_names
from gan_core.inference.edit import Editor
from gan_core.inference.generator import Generator

REACH = 5
"""How far a slider goes to both sides, in standard deviations."""
STEPS = 300
"""Optimisation steps of a projection."""
_NORMAL_BOUND = 3.0
"""From here on, the bound of a normal latent leaves out less than 0.3 % of the draws: the slider's end is no truncation."""
_DERIVED = {
    "greyscale": "Any picture: its colours are replaced.",
    "edges": "The generator expects edges as it was trained on, not a photograph.",
    "mask": "The generator expects masks as it was trained on, not a photograph.",
    "lowres": "The generator expects pictures of the low resolution that it was trained on.",
}


def describe(generator: Generator, name: str, editor: Editor | None) -> dict[str, Any]:
    """Describe a generator and the controls that it has, as JSON values; ``editor``: None if it translates."""
    info, shape = generator.info, generator.info["shape"]
    return {
        "name": name,
        "family": info["family"],
        "digest": generator.digest,
        "width": shape["width"],
        "height": shape["height"],
        "classes": [str(one) for one in info.get("classes") or ()] if generator.conditional else [],
        "noise": None if editor is None else _noise(generator, editor),
        "translation": _translation(generator) if generator.translates else None,
    }


def _noise(generator: Generator, editor: Editor) -> dict[str, Any]:
    family = require(generator.family, NoiseFamily)
    styled = editor.styled is not None
    high = 1.0 if styled or family.prior == "uniform" else _NORMAL_BOUND
    return {
        "truncation": {"low": high / 20, "high": high, "step": high / 20, "styled": styled},
        "layers": editor.layers,
        "parts": ["all", "coarse", "middle", "fine"] if styled else ["all"],
        "directions": editor.count,
        "reach": REACH,
        "space": "w" if styled else "z",
        "steps": STEPS,
    }


def _translation(generator: Generator) -> dict[str, Any]:
    family, shape = require(generator.family, TranslationFamily), generator.family.shape
    names = domain_names(generator)
    noise = family.translation_noise(1, max(shape.height, family.min_side), max(shape.width, family.min_side), 0, 0)
    return {
        "targets": [{"index": to, "name": names[to] if to < len(names) else str(to)} for to in family.target_domains],
        "attributes": bool(generator.info.get("attributes")),
        "seeded": noise is not None,
        "reference": generator.takes_styles,
        "hint": _DERIVED.get(shape.derived, ""),
    }
