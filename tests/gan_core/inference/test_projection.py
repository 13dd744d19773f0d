"""Projection finds a picture that the generator can make, and reports the distance."""

import pytest
import torch

from gan_core.errors import SettingsError
from gan_core.families import require
from gan_core.families.noise import StyleBasedFamily
from gan_core.families.stylegan2 import StyleGan2
from gan_core.images.tensors import to_uint8
from gan_core.inference.projection import project, project_latent
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


@pytest.mark.parametrize("name", ["dcgan", "r3gan"])
def test_a_picture_of_the_generator_is_found_in_z(name: str) -> None:
    """The distance is much smaller than that of the closest of hundreds of draws, and z stays within the prior."""
    family = small(name)
    family.networks["generator"].eval()
    family.update_statistics({"generator": family.networks["generator"]})
    target = to_uint8(family.sample(1, 7))[0]
    steps: list[int] = []
    found = project_latent(family, target, steps=100, each=steps.append)
    assert found.distance < 0.4 * found.distance_of_draws
    assert steps == [0, 0, 0, 0, *range(1, 101)], "a search for a large picture can be ended while the draws are made"
    again = family.generate_sample(family.networks["generator"], found.latent[None], None, None)
    assert torch.equal(to_uint8(again)[0], found.picture)
    if family.prior == "uniform":
        assert found.latent.abs().max() <= 1
    assert torch.equal(project_latent(family, target, steps=5).latent, project_latent(family, target, steps=5).latent)


def test_the_class_of_the_picture_decides_what_is_found_in_z() -> None:
    family = small("cgan")
    family.networks["generator"].eval()
    family.update_statistics({"generator": family.networks["generator"]})
    target = to_uint8(family.sample(1, 7, label=1))[0]
    assert project_latent(family, target, steps=60, label=1).distance < 20
    with pytest.raises(SettingsError, match=r"The picture is 3x16x16, but the generator makes 1x16x16"):
        project_latent(family, torch.zeros(3, 16, 16, dtype=torch.uint8), steps=1)
