"""Downsample and upsample feature maps with the filter [1, 3, 3, 1] along both sides (Karras et al. 2020, ADA, appendix).

Each is a single depthwise convolution. It is deterministic on a GPU, unlike torch's bilinear resampling, can be differentiated
twice, and is several times as fast on a CPU as average pooling.

In bf16, a CPU has one fast kernel for depthwise convolutions: forwards, without a stride. The filter is symmetric, so that its
gradients of any order are convolutions with it, and a stride is a selection of rows and columns, or zeros between them.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.precision import full_precision


def _filter(channels: int, total: float = 1.0) -> Tensor:
    """The filter for ``channels`` maps, (channels, 1, 4, 4); it sums to ``total`` for each."""
    side = (1.0, 3.0, 3.0, 1.0)
    # Not by arithmetic of tensors: to sketch a network on the meta device, torch would import its compiler for it.
    square = torch.tensor([[one * other / 64 * total for other in side] for one in side])
    return square.expand(channels, 1, 4, 4).contiguous()


class Blur(nn.Module):
    """Low-pass filter for maps (N, channels, H, W). A side H becomes (H + 2 ``padding`` - 4) / ``stride`` + 1, rounded down."""

    filter: Tensor

    def __init__(self, channels: int, padding: int, *, stride: int = 1) -> None:
        super().__init__()
        self.padding, self.stride = padding, stride
        self.register_buffer("filter", _filter(channels), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Filter ``maps``, padded with zeros."""
        channels, padding = len(self.filter), self.padding
        if self.stride <= 2 and _has_one_fast_kernel(maps):
            return _Filtered.apply(maps, self.filter.to(maps.dtype), padding, self.stride == 2, None)
        if self.stride == 1:
            return F.conv2d(maps, self.filter, padding=padding, groups=channels)
        return _in_a_fast_type(
            lambda x: F.conv2d(x, self.filter, stride=self.stride, padding=padding, groups=channels), maps
        )


class Downsample(Blur):
    """Low-pass filter and halve the resolution: (N, channels, H, W) to (N, channels, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, stride=2)


class Upsample(nn.Module):
    """Double the resolution bilinearly: (N, channels, H, W) to (N, channels, 2H, 2W), padded with zeros."""

    filter: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filter", _filter(channels, 4.0), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Upsample ``maps``."""
        channels = len(self.filter)
        if _has_one_fast_kernel(maps):
            height, width = maps.shape[2:]
            return _Filtered.apply(maps, self.filter.to(maps.dtype), 2, False, (2 * height - 1, 2 * width - 1))
        return _in_a_fast_type(lambda x: F.conv_transpose2d(x, self.filter, stride=2, padding=1, groups=channels), maps)


def _has_one_fast_kernel(maps: Tensor) -> bool:
    """Whether to filter by :class:`_Filtered`. torch.compile makes its own kernels."""
    return maps.device.type == "cpu" and maps.dtype is torch.bfloat16 and not torch.compiler.is_compiling()


class _Filtered(torch.autograd.Function):
    """Filters maps with a symmetric filter of 4x4 taps, a linear function whose adjoint is of the same kind.

    The maps may be spread to a larger size first, with zeros between their rows and columns, and every second row and column
    of the result may be taken.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, filter: Tensor, padding: int, halve: bool, spread: tuple[int, int] | None
    ) -> Tensor:
        ctx.filter, ctx.padding, ctx.halve, ctx.spread = filter, padding, halve, spread is not None
        if spread is not None:
            small, maps = maps, maps.new_zeros(maps.shape[0], *spread, maps.shape[1]).permute(0, 3, 1, 2)
            maps[:, :, ::2, ::2] = small
        found = torch.convolution(
            maps, filter, None, (1, 1), (padding, padding), (1, 1), False, (0, 0), filter.shape[0]
        )
        ctx.size = (found.shape[2], found.shape[3])
        return found[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last) if halve else found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        spread = ctx.size if ctx.halve else None
        return _Filtered.apply(gradients[0], ctx.filter, 3 - ctx.padding, ctx.spread, spread), None, None, None, None


def _in_a_fast_type(convolve: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    """Return ``convolve(maps)`` in the type of ``maps``, computed in fp32 on a CPU.

    In bf16, the gradient of a strided depthwise convolution takes a CPU twenty times as long.
    """
    if maps.device.type != "cpu":
        return convolve(maps)
    with full_precision(maps.device):
        return convolve(maps.float()).to(maps.dtype)
