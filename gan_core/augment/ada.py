"""The transformations of adaptive discriminator augmentation (Karras et al. 2020, "Training Generative Adversarial
Networks with Limited Data", sections 2.2 and 2.3, appendix B): pixel blitting, general geometric and colour.

An image goes through each with a probability, the strength. As long as that is below 1, the generator learns the
distribution of images before augmentation and not after it ("non-leaking").
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gan_core.augment.diffaugment import fold, shift, split_alpha

UNIFORMS = (
    *("if_mirror", "if_turn", "if_shift"),
    *("if_scale", "if_before", "if_stretch", "if_after", "if_drift"),
    *("if_brightness", "if_contrast", "if_luma", "if_hue", "if_saturation"),
    *("mirror", "turn", "right", "down", "before", "after", "luma", "hue"),
)
"""The uniform numbers that an image needs, in the order of a table's columns."""
NORMALS = ("scale", "stretch", "drift_x", "drift_y", "brightness", "contrast", "saturation")
"""The normal numbers that an image needs, in the order of a table's columns."""

# The low-pass filter of the sym6 wavelet. It is orthogonal to itself shifted by any even number of places, so that
# doubling the resolution with it and halving it again gives back the very same image.
_LOWPASS = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
_TAPS = len(_LOWPASS)
_DELAY = sum(place * tap for place, tap in enumerate(_LOWPASS)) / sum(_LOWPASS)
_BEYOND = 3
"""Pixels beyond an edge that are read as they are, not as their mirror image: what halving the resolution looks at."""
_MARGIN = _BEYOND + 3
"""Pixels beyond an edge that doubling the resolution therefore needs."""


@dataclass(frozen=True, kw_only=True)
class Transformations:
    """What N images go through, each (N,); its neutral value where an image does not go through it."""

    mirror: Tensor
    """Whether left and right change places."""
    quarters: Tensor
    """Quarter turns anticlockwise, 0 to 3."""
    right: Tensor
    """Whole pixels, int64."""
    down: Tensor
    warp: Tensor
    """Whether an image goes through any of the general geometric ones, the next six."""
    scale: Tensor
    before: Tensor
    """Angle anticlockwise in radians, before the stretch."""
    stretch: Tensor
    """Factor of the width, and divisor of the height."""
    after: Tensor
    drift_x: Tensor
    """Pixels to the right, not whole."""
    drift_y: Tensor
    """Pixels down, not whole."""
    brightness: Tensor
    contrast: Tensor
    luma: Tensor
    """-1 where brightness is turned over, else 1."""
    hue: Tensor
    """Angle in radians."""
    saturation: Tensor


def sample_transformations(
    strength: Tensor, uniform: Tensor, normal: Tensor, height: int, width: int
) -> Transformations:
    """What images of ``height`` and ``width`` go through (appendix B gives the distributions).

    Mirroring and quarter turns draw from all possibilities, the one that changes nothing included. Images that are not
    square are not turned by quarters.

    Args:
        strength: probability of each transformation, a tensor without dimensions.
        uniform: numbers in [0, 1), (N, len(UNIFORMS)).
        normal: standard normal numbers, (N, len(NORMALS)).
    """
    u = dict(zip(UNIFORMS, uniform.unbind(1), strict=True))
    n = dict(zip(NORMALS, normal.unbind(1), strict=True))
    # Of the two rotations at least one happens with the probability that is asked for.
    one_rotation = 1 - (1 - strength).clamp_min(0).sqrt()
    drawn = {
        name: u[f"if_{name}"] < (one_rotation if name in ("before", "after") else strength)
        for name in (name.removeprefix("if_") for name in UNIFORMS if name.startswith("if_"))
    }

    def if_drawn(name: str, value: Tensor, neutral: float) -> Tensor:
        return torch.where(drawn[name], value, neutral)

    def angle(name: str) -> Tensor:
        return if_drawn(name, (u[name] * 2 - 1) * math.pi, 0.0)

    quarters = (if_drawn("turn", u["turn"], 0.0) * 4).long()
    return Transformations(
        mirror=drawn["mirror"] & (u["mirror"] < 0.5),
        quarters=quarters if height == width else torch.zeros_like(quarters),
        right=if_drawn("shift", ((u["right"] * 2 - 1) * (width / 8)).round(), 0.0).long(),
        down=if_drawn("shift", ((u["down"] * 2 - 1) * (height / 8)).round(), 0.0).long(),
        warp=drawn["scale"] | drawn["before"] | drawn["stretch"] | drawn["after"] | drawn["drift"],
        scale=if_drawn("scale", torch.exp2(0.2 * n["scale"]), 1.0),
        before=angle("before"),
        stretch=if_drawn("stretch", torch.exp2(0.2 * n["stretch"]), 1.0),
        after=angle("after"),
        drift_x=if_drawn("drift", n["drift_x"] * (width / 8), 0.0),
        drift_y=if_drawn("drift", n["drift_y"] * (height / 8), 0.0),
        brightness=if_drawn("brightness", 0.2 * n["brightness"], 0.0),
        contrast=if_drawn("contrast", torch.exp2(0.5 * n["contrast"]), 1.0),
        luma=if_drawn("luma", torch.where(u["luma"] < 0.5, -1.0, 1.0), 1.0),
        hue=angle("hue"),
        saturation=if_drawn("saturation", torch.exp2(n["saturation"]), 1.0),
    )


def ada(images: Tensor, strength: Tensor, uniform: Tensor, normal: Tensor, *, exact: bool = True) -> Tensor:
    """``images`` (N, C, H, W) transformed at random; :func:`choose` says what the numbers are for.

    ``exact``: with the same gradient at every call, also on a GPU.
    """
    does = sample_transformations(strength, uniform, normal, *images.shape[2:])
    images = turn(mirror(images, does.mirror), does.quarters)
    images = shift(images, does.right, does.down, mirror=True)
    images = torch.where(_each(does.warp), warp(images, does, exact=exact), images)
    return recolour(images, does)


# -- pixel blitting: pixels change places and keep their values --------------------------------------------------------


def mirror(images: Tensor, flags: Tensor) -> Tensor:
    """Those of ``images`` with left and right exchanged whose flag, (N,), is true."""
    return torch.where(_each(flags), images.flip(3), images)


def turn(images: Tensor, quarters: Tensor) -> Tensor:
    """Each of ``images`` turned anticlockwise by so many quarters, (N,); images that are not square stay as they are."""
    if images.shape[2] != images.shape[3]:
        return images
    images = torch.where(_each(quarters % 2 == 1), images.rot90(1, (2, 3)), images)
    return torch.where(_each(quarters >= 2), images.flip(2, 3), images)


# -- general geometric: one affine map, sampled at twice the resolution ------------------------------------------------


def warp(images: Tensor, does: Transformations, *, exact: bool = True) -> Tensor:
    """Each of ``images`` scaled, rotated, stretched, rotated and moved around its centre, in this order.

    The image is read, bilinearly, from one of twice the resolution, written at twice the resolution, and low-pass
    filtered both times: so neither blur nor aliasing tells the discriminator what was done. Beyond its edges the image
    goes on as its mirror image; far beyond them its finest detail is only nearly so, the filter being no mirror image of
    itself.
    """
    height, width = images.shape[2:]
    device, dtype = images.device, images.dtype
    doubled = _doubling(height, device, dtype) @ images @ _doubling(width, device, dtype).T
    # For each written pixel: where it is read, by the inverse map. Places are in pixels; (0, 0) is the image's centre.
    y = _written_places(height, device, dtype)[:, None] - does.drift_y.to(dtype).view(-1, 1, 1)
    x = _written_places(width, device, dtype) - does.drift_x.to(dtype).view(-1, 1, 1)
    x, y = _rotate(x, y, -does.after)
    scale, stretch = (value.to(dtype).view(-1, 1, 1) for value in (does.scale, does.stretch))
    x, y = _rotate(x / (scale * stretch), y * (stretch / scale), -does.before)
    places = torch.stack([_read_places(x, width), _read_places(y, height)], dim=3)
    moved = sampled(doubled, places, exact=exact)
    return _halving(height, device, dtype) @ moved @ _halving(width, device, dtype).T


def sampled(images: Tensor, places: Tensor, *, exact: bool = True) -> Tensor:
    """torch's grid_sample, bilinear and continued by the border; ``exact``: with the same gradient at every call.

    On a GPU torch adds up the gradient of what is read more than once in whatever order its threads come; an order costs
    the sorting of millions of places.
    """
    if exact and images.is_cuda:
        return _Sampled.apply(images, places)
    return F.grid_sample(images, places, **_SAMPLING)


_SAMPLING: Any = {"mode": "bilinear", "padding_mode": "border", "align_corners": False}


class _Sampled(torch.autograd.Function):
    """grid_sample of images (N, C, H, W) at places (N, h, w, 2) that take no gradient; can be differentiated once."""

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
                # This sum is sorted first, and so has an order.
                total.index_put_((pixels,), rows * (share_y * share_x).reshape(-1, 1), accumulate=True)
        return total.view(n, height, width, channels).permute(0, 3, 1, 2), None


def _rotate(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Points turned anticlockwise as seen in an image, whose y points down."""
    cosine, sine = (part.to(x.dtype).view(-1, 1, 1) for part in (angle.cos(), angle.sin()))
    return cosine * x + sine * y, cosine * y - sine * x


def _written_places(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Distances from the centre, in pixels, of all that :func:`_halving` takes."""
    return (torch.arange(2 * size - 2 + _TAPS, device=device, dtype=dtype) - _DELAY) / 2 - (size - 1) / 2


def _read_places(distance: Tensor, size: int) -> Tensor:
    """Where grid_sample finds what lies so many pixels from the centre in what :func:`_doubling` makes."""
    place = distance + size / 2  # from the image's edge
    mirrored = size - (place.remainder(2 * size) - size).abs()
    place = torch.where(distance.abs() <= size / 2 + _BEYOND, place, mirrored)
    index = 2 * (place - 0.5 + _MARGIN) + _DELAY - (_TAPS - 2)
    return (2 * index + 1) / _doubled(size) - 1


def _doubled(size: int) -> int:
    """Rows at twice the resolution, with a margin, for which every tap of the filter has a pixel."""
    return 2 * (size + 2 * _MARGIN) - _TAPS + 2


@functools.lru_cache(maxsize=32)
def _doubling(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix that doubles ``size`` rows and continues them beyond the edges as their mirror image.

    As a matrix, and not as a convolution, it is deterministic, sees no TF32, and takes images smaller than the margin.
    """
    with torch.inference_mode(False), torch.no_grad():
        pixels = fold(torch.arange(-_MARGIN, size + _MARGIN), size)
        whole = torch.zeros(2 * len(pixels) - 2 + _TAPS, size, dtype=torch.float64)
        for index, pixel in enumerate(pixels.tolist()):
            whole[2 * index : 2 * index + _TAPS, pixel] += math.sqrt(2) * torch.tensor(_LOWPASS, dtype=torch.float64)
        return whole[_TAPS - 2 : _TAPS - 2 + _doubled(size)].to(device, dtype)


@functools.lru_cache(maxsize=32)
def _halving(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix that makes ``size`` rows of twice as many and what the filter needs beyond them."""
    with torch.inference_mode(False), torch.no_grad():
        whole = torch.zeros(size, 2 * size - 2 + _TAPS, dtype=torch.float64)
        for row in range(size):
            whole[row, 2 * row : 2 * row + _TAPS] = torch.tensor(_LOWPASS, dtype=torch.float64) / math.sqrt(2)
        return whole.to(device, dtype)


# -- colour: one affine map of each pixel's colour ---------------------------------------------------------------------


def recolour(images: Tensor, does: Transformations) -> Tensor:
    """Each of ``images`` brighter, with more contrast, its luma turned over, its hue turned, more saturated.

    All act apart on a colour's grey part, along (1, 1, 1), and on the rest of it: brightness and luma on the first, hue
    and saturation on the second, contrast on both. So their product is a sum of three fixed matrices, and greyscale
    images, which have no rest, get what acts on grey. Alpha keeps its values.
    """
    colours, alpha = split_alpha(images)
    contrast, hue, saturation = (value.to(images.dtype) for value in (does.contrast, does.hue, does.saturation))
    grey_gain = contrast * does.luma.to(images.dtype)
    offset = (grey_gain * does.brightness.to(images.dtype)).view(-1, 1, 1, 1)
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
    """Projections on the grey axis and on the plane across it, and a quarter turn in that plane; (3, 3) each."""
    with torch.inference_mode(False), torch.no_grad():
        grey = torch.full((3, 3), 1 / 3, dtype=torch.float64)
        quarter = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / math.sqrt(3)
        rest = torch.eye(3, dtype=torch.float64) - grey
        return grey.to(device, dtype), rest.to(device, dtype), quarter.to(device, dtype)


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
