"""Half and twice the size inside networks, by the filter [1, 3, 3, 1] along both sides (Karras et al. 2020, ADA, appendix).

Each is one depthwise convolution: it gives the same bytes at every call on a GPU, which torch's bilinear resampling does
not, it can be differentiated twice, and it is several times as fast on a CPU as means of neighbours are.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.precision import full_precision


def _filter(channels: int) -> Tensor:
    """The filter for each of ``channels`` maps, (channels, 1, 4, 4), of sum 1."""
    sides = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return (sides[:, None] * sides).expand(channels, 1, 4, 4).contiguous()


class Blur(nn.Module):
    """Filters maps (N, channels, H, W); a side H becomes (H + 2 ``padding`` - 4) / ``stride`` + 1, rounded down."""

    filter: Tensor

    def __init__(self, channels: int, padding: int, *, stride: int = 1) -> None:
        super().__init__()
        self.padding, self.stride = padding, stride
        self.register_buffer("filter", _filter(channels), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Filtered ``maps``; beyond the border there are zeros."""
        channels, padding = len(self.filter), self.padding
        if self.stride == 1:
            return F.conv2d(maps, self.filter, padding=padding, groups=channels)
        return _in_a_fast_type(
            lambda x: F.conv2d(x, self.filter, stride=self.stride, padding=padding, groups=channels), maps
        )


class Downsample(Blur):
    """Filters maps to half the size, (N, channels, H, W) to (N, channels, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, stride=2)


class Upsample(nn.Module):
    """Bilinear to twice the size, (N, channels, H, W) to (N, channels, 2H, 2W); beyond the border there are zeros."""

    filter: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filter", _filter(channels) * 4, persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """``maps`` at twice the size."""
        channels = len(self.filter)
        return _in_a_fast_type(lambda x: F.conv_transpose2d(x, self.filter, stride=2, padding=1, groups=channels), maps)


def _in_a_fast_type(convolve: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    """``convolve`` of ``maps``, in their type.

    On a processor it computes in fp32: in bf16 a depthwise convolution with a stride has no kernel of its own there, and
    its gradient takes twenty times as long.
    """
    if maps.device.type != "cpu":
        return convolve(maps)
    with full_precision(maps.device):
        return convolve(maps.float()).to(maps.dtype)
