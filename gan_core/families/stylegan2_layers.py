"""Layers of StyleGAN2 (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN").

Equalised learning rate: every weight is initialised with N(0, 1) and scaled in use, so that Adam's relative steps are equal in
all layers (Karras et al. 2018, section 4.1). The ``gain`` of a layer is that of the leaky ReLU after it. A leaky ReLU commutes
with positive factors, so the gain is part of the weights' scale and costs nothing.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.nn.resampling import Blur, Downsample
from gan_core.precision import full_precision

GROUP = 4
"""Images in a group of the minibatch deviation."""


def activation_gain(slope: float) -> float:
    """Gain of a leaky ReLU: sqrt(2) at the paper's slope of 0.2; at another ``slope`` the one that gives the same variance."""
    return math.sqrt(2 * (1 + 0.2**2) / (1 + slope**2))


# -- layers --------------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """A linear layer with equalised learning rate, (N, inputs) to (N, outputs).

    Args:
        inputs: input features.
        outputs: output features.
        bias: initial value of the bias.
        rate: learning rate of this layer relative to the others.
        gain: gain of the activation after it.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.scale, self.bias_scale = gain * rate / math.sqrt(inputs), gain * rate

    def forward(self, features: Tensor) -> Tensor:
        """Apply the layer, without its activation."""
        return F.linear(features, self.weight * self.scale, self.bias * self.bias_scale)


class Conv2d(nn.Module):
    """A convolution with equalised learning rate that keeps the size, or halves it after a blur.

    Args:
        inputs: input maps.
        outputs: output maps.
        kernel: 1 or 3.
        bias: whether it has a bias.
        gain: gain of the activation after it.
        halve: whether it halves the size.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, bias: bool = True, gain: float = 1.0, halve: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.gain = gain / math.sqrt(inputs * kernel**2), gain
        self.filter = (Downsample(inputs) if kernel == 1 else Blur(inputs, 2)) if halve else None

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W) or (N, outputs, H/2, W/2)."""
        weight, bias = self.weight * self.scale, None if self.bias is None else self.bias * self.gain
        if self.filter is None:
            return F.conv2d(maps, weight, bias, padding=weight.shape[2] // 2)
        if weight.shape[2] == 1:
            return F.conv2d(self.filter(maps), weight, bias)
        return F.conv2d(self.filter(maps), weight, bias, stride=2)


class ModulatedConv2d(nn.Module):
    """A convolution whose input maps are scaled by a style and whose outputs are normalised to unit variance (section 2.2).

    Scaling the maps is equivalent to scaling the weights for each image, and allows a single convolution for the whole batch.

    Args:
        inputs: input maps.
        outputs: output maps.
        kernel: 1 or 3.
        style: dimension of the style.
        demodulate: whether to normalise the outputs to unit variance (equation 3).
        double: whether it doubles the size.
        gain: gain of the activation after it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        style: int,
        *,
        demodulate: bool = True,
        double: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.affine = Linear(style, inputs, bias=1.0)
        self.scale, self.gain = 1 / math.sqrt(inputs * kernel**2), gain
        self.demodulate = demodulate
        self.filter = Blur(outputs, 1) if double else None

    def forward(self, maps: Tensor, styles: Tensor) -> Tensor:
        """Map (N, inputs, H, W) with styles (N, style) to (N, outputs, H, W) or (N, outputs, 2H, 2W)."""
        # The filter after a doubling convolution spreads each value over four.
        gain, after = self.gain * (1 if self.filter is None else 4), None
        with full_precision(maps.device):
            before = self.affine(styles) * self.scale
            if self.demodulate:
                variance = before.square() @ self.weight.square().sum(dim=(2, 3)).T
                after = (variance + 1e-8).rsqrt() * gain
            else:
                before = before * gain
        maps = maps * before.to(maps.dtype)[:, :, None, None]
        if self.filter is None:
            maps = F.conv2d(maps, self.weight, padding=self.weight.shape[2] // 2)
        else:
            maps = self.filter(F.conv_transpose2d(maps, self.weight.transpose(0, 1), stride=2))
        return maps if after is None else maps * after.to(maps.dtype)[:, :, None, None]


def append_minibatch_deviation(maps: Tensor, size: int = GROUP) -> Tensor:
    """Append to ``maps`` (N, C, H, W) the mean standard deviation of each image's group (Karras et al. 2018, section 3).

    A group consists of ``size`` consecutive images, so that groups do not depend on the number of workers. If N is no multiple
    of ``size``, it has the largest smaller number of images that divides N or, if that is 1, the smallest larger one: an image
    alone has no deviation.
    """
    divisors = [count for count in range(2, len(maps) + 1) if len(maps) % count == 0]
    size = max((count for count in divisors if count <= size), default=min(divisors, default=1))
    groups = maps.float().reshape(-1, size, *maps.shape[1:])
    deviation = (groups.var(dim=1, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    column = deviation.to(maps.dtype).repeat_interleave(size)[:, None, None, None]
    return torch.cat([maps, column.expand(-1, 1, *maps.shape[2:])], dim=1)
