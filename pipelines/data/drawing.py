"""SVG files as pixels."""

import io

import numpy as np
from PIL import Image

from gan_core import pictures
from gan_core.pictures import PictureError

SUFFIX = ".svg"
LONGER_SIDE = 256
"""Pixels along a drawing's longer side, whatever size it states: a drawing has no size of its own."""


def draw(content: bytes) -> np.ndarray:
    """Draw an SVG file: uint8 (4, H, W), transparent where nothing is drawn.

    Texts are left out: their shapes would be those of the machine's fonts.

    Raises:
        PictureError: not-an-image, corrupt.
    """
    import resvg_py  # only drawings need it

    try:
        text = content.decode("utf-8-sig")
        drawn = resvg_py.svg_to_bytes(svg_string=text, width=LONGER_SIDE, height=LONGER_SIDE, skip_system_fonts=True)
    except UnicodeDecodeError:
        raise PictureError("not-an-image", "an SVG file is text in UTF-8, and this is none") from None
    except ValueError as error:
        raise PictureError("corrupt", " ".join(f"SVG: {error}".split())[:200]) from error
    with Image.open(io.BytesIO(drawn)) as picture:
        return pictures.to_array(picture.convert("RGBA"))
