"""Differentiable augmentation by colour, translation and cutout (Zhao et al. 2020, section 3)."""

import torch
from torch import Tensor

NUMBERS = ("brightness", "saturation", "contrast", "right", "down", "cut_x", "cut_y")
"""The uniform numbers that an image needs, in the order of a table's columns."""


def diffaugment(images: Tensor, uniform: Tensor) -> Tensor:
    """Each of ``images`` in other colours, moved by up to an eighth and with a square of half its size cut out.

    Args:
        images: (N, C, H, W) in [-1, 1]; the result may lie outside. Alpha, the last of 2 or 4 channels, keeps its
            values: it is moved and cut alone.
        uniform: numbers in [0, 1), (N, len(NUMBERS)).
    """
    height, width = images.shape[2:]
    draw = dict(zip(NUMBERS, uniform.to(images.dtype).unbind(1), strict=True))
    images = recolour(images, draw["brightness"] - 0.5, 2 * draw["saturation"], draw["contrast"] + 0.5)
    right, down = _whole_number(draw["right"], _eighth(width)), _whole_number(draw["down"], _eighth(height))
    images = shift(images, right, down, mirror=False)
    # The square's centre may lie anywhere from edge to edge, so part of the square may lie outside.
    return cutout(images, (draw["cut_x"] * (width + 1)).long(), (draw["cut_y"] * (height + 1)).long())


def recolour(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Add ``brightness``, then scale by ``saturation`` around each pixel's grey, then by ``contrast`` around the mean.

    Saturation needs three colours and leaves other images alone. All three factors are (N,).
    """
    colours, alpha = split_alpha(images)
    grey = colours.mean(dim=1, keepdim=True)
    mean = grey.mean(dim=(2, 3), keepdim=True)
    brightness, contrast = _each(brightness), _each(contrast)
    # The three steps one after the other, multiplied out.
    level = brightness + (1 - contrast) * mean
    if colours.shape[1] == 3:
        saturation = _each(saturation)
        level = torch.addcmul(level, grey, contrast * (1 - saturation))
        contrast = contrast * saturation
    return torch.cat([torch.addcmul(level, colours, contrast), alpha], dim=1)


def shift(images: Tensor, right: Tensor, down: Tensor, *, mirror: bool) -> Tensor:
    """Each image moved by whole pixels, int64 (N,); what comes in at its edges is 0 or its own mirror image.

    0 is mid-grey. The mirror stands at the outer edge of the outermost pixels: they are seen twice.
    """
    height, width = images.shape[2:]
    sources, insides = [], []
    for size, by in ((height, down), (width, right)):
        source = torch.arange(size, device=images.device) - by[:, None]
        insides.append((source >= 0) & (source < size))
        sources.append(fold(source, size) if mirror else source.clamp(0, size - 1))
    if mirror:
        # One side after the other: a pixel is then read twice at most, and the sum of two gradients has no order.
        rows, columns = sources[0][:, None, :, None].expand_as(images), sources[1][:, None, None, :].expand_as(images)
        return images.gather(2, rows).gather(3, columns)
    # Both sides at once, with one index for all channels. What is read more than once is hidden: its gradient is 0.
    pixels = (sources[0][:, :, None] * width + sources[1][:, None, :]).flatten(1)
    moved = images.flatten(2).gather(2, pixels[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
    return moved * (insides[0][:, None, :, None] & insides[1][:, None, None, :])


def fold(index: Tensor, size: int) -> Tensor:
    """Where whole-numbered places are found between mirrors at both outer edges of ``size`` pixels."""
    index = index.remainder(2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def cutout(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Each image with a rectangle of half its height and width around pixel edge (``x``, ``y``), (N,), set to 0."""
    inside = []
    for size, centre in ((images.shape[2], y), (images.shape[3], x)):
        place = torch.arange(size, device=images.device) - (centre - size // 4)[:, None]
        inside.append((place >= 0) & (place < (size + 1) // 2))
    hidden = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(hidden, 0)


def split_alpha(images: Tensor) -> tuple[Tensor, Tensor]:
    """Colour channels, and the alpha channel that images of 2 or 4 channels have (no channel otherwise)."""
    channels = images.shape[1]
    colours = channels - 1 if channels in (2, 4) else channels
    return images[:, :colours], images[:, colours:]


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _eighth(size: int) -> int:
    return (size + 4) // 8


def _whole_number(uniform: Tensor, most: int) -> Tensor:
    """A whole number from -``most`` to ``most``, each as likely."""
    return (uniform * (2 * most + 1)).long() - most
