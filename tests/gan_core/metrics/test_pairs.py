"""L1, PSNR and SSIM equal their definitions, computed pixel by pixel."""

import math

import numpy as np
import pytest
import torch

from gan_core.errors import SettingsError
from gan_core.metrics.pairs import l1, psnr, ssim


def noise(n: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator).to(torch.uint8)


def ssim_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, equations 13 to 17, for one channel."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (picture[top : top + 11, left : left + 11].astype(np.float64) for picture in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            cov = (weights * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            values.append(luminance * (2 * cov + c2) / (var_a + var_b + c2))
    return float(np.mean(values))


def test_ssim_equals_the_papers_definition() -> None:
    x = noise(2, 3, 14, 13)
    y = ((x.int() * 3 + noise(2, 3, 14, 13, seed=1).int()) // 4).to(torch.uint8)
    by_channel = [ssim_by_hand(a, b) for a, b in zip(x.flatten(0, 1).numpy(), y.flatten(0, 1).numpy(), strict=True)]
    expected = np.reshape(by_channel, (2, 3)).mean(1).tolist()
    found = ssim(x, y)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-9)
    assert 0.1 < expected[0] < 0.99


def test_l1_and_psnr_equal_their_definitions() -> None:
    x, y = noise(3, 3, 5, 4), noise(3, 3, 5, 4, seed=1)
    apart = x.numpy().astype(np.float64) - y.numpy()
    assert l1(x, y).tolist() == pytest.approx((np.abs(apart).mean((1, 2, 3)) / 255).tolist())
    assert psnr(x, y).tolist() == pytest.approx((20 * np.log10(255 / np.sqrt((apart**2).mean((1, 2, 3))))).tolist())


def test_metrics_of_identical_and_of_inverted_pictures() -> None:
    x = noise(1, 1, 16, 16)
    assert (l1(x, x).item(), psnr(x, x).item(), ssim(x, x).item()) == (0, 100, 1)
    black, white = torch.zeros(1, 1, 12, 12, dtype=torch.uint8), torch.full((1, 1, 12, 12), 255, dtype=torch.uint8)
    assert (l1(black, white).item(), psnr(black, white).item()) == (1, 0)
    assert ssim(black, white).item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("size", [(8, 30), (10, 11), (1, 1)])
def test_small_pictures_use_a_smaller_ssim_window(size: tuple[int, int]) -> None:
    x = noise(1, 3, *size)
    assert ssim(x, x).item() == pytest.approx(1)
    assert math.isfinite(ssim(x, noise(1, 3, *size, seed=1)).item())


def test_pictures_of_different_shape_or_type_are_an_error() -> None:
    with pytest.raises(SettingsError, match="of the same shape"):
        l1(noise(1, 3, 4, 4), noise(1, 1, 4, 4))
    with pytest.raises(SettingsError, match="uint8"):
        ssim(noise(1, 3, 4, 4).float(), noise(1, 3, 4, 4).float())
