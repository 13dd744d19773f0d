"""The transformations of adaptive discriminator augmentation (Karras et al. 2020, "Training Generative Adversarial
Networks with Limited Data", sections 2.2 and 2.3, appendix B): pixel blitting, general geometric and colour.

Each transformation is applied to an image with a probability, the strength. As long as it is below 1, the generator learns
the distribution of images before augmentation ("non-leaking"). Above about 0.8, augmentations may leak in practice.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gan_core.augment.diffaugment import reflect_index, shift, split_alpha

UNIFORMS = (
    *("if_mirror", "if_turn", "if_shift"),
    *("if_scale", "if_before", "if_stretch", "if_after", "if_drift"),
    *("if_brightness", "if_contrast", "if_luma", "if_hue", "if_saturation"),
    *("mirror", "turn", "right", "down", "before", "after", "luma", "hue"),
)
"""Names of the uniform numbers that an image needs, in the order of the columns."""
NORMALS = ("scale", "stretch", "drift_x", "drift_y", "brightness", "contrast", "saturation")
"""Names of the normal numbers that an image needs, in the order of the columns."""

# The low-pass filter of the sym6 wavelet. It is orthogonal to its shifts by any even number of taps, so that doubling the
# resolution with it and halving it again restores the image exactly.
_LOWPASS = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
_TAPS = len(_LOWPASS)
_DELAY = sum(place * tap for place, tap in enumerate(_LOWPASS)) / sum(_LOWPASS)
_BEYOND = 3
"""Pixels beyond an edge that the filter for halving needs. Up to this distance, positions are not mirrored."""
_MARGIN = _BEYOND + 3
"""Pixels beyond an edge that doubling the resolution needs for this."""


COUNTING_DEVICES = ("cpu",)
"""Types of devices on which the number of images that drew a transformation can be read without waiting for the device."""


@dataclass(frozen=True, kw_only=True)
class Transformations:
    """Parameters of the transformations of N images, each (N,). A transformation that is not applied has its neutral value."""

    mirror: Tensor
    """Whether to flip left and right, bool."""
    quarters: Tensor
    """Quarter turns anticlockwise, 0 to 3, int64."""
    right: Tensor
    """Translation to the right in whole pixels, int64."""
    down: Tensor
    """Translation downwards in whole pixels, int64."""
    warp: Tensor
    """Whether any of the general geometric transformations, the next six fields, is applied."""
    scale: Tensor
    """Factor of width and height."""
    before: Tensor
    """Rotation before the stretch: angle anticlockwise in radians."""
    stretch: Tensor
    """Factor of the width, and divisor of the height."""
    after: Tensor
    """Rotation after the stretch: angle anticlockwise in radians."""
    drift_x: Tensor
    """Fractional translation to the right in pixels."""
    drift_y: Tensor
    """Fractional translation downwards in pixels."""
    brightness: Tensor
    """Added to each colour channel."""
    contrast: Tensor
    """Factor of each colour channel."""
    luma: Tensor
    """-1 where luma is inverted, else 1."""
    hue: Tensor
    """Rotation of the hue: angle in radians."""
    saturation: Tensor
    """Factor of the colour's distance to grey."""


def sample_transformations(
    strength: Tensor, uniform: Tensor, normal: Tensor, height: int, width: int
) -> Transformations:
    """Sample the transformations of images of ``height`` and ``width`` pixels, with the distributions of appendix B.

    Flips and quarter turns include the identity. Images that are not square get no quarter turns.

    Args:
        strength: probability of each transformation, a scalar tensor.
        uniform: numbers in [0, 1), (N, len(UNIFORMS)).
        normal: standard normal numbers, (N, len(NORMALS)).
    """
    u = dict(zip(UNIFORMS, uniform.unbind(1), strict=True))
    n = dict(zip(NORMALS, normal.unbind(1), strict=True))
    # The probability of each rotation, such that at least one of the two is applied with probability ``strength``.
    one_rotation = 1 - (1 - strength).clamp_min(0).sqrt()
    applied = {
        name: u[f"if_{name}"] < (one_rotation if name in ("before", "after") else strength)
        for name in (name.removeprefix("if_") for name in UNIFORMS if name.startswith("if_"))
    }

    def if_applied(name: str, value: Tensor, neutral: float) -> Tensor:
        return torch.where(applied[name], value, neutral)

    def angle(name: str) -> Tensor:
        return if_applied(name, (u[name] * 2 - 1) * math.pi, 0.0)

    quarters = (if_applied("turn", u["turn"], 0.0) * 4).long()
    return Transformations(
        mirror=applied["mirror"] & (u["mirror"] < 0.5),
        quarters=quarters if height == width else torch.zeros_like(quarters),
        right=if_applied("shift", ((u["right"] * 2 - 1) * (width / 8)).round(), 0.0).long(),
        down=if_applied("shift", ((u["down"] * 2 - 1) * (height / 8)).round(), 0.0).long(),
        warp=applied["scale"] | applied["before"] | applied["stretch"] | applied["after"] | applied["drift"],
        scale=if_applied("scale", torch.exp2(0.2 * n["scale"]), 1.0),
        before=angle("before"),
        stretch=if_applied("stretch", torch.exp2(0.2 * n["stretch"]), 1.0),
        after=angle("after"),
        drift_x=if_applied("drift", n["drift_x"] * (width / 8), 0.0),
        drift_y=if_applied("drift", n["drift_y"] * (height / 8), 0.0),
        brightness=if_applied("brightness", 0.2 * n["brightness"], 0.0),
        contrast=if_applied("contrast", torch.exp2(0.5 * n["contrast"]), 1.0),
        luma=if_applied("luma", torch.where(u["luma"] < 0.5, -1.0, 1.0), 1.0),
        hue=angle("hue"),
        saturation=if_applied("saturation", torch.exp2(n["saturation"]), 1.0),
    )


def ada(images: Tensor, strength: Tensor, uniform: Tensor, normal: Tensor, *, exact: bool = True) -> Tensor:
    """Transform images at random.

    Args:
        images: (N, C, H, W). Alpha, the last of 2 or 4 channels, keeps its values and moves with the image.
        strength: probability of each transformation, a scalar tensor.
        uniform: numbers in [0, 1), (N, len(UNIFORMS)).
        normal: standard normal numbers, (N, len(NORMALS)).
        exact: whether the gradient must be deterministic on a GPU as well, which is slower.
    """
    params = sample_transformations(strength, uniform, normal, *images.shape[2:])
    images = turn(mirror(images, params.mirror), params.quarters)
    images = shift(images, params.right, params.down, mirror=True)
    return recolour(_warp_drawn(images, params, exact=exact), params)


# -- pixel blitting: moves pixels without changing their values --------------------------------------------------------


def mirror(images: Tensor, flags: Tensor) -> Tensor:
    """Flip the images whose flag in ``flags`` (N,) is true left to right."""
    return torch.where(_each(flags), images.flip(3), images)


def turn(images: Tensor, quarters: Tensor) -> Tensor:
    """Rotate each image anticlockwise by ``quarters`` (N,) quarter turns. Images that are not square do not change."""
    if images.shape[2] != images.shape[3]:
        return images
    images = torch.where(_each(quarters % 2 == 1), images.rot90(1, (2, 3)), images)
    return torch.where(_each(quarters >= 2), images.flip(2, 3), images)


# -- general geometric: one affine map, sampled at twice the resolution ------------------------------------------------


def warp(images: Tensor, params: Transformations, *, exact: bool = True) -> Tensor:
    """Scale, rotate, stretch, rotate again and translate each image around its centre, in this order.

    The resolution is doubled before the bilinear sampling and halved after it, each time with a low-pass filter, so that
    neither blur nor aliasing shows the discriminator what was applied. Beyond its edges the image continues as its mirror
    image. Far beyond them the finest detail is only approximately mirrored, because the filter is not symmetric.
    """
    height, width = images.shape[2:]
    device, dtype = images.device, images.dtype
    doubled = _doubling(height, device, dtype) @ images @ _doubling(width, device, dtype).T
    # The position that each output pixel is read from, by the inverse map: in pixels from the image's centre.
    y = _written_places(height, device, dtype)[:, None] - params.drift_y.to(dtype).view(-1, 1, 1)
    x = _written_places(width, device, dtype) - params.drift_x.to(dtype).view(-1, 1, 1)
    x, y = _rotate(x, y, -params.after)
    scale, stretch = (value.to(dtype).view(-1, 1, 1) for value in (params.scale, params.stretch))
    x, y = _rotate(x / (scale * stretch), y * (stretch / scale), -params.before)
    places = torch.stack([_read_places(x, width), _read_places(y, height)], dim=3)
    moved = grid_sample(doubled, places, exact=exact)
    return _halving(height, device, dtype) @ moved @ _halving(width, device, dtype).T


def _warp_drawn(images: Tensor, params: Transformations, *, exact: bool) -> Tensor:
    """Warp the images that drew it. Except on :data:`COUNTING_DEVICES`, all are computed, and then chosen from."""
    if images.device.type not in COUNTING_DEVICES:
        return torch.where(_each(params.warp), warp(images, params, exact=exact), images)
    rows = params.warp.nonzero().flatten()
    if len(rows) == len(images):
        return warp(images, params, exact=exact)
    if not len(rows):
        return images
    drawn = {name: value[rows] for name, value in vars(params).items()}
    return images.index_copy(0, rows, warp(images[rows], Transformations(**drawn), exact=exact))


def grid_sample(images: Tensor, places: Tensor, *, exact: bool = True) -> Tensor:
    """torch's grid_sample, bilinear with border padding; with ``exact``, its gradient is deterministic on a GPU.

    On a GPU, torch sums the gradients of pixels that are read more than once in an arbitrary order. A fixed order costs the
    sorting of millions of positions.
    """
    if exact and images.is_cuda:
        return _ExactGridSample.apply(images, places)
    return F.grid_sample(images, places, **_SAMPLING)


_SAMPLING: Any = {"mode": "bilinear", "padding_mode": "border", "align_corners": False}


class _ExactGridSample(torch.autograd.Function):
    """grid_sample of images (N, C, H, W) at places (N, h, w, 2), without a gradient for places. Differentiable once."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = images.shape
        return F.grid_sample(images, places, **_SAMPLING)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        (places,) = ctx.saved_tensors
        n, channels, height, width = ctx.shape
        x = (((places[..., 0] + 1) * width - 1) / 2).clamp(0, width - 1).flatten(1)
        y = (((places[..., 1] + 1) * height - 1) / 2).clamp(0, height - 1).flatten(1)
        left, top = x.floor(), y.floor()
        image = torch.arange(n, device=places.device)[:, None] * (height * width)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, channels)
        total = gradient.new_zeros(n * height * width, channels)
        for down, share_y in ((0, top + 1 - y), (1, y - top)):
            for right, share_x in ((0, left + 1 - x), (1, x - left)):
                row, column = (top + down).clamp(max=height - 1).long(), (left + right).clamp(max=width - 1).long()
                pixels = (image + row * width + column).flatten()
                # index_put_ sorts before it sums, so the order is fixed.
                total.index_put_((pixels,), rows * (share_y * share_x).reshape(-1, 1), accumulate=True)
        return total.view(n, height, width, channels).permute(0, 3, 1, 2), None


def _rotate(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate points anticlockwise, as seen in an image, where y points down."""
    cosine, sine = (part.to(x.dtype).view(-1, 1, 1) for part in (angle.cos(), angle.sin()))
    return cosine * x + sine * y, cosine * y - sine * x


def _written_places(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Distances from the centre, in pixels, of the rows that :func:`_halving` takes."""
    return (torch.arange(2 * size - 2 + _TAPS, device=device, dtype=dtype) - _DELAY) / 2 - (size - 1) / 2


def _read_places(distance: Tensor, size: int) -> Tensor:
    """Convert distances from the centre, in pixels, to grid_sample's coordinates in the output of :func:`_doubling`."""
    place = distance + size / 2  # from the image's edge
    mirrored = size - (place.remainder(2 * size) - size).abs()
    place = torch.where(distance.abs() <= size / 2 + _BEYOND, place, mirrored)
    index = 2 * (place - 0.5 + _MARGIN) + _DELAY - (_TAPS - 2)
    return (2 * index + 1) / _doubled(size) - 1


def _doubled(size: int) -> int:
    """Number of rows at twice the resolution, with the margin, for which every tap of the filter has a pixel."""
    return 2 * (size + 2 * _MARGIN) - _TAPS + 2


@functools.lru_cache(maxsize=32)
def _doubling(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix that doubles the resolution of ``size`` rows and continues them beyond the edges by reflection.

    Unlike a convolution, a matrix is deterministic, is not affected by TF32 in cuDNN, and takes images smaller than the margin.
    """
    with torch.inference_mode(False), torch.no_grad():
        pixels = reflect_index(torch.arange(-_MARGIN, size + _MARGIN), size)
        whole = torch.zeros(2 * len(pixels) - 2 + _TAPS, size, dtype=torch.float64)
        for index, pixel in enumerate(pixels.tolist()):
            whole[2 * index : 2 * index + _TAPS, pixel] += math.sqrt(2) * torch.tensor(_LOWPASS, dtype=torch.float64)
        return whole[_TAPS - 2 : _TAPS - 2 + _doubled(size)].to(device, dtype)


@functools.lru_cache(maxsize=32)
def _halving(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix that halves the resolution to ``size`` rows. Its input has the extra rows that the filter needs at the edges."""
    with torch.inference_mode(False), torch.no_grad():
        whole = torch.zeros(size, 2 * size - 2 + _TAPS, dtype=torch.float64)
        for row in range(size):
            whole[row, 2 * row : 2 * row + _TAPS] = torch.tensor(_LOWPASS, dtype=torch.float64) / math.sqrt(2)
        return whole.to(device, dtype)


# -- colour: one affine map of each pixel's colour ---------------------------------------------------------------------


def recolour(images: Tensor, params: Transformations) -> Tensor:
    """Apply brightness, contrast, luma inversion, hue rotation and saturation, in this order.

    They act separately on the grey part of a colour, along (1, 1, 1), and on its remainder: brightness and luma on the
    first, hue and saturation on the second, contrast on both. Their product is therefore a weighted sum of three fixed
    matrices, and greyscale images get only what acts on grey. Alpha keeps its values.
    """
    colours, alpha = split_alpha(images)
    contrast, hue, saturation = (value.to(images.dtype) for value in (params.contrast, params.hue, params.saturation))
    grey_gain = contrast * params.luma.to(images.dtype)
    offset = (grey_gain * params.brightness.to(images.dtype)).view(-1, 1, 1, 1)
    if colours.shape[1] == 3:
        grey, rest, quarter = _colour_parts(images.device, images.dtype)
        rest_gain = contrast * saturation
        gains = torch.stack([grey_gain, rest_gain * hue.cos(), rest_gain * hue.sin()], dim=1)[:, :, None, None]
        matrix = gains[:, 0] * grey + gains[:, 1] * rest + gains[:, 2] * quarter
        colours = (matrix @ colours.flatten(2)).view_as(colours) + offset
    else:
        colours = colours * grey_gain.view(-1, 1, 1, 1) + offset
    return torch.cat([colours, alpha], dim=1)


@functools.lru_cache(maxsize=8)
def _colour_parts(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Projections on the grey axis and on the plane orthogonal to it, and a quarter turn in that plane; (3, 3) each."""
    with torch.inference_mode(False), torch.no_grad():
        grey = torch.full((3, 3), 1 / 3, dtype=torch.float64)
        quarter = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / math.sqrt(3)
        rest = torch.eye(3, dtype=torch.float64) - grey
        return grey.to(device, dtype), rest.to(device, dtype), quarter.to(device, dtype)


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
