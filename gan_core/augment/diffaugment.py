"""DiffAugment: differentiable augmentation by colour, translation and cutout (Zhao et al. 2020, section 3)."""

import torch
from torch import Tensor

UNIFORMS = ("brightness", "saturation", "contrast", "right", "down", "cut_x", "cut_y")
"""Names of the uniform numbers that an image needs, in the order of the columns."""


def diffaugment(images: Tensor, uniform: Tensor) -> Tensor:
    """Change the colours of each image, translate it by up to an eighth of its size, and cut out half its height and width.

    Args:
        images: (N, C, H, W) in [-1, 1]; the result may exceed this range. Alpha, the last of 2 or 4 channels, is translated
            and cut out but keeps its values otherwise.
        uniform: numbers in [0, 1), (N, len(UNIFORMS)).
    """
    height, width = images.shape[2:]
    draw = dict(zip(UNIFORMS, uniform.to(images.dtype).unbind(1), strict=True))
    images = recolour(images, draw["brightness"] - 0.5, 2 * draw["saturation"], draw["contrast"] + 0.5)
    right, down = _whole_number(draw["right"], _eighth(width)), _whole_number(draw["down"], _eighth(height))
    images = shift(images, right, down, mirror=False)
    # The centre may be anywhere from edge to edge, so that part of the rectangle may be outside the image.
    return cutout(images, (draw["cut_x"] * (width + 1)).long(), (draw["cut_y"] * (height + 1)).long())


def recolour(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Add ``brightness``, then scale by ``saturation`` around each pixel's grey, then by ``contrast`` around the image's mean.

    All three parameters are (N,). Saturation does not change images without three colour channels.
    """
    colours, alpha = split_alpha(images)
    grey = colours.mean(dim=1, keepdim=True)
    mean = grey.mean(dim=(2, 3), keepdim=True)
    brightness, contrast = _each(brightness), _each(contrast)
    # The product of the three steps.
    level = brightness + (1 - contrast) * mean
    if colours.shape[1] == 3:
        saturation = _each(saturation)
        level = torch.addcmul(level, grey, contrast * (1 - saturation))
        contrast = contrast * saturation
    return torch.cat([torch.addcmul(level, colours, contrast), alpha], dim=1)


def shift(images: Tensor, right: Tensor, down: Tensor, *, mirror: bool) -> Tensor:
    """Translate each image by whole pixels, int64 (N,). Vacated pixels are 0 (mid-grey), or with ``mirror`` reflected.

    The reflection repeats the outermost pixels.
    """
    height, width = images.shape[2:]
    sources, insides = [], []
    for size, by in ((height, down), (width, right)):
        source = torch.arange(size, device=images.device) - by[:, None]
        insides.append((source >= 0) & (source < size))
        sources.append(reflect_index(source, size) if mirror else source.clamp(0, size - 1))
    if mirror:
        # One dimension after the other: a pixel is then read at most twice, and the sum of two gradients is deterministic.
        rows, columns = sources[0][:, None, :, None].expand_as(images), sources[1][:, None, None, :].expand_as(images)
        return images.gather(2, rows).gather(3, columns)
    # Both dimensions at once, with one index for all channels. Pixels read more than once are masked: their gradient is 0.
    pixels = (sources[0][:, :, None] * width + sources[1][:, None, :]).flatten(1)
    moved = images.flatten(2).gather(2, pixels[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
    return moved * (insides[0][:, None, :, None] & insides[1][:, None, None, :])


def reflect_index(index: Tensor, size: int) -> Tensor:
    """Map any integer pixel index into 0..size-1 by reflection at both outer edges, repeating the outermost pixels."""
    index = index.remainder(2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def cutout(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Set a rectangle of half the height and width to 0 in each image, centred at the pixel edges ``x``, ``y``, int64 (N,)."""
    inside = []
    for size, centre in ((images.shape[2], y), (images.shape[3], x)):
        place = torch.arange(size, device=images.device) - (centre - size // 4)[:, None]
        inside.append((place >= 0) & (place < (size + 1) // 2))
    hidden = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(hidden, 0)


def split_alpha(images: Tensor) -> tuple[Tensor, Tensor]:
    """Split images into colour channels and alpha: the last of 2 or 4 channels, otherwise no channel."""
    channels = images.shape[1]
    colours = channels - 1 if channels in (2, 4) else channels
    return images[:, :colours], images[:, colours:]


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _eighth(size: int) -> int:
    return (size + 4) // 8


def _whole_number(uniform: Tensor, most: int) -> Tensor:
    """Convert uniform numbers in [0, 1) to whole numbers from -``most`` to ``most``, all equally likely."""
    return (uniform * (2 * most + 1)).long() - most
