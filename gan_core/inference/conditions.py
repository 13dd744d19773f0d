"""Convert picture files into the input of an image-to-image generator, and its output into pictures."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, PngImagePlugin

from gan_core.errors import SettingsError
from gan_core.families import FAMILIES, ImageShape
from gan_core.images.colour import lightness
from gan_core.images.pictures import as_picture, to_array
from gan_core.images.sandbox import decode, prepare

if TYPE_CHECKING:
    from gan_core.inference.generator import Generator

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Condition:
    """Input of an image-to-image generator, at the size of the picture."""

    pixels: np.ndarray
    """uint8 (C', H, W)."""
    alpha: np.ndarray | None
    """Alpha channel of the picture, uint8 (H, W); None if it is opaque, or if the generator's output has an alpha channel."""


def read_condition(content: bytes | np.ndarray, shape: ImageShape) -> Condition:
    """Convert a picture into the input of a generator of ``shape``.

    Channels are converted as in ingestion; transparency is composited on white unless the generator has an alpha channel.
    For colourisation, the lightness of any picture is used. Other derived inputs (edges, masks, low resolution) must already
    be in that form.

    Args:
        content: content of a picture file, or pixels, uint8 (C, H, W) with 1, 3 or 4 channels.
        shape: shape of the generator.

    Returns:
        The picture, upright by its EXIF orientation.

    Raises:
        PictureError: the picture cannot be read.
    """
    clear = decode(content, 4) if isinstance(content, bytes) else _in_channels(content, 4)
    alpha = clear[3] if shape.channels != 4 and clear[3].min() < 255 else None
    if shape.derived == "greyscale":
        return Condition(lightness(_in_channels(clear, 3)), alpha)
    return Condition(_in_channels(clear, shape.condition_channels or shape.channels), alpha)


def read_reference(content: bytes | np.ndarray, generator: "Generator") -> np.ndarray:
    """Read a style reference for ``generator``, cropped and resized to its training size.

    Args:
        content: content of a picture file, or pixels, uint8 (C, H, W) with 1, 3 or 4 channels.
        generator: a generator that takes styles from pictures.

    Returns:
        uint8 (C, height, width), upright; transparency is composited on white unless the generator has an alpha channel.

    Raises:
        SettingsError: the generator does not take styles from pictures.
        PictureError: the picture cannot be read.
    """
    generator.check_takes_styles()
    shape = generator.info["shape"]
    size = (shape["height"], shape["width"])
    # Copy, because an unchanged picture shares Pillow's memory, which is read-only.
    return prepare(content, size=size, channels=shape["channels"], mode="crop").copy()


def with_alpha(pixels: np.ndarray, alpha: np.ndarray | None = None) -> Image.Image:
    """Convert pixels, uint8 (C, H, W) with 1 to 4 channels, to a picture; append ``alpha``, uint8 (H, W), if given."""
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[None]])
    rows = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Image.fromarray(rows[..., 0] if len(pixels) == 1 else rows, _MODES[len(pixels)])


def encode(
    picture: Image.Image,
    suffix: str = ".png",
    chunk: PngImagePlugin.PngInfo | None = None,
    *,
    compress_level: int = 6,
) -> bytes:
    """Encode a picture in the format of ``suffix``: .png (with zlib's ``compress_level``), .jpg, .jpeg or .webp (lossless).

    ``chunk`` is the text chunk of a PNG; other formats have none.

    Raises:
        SettingsError: the picture has an alpha channel and the format is JPEG.
    """
    content = io.BytesIO()
    if suffix in (".jpg", ".jpeg"):
        if picture.mode in ("LA", "RGBA"):
            raise SettingsError("This picture is transparent, which JPEG does not support. Write a .png or .webp file.")
        picture.save(content, format="JPEG", quality=95, subsampling=0)
    elif suffix == ".webp":
        picture.save(content, format="WEBP", lossless=True)
    else:
        picture.save(content, format="PNG", compress_level=compress_level, pnginfo=chunk)
    return content.getvalue()


def domain_names(generator: "Generator") -> list[str]:
    """Names of the domains or attributes that a generator translates between; empty if it has one direction."""
    return [str(name) for name in generator.info.get("attributes") or generator.info.get("classes") or ()]


def target_index(generator: "Generator", target: str | None) -> int | None:
    """Index of the domain or attribute ``target``, a name or a number; None if the generator needs no target.

    Raises:
        SettingsError: the generator does not translate, the domain is unknown, or a target is missing or not supported.
    """
    if not generator.translates:
        raise SettingsError(
            f"{generator.info['family']} generates images from noise and cannot translate pictures. Use gantry sample."
        )
    known = sorted({to for _, to in generator.directions if to is not None})
    if not known:
        if target is None:
            return None
        raise SettingsError(
            f"target {target}: {generator.info['family']} has only one direction. Leave out the target."
        )
    names = domain_names(generator)
    listed = ", ".join(f"{names[to]} ({to})" if to < len(names) else str(to) for to in known)
    what = "attribute" if generator.info.get("attributes") else "domain"
    if target is None:
        # For unpaired data, the default target is domain B.
        if "unpaired" in FAMILIES[generator.info["family"]].kinds:
            return None
        raise SettingsError(f"The target is missing. Name the {what} to translate to, one of {listed}.")
    numbers = {str(index): index for index in known}  # Python refuses to read numbers of thousands of digits
    index = names.index(target) if target in names else numbers.get(target, -1)
    if index not in known:
        raise SettingsError(f"target {target}: unknown {what}. Choose one of {listed}.")
    return index


def _in_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    return to_array(as_picture(pixels, channels)).copy()  # Pillow's memory is read-only, which torch warns about
