"""Contact sheets: a grid of pictures in one PNG."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin
from torch import Tensor

from gan_core.files import atomic_write

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def contact_sheet(
    pictures: Tensor, *, columns: int | None = None, gap: int = 2, scale: int | None = None
) -> Image.Image:
    """Lay out pictures row by row on a white sheet.

    Args:
        pictures: uint8 (N, C, H, W) with 1 to 4 channels. Of 2 channels only the first is shown, as grey.
        columns: pictures per row; by default the sheet is about square.
        gap: white pixels between pictures, after scaling.
        scale: whole-number enlargement with nearest-neighbour sampling; by default up to 64 px per picture.
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


def save_sheet(
    path: Path | str, pictures: Tensor, *, chunk: PngImagePlugin.PngInfo | None = None, **layout: int | None
) -> None:
    """Write the :func:`contact_sheet` of ``pictures`` to ``path`` as a PNG, atomically; ``chunk``: text chunk of the PNG."""
    with atomic_write(path) as temporary:
        contact_sheet(pictures, **layout).save(temporary, format="PNG", pnginfo=chunk)  # type: ignore[arg-type]
