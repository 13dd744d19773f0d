"""Contact sheets: many small pictures in one PNG."""

import math
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from gan_core.files import replacing

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def contact_sheet(
    pictures: Tensor, *, columns: int | None = None, gap: int = 2, scale: int | None = None
) -> Image.Image:
    """Lay out uint8 pictures (n, C, H, W) row by row on a white sheet.

    Args:
        pictures: 1 to 4 channels; two are shown as grey (the second is left out).
        columns: pictures in a row; about square by default.
        gap: white pixels between pictures, after scaling.
        scale: whole-number enlargement (nearest neighbour, so pixels stay pixels); by default up to 64 px a picture.
    """
    array = pictures.cpu().numpy()
    n, channels, height, width = array.shape
    if channels == 2:
        array, channels = array[:, :1], 1
    columns = columns or math.ceil(math.sqrt(n))
    scale = scale or max(1, 64 // max(height, width))
    rows = math.ceil(n / columns)
    array = array.repeat(scale, axis=2).repeat(scale, axis=3)
    high, wide = height * scale + gap, width * scale + gap
    sheet = np.full((rows * high + gap, columns * wide + gap, channels), 255, np.uint8)
    for index, picture in enumerate(array):
        top, left = gap + index // columns * high, gap + index % columns * wide
        sheet[top : top + high - gap, left : left + wide - gap] = picture.transpose(1, 2, 0)
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet, MODES[channels])


def save_sheet(path: Path | str, pictures: Tensor, **layout: int | None) -> None:
    """Write :func:`contact_sheet` as a PNG, whole or not at all."""
    with replacing(path) as temporary:
        contact_sheet(pictures, **layout).save(temporary, format="PNG")  # type: ignore[arg-type]
