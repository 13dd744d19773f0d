"""Convert image tensors between uint8 and [-1, 1]."""

import torch
from torch import Tensor

from gan_core.errors import CheckpointError


def from_uint8(pixels: Tensor) -> Tensor:
    """Convert uint8 images (N, C, H, W) to float32 in [-1, 1], in memory format channels last."""
    return pixels.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Convert images in [-1, 1] to uint8, rounded to nearest and clipped; contiguous."""
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8).contiguous()


def finished_pictures(images: Tensor) -> Tensor:
    """:func:`to_uint8` of the images of a finished generator, on the CPU.

    Raises:
        CheckpointError: an image has NaN, which would become black.
    """
    if images.isnan().any():
        raise CheckpointError(
            "This generator makes pictures with NaN: its weights are so large that they overflow, because training diverged. "
            "Use an earlier checkpoint, or train it again."
        )
    return to_uint8(images).cpu()
