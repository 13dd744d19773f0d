"""Downsampling and upsampling: the filter against its definition, and each against the other."""

import pytest
import torch
import torch.nn.functional as F

from gan_core.nn.resampling import Blur, Downsample, Upsample, _filter, _Filtered


def smooth(size: int) -> torch.Tensor:
    """A straight ramp, (1, 2, size, size)."""
    ramp = torch.arange(size, dtype=torch.float32)
    return torch.stack([ramp[:, None].expand(size, size), ramp.expand(size, size)])[None]


def test_upsampling_is_bilinear_away_from_the_border() -> None:
    got, expected = Upsample(2)(smooth(6)), F.interpolate(smooth(6), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(got[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1])
    assert got.shape == (1, 2, 12, 12)


def test_downsampling_keeps_the_mean_and_ramps_away_from_the_border() -> None:
    got = Downsample(2)(smooth(12))
    torch.testing.assert_close(got[:, :, 1:-1, 1:-1], F.avg_pool2d(smooth(12), 2)[:, :, 1:-1, 1:-1])


def test_each_is_the_others_transpose_up_to_scale() -> None:
    torch.manual_seed(0)
    small, large = torch.randn(1, 3, 5, 4), torch.randn(1, 3, 10, 8)
    torch.testing.assert_close((Upsample(3)(small) * large).sum(), 4 * (small * Downsample(3)(large)).sum())


@pytest.mark.parametrize(("padding", "stride", "size"), [(2, 1, 9), (1, 1, 7), (1, 2, 4)])
def test_the_blur_keeps_channels_apart_and_has_its_size(padding: int, stride: int, size: int) -> None:
    maps = torch.zeros(1, 2, 8, 8)
    maps[:, 1] = 1
    got = Blur(2, padding, stride=stride)(maps)
    assert got.shape == (1, 2, size, size)
    assert got[:, 0].abs().max() == 0
    assert got[0, 1, size // 2, size // 2].item() == pytest.approx(1)


def test_the_filter_is_neither_a_parameter_nor_in_the_state_dict() -> None:
    assert not list(Blur(3, 1).parameters())
    assert not Upsample(3).state_dict()


# -- bf16 on a CPU ---------------------------------------------------------------------------------------------------

FILTERED = {"blur": (2, False, None), "smaller blur": (1, False, None), "halve": (1, True, None)}
"""Padding, whether to halve, and the size to spread to."""


@pytest.mark.parametrize("settings", [*FILTERED.values(), (2, False, (11, 7))], ids=[*FILTERED, "double"])
@pytest.mark.parametrize("size", [(6, 4), (7, 5)])
def test_derivatives_of_any_order_are_filters(settings: tuple, size: tuple[int, int]) -> None:
    """In float64, against differences; sides that are odd, too."""
    padding, halve, spread = settings
    spread = (2 * size[0] - 1, 2 * size[1] - 1) if spread else None
    maps = torch.randn(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def filtered(x: torch.Tensor) -> torch.Tensor:
        return _Filtered.apply(x, _filter(2).double(), padding, halve, spread)

    assert torch.autograd.gradcheck(filtered, maps, fast_mode=True)
    assert torch.autograd.gradgradcheck(filtered, maps, fast_mode=True)


@pytest.mark.parametrize("layer", [Blur(3, 1), Blur(3, 2), Downsample(3), Upsample(3)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_in_bf16_values_and_gradients_are_those_of_fp32_rounded(
    layer: torch.nn.Module, memory: torch.memory_format
) -> None:
    drawn = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 8, 6, generator=drawn).to(torch.bfloat16, memory_format=memory).requires_grad_()
    exact = maps.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(maps)
    expected = layer(exact)
    upstream = torch.randn(expected.shape, generator=drawn).bfloat16()
    (change,) = torch.autograd.grad(found, maps, upstream)
    (expected_change,) = torch.autograd.grad(expected, exact, upstream.float())
    for low, high in ((found, expected), (change, expected_change)):
        assert low.dtype is torch.bfloat16
        torch.testing.assert_close(low.float(), high, rtol=2**-8, atol=1e-6)
