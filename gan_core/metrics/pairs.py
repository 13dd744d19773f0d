"""Metrics of paired pictures: L1, PSNR and SSIM against the target, one value per picture, in float64."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.config import check

MAX_PSNR = 100.0
"""PSNR in dB reported for identical pictures, whose true value is infinite."""
WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def l1(made: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of pixel values, from 0 to 1 (white against black).

    Args:
        made: uint8 (N, C, H, W).
        real: uint8 of the same shape.

    Returns:
        float64 (N,).

    Raises:
        SettingsError: the pictures are not uint8, or their shapes differ.
    """
    _check_alike(made, real)
    return (made.int() - real.int()).abs().flatten(1).double().mean(1) / 255


def psnr(made: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over all channels together, at most 100.

    Arguments, result and errors as :func:`l1`.
    """
    _check_alike(made, real)
    squares = (made.int() - real.int()).square().flatten(1).double().mean(1)
    return (10 * (255**2 / squares).log10()).clamp(max=MAX_PSNR)


def ssim(made: Tensor, real: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), from -1 to 1 (identical): the mean over channels and positions.

    The window is the paper's Gaussian, 11x11 with a standard deviation of 1.5 pixels, at every position where it fits
    inside the picture. A picture with a side below 11 pixels uses the largest odd window that fits.

    Arguments, result and errors as :func:`l1`.
    """
    _check_alike(made, real)
    side = min(WINDOW, *(size - (size + 1) % 2 for size in made.shape[2:]))
    offsets = torch.arange(side, dtype=torch.float64, device=made.device) - side // 2
    weights = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    weights /= weights.sum()
    # Treat each channel as a picture of its own, so that the window is a plain convolution.
    x, y = (images.double().flatten(0, 1)[:, None] for images in (made, real))

    def local(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, weights[None, None, :, None]), weights[None, None, None, :])

    mean_x, mean_y = local(x), local(y)
    var_x, var_y, cov = local(x * x) - mean_x**2, local(y * y) - mean_y**2, local(x * y) - mean_x * mean_y
    similar = (2 * mean_x * mean_y + _C1) * (2 * cov + _C2)
    similar /= (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    return similar.flatten(1).mean(1).unflatten(0, made.shape[:2]).mean(1)


def _check_alike(made: Tensor, real: Tensor) -> None:
    check(
        made.dtype == real.dtype == torch.uint8 and made.ndim == 4 and made.shape == real.shape,
        "Pictures to compare must be uint8 (N, C, H, W) of the same shape, got "
        f"{made.dtype} {tuple(made.shape)} and {real.dtype} {tuple(real.shape)}.",
    )
