"""Projection finds a picture that the generator can make, and reports the distance."""

import pytest
import torch

from gan_core.errors import SettingsError
from gan_core.families import require
from gan_core.families.noise import StyleBasedFamily
from gan_core.families.stylegan2 import StyleGan2
from gan_core.images.tensors import to_uint8
from gan_core.inference.projection import project
from tests.gan_core.families.conftest import small


@pytest.fixture
def family() -> StyleGan2:
    built = small("stylegan2", conditional=False)
    assert isinstance(built, StyleGan2)
    built.networks["generator"].eval()
    built.update_statistics({"generator": built.networks["generator"]})
    return built


def test_projection_finds_a_picture_of_the_generator(family: StyleGan2) -> None:
    target = to_uint8(family.sample(1, 7))[0]
    found = project(family, target, steps=150)
    assert found.distance < 0.4 * found.distance_of_mean
    assert found.picture.shape == target.shape
    with torch.no_grad():
        again = to_uint8(family.from_styles(found.styles[None]))[0]
    assert torch.equal(again, found.picture)
    assert torch.equal(project(family, target, steps=20).styles, project(family, target, steps=20).styles)


def test_a_picture_of_the_wrong_shape_and_a_family_without_styles_are_refused(family: StyleGan2) -> None:
    with pytest.raises(SettingsError, match=r"The picture is 3x16x16, but the generator makes 1x16x16"):
        project(family, torch.zeros(3, 16, 16, dtype=torch.uint8), steps=1)
    with pytest.raises(SettingsError, match=r"dcgan cannot mix styles or project pictures; .* can: stylegan2\."):
        project(require(small("dcgan"), StyleBasedFamily), torch.zeros(1, 16, 16, dtype=torch.uint8), steps=1)
