"""Correct the files that Pillow (11 to 13) reads wrongly, and say why a file cannot be read.

Checked against ImageMagick and libvips (``tests/gan_core/test_pixels.py``). PNG: the transparent colour of grey at 2, 4 and 16
bits, and of RGB at 16 bits. TIFF: 16-bit grey in which 0 is white, 12-bit grey, uncompressed planes, signed numbers.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, TiffImagePlugin

from gan_core.errors import PictureError

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _FORMAT = 258, 259, 262, 277, 284, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _SEPARATE = 0, 1, 2
_SIGNED, _FLOAT = 2, 3
_NUMBERS = {3: "H", 4: "I", 16: "Q"}  # SHORT and LONG of TIFF 6.0, LONG8 of BigTIFF: the types of all tags here
# The headers that Pillow reads: two per byte order (the second violates the specification), and BigTIFF.
_ORDERS = {b"II*\0": "<", b"II\0*": "<", b"MM\0*": ">", b"MM*\0": ">", b"II+\0": "<"}
_BIG_ENDIAN_BIGTIFF = b"MM\0+"
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
_HEADS = {
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"8BPS": "Photoshop",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"PF": "colour PFM",
}
_CONVERT = "convert it to PNG or JPEG"


@dataclass(frozen=True)
class _Tiff:
    """The pixel format in the first directory of a TIFF."""

    bits: tuple[int, ...] = (1,)
    compression: int = 1
    photometric: int | None = None
    samples: int = 1
    planar: int = 1
    number: int = 1
    photometric_at: int = 0
    """Offset of the photometric interpretation in the file, in bytes."""
    photometric_as: str = "<H"
    """Its format there, as in :mod:`struct`."""

    @property
    def description(self) -> str:
        """The pixel format in words, for messages."""
        number = {_SIGNED: "signed ", _FLOAT: "floating-point "}.get(self.number, "")
        zero = ", in which 0 is white" if self.photometric == _WHITE_IS_ZERO else ""
        planes = ", in planes" if self.planar == _SEPARATE and self.samples > 1 else ""
        return f"a TIFF of {self.samples} x {self.bits[0]} {number}bits per pixel{zero}{planes}"


def open_corrected(content: bytes, formats: tuple[str, ...]) -> Image.Image:
    """Open a picture such that :func:`correct_pixels` can correct it once it is loaded.

    Raises:
        PictureError: unsupported.
        Exception: as Pillow raises.
    """
    if content.startswith(_BIG_ENDIAN_BIGTIFF):  # Pillow would read it as a plain TIFF, with wrong offsets
        raise PictureError("unsupported", f"a BigTIFF in big-endian byte order; {_CONVERT}")
    found = _tiff(content)
    if found is None:
        _refuse_16_bit_alpha(content)
        return Image.open(io.BytesIO(content), formats=formats)
    if found.number == _SIGNED and found.bits[0] <= 16:
        raise PictureError(
            "unsupported", f"{found.description}, whose values for black and white are unknown; {_CONVERT}"
        )
    if found.planar == _SEPARATE and found.samples == 2:
        raise PictureError("unsupported", f"{found.description}; {_CONVERT}")
    # Floating-point values are not inverted, as in ImageMagick and libvips.
    inverted = found.photometric == _WHITE_IS_ZERO and found.samples == 1 and found.bits[0] in (12, 16)
    if inverted:
        # Read as if 0 were black, and invert afterwards: Pillow inverts only up to 8 bits.
        patched = bytearray(content)
        struct.pack_into(found.photometric_as, patched, found.photometric_at, _BLACK_IS_ZERO)
        content = bytes(patched)
    before = TiffImagePlugin.READ_LIBTIFF
    # Pillow's own reader takes 16-bit planes for 8-bit planes, and fails at some with transparency; libtiff does neither.
    planes = found.planar == _SEPARATE and (found.bits[0] > 8 or found.samples > 3)
    TiffImagePlugin.READ_LIBTIFF = before or planes
    try:
        picture = Image.open(io.BytesIO(content), formats=formats)
    finally:
        TiffImagePlugin.READ_LIBTIFF = before
    picture.info["gantry"] = (inverted, found.bits[0])
    return picture


def correct_pixels(picture: Image.Image, content: bytes) -> Image.Image:
    """Return the loaded ``picture`` with the pixels that its file ``content`` specifies."""
    if picture.format == "TIFF" and "gantry" in picture.info:
        return _corrected_tiff(picture, *picture.info["gantry"])
    if picture.format == "PNG" and content[24] in (2, 4, 16) and content[25] in (0, 2):
        colour = _transparent_colour(content)
        if colour is not None:
            return _transparent_png(picture, content, content[24], colour)
    return picture


def explain_unreadable(content: bytes) -> PictureError:
    """Return the error for a file that Pillow cannot identify: ``unsupported`` for a known format, else ``not-an-image``."""
    kind = _BRANDS.get(content[8:12]) if content[4:8] == b"ftyp" else None
    kind = kind or next((name for head, name in _HEADS.items() if content.startswith(head)), None)
    if kind is not None:
        return PictureError("unsupported", f"a picture in the format {kind}; {_CONVERT}")
    found = _tiff(content)
    if found is not None and found.photometric is not None:
        return PictureError("unsupported", f"{found.description}; {_CONVERT}, or to a TIFF of 8 bits")
    if content.startswith(b"\xff\xd8\xff") and (precision := _jpeg_precision(content)) not in (None, 8):
        return PictureError("unsupported", f"a JPEG of {precision} bits; {_CONVERT}")
    return PictureError("not-an-image", "no known picture format, or its header is broken")


def _corrected_tiff(picture: Image.Image, inverted: bool, bits: int) -> Image.Image:
    if picture.mode == "La":  # associated alpha: grey is stored multiplied by alpha
        picture = picture.convert("LA")
    if bits == 12 and picture.mode == "I;16":
        picture = Image.fromarray(((np.asarray(picture).astype(np.uint32) * 65535 + 2047) // 4095).astype(np.uint16))
    if not inverted:
        return picture
    return Image.fromarray(65535 - np.asarray(picture).astype(np.uint16))


def _transparent_png(picture: Image.Image, content: bytes, bits: int, colour: tuple[int, ...]) -> Image.Image:
    """Return a PNG whose pixels of one ``colour`` are transparent, in mode LA or RGBA."""
    if picture.mode == "RGB":
        high, low = np.asarray(picture), _low_bytes(content)
        clear = ((high == [value >> 8 for value in colour]) & (low == [value & 255 for value in colour])).all(axis=2)
        alpha = Image.fromarray(np.where(clear, np.uint8(0), np.uint8(255)))
        return Image.merge("RGBA", (*picture.split(), alpha))
    values = np.asarray(picture)
    grey = values if bits < 8 else to_8_bits(values)
    # Below 8 bits Pillow scales the values to 0..255, but not the transparent colour.
    clear = values == (colour[0] * 255 // (2**bits - 1) if bits < 8 else colour[0])
    alpha = Image.fromarray(np.where(clear, np.uint8(0), np.uint8(255)))
    return Image.merge("LA", (Image.fromarray(grey.astype(np.uint8)), alpha))


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Scale whole numbers in 0..65535 to uint8, rounded."""
    return ((values.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)


def _refuse_16_bit_alpha(content: bytes) -> None:
    """Raise PictureError for a BMP of 16 bits per pixel with transparency, which Pillow would drop."""
    if content[:2] == b"BM" and len(content) >= 70:
        (header,), (bits, compression) = struct.unpack_from("<I", content, 14), struct.unpack_from("<HI", content, 28)
        if header >= 56 and bits == 16 and compression in (3, 6) and any(content[66:70]):
            raise PictureError("unsupported", f"a BMP of 16 bits per pixel with transparency; {_CONVERT}")


def _low_bytes(content: bytes) -> np.ndarray:
    """Return the less significant byte of each sample of a 16-bit RGB PNG, uint8 (H, W, 3)."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        # Pillow keeps the more significant byte. With the byte order swapped it keeps the other one.
        picture.tile = [tile._replace(args="RGB;16L") for tile in picture.tile]
        return np.asarray(picture)


def _transparent_colour(content: bytes) -> tuple[int, ...] | None:
    """Return the colour in a PNG's tRNS chunk, one number per channel; None if there is no such chunk before the pixels."""
    for kind, data in _png_chunks(content):
        if kind == b"IDAT":
            return None
        if kind == b"tRNS" and len(data) >= (6 if content[25] == 2 else 2):
            return struct.unpack(">3H", data[:6]) if content[25] == 2 else struct.unpack(">H", data[:2])
    return None


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        yield content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        at += 12 + length


def _jpeg_precision(content: bytes) -> int | None:
    """Return the bits per sample from the frame header of a JPEG; None if it has no such header."""
    at = 2
    while at + 5 <= len(content) and content[at] == 0xFF:
        marker, (length,) = content[at + 1], struct.unpack_from(">H", content, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return content[at + 4]
        at += 2 + length
    return None


def _tiff(content: bytes) -> _Tiff | None:
    """Read the first directory of a TIFF; None for any other file, or if the directory cannot be read."""
    order = _ORDERS.get(content[:4])
    if order is None:
        return None
    big = b"+" in content[2:4]
    # In a BigTIFF, counts, offsets and inline values have 8 bytes.
    head, entry, place_of, room = (8, "HHQ", "Q", 8) if big else (4, "HHI", "I", 4)
    value_at = struct.calcsize(f"{order}{entry}")
    try:
        (start,) = struct.unpack_from(f"{order}{place_of}", content, head)
        first = f"{order}{'Q' if big else 'H'}"
        (count,) = struct.unpack_from(first, content, start)
        tags: dict[int, tuple[int, ...]] = {}
        photometric_at, photometric_as = 0, "<H"
        begin, step = start + struct.calcsize(first), value_at + room
        for at in range(begin, begin + step * count, step):
            tag, kind, length = struct.unpack_from(f"{order}{entry}", content, at)
            if tag not in (_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _FORMAT) or kind not in _NUMBERS:
                continue
            if tag == _PHOTOMETRIC:
                photometric_at, photometric_as = at + value_at, f"{order}{_NUMBERS[kind]}"
            number = f"{order}{min(length, 8)}{_NUMBERS[kind]}"
            place = (
                at + value_at
                if length * struct.calcsize(f"{order}{_NUMBERS[kind]}") <= room
                else struct.unpack_from(f"{order}{place_of}", content, at + value_at)[0]
            )
            tags[tag] = struct.unpack_from(number, content, place)
    except (struct.error, OverflowError):  # an offset beyond the end of the file, or beyond any integer
        return None
    one = {tag: values[0] for tag, values in tags.items() if values}
    return _Tiff(
        bits=tags.get(_BITS) or (1,),
        compression=one.get(_COMPRESSION, 1),
        photometric=one.get(_PHOTOMETRIC),
        samples=one.get(_SAMPLES, 1),
        planar=one.get(_PLANAR, 1),
        number=one.get(_FORMAT, 1),
        photometric_at=photometric_at,
        photometric_as=photometric_as,
    )
