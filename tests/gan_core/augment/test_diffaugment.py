"""DiffAugment: each transformation by itself, and all of them with different draws per image."""

import pytest
import torch
from torch import Tensor

from gan_core.augment import diffaugment as da

NEUTRAL = {"brightness": 0.5, "saturation": 0.5, "contrast": 0.5, "right": 0.5, "down": 0.5}


def pictures(n: int = 2, channels: int = 3, height: int = 16, width: int = 16, **like) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, channels, height, width, generator=generator).mul(2).sub(1).to(**like)


def table(n: int, **columns: float) -> Tensor:
    """Uniform numbers that change nothing but what ``columns`` say, and cut a corner out."""
    values = {"cut_x": 0.0, "cut_y": 0.0, **NEUTRAL, **columns}
    return torch.tensor([[values[name] for name in da.UNIFORMS]] * n)


def each(*values: float) -> Tensor:
    return torch.tensor(values)


# -- colour ------------------------------------------------------------------------------------------------------------


def test_brightness_is_added_to_every_colour() -> None:
    images = pictures()
    found = da.recolour(images, each(0.25, -0.5), each(1, 1), each(1, 1))
    torch.testing.assert_close(found, images + torch.tensor([0.25, -0.5]).view(2, 1, 1, 1))


def test_saturation_0_gives_grey_and_2_doubles_the_distance_to_grey() -> None:
    images = pictures()
    grey = images.mean(dim=1, keepdim=True)
    found = da.recolour(images, each(0, 0), each(0, 2), each(1, 1))
    torch.testing.assert_close(found[0], grey[0].expand(3, -1, -1))
    torch.testing.assert_close(found[1], 2 * images[1] - grey[1])


def test_contrast_scales_around_the_images_mean() -> None:
    images = pictures()
    found = da.recolour(images, each(0, 0), each(1, 1), each(0.5, 1.5))
    torch.testing.assert_close(found.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(found.std(dim=(1, 2, 3)), images.std(dim=(1, 2, 3)) * each(0.5, 1.5))


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_images_of_other_channels_get_what_applies(channels: int) -> None:
    """Alpha, the last of 2 or 4, keeps its values; saturation is for three colours."""
    images = pictures(channels=channels)
    found = da.recolour(images, each(0.25, 0.25), each(0, 0), each(1, 1))
    alpha = channels in (2, 4)
    colours = images[:, : channels - alpha]
    if channels == 4:
        colours = colours.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(found[:, : channels - alpha], colours + 0.25)
    if alpha:
        assert torch.equal(found[:, -1], images[:, -1])


# -- places ------------------------------------------------------------------------------------------------------------


def test_shift_brings_in_grey_or_the_mirror_image() -> None:
    image = torch.arange(1.0, 13).view(1, 1, 3, 4)
    right, down = torch.tensor([2]), torch.tensor([-1])
    grey = da.shift(image, right, down, mirror=False)
    assert grey[0, 0].tolist() == [[0, 0, 5, 6], [0, 0, 9, 10], [0, 0, 0, 0]]
    mirrored = da.shift(image, right, down, mirror=True)
    assert mirrored[0, 0].tolist() == [[6, 5, 5, 6], [10, 9, 9, 10], [10, 9, 9, 10]]


def test_each_image_has_its_own_shift() -> None:
    images = pictures(3)
    found = da.shift(images, torch.tensor([0, 1, -2]), torch.tensor([0, -2, 0]), mirror=False)
    assert torch.equal(found[0], images[0])
    assert torch.equal(found[1, :, :-2, 1:], images[1, :, 2:, :-1])
    assert torch.equal(found[2, :, :, :-2], images[2, :, :, 2:])


def test_cutout_hides_half_the_height_and_width_around_its_centre() -> None:
    images = torch.ones(3, 2, 8, 12)
    found = da.cutout(images, torch.tensor([6, 0, 12]), torch.tensor([4, 0, 8]))
    assert found[0, :, 2:6, 3:9].abs().max() == 0
    assert found[0].sum() == 2 * (8 * 12 - 4 * 6)
    assert found[1, :, :2, :3].abs().max() == 0  # a centre in a corner hides a quarter of the square
    assert found[1].sum() == found[2].sum() == 2 * (8 * 12 - 2 * 3)


def test_translation_reaches_an_eighth_and_no_further() -> None:
    lit = torch.zeros(64, 1, 16, 16)
    lit[:, :, 8, 8] = 1
    sides = torch.linspace(0, 1 - 1e-6, 64)
    numbers = table(64)
    numbers[:, da.UNIFORMS.index("right")] = sides
    numbers[:, da.UNIFORMS.index("brightness")] = 0.5
    numbers[:, da.UNIFORMS.index("cut_y")] = 0.99
    found = da.shift(lit, (sides * 5).long() - 2, torch.zeros(64, dtype=torch.int64), mirror=False)
    assert torch.equal(da.diffaugment(lit, numbers).argmax(dim=3)[:, 0, 8], found.argmax(dim=3)[:, 0, 8])
    assert found.argmax(dim=3)[:, 0, 8].unique().tolist() == [6, 7, 8, 9, 10]


# -- all of it ---------------------------------------------------------------------------------------------------------


def test_uniform_numbers_of_one_half_only_cut_out() -> None:
    images = pictures()
    found = da.diffaugment(images, table(2))
    torch.testing.assert_close(found[:, :, 4:], images[:, :, 4:])
    torch.testing.assert_close(found[:, :, :, 4:], images[:, :, :, 4:])
    assert found[:, :, :4, :4].abs().max() == 0


def test_every_image_has_its_own_draw() -> None:
    generator = torch.Generator().manual_seed(1)
    images = pictures(1).expand(8, -1, -1, -1)
    found = da.diffaugment(images, torch.rand(8, len(da.UNIFORMS), generator=generator))
    apart = (found[:, None] - found[None]).abs().amax(dim=(2, 3, 4)) + torch.eye(8)
    assert apart.min() > 0.1


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 12), (2, 3)])
def test_takes_any_shape_and_stays_finite(channels: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(2)
    images = pictures(4, channels, height, width)
    found = da.diffaugment(images, torch.rand(4, len(da.UNIFORMS), generator=generator))
    assert found.shape == images.shape
    assert torch.isfinite(found).all()


def test_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(3)
    images = pictures(2, 4, 6, 5, dtype=torch.float64).requires_grad_(True)
    numbers = torch.rand(2, len(da.UNIFORMS), generator=generator)
    assert torch.autograd.gradcheck(lambda x: da.diffaugment(x, numbers), images, fast_mode=True)


def test_reads_nothing_back_from_the_device() -> None:
    """The meta device has no values, so reading one would fail."""
    found = da.diffaugment(torch.empty(2, 3, 8, 8, device="meta"), torch.empty(2, len(da.UNIFORMS), device="meta"))
    assert found.shape == (2, 3, 8, 8)
