"""Reflection padding with a deterministic gradient: on a GPU, torch's own sums gradients in an arbitrary order."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Borders = tuple[int, int, int, int]
"""Border widths in pixels: top, bottom, left, right."""


def reflection_pad(images: Tensor, borders: Borders) -> Tensor:
    """Pad ``images`` (N, C, H, W) by reflection, without repeating the edge. It can be differentiated once.

    Each border must be narrower than the image along that side.
    """
    return _Reflected.apply(images, borders) if any(borders) else images


class ReflectionPad2d(nn.Module):
    """Pad by ``width`` pixels of reflection on each side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, images: Tensor) -> Tensor:
        """Pad (N, C, H, W) to (N, C, H + 2 width, W + 2 width)."""
        return reflection_pad(images, (self.width,) * 4)


class _Reflected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, borders: Borders) -> Tensor:
        ctx.borders = borders
        return _along(_along(images, 2, *borders[:2]), 3, *borders[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        top, bottom, left, right = ctx.borders
        return _folded(_folded(gradients[0], 3, left, right), 2, top, bottom), None


def _along(images: Tensor, side: int, before: int, after: int) -> Tensor:
    """Pad ``images`` along one dimension."""
    length, pieces = images.shape[side], [images]
    # No empty pieces: torch.cat would take the memory format from them.
    if before:
        pieces.insert(0, images.narrow(side, 1, before).flip(side))
    if after:
        pieces.append(images.narrow(side, length - 1 - after, after).flip(side))
    return torch.cat(pieces, dim=side) if before or after else images


def _folded(gradient: Tensor, side: int, before: int, after: int) -> Tensor:
    """The gradient of :func:`_along`: adds the gradients of the borders to those of the pixels they copy."""
    if not before and not after:
        return gradient
    length = gradient.shape[side] - before - after
    inner = gradient.narrow(side, before, length).clone(memory_format=torch.preserve_format)
    inner.narrow(side, 1, before).add_(gradient.narrow(side, 0, before).flip(side))
    inner.narrow(side, length - 1 - after, after).add_(gradient.narrow(side, before + length, after).flip(side))
    return inner


def pad_to_multiple(images: Tensor, multiple: int, least: int = 1) -> tuple[Tensor, Borders]:
    """Pad ``images`` (N, C, H, W) by reflection to sides that are multiples of ``multiple`` and at least ``least`` pixels.

    A side that is too short is reflected repeatedly.

    Returns:
        The padded images, and the borders to undo it with :func:`crop_borders`.
    """
    borders = (*_missing(images.shape[2], multiple, least), *_missing(images.shape[3], multiple, least))
    for side, before, after in ((2, *borders[:2]), (3, *borders[2:])):
        while before or after:
            length = images.shape[side]
            if length == 1:
                images = torch.cat([images, images], dim=side)
                before, after = (before, after - 1) if after else (before - 1, after)
                continue
            steps = min(before, length - 1), min(after, length - 1)
            images = reflection_pad(images, (*steps, 0, 0) if side == 2 else (0, 0, *steps))
            before, after = before - steps[0], after - steps[1]
    return images, borders


def crop_borders(images: Tensor, borders: Borders) -> Tensor:
    """Remove the ``borders`` of ``images`` (N, C, H, W), as returned by :func:`pad_to_multiple`."""
    top, bottom, left, right = borders
    return images[:, :, top : images.shape[2] - bottom, left : images.shape[3] - right]


def _missing(length: int, multiple: int, least: int) -> tuple[int, int]:
    """Pixels to add to a side, before and after it."""
    missing = -(-max(length, least) // multiple) * multiple - length
    return missing // 2, missing - missing // 2
