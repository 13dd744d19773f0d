"""Convolutions as matrix products: the same numbers as torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.nn import products

KERNELS = [
    ((4, 4), (2, 2), (1, 1)),
    ((2, 2), (2, 2), (0, 0)),
    ((4, 6), (2, 3), (1, 2)),
    ((3, 4), (1, 2), (0, 1)),
]
"""Sides, stride and padding."""


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("kernel", "stride", "padding"), KERNELS, ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_they_are_a_convolution_and_its_two_adjoints(
    kernel: products.Pair, stride: products.Pair, padding: products.Pair, memory: torch.memory_format
) -> None:
    weight = numbers(5, 3, *kernel).to(memory_format=memory).requires_grad_()
    large = numbers(2, 3, 8, 12).to(memory_format=memory).requires_grad_()
    expected = F.conv2d(large, weight, stride=stride, padding=padding)
    with torch.no_grad():
        torch.testing.assert_close(products.gather(large, weight, None, stride, padding), expected)
    small = numbers(*expected.shape).to(memory_format=memory)
    by_large, by_weight = torch.autograd.grad(expected, [large, weight], small)
    with torch.no_grad():
        scattered = products.scatter(small, weight, None, stride, padding)
        torch.testing.assert_close(scattered, F.conv_transpose2d(small, weight, stride=stride, padding=padding))
        of_small, of_large = numbers(5), numbers(3)
        with_bias = products.gather(large, weight, of_small, stride, padding)
        torch.testing.assert_close(with_bias, expected + of_small[:, None, None])
        with_bias = products.scatter(small, weight, of_large, stride, padding)
        torch.testing.assert_close(with_bias, scattered + of_large[:, None, None])
        torch.testing.assert_close(scattered, by_large[:, :, : scattered.shape[2], : scattered.shape[3]])
        torch.testing.assert_close(products.by_weight(small, large, weight, stride, padding), by_weight)


def test_they_are_chosen_for_many_weights_and_few_places_with_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = torch.empty(512, 256, 4, 4).to(memory_format=torch.channels_last)
    for amx in (False, True):
        monkeypatch.setattr(products, "_has_amx", lambda amx=amx: amx)
        assert products.is_faster(16 * 16, deep, (2, 2)) is amx
        assert not products.is_faster(128 * 16, deep, (2, 2))
        assert not products.is_faster(16, deep[:8], (2, 2))  # fits a cache
        assert not products.is_faster(16 * 16, deep.contiguous(), (2, 2))
        assert not products.is_faster(16 * 16, deep, (1, 1))
        assert not products.is_faster(16 * 16, deep, (3, 3))
        assert products.is_faster_by_weight(deep.numel() // 128, deep)
        assert products.is_faster_by_weight(deep.numel() // 72, deep) is amx
