"""From a picture file to what a translating generator is given, and from its answer back to a picture."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gan_core.errors import SettingsError
from gan_core.families import FAMILIES, ImageShape
from gan_core.images.bounded import decode, prepare
from gan_core.images.colour import lightness
from gan_core.images.pictures import as_picture, to_array

if TYPE_CHECKING:
    from gan_core.inference.generator import Generator

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Condition:
    """A picture as training saw its like, at its own size."""

    pixels: np.ndarray
    """uint8 (C', H, W): what the generator is given."""
    alpha: np.ndarray | None
    """Its transparency, uint8 (H, W); None where it is opaque, or where the generator makes transparency itself."""


def read_condition(content: bytes | np.ndarray, shape: ImageShape) -> Condition:
    """Make of a picture what a generator of ``shape`` was trained to translate.

    Channels are converted as ingestion does (transparency is composed on white where the generator has no channel for
    it). For colourisation any picture will do: its lightness is taken. What was derived otherwise (edges, a mask, a
    picture of low resolution) is expected as it is.

    Args:
        content: a picture file, or pixels: uint8 (1|3|4, H, W).
        shape: the generator's.

    Returns:
        The picture upright, whatever its EXIF orientation.

    Raises:
        PictureError: it cannot be read.
    """
    clear = decode(content, 4) if isinstance(content, bytes) else _in_channels(content, 4)
    alpha = clear[3] if shape.channels != 4 and clear[3].min() < 255 else None
    if shape.derived == "greyscale":
        return Condition(lightness(_in_channels(clear, 3)), alpha)
    return Condition(_in_channels(clear, shape.condition_channels or shape.channels), alpha)


def read_reference(content: bytes | np.ndarray, generator: "Generator") -> np.ndarray:
    """The picture whose style ``generator`` is to take, cropped and resized to what it was trained on.

    Args:
        content: a picture file, or pixels: uint8 (1|3|4, H, W).
        generator: one that takes styles from pictures.

    Returns:
        uint8 (C, height, width), upright; transparency is composed on white where there is no channel for it.

    Raises:
        SettingsError: the generator takes no style from a picture.
        PictureError: the picture cannot be read.
    """
    generator.check_takes_styles()
    shape = generator.info["shape"]
    size = (shape["height"], shape["width"])
    # A copy: where nothing had to be changed the pixels are Pillow's own, and read-only.
    return prepare(content, size=size, channels=shape["channels"], mode="crop").copy()


def with_alpha(pixels: np.ndarray, alpha: np.ndarray | None = None) -> Image.Image:
    """The picture of ``pixels``, uint8 (1|2|3|4, H, W), with the transparency ``alpha``, uint8 (H, W), of its source."""
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[None]])
    rows = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Image.fromarray(rows[..., 0] if len(pixels) == 1 else rows, _MODES[len(pixels)])


def encode(picture: Image.Image, suffix: str = ".png") -> bytes:
    """A picture as a file of the kind that ``suffix`` names: .png, .jpg, .jpeg or .webp, the last without loss.

    Raises:
        SettingsError: the picture is transparent and the kind is JPEG.
    """
    content = io.BytesIO()
    if suffix in (".jpg", ".jpeg"):
        if picture.mode in ("LA", "RGBA"):
            raise SettingsError("A JPEG holds no transparency, and this picture has some: write a .png or .webp.")
        picture.save(content, format="JPEG", quality=95, subsampling=0)
    elif suffix == ".webp":
        picture.save(content, format="WEBP", lossless=True)
    else:
        picture.save(content, format="PNG")
    return content.getvalue()


def domain_names(generator: "Generator") -> list[str]:
    """Names of the domains, or of the attributes, that a generator translates between; none where it has one direction."""
    return [str(name) for name in generator.info.get("attributes") or generator.info.get("classes") or ()]


def target_index(generator: "Generator", target: str | None) -> int | None:
    """The domain (or attribute) that ``target``, a name or a number, means; None where the generator knows by itself.

    Raises:
        SettingsError: the generator makes images from noise, has one direction only, knows no such domain or cannot do
            without one; names those that it knows.
    """
    if not generator.translates:
        raise SettingsError(
            f"{generator.info['family']} makes images from noise and translates none: gantry sample draws from it."
        )
    known = sorted({to for _, to in generator.directions if to is not None})
    if not known:
        if target is None:
            return None
        raise SettingsError(
            f"target {target}: {generator.info['family']} has one direction only; leave the target out."
        )
    names = domain_names(generator)
    listed = ", ".join(f"{names[to]} ({to})" if to < len(names) else str(to) for to in known)
    what = "attribute" if generator.info.get("attributes") else "domain"
    if target is None:
        # Of two domains that a generator goes to and fro between, B is meant.
        if "unpaired" in FAMILIES[generator.info["family"]].kinds:
            return None
        raise SettingsError(f"There is no target: name the {what} to translate to, one of {listed}.")
    index = names.index(target) if target in names else int(target) if target.isdecimal() else -1
    if index not in known:
        raise SettingsError(f"target {target}: there is no such {what}; the generator knows {listed}.")
    return index


def _in_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    return to_array(
        as_picture(pixels, channels)
    ).copy()  # Pillow's own pixels cannot be written to, which torch warns of
