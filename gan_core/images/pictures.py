"""Decode a picture file to uint8 pixels of a given shape, and encode pixels as PNG.

Pixels are used as stored: no colour management, the first frame of an animation, 16-bit values scaled to 8 bits.
:mod:`gan_core.images.corrections` corrects what Pillow reads wrongly.
"""

import logging
import struct
import zlib
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from gan_core.errors import DataError, PictureError
from gan_core.images.corrections import correct_pixels, explain_unreadable, open_corrected, to_8_bits
from gan_core.images.jpeg import load_jpeg

log = logging.getLogger(__name__)

Fit = Literal["crop", "pad", "stretch"]

MAX_PIXELS = 89_478_485
"""Largest width times height. A larger picture is refused before decoding: 256 MiB of RGB, where Pillow warns too."""

# Raster formats that Pillow reads itself. Formats that it passes to other programs (EPS, WMF) are excluded on purpose.
FORMATS = (
    "PNG",
    "JPEG",
    "GIF",
    "WEBP",
    "BMP",
    "TIFF",
    "PPM",
    "AVIF",
    "JPEG2000",
    "TGA",
    "ICO",
    "DIB",
    "PCX",
    "SGI",
    "DDS",
)

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_PNG_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
_ORIENTATION = 0x0112
# EXIF 2.3, table 6: the operation that turns a picture with this orientation upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}
# Smallest multiples of the target size to which a JPEG is read reduced, and to which any picture is box-reduced.
_READING_GAP = 2
_REDUCING_GAP = 3.0


def decode(content: bytes | np.ndarray, channels: int) -> np.ndarray:
    """Decode a picture file at its own size.

    Args:
        content: a file in one of :data:`FORMATS`, or pixels: uint8 (C, H, W) with 1, 3 or 4 channels.
        channels: 1 grey, 3 RGB, 4 RGBA. Without a fourth channel, transparency is composed on white.

    Returns:
        uint8 of shape (channels, H, W), turned upright according to its EXIF orientation.

    Raises:
        PictureError: empty, not-an-image, truncated, corrupt, too-many-pixels or unsupported.
    """
    return to_array(as_picture(content, channels))


def fit(picture: np.ndarray | Image.Image, size: tuple[int, int], mode: Fit) -> np.ndarray:
    """Fit a picture into ``size`` (height, width).

    Args:
        picture: uint8 (C, H, W), or a Pillow picture of mode L, RGB or RGBA.
        size: target height and width in pixels.
        mode: ``crop`` scales the picture to cover the size and cuts out the centre; ``pad`` shrinks a larger picture, never
            enlarges, and centres it on black (on transparency, with an alpha channel); ``stretch`` ignores the aspect
            ratio. Scaling is Lanczos; a picture that already fits keeps its pixels.

    Returns:
        uint8 of shape (C, height, width).
    """
    return to_array(_fitted(from_array(picture) if isinstance(picture, np.ndarray) else picture, size, mode))


def prepare(
    content: bytes | np.ndarray, *, size: tuple[int, int], channels: int, mode: Fit, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode and fit a picture; large JPEGs are read at a reduced size.

    Args:
        content: a picture file, or pixels: uint8 (C, H, W) with 1, 3 or 4 channels.
        size: target height and width in pixels.
        channels: 1, 3 or 4.
        mode: see :func:`fit`.
        max_pixels: a picture with more pixels is refused before decoding.

    Returns:
        uint8 of shape (channels, height, width).

    Raises:
        PictureError: as :func:`decode`.
    """
    return to_array(_fitted(as_picture(content, channels, near=size, max_pixels=max_pixels), size, mode))


def as_picture(
    content: bytes | np.ndarray,
    channels: int,
    *,
    near: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Like :func:`open_picture`, but also takes pixels: uint8 (C, H, W) with 1, 3 or 4 channels."""
    if isinstance(content, np.ndarray):
        return convert_channels(from_array(content), channels)
    return open_picture(content, channels, near=near, max_pixels=max_pixels)


def open_picture(
    content: bytes, channels: int, *, near: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode a picture file to an upright Pillow picture of mode L, RGB or RGBA.

    With ``near`` (height, width), a JPEG may be decoded at a reduced size that is still large enough to be scaled down to
    ``near`` without loss of quality.
    """
    with _opened(content, max_pixels) as picture:
        try:
            if picture.format in ("JPEG", "MPO"):
                turn, full = _turn(picture), picture.size
                if near is not None:
                    rows, columns = near[::-1] if turn in _SIDEWAYS else near
                    picture.draft(None, (columns * _READING_GAP, rows * _READING_GAP))
                loaded = load_jpeg(picture, content, full)
            else:
                picture.load()
                turn = _turn(picture)  # some formats have their EXIF block after the pixels
                loaded = correct_pixels(picture, content)
            upright = convert_channels(loaded, channels)
            if turn is not None:
                upright = upright.transpose(turn)
        except PictureError:
            raise
        except MemoryError as error:
            raise too_much_memory() from error
        except Exception as error:  # see _broken
            raise _broken(error) from error
    return upright


def read_size(content: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Read the stored width and height of a picture file from its header; raises PictureError as :func:`decode` does."""
    with _opened(content, max_pixels) as picture:
        return picture.size


def _opened(content: bytes, max_pixels: int) -> Image.Image:
    """Open a picture: read its header and check its size."""
    if not content:
        raise PictureError("empty", "the file has no content")
    try:
        picture = open_corrected(content, FORMATS)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise explain_unreadable(content) from None
    except Image.DecompressionBombError as error:
        raise PictureError("too-many-pixels", str(error)) from error
    except MemoryError as error:
        raise too_much_memory() from error
    except Exception as error:  # see _broken
        raise _broken(error) from error
    width, height = picture.size
    if width * height > max_pixels:
        picture.close()
        raise PictureError("too-many-pixels", f"{width} x {height} is more than {max_pixels} pixels")
    return picture


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 (C, H, W) with 1, 3 or 4 channels as PNG (ISO/IEC 15948). Equal pixels give equal bytes.

    Pillow's encoder takes two to three times as long on small pictures (measured on Fashion-MNIST, where encoding is most of
    ingestion: 105 against 40 microseconds) for files that are 0 to 15 % smaller.
    """
    _check_pixels(pixels)
    channels, height, width = pixels.shape
    rows = np.empty((height, 1 + width * channels), dtype=np.uint8)
    packed = pixels[0] if channels == 1 else pixels.transpose(1, 2, 0).reshape(height, width * channels)
    # The first byte of a row is its filter: 0 none, 1 difference to the pixel on the left. Colour pictures are mostly
    # photographs, whose neighbouring pixels are similar; grey ones are mostly drawn, and their flat areas deflate well.
    rows[:, 0] = 0 if channels == 1 else 1
    rows[:, 1:] = packed
    if channels > 1:
        rows[:, 1 + channels :] -= packed[:, :-channels]
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOUR_TYPES[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
        for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.data, 1)), (b"IEND", b""))
    )


def from_array(pixels: np.ndarray) -> Image.Image:
    """Convert uint8 (C, H, W) with 1, 3 or 4 channels to a Pillow picture."""
    _check_pixels(pixels)
    return Image.fromarray(pixels[0] if pixels.shape[0] == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def to_array(picture: Image.Image) -> np.ndarray:
    """Convert a Pillow picture of mode L, RGB or RGBA to uint8 (C, H, W)."""
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _check_pixels(pixels: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[0] not in _MODES:
        raise DataError(f"Pixels must be uint8 (1|3|4, H, W), got {pixels.dtype} {pixels.shape}.")


def too_much_memory() -> PictureError:
    """Return the error for a picture whose decoder runs out of memory."""
    return PictureError("too-much-memory", "decoding it needs more memory than a decoder may use, or than is free")


def _broken(error: Exception) -> PictureError:
    """Return the error for a broken file. Pillow's readers raise nearly anything (struct.error, zlib.error, ...)."""
    words = f"{type(error).__name__}: {error}"
    lower = words.lower()
    if isinstance(error, EOFError) or "truncated" in lower or "premature" in lower:
        reason = "truncated"
    else:
        reason = "unsupported" if "unsupported" in lower or "not supported" in lower else "corrupt"
    return PictureError(reason, " ".join(words.split())[:200])


def convert_channels(picture: Image.Image, channels: int) -> Image.Image:
    """Convert ``picture`` to 8 bits in mode L, RGB or RGBA. Without an alpha channel, transparency is composed on white."""
    if channels not in _MODES:
        raise DataError(f"Cannot decode a picture to {channels} channels. Use 1, 3 or 4.")
    mode = _MODES[channels]
    if picture.mode == mode and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _to_8_bits(picture)
    elif picture.mode in ("LAB", "HSV"):
        raise PictureError("unsupported", f"pixels in the colour space {picture.mode}; convert the picture to sRGB")
    if picture.has_transparency_data and channels < 4:
        clear = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", clear.size, (255, 255, 255, 255)), clear)
    return picture.convert(mode)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """Return the operation that turns the picture upright, or None. An EXIF block that cannot be read is ignored."""
    try:
        return _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, KeyError, OSError, struct.error) as error:
        log.debug("EXIF block ignored: %s", error)
        return None


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """Convert grey of 16 bits (0..65535, also stored in 32 bits) or of floats (0..1) to 8 bits, rounded."""
    values = np.asarray(picture)
    if picture.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise PictureError(
                "unsupported",
                "floating-point pixels outside 0..1, so that the white level is unknown; scale them to 0..1",
            )
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if values.min() < 0 or values.max() > 65535:
        low, high = values.min(), values.max()
        raise PictureError("unsupported", f"whole numbers from {low} to {high}, outside 0..65535; scale them")
    return Image.fromarray(to_8_bits(values))


def _fitted(picture: Image.Image, size: tuple[int, int], mode: Fit) -> Image.Image:
    (height, width), (columns, rows) = size, picture.size
    if (rows, columns) == (height, width):
        return picture
    if mode == "stretch":
        return _scaled(picture, (width, height), None)
    if mode == "pad":
        scale = min(1.0, height / rows, width / columns)
        if scale < 1:
            picture = _scaled(picture, (max(1, round(columns * scale)), max(1, round(rows * scale))), None)
        canvas = Image.new(picture.mode, (width, height), 0)
        canvas.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
        return canvas
    scale = max(height / rows, width / columns)
    if scale == 1:
        left, top = (columns - width) // 2, (rows - height) // 2
        return picture.crop((left, top, left + width, top + height))
    wide, high = min(columns, width / scale), min(rows, height / scale)
    left_edge, top_edge = (columns - wide) / 2, (rows - high) / 2
    return _scaled(picture, (width, height), (left_edge, top_edge, left_edge + wide, top_edge + high))


def _scaled(picture: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None) -> Image.Image:
    return picture.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=_REDUCING_GAP)
