"""Images as tensors: uint8 to [-1, 1] and back."""

import torch
from torch import Tensor


def from_uint8(pixels: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1], channels last."""
    return pixels.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, rounded to nearest."""
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8).contiguous()
