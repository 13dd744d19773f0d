"""Convolutions under QuickSecondGradients: the same numbers and derivatives as torch's own."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.convolution import QuickSecondGradients

CASES = [
    {"padding": 1}, {"stride": 2, "padding": 1}, {"stride": 2, "padding": (0, 1)}, {"groups": 2, "padding": 1},
    {"stride": 3, "groups": 2}, {"dilation": 2}, {"padding": "same"},
]  # fmt: skip
TRANSPOSED = [{"padding": 1}, {"stride": 2, "padding": 1, "output_padding": 1}, {"stride": 2, "groups": 2}]


def numbers(*shape: int) -> Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)), requires_grad=True
    )


def arguments(transposed: bool, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    weight = numbers(4, 6 // groups, 3, 3) if transposed else numbers(6, 4 // groups, 3, 3)
    return numbers(2, 4, 8, 7), weight, numbers(6)


@pytest.mark.parametrize(
    ("transposed", "options"), [*((False, case) for case in CASES), *((True, case) for case in TRANSPOSED)], ids=str
)
def test_values_gradients_and_gradients_of_gradients_are_torchs(transposed: bool, options: dict) -> None:
    operation = F.conv_transpose2d if transposed else F.conv2d
    found = []
    for quick in (True, False):
        given = arguments(transposed, options.get("groups", 1))
        if quick:
            with QuickSecondGradients():
                output = operation(*given, **options)
        else:
            output = operation(*given, **options)
        first = torch.autograd.grad(output.square().sum(), given, create_graph=True)
        second = torch.autograd.grad(sum(gradient.pow(3).sum() for gradient in first), given)
        found.append([output, *first, *second])
    for mine, torchs in zip(*found, strict=True):
        torch.testing.assert_close(mine, torchs)


@pytest.mark.parametrize("transposed", [False, True])
def test_second_derivatives_agree_with_finite_differences(transposed: bool) -> None:
    options = {"stride": 2, "padding": 1}

    def convolve(*given: Tensor) -> Tensor:
        with QuickSecondGradients():
            return (F.conv_transpose2d if transposed else F.conv2d)(*given, **options)

    given = (numbers(1, 2, 5, 4), numbers(2, 2, 3, 3), numbers(2))
    assert torch.autograd.gradcheck(convolve, given)
    assert torch.autograd.gradgradcheck(convolve, given)


def test_layers_inside_the_context_are_replaced_and_others_are_left_alone() -> None:
    layer, images = torch.nn.Conv2d(3, 3, 3), torch.randn(1, 3, 5, 5)
    with QuickSecondGradients():
        inside = layer(images)
    assert "AddBackward" in type(inside.grad_fn).__name__
    assert "Convolution" in type(layer(images).grad_fn).__name__
    torch.testing.assert_close(inside, layer(images))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_leaky_relu_has_torchs_values_and_derivatives_and_nothing_to_carry_back_from_the_second(
    inplace: bool,
) -> None:
    found = []
    for quick in (True, False):
        input, factor = numbers(2, 3, 4, 4), numbers(2, 3, 4, 4).detach()
        with QuickSecondGradients() if quick else contextlib.nullcontext():
            output = F.leaky_relu(input * factor, 0.2, inplace=inplace)
        (first,) = torch.autograd.grad(output.pow(3).sum(), input, create_graph=True)
        second = torch.autograd.grad(first.pow(2).sum(), input)
        found.append([output, first, *second])
    for mine, torchs in zip(*found, strict=True):
        torch.testing.assert_close(mine, torchs)
    input = numbers(2, 3, 4, 4)
    with QuickSecondGradients():
        output = F.leaky_relu(input, 0.2, inplace=False)
    (slopes,) = torch.autograd.grad(output.sum(), input, create_graph=True)
    assert not slopes.requires_grad
