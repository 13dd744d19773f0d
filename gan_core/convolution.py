"""Convolutions and leaky ReLUs whose gradients can be differentiated quickly.

torch differentiates the gradient of a convolution by convolutions with kernels as large as the maps, group by group.
The gradient of a convolution by its input is a transposed convolution, and that by its weight is linear in both its
arguments: all derivatives of any order are plain convolutions and gradients by weights, which every library has fast.

A leaky ReLU's slope does not change where its input changes a little. torch knows that as a gradient of zeros, which it
carries back through all layers below; here there is none, and in a network of nothing but convolutions and leaky ReLUs a
third of the work is saved.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int], bool, int]
"""Stride, padding, output padding, whether it is transposed, groups."""


class QuickSecondGradients(TorchFunctionMode):
    """A context in which convolutions and leaky ReLUs are of the kind that this module is about."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """``func`` itself, unless it is one that can be replaced."""
        kwargs = kwargs or {}
        if func is torch.conv2d:
            return _conv2d(*args, **kwargs)
        if func is torch.conv_transpose2d:
            return _conv_transpose2d(*args, **kwargs)
        if func is F.leaky_relu:
            return _leaky_relu(*args, **kwargs)
        return func(*args, **kwargs)


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if _pair(dilation) != (1, 1) or isinstance(padding, str):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    geometry = (_pair(stride), _pair(padding), (0, 0), False, groups)
    return _with_bias(_Convolution.apply(*_as_autocast(input, weight), geometry), bias)


def _conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    if _pair(dilation) != (1, 1):
        return torch.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    geometry = (_pair(stride), _pair(padding), _pair(output_padding), True, groups)
    return _with_bias(_Convolution.apply(*_as_autocast(input, weight), geometry), bias)


def _leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return input * torch.where(input.detach() > 0, 1.0, negative_slope).to(input.dtype)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return first, rest[0] if rest else first


def _as_autocast(input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type that autocast computes convolutions in, where it is on: their derivatives are then of it too."""
    kind = input.device.type
    # Shapes alone, without numbers: torch knows no autocast there.
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return input, weight
    dtype = torch.get_autocast_dtype(kind)
    return input.to(dtype), weight.to(dtype)


def _with_bias(maps: Tensor, bias: Tensor | None) -> Tensor:
    return maps if bias is None else maps + bias.to(maps.dtype)[:, None, None]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry = geometry
        stride, padding, output_padding, transposed, groups = geometry
        return torch.convolution(input, weight, None, stride, padding, (1, 1), transposed, output_padding, groups)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Any:
        input, weight = ctx.saved_tensors
        by_input = by_weight = None
        if ctx.needs_input_grad[0]:
            by_input = _Convolution.apply(gradient, weight, _adjoint(ctx.geometry, input, gradient, weight))
        if ctx.needs_input_grad[1]:
            by_weight = _WeightGradient.apply(gradient, input, weight, ctx.geometry)
        return by_input, by_weight, None


class _WeightGradient(torch.autograd.Function):
    """The gradient of a convolution by its weight: linear in the gradient and in the input."""

    @staticmethod
    def forward(ctx, gradient: Tensor, input: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(gradient, input)
        ctx.geometry = geometry
        stride, padding, output_padding, transposed, groups = geometry
        return torch.ops.aten.convolution_backward(
            *(gradient, input, weight, None, stride, padding, (1, 1), transposed, output_padding, groups),
            (False, True, False),
        )[1]

    @staticmethod
    def backward(ctx, change: Tensor) -> Any:
        gradient, input = ctx.saved_tensors
        by_gradient = by_input = None
        if ctx.needs_input_grad[0]:
            by_gradient = _Convolution.apply(input, change, ctx.geometry)
        if ctx.needs_input_grad[1]:
            by_input = _Convolution.apply(gradient, change, _adjoint(ctx.geometry, input, gradient, change))
        return by_gradient, by_input, None, None


def _adjoint(geometry: _Geometry, input: Tensor, output: Tensor, weight: Tensor) -> _Geometry:
    """The convolution that brings what has the shape of ``output`` back to that of ``input``."""
    stride, padding, _, transposed, groups = geometry
    if transposed:
        return stride, padding, (0, 0), False, groups
    # What of the input a stride leaves over at its end.
    rest = [
        input.shape[2 + side]
        - ((output.shape[2 + side] - 1) * stride[side] - 2 * padding[side] + weight.shape[2 + side])
        for side in (0, 1)
    ]
    return stride, padding, (rest[0], rest[1]), True, groups
