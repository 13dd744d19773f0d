"""Convert between sRGB and CIE L*a*b* (IEC 61966-2-1, CIE 15), and measure colourfulness (Hasler & Süsstrunk 2003).

The white point is that of the sRGB matrix (D65), so that a grey picture has a = b = 0 up to rounding.
"""

import numpy as np
import torch
from torch import Tensor

from gan_core.config import check

# IEC 61966-2-1: linear RGB to XYZ.
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = _TO_XYZ.sum(1)
# XYZ divided by that of white: CIE 15 takes its cube roots.
_TO_SHARES = _TO_XYZ / _WHITE[:, None]
_FROM_SHARES = np.linalg.inv(_TO_SHARES)
_TO_LAB = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
_FROM_LAB = np.linalg.inv(_TO_LAB)
_KNEE = 6 / 29
"""Cube roots are used above it; below, where their slope grows without bound, a straight line."""
_GREY_SHARE = 4 / 29


def rgb_to_lab(images: Tensor) -> Tensor:
    """Convert pictures from sRGB to CIE L*a*b*, D65.

    Args:
        images: floating point (N, 3, H, W), in [0, 1].

    Returns:
        The same shape and type: L in 0..100, a in about -86..98, b in about -108..94.

    Raises:
        SettingsError: ``images`` has not three channels.
    """
    _check_three(images)
    linear = torch.where(
        images <= 0.04045, images / 12.92, ((images.clamp(min=0.04045) + 0.055) / 1.055).pow(2.4)
    )  # clamped, so that the unused branch gives no NaN gradient
    shares = _mixed(linear, _TO_SHARES)
    roots = torch.where(shares > _KNEE**3, shares.clamp(min=_KNEE**3).pow(1 / 3), shares / (3 * _KNEE**2) + _GREY_SHARE)
    lightness, a, b = _mixed(roots, _TO_LAB).unbind(1)
    return torch.stack([lightness - 16.0, a, b], dim=1)


def lab_to_rgb(images: Tensor) -> Tensor:
    """Convert pictures from CIE L*a*b*, D65, to sRGB: the inverse of :func:`rgb_to_lab`.

    Args:
        images: floating point (N, 3, H, W): L in 0..100, a and b in about -110..110.

    Returns:
        The same shape and type, in [0, 1]. A colour outside sRGB is clipped, channel by channel.

    Raises:
        SettingsError: ``images`` has not three channels.
    """
    _check_three(images)
    lightness, a, b = images.unbind(1)
    roots = _mixed(torch.stack([lightness + 16.0, a, b], dim=1), _FROM_LAB)
    shares = torch.where(roots > _KNEE, roots.pow(3), 3 * _KNEE**2 * (roots - _GREY_SHARE))
    linear = _mixed(shares, _FROM_SHARES)
    curved = 1.055 * linear.clamp(min=0.0031308).pow(1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, curved).clamp(0, 1)


def lightness(pictures: np.ndarray) -> np.ndarray:
    """Return CIE L* of pictures, scaled from 0..100 to 0..255 and rounded to nearest.

    Computed in float64. None of the 16.8 million colours is within 1e-8 of a rounding boundary, so the result is the same on
    every machine.

    Args:
        pictures: uint8 (..., C, H, W) with C = 3 (sRGB) or C = 1 (grey, that is R = G = B).

    Returns:
        uint8 (..., 1, H, W).

    Raises:
        SettingsError: ``pictures`` has another type or number of channels.
    """
    check(
        pictures.dtype == np.uint8 and pictures.ndim >= 3 and pictures.shape[-3] in (1, 3),
        f"Lightness needs uint8 pictures of shape (..., 1|3, H, W), got {pictures.dtype} {pictures.shape}.",
    )
    if pictures.shape[-3] == 1:
        return _GREY_LIGHTNESS[pictures]
    red, green, blue = (table[pictures[..., i, :, :]] for i, table in enumerate(_LUMINANCE))
    return _lightness_of(red + green + blue)[..., None, :, :]


def colourfulness(images: Tensor) -> Tensor:
    """Return the colourfulness M of each picture (Hasler & Süsstrunk 2003, section 7).

    It is 0 for grey, about 15 for slightly, 45 for averagely and 109 for extremely colourful pictures.

    Args:
        images: uint8 (N, 3, H, W).

    Returns:
        float64 (N,).

    Raises:
        SettingsError: ``images`` has not three channels.
    """
    _check_three(images)
    red, green, blue = images.flatten(2).double().unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue])
    spread = opponents.var(dim=2, correction=0).sum(0).sqrt()
    return spread + 0.3 * opponents.mean(dim=2).square().sum(0).sqrt()


def _check_three(images: Tensor) -> None:
    check(
        images.ndim == 4 and images.shape[1] == 3,
        f"Colour needs pictures of shape (N, 3, H, W), got {tuple(images.shape)}.",
    )


def _mixed(images: Tensor, matrix: np.ndarray) -> Tensor:
    """Multiply the three values of each pixel by ``matrix``, (3, 3)."""
    # No convolution or einsum: they are slow for three values, and may use TF32 on a GPU.
    red, green, blue = images.unbind(1)
    rows = matrix.tolist()
    return torch.stack([r * red + g * green + b * blue for r, g, b in rows], dim=1)


def _linear(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _lightness_of(luminance: np.ndarray) -> np.ndarray:
    """Convert luminance, float64 in [0, 1], to L* scaled to 0..255, uint8."""
    low = luminance * (2.55 * 116 / (3 * _KNEE**2))
    root = np.cbrt(luminance) * (2.55 * 116) - 2.55 * 16
    return np.rint(np.where(luminance > _KNEE**3, root, low)).astype(np.uint8)


_LUMINANCE = _TO_XYZ[1][:, None] * _linear(np.arange(256) / 255)
"""The luminance that each value of each channel adds to a pixel, float64 (3, 256)."""
_GREY_LIGHTNESS = _lightness_of(_LUMINANCE.sum(0))
