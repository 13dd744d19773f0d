"""Instance norm: each image by its own statistics, so that it does not depend on the batch or the number of workers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class InstanceNorm2d(nn.InstanceNorm2d):
    """Instance norm with a learnt scale and shift. It keeps the channels-last format and takes statistics in float32.

    That of torch 2.13 copies to another memory format and back, and on a CPU its gradients are wrong if the output of a single
    image gets a channels-last gradient. This one takes half the time on a CPU. It can be differentiated once.
    """

    def __init__(self, maps: int, *, eps: float = 1e-5) -> None:
        """Create the layer for ``maps`` feature maps."""
        super().__init__(maps, eps=eps, affine=True)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input`` (N, maps, H, W). Maps of a single pixel become the shift."""
        return _InstanceNorm.apply(input, self.weight, self.bias, self.eps)


def instance_norm(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise each of ``maps`` (N, C, H, W) to mean 0 and variance 1: :class:`InstanceNorm2d` without scale and shift."""
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
    """The mean over each map in float32, or in float64 for float64: (N, C, 1, 1)."""
    dtype = torch.promote_types(maps.dtype, torch.float32)
    return maps.sum(dim=(2, 3), keepdim=True, dtype=dtype) / (maps.shape[2] * maps.shape[3])
