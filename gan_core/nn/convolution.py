"""Convolutions and leaky ReLUs with a fast double backward pass, as gradient penalties need it.

torch computes the second derivative of a convolution with kernels as large as the feature maps, group by group. But the
gradient with respect to the input is a transposed convolution, and the gradient with respect to the weight is linear in both
its arguments. Derivatives of any order are therefore plain convolutions and weight gradients, which every backend has fast.

Deep in a network, where maps are small and weights are many, convolutions and their gradients are faster on a CPU in bf16 as
matrix products (:mod:`gan_core.nn.products`; :class:`Conv2d`, :class:`ConvTranspose2d`).

The slope of a leaky ReLU is piecewise constant, so its second derivative is zero. torch propagates these zeros back through
all layers below; this module does not, which saves a third of the work in a network of only convolutions and leaky ReLUs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gan_core.nn import products

_Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int], bool, int]
"""Stride, padding, output padding, whether the convolution is transposed, groups."""


class FastDoubleBackward(TorchFunctionMode):
    """A context manager in which convolutions and leaky ReLUs have a fast double backward pass."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``, or its replacement if it has one."""
        kwargs = kwargs or {}
        if func is torch.conv2d:
            return _conv2d(*args, **kwargs)
        if func is torch.conv_transpose2d:
            return _conv_transpose2d(*args, **kwargs)
        if func is F.leaky_relu:
            return _leaky_relu(*args, **kwargs)
        return func(*args, **kwargs)


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d``, faster if the kernel covers the whole input, and, on a CPU in bf16, in layers with small maps and
    many weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (N, inputs, H, W) to (N, outputs, H', W')."""
        weight = self.weight
        if self._covers(input):
            return _as_product(input, weight, self.bias)
        if self.padding_mode == "zeros" and not isinstance(self.padding, str) and _may_pay(self, input):
            geometry = (_pair(self.stride), _pair(self.padding), (0, 0), False, 1)
            if _pays(weight, _places(input, weight, geometry), geometry):
                return _Convolution.apply(*_as_autocast(input, weight, self.bias), geometry)
        return self._conv_forward(input, weight, self.bias)

    def _covers(self, input: Tensor) -> bool:
        """Whether the kernel covers the whole input, as in a discriminator's last layer."""
        whole = input.dim() == 4 and tuple(input.shape[2:]) == self.kernel_size and self.groups == 1
        return whole and self.padding == (0, 0) and self.dilation == (1, 1)


class ConvTranspose2d(nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d``, faster on a CPU in bf16 in layers with small maps and many weights."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve ``input`` (N, inputs, H, W) to (N, outputs, H', W')."""
        if output_size is None and _may_pay(self, input):
            geometry = (_pair(self.stride), _pair(self.padding), _pair(self.output_padding), True, 1)
            if _pays(self.weight, len(input) * input.shape[2] * input.shape[3], geometry):
                return _Convolution.apply(*_as_autocast(input, self.weight, self.bias), geometry)
        return super().forward(input, output_size)


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
    return _Convolution.apply(*_as_autocast(input, weight, bias), geometry)


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
    return _Convolution.apply(*_as_autocast(input, weight, bias), geometry)


def _leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    factor = torch.where(input.detach() > 0, input.new_ones(()), input.new_full((), negative_slope))
    return input * factor


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return first, rest[0] if rest else first


def _as_autocast(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast all to autocast's type if autocast is on, so that derivatives of any order are computed in this type."""
    kind = input.device.type
    # The meta device has shapes but no values; torch has no autocast for it.
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return input, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _as_product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with a kernel that covers the whole input, as a matrix product. Both operands are read in memory order."""
    if input.is_contiguous(memory_format=torch.channels_last):
        input, weight = input.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
    return F.linear(input.flatten(1), weight.flatten(1), bias)[:, :, None, None]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry = geometry
        return _convolve(input, weight, bias, geometry)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Any:
        input, weight = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        if not torch.is_grad_enabled():  # only the first derivative is needed: torch's kernels compute it
            return *_first_gradients(gradient, input, weight, ctx.geometry, wanted), None
        # A penalty needs the gradient with respect to the images only: skip those of the weights.
        # (Without a bias there are only two next functions.)
        for place, (node, _) in enumerate(ctx.next_functions):
            wanted[place] = wanted[place] and _is_asked_for(node)
        by_input = by_weight = by_bias = None
        if wanted[0]:
            by_input = _Convolution.apply(gradient, weight, None, _adjoint(ctx.geometry, input, gradient, weight))
        if wanted[1]:
            by_weight = _WeightGradient.apply(gradient, input, weight, ctx.geometry)
        if wanted[2]:
            by_bias = gradient.sum(dim=(0, 2, 3))
        return by_input, by_weight, by_bias, None


def _convolve(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry) -> Tensor:
    """Convolve by the faster way; not differentiable."""
    stride, padding, output_padding, transposed, groups = geometry
    if _is_bf16_on_a_cpu(input) and groups == 1:
        places = len(input) * input.shape[2] * input.shape[3] if transposed else _places(input, weight, geometry)
        if products.is_faster(places, weight, stride, output_padding):
            return (products.scatter if transposed else products.gather)(input, weight, bias, stride, padding)
    return torch.convolution(input, weight, bias, stride, padding, (1, 1), transposed, output_padding, groups)


def _is_asked_for(node: Any) -> bool:
    """Whether the running backward pass reaches ``node`` of the graph."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:
        return True  # torch raises only for leaves that are inputs of torch.autograd.grad, which are needed


class _WeightGradient(torch.autograd.Function):
    """The gradient of a convolution with respect to its weight: linear in the gradient and in the input."""

    @staticmethod
    def forward(ctx, gradient: Tensor, input: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(gradient, input)
        ctx.geometry = geometry
        _, by_weight, _ = _first_gradients(gradient, input, weight, geometry, [False, True, False])
        assert by_weight is not None
        return by_weight

    @staticmethod
    def backward(ctx, change: Tensor) -> Any:
        gradient, input = ctx.saved_tensors
        by_gradient = by_input = None
        if ctx.needs_input_grad[0]:
            by_gradient = _Convolution.apply(input, change, None, ctx.geometry)
        if ctx.needs_input_grad[1]:
            by_input = _Convolution.apply(gradient, change, None, _adjoint(ctx.geometry, input, gradient, change))
        return by_gradient, by_input, None, None


def _first_gradients(
    gradient: Tensor, input: Tensor, weight: Tensor, geometry: _Geometry, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients with respect to input, weight and bias, each None unless wanted; not differentiable."""
    stride, padding, output_padding, transposed, groups = geometry
    small, large = (input, gradient) if transposed else (gradient, input)
    of_input = of_weight = None
    if groups == 1 and _is_bf16_on_a_cpu(small):
        places = len(small) * small.shape[2] * small.shape[3]
        if wanted[1] and products.is_faster_by_weight(places, weight):
            of_weight = products.by_weight(small, large, weight, stride, padding)
        adjoint = _adjoint(geometry, input, gradient, weight)
        if wanted[0] and products.is_faster(places, weight, stride, adjoint[2]):
            of_input = _convolve(gradient, weight, None, adjoint)
        wanted = [wanted[0] and of_input is None, wanted[1] and of_weight is None, wanted[2]]
        if not any(wanted):
            return of_input, of_weight, None
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    by_input, by_weight, by_bias = torch.ops.aten.convolution_backward(
        *(gradient, input, weight, [outputs], stride, padding, (1, 1), transposed, output_padding, groups), wanted
    )
    return by_input if of_input is None else of_input, by_weight if of_weight is None else of_weight, by_bias


def _is_bf16_on_a_cpu(maps: Tensor) -> bool:
    return maps.dtype is torch.bfloat16 and maps.device.type == "cpu"


def _may_pay(layer: nn.Conv2d | nn.ConvTranspose2d, input: Tensor) -> bool:
    """Whether matrix products may be faster in training: on a CPU, in bf16."""
    if input.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    # torch.compile chooses its own kernels, and cannot trace into the custom function.
    if input.dim() != 4 or layer.groups != 1 or _pair(layer.dilation) != (1, 1) or torch.compiler.is_compiling():
        return False
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16


def _pays(weight: Tensor, places: int, geometry: _Geometry) -> bool:
    """Whether they are faster with this number of kernel positions over all images, in any pass that is needed."""
    if weight.requires_grad and products.is_faster_by_weight(places, weight):
        return True
    return products.is_faster(places, weight, geometry[0], geometry[2])


def _places(input: Tensor, weight: Tensor, geometry: _Geometry) -> int:
    """Number of kernel positions over all images."""
    (down, right), (top, left), _, _, _ = geometry
    high = (input.shape[2] + 2 * top - weight.shape[2]) // down + 1
    wide = (input.shape[3] + 2 * left - weight.shape[3]) // right + 1
    return len(input) * high * wide


def _adjoint(geometry: _Geometry, input: Tensor, output: Tensor, weight: Tensor) -> _Geometry:
    """The geometry of the adjoint convolution, from the shape of ``output`` back to that of ``input``."""
    stride, padding, _, transposed, groups = geometry
    if transposed:
        return stride, padding, (0, 0), False, groups
    # Rows and columns at the end of the input that a stride does not reach.
    rest = [
        input.shape[2 + side]
        - ((output.shape[2 + side] - 1) * stride[side] - 2 * padding[side] + weight.shape[2 + side])
        for side in (0, 1)
    ]
    return stride, padding, (rest[0], rest[1]), True, groups
