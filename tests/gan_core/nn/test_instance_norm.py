"""Each image is normalised by itself; values and gradients follow the definition in any memory format."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.nn.instance_norm import InstanceNorm2d


def made(n: int, dtype: torch.dtype = torch.float32) -> tuple[InstanceNorm2d, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    norm = InstanceNorm2d(6)
    norm.weight.data = torch.rand(6, generator=generator) + 0.5
    norm.bias.data = torch.randn(6, generator=generator)
    maps, gradient = (torch.randn(n, 6, 8, 5, generator=generator).to(dtype) for _ in range(2))
    layout = torch.channels_last
    return norm, (maps * 2 + 3).to(memory_format=layout).requires_grad_(), gradient.to(memory_format=layout)


@pytest.mark.parametrize("n", [1, 4])
def test_values_and_gradients_are_those_of_torch_in_float64(n: int) -> None:
    """One picture too: there torch's own gradients are wrong for channels-last maps on a CPU."""
    norm, maps, gradient = made(n)
    exact = [t.detach().double().contiguous().requires_grad_() for t in (maps, norm.weight, norm.bias)]
    wanted = F.instance_norm(exact[0], weight=exact[1], bias=exact[2])
    found = norm(maps)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)
    pairs = zip(
        torch.autograd.grad(found, (maps, norm.weight, norm.bias), gradient),
        torch.autograd.grad(wanted, exact, gradient.double().contiguous()),
        strict=True,
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=1e-4)


def test_bf16_is_close_to_fp32() -> None:
    norm, maps, _ = made(3)
    half = norm(maps.bfloat16())
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), norm(maps), rtol=0, atol=0.05)


def test_a_picture_does_not_depend_on_others() -> None:
    norm, maps, _ = made(4)
    assert torch.equal(norm(maps)[2:3], norm(maps[2:3]))


def test_double_backward_raises() -> None:
    norm, maps, _ = made(2)
    (gradient,) = torch.autograd.grad(norm(maps).square().sum(), maps, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
