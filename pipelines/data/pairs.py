"""Prepare pairs of a picture and its condition (the picture to translate from): fit both, or compute the condition.

Conditions are computed from the prepared pixels with integers, or with floats that round alike everywhere
(:func:`gan_core.images.colour.lightness`), so that every machine gives the same bytes.
"""

import numpy as np
from PIL import Image

from gan_core.images import pictures
from gan_core.images.pictures import Fit, PictureError
from pipelines.settings.ingest import DERIVED, Pairing, Pairs

LOWRES = 4
"""Factor by which :func:`lowres` shrinks each side."""
# Canny's thresholds of weak and strong edges, (divisor, minimum): a gradient must exceed the largest gradient of the picture
# divided by the divisor, so that pale pictures have edges, and the minimum in Sobel's units, so that noise has none.
_WEAK, _STRONG = (15, 10), (6, 24)


def prepare_pair(
    content: bytes | np.ndarray,
    partner: bytes | np.ndarray | None,
    pairing: Pairing,
    *,
    size: tuple[int, int],
    channels: int,
    mode: Fit,
) -> tuple[np.ndarray, np.ndarray]:
    """Prepare a picture and its condition.

    Args:
        content: a picture file, or pixels: uint8 (C, H, W).
        partner: the condition, as a picture file or pixels; None if it is a half of ``content`` or computed from it.
        pairing: where the condition comes from.
        size: height and width of both results, pixels.
        channels: channels of the picture: 1, 3 or 4.
        mode: see :func:`gan_core.images.pictures.fit`; the same part of both is kept.

    Returns:
        The picture, uint8 (channels, height, width), and the condition, uint8 (pairing.channels, height, width).

    Raises:
        PictureError: as :func:`gan_core.images.pictures.decode`; ``unequal-pair`` if their aspect ratios differ.
    """
    if pairing.pairs in DERIVED:
        pixels = pictures.prepare(content, size=size, channels=channels, mode=mode)
        return pixels, _compute_condition(pixels, content, pairing.pairs, mode)
    if partner is not None:
        target = pictures.as_picture(content, channels)
        try:
            condition = pictures.as_picture(partner, pairing.channels)
        except PictureError as error:
            raise of_condition(error) from error
    else:
        # Split RGBA, which every picture converts to without loss; then convert each half to its own channels.
        left, right = _halves(pictures.as_picture(content, 4))
        target, condition = (right, left) if pairing.side == "first" else (left, right)
        target, condition = (
            pictures.convert_channels(target, channels),
            pictures.convert_channels(condition, pairing.channels),
        )
    target, condition = _equalize_sizes(target, condition)
    return pictures.fit(target, size, mode), pictures.fit(condition, size, mode)


def of_condition(error: PictureError) -> PictureError:
    """The error of a pair whose condition has the flaw ``error``: rejects have the name of the picture."""
    return PictureError(error.reason, f"its condition: {error.detail}")


def greyscale(pixels: np.ndarray) -> np.ndarray:
    """CIE L* of uint8 (3, H, W), scaled to 0..255: uint8 (1, H, W)."""
    from gan_core.images.colour import lightness

    return lightness(pixels)


def edges(pixels: np.ndarray) -> np.ndarray:
    """Edges after Canny (1986) as black lines on white: uint8 (C, H, W) to (1, H, W).

    A binomial filter of width 5 smooths the picture. Sobel's gradient is thinned along its direction (one of four). Weak edges
    are kept if they are connected to strong ones. The thresholds are relative to the largest gradient of the picture.
    """
    grey = np.pad(_grey(pixels), 3, mode="edge")
    for axis in (0, 1):
        grey = _binomial(grey, axis)  # one pixel of the padding remains; the scale is 256 grey levels
    across = (grey[:-2] + 2 * grey[1:-1] + grey[2:])[:, 2:] - (grey[:-2] + 2 * grey[1:-1] + grey[2:])[:, :-2]
    down = (grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:])[2:] - (grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:])[:-2]
    strength = across**2 + down**2
    thin = _non_maximum_suppression(strength, across, down)
    weak, kept = (
        thin & (strength * share**2 > strength.max()) & (strength > (256 * least) ** 2)
        for share, least in (_WEAK, _STRONG)
    )
    while True:
        grown = weak & _dilate(kept)
        if (grown == kept).all():
            return np.where(kept, np.uint8(0), np.uint8(255))[None]
        kept = grown


def mask(pixels: np.ndarray) -> np.ndarray:
    """Silhouette of the foreground, white on black: uint8 (C, H, W) to (1, H, W).

    The colour of the background is the median of the border. Otsu's threshold (1979) on the distance from that colour separates
    the foreground.
    """
    values = pixels.astype(np.int64)
    border = np.concatenate([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], axis=1)
    background = np.sort(border, axis=1)[:, border.shape[1] // 2]
    distance = np.abs(values - background[:, None, None]).max(axis=0)
    return np.where(distance > _otsu(distance), np.uint8(255), np.uint8(0))[None]


def lowres(pixels: np.ndarray) -> np.ndarray:
    """Shrink each side by :data:`LOWRES` and enlarge it again, bicubic: uint8 (C, H, W) to the same shape."""
    picture = pictures.from_array(pixels)
    small = (max(1, picture.width // LOWRES), max(1, picture.height // LOWRES))
    bicubic = Image.Resampling.BICUBIC
    return pictures.to_array(picture.resize(small, bicubic).resize(picture.size, bicubic))


def _compute_condition(pixels: np.ndarray, content: bytes | np.ndarray, how: Pairs, mode: Fit) -> np.ndarray:
    if how == "greyscale":
        return greyscale(pixels)
    if how == "edges":
        return edges(pixels)
    if how == "lowres":
        return lowres(pixels)
    size = (pixels.shape[1], pixels.shape[2])
    clear = pictures.as_picture(content, 4, near=size)
    opaque = clear.getchannel("A").getextrema()[0] == 255
    if opaque and mode != "pad":
        return mask(pixels)
    alpha = pictures.fit(clear, size, mode)[3:]
    if not opaque:  # transparent pixels are the background
        return np.where(alpha >= 128, np.uint8(255), np.uint8(0))
    # The border of a padded picture is its own, not that of the black bars beside it.
    high, wide = (
        slice(there[0], there[-1] + 1) for there in (np.flatnonzero(alpha[0].any(axis=axis)) for axis in (1, 0))
    )
    silhouette = np.zeros_like(alpha)
    silhouette[:, high, wide] = mask(pixels[:, high, wide])
    return silhouette


def _halves(picture: Image.Image) -> tuple[Image.Image, Image.Image]:
    width, height = picture.size
    middle = width // 2
    if width % 2:
        raise PictureError("unequal-pair", f"two halves of {height}x{middle} and {height}x{width - middle} pixels")
    return picture.crop((0, 0, middle, height)), picture.crop((middle, 0, width, height))


def _equalize_sizes(first: Image.Image, second: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Enlarge the smaller picture to the size of the larger one, so that fitting keeps the same part of both."""
    if first.size == second.size:
        return first, second
    small, large = sorted((first.size, second.size), key=lambda size: size[0] * size[1])
    scale = max(small[0] / large[0], small[1] / large[1])
    # Allow for the rounding of a program that scaled one of them.
    if scale > 1 or any(abs(side * scale - other) >= 1 for side, other in zip(large, small, strict=True)):
        (columns, rows), (wide, high) = first.size, second.size
        raise PictureError("unequal-pair", f"{rows}x{columns} pixels, but its condition has {high}x{wide}")
    lanczos = Image.Resampling.LANCZOS
    one, other = (picture if picture.size == large else picture.resize(large, lanczos) for picture in (first, second))
    return one, other


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Luma (Rec. 601), int64 (H, W), rounded down; transparent pixels are white."""
    values = pixels.astype(np.int64)
    if len(values) == 4:
        alpha = values[3:]
        values = (values[:3] * alpha + 255 * (255 - alpha)) // 255
    return values[0] if len(values) == 1 else (299 * values[0] + 587 * values[1] + 114 * values[2]) // 1000


def _binomial(grey: np.ndarray, axis: int) -> np.ndarray:
    """Filter with the weights 1 4 6 4 1 along one axis, which removes two pixels at each end."""
    size = grey.shape[axis] - 4
    return np.sum(
        [weight * np.take(grey, range(start, start + size), axis=axis) for start, weight in enumerate((1, 4, 6, 4, 1))],
        axis=0,
    )


def _non_maximum_suppression(strength: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Mask of the local maxima of the gradient along its direction (non-maximum suppression)."""
    padded = np.pad(strength, 1)
    height, width = strength.shape

    def shifted(row: int, column: int) -> np.ndarray:
        return padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    wide, high = np.abs(across), np.abs(down)
    # 12/29 and 29/12 are nearly the tangents of 22.5 and 67.5 degrees.
    level, upright = 29 * high < 12 * wide, 12 * high > 29 * wide
    falling = ~level & ~upright & ((across > 0) == (down > 0))
    kept = np.zeros(strength.shape, dtype=bool)
    for where, (row, column) in (
        (level, (0, 1)),
        (upright, (1, 0)),
        (falling, (1, 1)),
        (~level & ~upright & ~falling, (1, -1)),
    ):
        kept |= where & (strength > shifted(-row, -column)) & (strength >= shifted(row, column))
    return kept


def _dilate(there: np.ndarray) -> np.ndarray:
    """Dilate the mask ``there`` by one pixel, also diagonally."""
    rows = np.pad(there, 1)
    rows = rows[:-2] | rows[1:-1] | rows[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def _otsu(values: np.ndarray) -> int:
    """The threshold in 0..255 that maximizes the variance between the values up to it and the values above it."""
    counts = np.bincount(values.reshape(-1), minlength=256).astype(np.float64)
    below, total = np.cumsum(counts), counts.sum()
    moment = np.cumsum(counts * np.arange(256))
    apart = (moment[-1] * below - total * moment) ** 2
    weights = below * (total - below)
    return int(np.argmax(np.divide(apart, weights, out=np.zeros(256), where=weights > 0)))
