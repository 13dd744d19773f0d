"""Convolutions that are differentiated quickly: the same numbers and derivatives as torch's own."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from gan_core.nn import products
from gan_core.nn.convolution import Conv2d, ConvTranspose2d, FastDoubleBackward
from gan_core.nn.penalties import zero_centred_penalty

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
            with FastDoubleBackward():
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
        with FastDoubleBackward():
            return (F.conv_transpose2d if transposed else F.conv2d)(*given, **options)

    given = (numbers(1, 2, 5, 4), numbers(2, 2, 3, 3), numbers(2))
    assert torch.autograd.gradcheck(convolve, given)
    assert torch.autograd.gradgradcheck(convolve, given)


def test_layers_inside_the_context_are_replaced_and_others_are_left_alone() -> None:
    layer, images = torch.nn.Conv2d(3, 3, 3), torch.randn(1, 3, 5, 5)
    with FastDoubleBackward():
        inside = layer(images)
    assert "_Convolution" in type(inside.grad_fn).__name__
    assert type(layer(images).grad_fn).__name__ == "ConvolutionBackward0"
    torch.testing.assert_close(inside, layer(images))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_leaky_relu_has_torchs_values_and_derivatives_but_no_second_derivative_node(
    inplace: bool,
) -> None:
    found = []
    for quick in (True, False):
        input, factor = numbers(2, 3, 4, 4), numbers(2, 3, 4, 4).detach()
        with FastDoubleBackward() if quick else contextlib.nullcontext():
            output = F.leaky_relu(input * factor, 0.2, inplace=inplace)
        (first,) = torch.autograd.grad(output.pow(3).sum(), input, create_graph=True)
        second = torch.autograd.grad(first.pow(2).sum(), input)
        found.append([output, first, *second])
    for mine, torchs in zip(*found, strict=True):
        torch.testing.assert_close(mine, torchs)
    input = numbers(2, 3, 4, 4)
    with FastDoubleBackward():
        output = F.leaky_relu(input, 0.2, inplace=False)
    (slopes,) = torch.autograd.grad(output.sum(), input, create_graph=True)
    assert not slopes.requires_grad


# Few places, many weights: what Conv2d and ConvTranspose2d have a way of their own for.
DEEP = [
    (Conv2d, {"kernel_size": 4, "stride": 2, "padding": 1}),
    (Conv2d, {"kernel_size": 4, "padding": 1, "bias": False}),
    (Conv2d, {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2)}),
    (ConvTranspose2d, {"kernel_size": 4, "stride": 2, "padding": 1}),
    (ConvTranspose2d, {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "bias": False}),
]


def deep(kind: type, options: dict) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layer = kind(64, 96, **options).to(memory_format=torch.channels_last)
    return layer, torch.randn(2, 64, 4, 4).to(memory_format=torch.channels_last)


def gradients(layer: nn.Module, images: Tensor, *, bf16: bool, of: type) -> list[Tensor]:
    """Output and gradients of ``layer`` called as ``of``, torch's class or ours."""
    images = images.clone().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = of.forward(layer, images)
    return [output, *torch.autograd.grad(output.float().pow(2).sum(), [images, *layer.parameters()])]


@pytest.fixture(params=[False, True], ids=["gradients by weight", "all products"])
def all_products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether values and gradients by input are products, too, as with AMX in layers with more weights than these."""
    monkeypatch.setattr(products, "_has_amx", lambda: request.param)
    monkeypatch.setattr(products, "_MANY", 1)
    return request.param


@pytest.mark.parametrize(("kind", "options"), DEEP, ids=str)
def test_deep_layers_have_torchs_gradients_in_bf16_laid_out_as_the_weights_are(
    kind: type, options: dict, all_products: bool
) -> None:
    layer, images = deep(kind, options)
    torchs = kind.__mro__[1]
    exact = gradients(layer, images, bf16=False, of=torchs)
    mine, plain = (gradients(layer, images, bf16=True, of=of) for of in (kind, torchs))
    assert "_Convolution" in type(mine[0].grad_fn).__name__, "the layer went torch's way"
    assert mine[2].stride() == layer.weight.stride()
    for found, expected, truth in zip(mine, plain, exact, strict=True):
        assert found.dtype == expected.dtype
        # As near to fp32 as torch's own is; patches that overlap are rounded before they are added.
        error, torchs_error = ((x.float() - truth).norm() / truth.norm() for x in (found, expected))
        assert error < max((2 if all_products else 1.5) * torchs_error, 1e-4)


def test_a_layer_that_gains_nothing_uses_torchs_kernels() -> None:
    layer, images = deep(Conv2d, {"kernel_size": 4, "stride": 2, "padding": 1})

    def way(images: Tensor, *, bf16: bool = True) -> str:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return type(layer(images).grad_fn).__name__

    assert "_Convolution" in way(images)
    assert way(images, bf16=False) == "ConvolutionBackward0"
    assert way(images.repeat(512, 1, 1, 1)) == "ConvolutionBackward0"  # many places
    layer.requires_grad_(False)
    # As the generator's update calls a discriminator.
    assert way(images.clone().requires_grad_(True)) == "ConvolutionBackward0"
    grouped = Conv2d(64, 96, 4, groups=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert type(grouped(images).grad_fn).__name__ == "ConvolutionBackward0"
        assert Conv2d(64, 96, 4)(images[0]).shape == (96, 1, 1)


@pytest.mark.parametrize("images_lie", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("weights_lie", [torch.channels_last, torch.contiguous_format])
def test_a_kernel_that_covers_its_input_is_a_matrix_product_with_torchs_values_and_gradients(
    images_lie: torch.memory_format, weights_lie: torch.memory_format
) -> None:
    layer = Conv2d(6, 3, (4, 5)).to(torch.float64, memory_format=weights_lie)
    images = numbers(7, 6, 4, 5).to(memory_format=images_lie)
    mine, torchs = (gradients(layer, images, bf16=False, of=of) for of in (Conv2d, nn.Conv2d))
    assert "Convolution" not in type(layer(images).grad_fn.next_functions[0][0]).__name__
    for found, expected in zip(mine, torchs, strict=True):
        torch.testing.assert_close(found, expected)
    for other in (Conv2d(6, 3, (4, 5), padding=1), Conv2d(6, 3, (4, 4)), Conv2d(6, 3, (4, 5), groups=3)):
        assert type(other.double()(images).grad_fn).__name__ == "ConvolutionBackward0"


def test_the_generators_update_has_products_where_values_and_gradients_by_input_gain(all_products: bool) -> None:
    """It calls a discriminator whose weights need no gradient."""
    layer, images = deep(Conv2d, {"kernel_size": 4, "stride": 2, "padding": 1})
    layer.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        way = type(layer(images.requires_grad_(True)).grad_fn).__name__
    assert ("_Convolution" in way) is all_products


@pytest.mark.usefixtures("all_products")
@pytest.mark.parametrize("kind", [Conv2d, ConvTranspose2d])
def test_what_deep_layers_return_may_be_changed_in_place(kind: type) -> None:
    layer, images = deep(kind, {"kernel_size": 4, "stride": 2, "padding": 1})
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(images)
        assert "_Convolution" in type(output.grad_fn).__name__
        changed = F.leaky_relu(output, 0.2, inplace=True)
    assert changed is output
    changed.sum().backward()
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.usefixtures("all_products")
def test_a_penalty_differentiates_deep_layers_in_bf16() -> None:
    found = []
    for kind in (Conv2d, nn.Conv2d):
        torch.manual_seed(0)
        network = nn.Sequential(
            kind(64, 96, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            kind(96, 64, 2),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(64, 1),
        ).to(memory_format=torch.channels_last)
        images = torch.randn(2, 64, 4, 4)
        with torch.autocast("cpu", torch.bfloat16):
            penalty = zero_centred_penalty(network, images)
        found.append([penalty.detach(), *torch.autograd.grad(penalty, [network[0].weight, network[2].weight])])
    for mine, torchs in zip(*found, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=0.03, atol=1e-3)


def test_a_penalty_computes_no_weight_gradient_that_is_not_needed() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3), nn.LeakyReLU(0.2), nn.Flatten())
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    with FastDoubleBackward():
        judged = network(images).sum()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            (by_images,) = torch.autograd.grad(judged, images, create_graph=True)
    assert "_WeightGradient" not in {event.name for event in seen.events()}
    by_weights = torch.autograd.grad(by_images.square().sum(), [network[0].weight, network[2].weight])
    assert all(gradient.abs().sum() > 0 for gradient in by_weights)
