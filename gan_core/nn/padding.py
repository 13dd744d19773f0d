"""Borders by reflection, the same bytes at every call: torch's own adds up gradients in any order on a GPU."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Borders = tuple[int, int, int, int]
"""Pixels at the top, the bottom, the left and the right."""


def reflected(images: Tensor, borders: Borders) -> Tensor:
    """``images`` (N, C, H, W) with borders by reflection, the edge itself not repeated; it can be differentiated once.

    Each border is narrower than the side that it continues.
    """
    return _Reflected.apply(images, borders) if any(borders) else images


class ReflectionPad2d(nn.Module):
    """A border of ``width`` pixels by reflection on each side; it has no parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H + 2 width, W + 2 width)."""
        return reflected(images, (self.width,) * 4)


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
    """``images`` with borders along one side."""
    length, pieces = images.shape[side], [images]
    # No empty pieces: torch would take the memory layout from them.
    if before:
        pieces.insert(0, images.narrow(side, 1, before).flip(side))
    if after:
        pieces.append(images.narrow(side, length - 1 - after, after).flip(side))
    return torch.cat(pieces, dim=side) if before or after else images


def _folded(gradient: Tensor, side: int, before: int, after: int) -> Tensor:
    """What :func:`_along` is differentiated to: the borders' gradients are added to the pixels they are copies of."""
    if not before and not after:
        return gradient
    length = gradient.shape[side] - before - after
    inner = gradient.narrow(side, before, length).clone(memory_format=torch.preserve_format)
    inner.narrow(side, 1, before).add_(gradient.narrow(side, 0, before).flip(side))
    inner.narrow(side, length - 1 - after, after).add_(gradient.narrow(side, before + length, after).flip(side))
    return inner


def padded(images: Tensor, multiple: int, least: int = 1) -> tuple[Tensor, Borders]:
    """``images`` (N, C, H, W) reflected to sides that ``multiple`` divides and of ``least`` at least, and the borders.

    A side that is too short to be reflected far enough is reflected again.
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
            images = reflected(images, (*steps, 0, 0) if side == 2 else (0, 0, *steps))
            before, after = before - steps[0], after - steps[1]
    return images, borders


def cropped(images: Tensor, borders: Borders) -> Tensor:
    """``images`` (N, C, H, W) without the borders that :func:`padded` gave."""
    top, bottom, left, right = borders
    return images[:, :, top : images.shape[2] - bottom, left : images.shape[3] - right]


def _missing(length: int, multiple: int, least: int) -> tuple[int, int]:
    """Pixels that a side lacks, before and after it."""
    missing = -(-max(length, least) // multiple) * multiple - length
    return missing // 2, missing - missing // 2
