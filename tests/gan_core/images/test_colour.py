"""Colours are those of the standards: known values, there and back, and grey has no colour."""

import numpy as np
import pytest
import torch

from gan_core.errors import SettingsError
from gan_core.images.colour import colourfulness, lab_to_rgb, lightness, rgb_to_lab

# Published for sRGB and D65 (Lindbloom's calculator); tables differ in the last digits of matrix and white.
KNOWN = {
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (255, 255, 0): (97.14, -21.55, 94.48),
    (255, 255, 255): (100, 0, 0),
    (119, 119, 119): (50.03, 0, 0),
    (0, 0, 0): (0, 0, 0),
}


def pictures(colours: list[tuple[int, ...]]) -> torch.Tensor:
    """A picture of one pixel for each colour, uint8."""
    return torch.tensor(colours, dtype=torch.uint8)[:, :, None, None]


def every_colour(step: int = 5) -> torch.Tensor:
    values = torch.arange(0, 256, step, dtype=torch.uint8)
    return torch.cartesian_prod(values, values, values).T[None, :, :, None]


def test_known_colours() -> None:
    lab = rgb_to_lab(pictures(list(KNOWN)).double() / 255)[:, :, 0, 0]
    torch.testing.assert_close(lab, torch.tensor(list(KNOWN.values()), dtype=torch.float64), atol=0.05, rtol=0)


def test_there_and_back_is_the_same_picture_in_float32() -> None:
    images = every_colour()
    lab = rgb_to_lab(images.float() / 255)
    assert 0 <= lab[:, 0].min() < lab[:, 0].max() <= 100.001
    assert 94 < lab[:, 1:].abs().max() < 110
    assert torch.equal(lab_to_rgb(lab).mul(255).round().to(torch.uint8), images)


def test_a_colour_outside_srgb_is_clipped() -> None:
    rgb = lab_to_rgb(torch.tensor([[50.0, 110.0, -110.0], [100.0, 60.0, 60.0]])[:, :, None, None])
    assert 0 <= rgb.min() < rgb.max() <= 1


def test_gradients_are_finite_everywhere_even_at_black() -> None:
    images = (every_colour(51).float() / 255).requires_grad_()
    rgb_to_lab(images).sum().backward()
    lab = rgb_to_lab(images.detach()).requires_grad_()
    lab_to_rgb(lab).sum().backward()
    assert torch.isfinite(images.grad).all()
    assert torch.isfinite(lab.grad).all()


def test_lightness_is_labs_l_as_a_picture() -> None:
    images = every_colour()
    expected = (rgb_to_lab(images.double() / 255)[:, :1] * 2.55).round().to(torch.uint8)
    found = lightness(images.numpy())
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected.numpy())
    assert lightness(images.numpy()[0]).shape == (1, *images.shape[2:])


def test_lightness_of_grey_is_that_of_equal_channels() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(lightness(grey), lightness(grey.repeat(3, axis=0)))
    assert (np.diff(lightness(grey).ravel().astype(int)) >= 0).all()
    assert lightness(grey).ravel()[[0, 255]].tolist() == [0, 255]


def test_colourfulness_by_hand() -> None:
    grey = torch.randint(0, 256, (1, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert colourfulness(grey.repeat(1, 3, 1, 1)).item() == 0
    # Half red, half blue: rg is 255 and 0, yb is 127.5 and -255.
    halves = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    halves[:, 0, 0] = 255
    halves[:, 2, 1] = 255
    by_hand = (127.5**2 + 191.25**2) ** 0.5 + 0.3 * (127.5**2 + 63.75**2) ** 0.5
    assert colourfulness(halves).item() == pytest.approx(by_hand, rel=1e-12)


def test_other_channels_are_refused() -> None:
    for function in (rgb_to_lab, lab_to_rgb, colourfulness):
        with pytest.raises(SettingsError, match="N, 3, H, W"):
            function(torch.zeros(1, 4, 2, 2))
    with pytest.raises(SettingsError, match="uint8"):
        lightness(np.zeros((3, 2, 2)))
