"""Small exported generators that translate, with fresh weights."""

from pathlib import Path

from gan_core.inference.generator import save_generator
from tests.gan_core.families.translations import small

NAMES = ("cat", "dog", "owl")


def export(directory: Path, variant: str) -> Path:
    """The generator of a variant (see ``tests.gan_core.families.translations``) of 16x16 pixels, its domains named NAMES."""
    family = small(variant)
    shape = family.shape
    names = {"classes": NAMES[: shape.classes], "attributes": NAMES[: shape.attributes]}
    extra = {name: list(known) for name, known in names.items()}
    save_generator(directory, family=family, extra={**extra, "step": 7, "dataset": "d"})
    return directory
