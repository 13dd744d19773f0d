"""Instance norm, each picture by its own statistics: the same for any batch and any number of workers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class InstanceNorm2d(nn.InstanceNorm2d):
    """torch's instance norm with a learnt scale and shift, kept channels last, with statistics in float32.

    torch 2.13's own copies to another memory layout and back, and on a CPU its gradients are wrong where one picture's
    output gets a channels-last gradient. This one takes half the time there. It can be differentiated once.
    """

    def __init__(self, maps: int, *, eps: float = 1e-5) -> None:
        """For ``maps`` feature maps."""
        super().__init__(maps, eps=eps, affine=True)

    def forward(self, input: Tensor) -> Tensor:
        """Normalised ``input``, (N, maps, H, W); maps of one pixel become the shift alone."""
        return _InstanceNorm.apply(input, self.weight, self.bias, self.eps)


def normalised(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """``maps`` (N, C, H, W), each of mean 0 and variance 1; as :class:`InstanceNorm2d` without scale and shift."""
    ones = torch.ones(maps.shape[1], device=maps.device)
    return _InstanceNorm.apply(maps, ones, torch.zeros_like(ones), eps)


class _InstanceNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        # Two plain sums: torch.var_mean takes ten times as long on channels-last maps.
        deviation = maps - _mean(maps).to(maps.dtype)
        inverse = torch.rsqrt(_mean(deviation * deviation) + eps)
        ctx.save_for_backward(deviation, inverse, scale)
        by = (inverse * scale[:, None, None]).to(maps.dtype)
        return torch.addcmul(shift[:, None, None].to(maps.dtype), deviation, by)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        deviation, inverse, scale = ctx.saved_tensors
        (gradient,) = gradients
        gradient = gradient.to(deviation.dtype)
        by_shift = _mean(gradient)
        by_scale = _mean(gradient * deviation) * inverse
        factor = inverse * scale[:, None, None]
        by_maps = torch.addcmul(
            (-factor * by_shift).to(deviation.dtype), deviation, (-factor * inverse * by_scale).to(deviation.dtype)
        )
        by_maps = torch.addcmul(by_maps, gradient, factor.to(deviation.dtype))
        pixels = deviation.shape[2] * deviation.shape[3]
        return by_maps, by_scale.sum(dim=(0, 2, 3)) * pixels, by_shift.sum(dim=(0, 2, 3)) * pixels, None


def _mean(maps: Tensor) -> Tensor:
    """The mean over each map, in float32 (float64 stays): (N, C, 1, 1)."""
    dtype = torch.promote_types(maps.dtype, torch.float32)
    return maps.sum(dim=(2, 3), keepdim=True, dtype=dtype) / (maps.shape[2] * maps.shape[3])
