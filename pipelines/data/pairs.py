"""A picture and its condition, what it is to be made from: both brought to one shape, or the one derived from the other.

What is derived comes from the prepared pixels by whole numbers (:func:`gan_core.images.colour.lightness` by ones that
round the same everywhere), so the bytes are the same on any machine.
"""

import numpy as np
from PIL import Image

from gan_core.images import pictures
from gan_core.images.pictures import Fit, PictureError
from pipelines.settings.ingest import DERIVED, Pairing, Pairs

LOWRES = 4
"""``lowres`` makes a side this many times shorter."""
# Canny's two thresholds: shares of the picture's steepest gradient (a pale hand on white has edges too), and the least
# gradient that is one, in grey levels over four pixels' weight (Sobel's sums): noise has no edges.
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
    """The picture and its condition.

    Args:
        content: a picture file, or pixels: uint8 (C, H, W).
        partner: the condition's, where it is a file of its own.
        pairing: how the condition is come by.
        size: wanted height and width of both, pixels.
        channels: of the picture: 1, 3 or 4.
        mode: see :func:`gan_core.images.pictures.fit`; the same pixels of both are kept.

    Returns:
        uint8 (channels, height, width) and (pairing.channels, height, width).

    Raises:
        PictureError: as :func:`gan_core.images.pictures.decode`; ``unequal-pair`` where the shapes of the two differ.
    """
    if pairing.pairs in DERIVED:
        pixels = pictures.prepare(content, size=size, channels=channels, mode=mode)
        return pixels, _derived(pixels, content, pairing.pairs, mode)
    if partner is not None:
        target = pictures.as_picture(content, channels)
        try:
            condition = pictures.as_picture(partner, pairing.channels)
        except PictureError as error:
            raise PictureError(error.reason, f"its condition: {error.detail}") from error
    else:
        # Four channels hold what any picture has; each half gives up what its side does not want.
        left, right = _halves(pictures.as_picture(content, 4))
        target, condition = (right, left) if pairing.side == "first" else (left, right)
        target, condition = pictures.in_channels(target, channels), pictures.in_channels(condition, pairing.channels)
    target, condition = _of_one_size(target, condition)
    return pictures.fit(target, size, mode), pictures.fit(condition, size, mode)


def greyscale(pixels: np.ndarray) -> np.ndarray:
    """CIE L* of uint8 (3, H, W), scaled to 0..255: uint8 (1, H, W)."""
    from gan_core.images.colour import lightness

    return lightness(pixels)


def edges(pixels: np.ndarray) -> np.ndarray:
    """Edges after Canny (1986) as black lines on white: uint8 (C, H, W) to (1, H, W).

    Smoothed by a binomial filter of five; Sobel's gradient, thinned along its direction (one of four); weak edges stay
    where they hang together with strong ones. What is strong is measured by the picture's own steepest edge.
    """
    grey = np.pad(_grey(pixels), 3, mode="edge")
    for axis in (0, 1):
        grey = _binomial(grey, axis)  # one pixel of the border is left, 256 times the grey level
    across = (grey[:-2] + 2 * grey[1:-1] + grey[2:])[:, 2:] - (grey[:-2] + 2 * grey[1:-1] + grey[2:])[:, :-2]
    down = (grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:])[2:] - (grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:])[:-2]
    strength = across**2 + down**2
    thin = _thinned(strength, across, down)
    weak, kept = (
        thin & (strength * share**2 > strength.max()) & (strength > (256 * least) ** 2)
        for share, least in (_WEAK, _STRONG)
    )
    while True:
        grown = weak & _with_neighbours(kept)
        if (grown == kept).all():
            return np.where(kept, np.uint8(0), np.uint8(255))[None]
        kept = grown


def mask(pixels: np.ndarray) -> np.ndarray:
    """What stands out from the background, white on black: uint8 (C, H, W) to (1, H, W).

    The background's colour is the median of the border; how far from it is far, Otsu's threshold (1979) says.
    """
    values = pixels.astype(np.int64)
    border = np.concatenate([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], axis=1)
    background = np.sort(border, axis=1)[:, border.shape[1] // 2]
    distance = np.abs(values - background[:, None, None]).max(axis=0)
    return np.where(distance > _otsu(distance), np.uint8(255), np.uint8(0))[None]


def lowres(pixels: np.ndarray) -> np.ndarray:
    """uint8 (C, H, W), each side :data:`LOWRES` times shorter and back to its size, both bicubic."""
    picture = pictures.from_array(pixels)
    small = (max(1, picture.width // LOWRES), max(1, picture.height // LOWRES))
    bicubic = Image.Resampling.BICUBIC
    return pictures.to_array(picture.resize(small, bicubic).resize(picture.size, bicubic))


def _derived(pixels: np.ndarray, content: bytes | np.ndarray, how: Pairs, mode: Fit) -> np.ndarray:
    if how == "greyscale":
        return greyscale(pixels)
    if how == "edges":
        return edges(pixels)
    if how == "lowres":
        return lowres(pixels)
    clear = pictures.as_picture(content, 4)
    if clear.getchannel("A").getextrema()[0] == 255:
        return mask(pixels)
    # The artist has said what is background.
    alpha = pictures.fit(clear, (pixels.shape[1], pixels.shape[2]), mode)[3:]
    return np.where(alpha >= 128, np.uint8(255), np.uint8(0))


def _halves(picture: Image.Image) -> tuple[Image.Image, Image.Image]:
    width, height = picture.size
    middle = width // 2
    if width % 2:
        raise PictureError("unequal-pair", f"two halves of {height}x{middle} and {height}x{width - middle} pixels")
    return picture.crop((0, 0, middle, height)), picture.crop((middle, 0, width, height))


def _of_one_size(first: Image.Image, second: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The smaller one enlarged to the larger one's size, so that fitting keeps the same part of both."""
    if first.size == second.size:
        return first, second
    small, large = sorted((first.size, second.size), key=lambda size: size[0] * size[1])
    scale = max(small[0] / large[0], small[1] / large[1])
    # Of one shape, but for the rounding of whoever scaled one of them.
    if scale > 1 or any(abs(side * scale - other) >= 1 for side, other in zip(large, small, strict=True)):
        (columns, rows), (wide, high) = first.size, second.size
        raise PictureError("unequal-pair", f"{rows}x{columns} pixels where its condition has {high}x{wide}")
    lanczos = Image.Resampling.LANCZOS
    one, other = (picture if picture.size == large else picture.resize(large, lanczos) for picture in (first, second))
    return one, other


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Luma (Rec. 601) as whole numbers, int64 (H, W); transparent is white."""
    values = pixels.astype(np.int64)
    if len(values) == 4:
        alpha = values[3:]
        values = (values[:3] * alpha + 255 * (255 - alpha)) // 255
    return values[0] if len(values) == 1 else (299 * values[0] + 587 * values[1] + 114 * values[2]) // 1000


def _binomial(grey: np.ndarray, axis: int) -> np.ndarray:
    """The filter 1 4 6 4 1 along one axis, two pixels lost at each end."""
    size = grey.shape[axis] - 4
    return np.sum(
        [weight * np.take(grey, range(start, start + size), axis=axis) for start, weight in enumerate((1, 4, 6, 4, 1))],
        axis=0,
    )


def _thinned(strength: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Where the gradient is stronger than before it and no weaker than behind it, along its direction."""
    padded = np.pad(strength, 1)
    height, width = strength.shape

    def shifted(row: int, column: int) -> np.ndarray:
        return padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    wide, high = np.abs(across), np.abs(down)
    # 12/29 and 29/12: the tangents of 22.5 and 67.5 degrees.
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


def _with_neighbours(there: np.ndarray) -> np.ndarray:
    """``there`` and every pixel that touches it, also at a corner."""
    rows = np.pad(there, 1)
    rows = rows[:-2] | rows[1:-1] | rows[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def _otsu(values: np.ndarray) -> int:
    """The threshold in 0..255 that parts the values into two classes with the most variance between them."""
    counts = np.bincount(values.reshape(-1), minlength=256).astype(np.float64)
    below, total = np.cumsum(counts), counts.sum()
    moment = np.cumsum(counts * np.arange(256))
    apart = (moment[-1] * below - total * moment) ** 2
    weights = below * (total - below)
    return int(np.argmax(np.divide(apart, weights, out=np.zeros(256), where=weights > 0)))
