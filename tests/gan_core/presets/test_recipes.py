"""Each family has a recipe under its name, with valid settings."""

import pytest

from gan_core.families import FAMILIES, ImageShape, families_that_can
from gan_core.families.translation import TranslationFamily
from gan_core.presets.recipes import RECIPES, nearest_resolution


def test_every_family_has_a_recipe_under_its_name() -> None:
    assert sorted(RECIPES) == sorted(FAMILIES) == sorted(family.name for family in FAMILIES.values())


@pytest.mark.parametrize("family", families_that_can(TranslationFamily))
def test_translation_families_are_not_augmented_by_default(family: str) -> None:
    assert RECIPES[family].augmentation == "none"


def test_the_nearest_resolution_is_nearest_to_the_longer_side_in_powers_of_two() -> None:
    def nearest(height: int, width: int, resolutions: tuple[int, ...]) -> int:
        return nearest_resolution(ImageShape(channels=1, height=height, width=width), resolutions)

    assert nearest(28, 28, (32, 64, 128)) == 32
    assert nearest(96, 64, (32, 64, 128)) == 64
    assert nearest(96, 64, ()) == 0
