"""Reflection padding has the values and gradients of torch; padding to a multiple is undone by cropping."""

import pytest
import torch
import torch.nn.functional as F

from gan_core.nn.padding import ReflectionPad2d, crop_borders, pad_to_multiple, reflection_pad


@pytest.mark.parametrize("borders", [(1, 1, 1, 1), (3, 0, 2, 4), (0, 2, 0, 0), (4, 4, 4, 4)])
def test_values_and_gradients_are_torchs(borders: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = borders
    images = torch.randn(2, 3, 5, 6).to(memory_format=torch.channels_last)
    mine, theirs = (images.clone().requires_grad_() for _ in range(2))
    found, wanted = reflection_pad(mine, borders), F.pad(theirs, (left, right, top, bottom), mode="reflect")
    assert torch.equal(found, wanted)
    assert found.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(wanted)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_layer_is_torchs() -> None:
    images = torch.randn(2, 3, 5, 6)
    assert torch.equal(ReflectionPad2d(2)(images), torch.nn.ReflectionPad2d(2)(images))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 16), (16, 32), (17, 31), (33, 2)])
def test_padding_to_a_multiple_is_undone_by_cropping(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    large, borders = pad_to_multiple(images, 8, least=16)
    assert all(side % 8 == 0 and 16 <= side < max(own, 16) + 8 for side, own in zip(large.shape[2:], size, strict=True))
    assert torch.equal(crop_borders(large, borders), images)
    assert set(large.unique().tolist()) == set(images.unique().tolist())


def test_images_that_fit_are_returned_unchanged() -> None:
    images = torch.rand(1, 3, 16, 24)
    assert pad_to_multiple(images, 8, least=16)[0] is images
