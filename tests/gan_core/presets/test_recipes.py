"""Each family has a recipe, by the name that it states, of settings that it knows."""

import pytest

from gan_core.families import FAMILIES, ImageShape, families_that_can
from gan_core.families.translation import TranslationFamily
from gan_core.presets.recipes import RECIPES, nearest_resolution


def test_every_family_has_a_recipe_under_the_name_that_it_states() -> None:
    assert sorted(RECIPES) == sorted(FAMILIES) == sorted(family.name for family in FAMILIES.values())


@pytest.mark.parametrize("family", families_that_can(TranslationFamily))
def test_pictures_to_translate_are_not_augmented_unasked(family: str) -> None:
    assert RECIPES[family].augmentation == "none"


def test_the_nearest_resolution_goes_by_octaves_of_the_longer_side() -> None:
    def nearest(height: int, width: int, resolutions: tuple[int, ...]) -> int:
        return nearest_resolution(ImageShape(channels=1, height=height, width=width), resolutions)

    assert nearest(28, 28, (32, 64, 128)) == 32
    assert nearest(96, 64, (32, 64, 128)) == 64
    assert nearest(96, 64, ()) == 0
