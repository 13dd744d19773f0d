"""Convolutions and leaky ReLUs whose gradients can be differentiated quickly.

torch differentiates the gradient of a convolution by convolutions with kernels as large as the maps, group by group.
The gradient of a convolution by its input is a transposed convolution, and that by its weight is linear in both its
arguments: all derivatives of any order are plain convolutions and gradients by weights, which every library has fast.

And the gradient by the weight of a convolution with few places and many weights, as deep in a network, is quicker on a
processor as one product of two matrices, in bf16 above all (:class:`Conv2d`, :class:`ConvTranspose2d`).

A leaky ReLU's slope does not change where its input changes a little. torch knows that as a gradient of zeros, which it
carries back through all layers below; here there is none, and in a network of nothing but convolutions and leaky ReLUs a
third of the work is saved.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int], bool, int]
"""Stride, padding, output padding, whether it is transposed, groups."""


class FastDoubleBackward(TorchFunctionMode):
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


class Conv2d(nn.Conv2d):
    """torch's, quicker where a kernel covers its whole input, and in the gradient where there are few places and many weights
    (on a processor, in bf16)."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, outputs, H', W') of ``input`` (N, inputs, H, W)."""
        weight = self.weight
        if self._covers(input):
            return _as_product(input, weight, self.bias)
        if self.padding_mode == "zeros" and not isinstance(self.padding, str) and _pays(self, input, weight):
            geometry = (_pair(self.stride), _pair(self.padding), (0, 0), False, 1)
            if _few_places(_places(input, weight, geometry), weight):
                return _Convolution.apply(*_as_autocast(input, weight, self.bias), geometry)
        return self._conv_forward(input, weight, self.bias)

    def _covers(self, input: Tensor) -> bool:
        """Whether there is but one place for the kernel, as at a discriminator's end."""
        whole = input.dim() == 4 and tuple(input.shape[2:]) == self.kernel_size and self.groups == 1
        return whole and self.padding == (0, 0) and self.dilation == (1, 1)


class ConvTranspose2d(nn.ConvTranspose2d):
    """torch's, with a quicker gradient where there are few places and many weights (on a processor, in bf16)."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Maps (N, outputs, H', W') of ``input`` (N, inputs, H, W)."""
        if output_size is None and _pays(self, input, self.weight):
            geometry = (_pair(self.stride), _pair(self.padding), _pair(self.output_padding), True, 1)
            if _few_places(len(input) * input.shape[2] * input.shape[3], self.weight):
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
    """All in the type that autocast computes convolutions in, where it is on: their derivatives are then of it too."""
    kind = input.device.type
    # Shapes alone, without numbers: torch knows no autocast there.
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return input, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _as_product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution whose kernel has one place: a product of matrices, of what lies in memory in the same order."""
    if input.is_contiguous(memory_format=torch.channels_last):
        input, weight = input.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
    return F.linear(input.flatten(1), weight.flatten(1), bias)[:, :, None, None]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry = geometry
        stride, padding, output_padding, transposed, groups = geometry
        return torch.convolution(input, weight, bias, stride, padding, (1, 1), transposed, output_padding, groups)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Any:
        input, weight = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        if not torch.is_grad_enabled():  # a first gradient: what torch has for it is at hand
            return *_first_gradients(gradient, input, weight, ctx.geometry, wanted), None
        # A penalty asks for the gradient by the images alone: what a layer could give beside it is for nobody.
        # (Without a bias there are but two to go on to.)
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


def _is_asked_for(node: Any) -> bool:
    """Whether the running backward pass goes on to ``node`` of the graph."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:
        return True  # a leaf that torch.autograd.grad was asked for: of these alone torch says nothing


class _WeightGradient(torch.autograd.Function):
    """The gradient of a convolution by its weight: linear in the gradient and in the input."""

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
    """Gradients by input, weight and bias, each where it is wanted; they cannot be differentiated."""
    stride, padding, output_padding, transposed, groups = geometry
    small, large = (input, gradient) if transposed else (gradient, input)
    product = None
    few = _few_places(len(small) * small.shape[2] * small.shape[3], weight)
    if wanted[1] and few and groups == 1 and small.dtype is torch.bfloat16 and small.device.type == "cpu":
        product = _by_weight(small, large, weight, geometry)
        wanted = [wanted[0], False, wanted[2]]
        if not any(wanted):
            return None, product, None
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    by_input, by_weight, by_bias = torch.ops.aten.convolution_backward(
        *(gradient, input, weight, [outputs], stride, padding, (1, 1), transposed, output_padding, groups), wanted
    )
    return by_input, by_weight if product is None else product, by_bias


_FEW = 128
"""Weights for each place from which the matrix product is quicker (measured over the layers of all families)."""


def _pays(layer: nn.Conv2d | nn.ConvTranspose2d, input: Tensor, weight: Tensor) -> bool:
    """Whether a gradient by ``weight`` is needed that can be had quicker than torch's: in bf16 on a processor."""
    if input.device.type != "cpu" or not (weight.requires_grad and torch.is_grad_enabled()):
        return False
    # A compiler makes its own choice, and cannot look into ours.
    if input.dim() != 4 or layer.groups != 1 or _pair(layer.dilation) != (1, 1) or torch.compiler.is_compiling():
        return False
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16


def _few_places(places: int, weight: Tensor) -> bool:
    """Whether the matrix product is quicker with so many places of the kernel, over all images."""
    return places * _FEW <= weight.numel()


def _places(input: Tensor, weight: Tensor, geometry: _Geometry) -> int:
    """Images times places of the kernel in each."""
    (down, right), (top, left), _, _, _ = geometry
    high = (input.shape[2] + 2 * top - weight.shape[2]) // down + 1
    wide = (input.shape[3] + 2 * left - weight.shape[3]) // right + 1
    return len(input) * high * wide


def _by_weight(small: Tensor, large: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor:
    """What each of ``small`` (N, O, h, w) saw of ``large`` (N, I, H, W) through the kernel: (O, I, kh, kw).

    A row of the kernel at a time: what it sees is laid out beside each other, and stays in the cache.
    """
    (down, right), (top, left), _, _, _ = geometry
    outer, inner, high, wide = weight.shape
    n, _, height, width = small.shape
    maps = F.pad(large, (left, left, top, top)).permute(0, 2, 3, 1).contiguous()
    image, row, column, _ = maps.stride()
    views = maps.as_strided((high, n, height, width, wide * inner), (row, image, row * down, column * right, 1))
    rows = small.permute(0, 2, 3, 1).reshape(-1, outer).t()
    product = small.new_empty(outer, high, wide * inner)
    for place, view in enumerate(views):
        torch.mm(rows, view.reshape(-1, wide * inner), out=product[:, place])
    return product.view(outer, high, wide, inner).permute(0, 3, 1, 2)


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
