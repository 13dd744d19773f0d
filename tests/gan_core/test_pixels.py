"""Pixels are decoded correctly for every bit depth, colour type, transparency and photometric interpretation.

The files are written by hand (``pixel_files``), and the expected pixels follow from the specifications. If ImageMagick or
libvips is installed, their results are compared as well.
"""

import functools
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gan_core.images.pictures import PictureError, decode, encode_png
from tests.gan_core.pixel_files import (
    ASSOCIATED,
    BLACK_IS_ZERO,
    CMYK,
    FLOAT,
    LAB,
    PALETTE,
    RGB,
    SIGNED,
    UNASSOCIATED,
    UNSPECIFIED,
    WHITE_IS_ZERO,
    YCBCR,
    png,
    tiff,
)

H, W = 6, 16
GREY, COLOUR, INDEXED, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6  # PNG's colour types
ORDERS = pytest.mark.parametrize("order", ["<", ">"])


def samples(bits: int, channels: int | None = None) -> np.ndarray:
    """Random samples below 2**bits, (H, W) or (H, W, channels)."""
    shape = (H, W) if channels is None else (H, W, channels)
    values = np.random.default_rng(bits).integers(0, 2**bits, shape, dtype=np.uint64)
    return values.astype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)


def to_8(values: np.ndarray, bits: int) -> np.ndarray:
    """Convert samples to 8 bits exactly, float64."""
    return values.astype(np.float64) * 255 / (2**bits - 1)


def shown(content: bytes, channels: int) -> np.ndarray:
    """The decoded picture, int64 (H, W, channels)."""
    return decode(content, channels).transpose(1, 2, 0).astype(int)


def near(found: np.ndarray, expected: np.ndarray, by: float = 1.0) -> bool:
    return float(np.abs(found - expected).max()) <= by


# PNG


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("clear", [False, True])
def test_png_grey_of_every_depth_and_its_transparent_colour(bits: int, clear: bool) -> None:
    values = samples(bits)
    colour = int(values[1, 3])
    found = shown(png(values, bits, GREY, transparent=(colour,) if clear else None), 4)
    where = (values == colour) & clear
    assert (found[..., 3] == np.where(where, 0, 255)).all()
    assert near(found[..., 0], to_8(values, bits))
    on_white = shown(png(values, bits, GREY, transparent=(colour,) if clear else None), 1)
    assert near(on_white[..., 0], np.where(where, 255, to_8(values, bits)))


@pytest.mark.parametrize("bits", [8, 16])
def test_png_colour_and_its_transparent_colour_which_is_one_alone(bits: int) -> None:
    values = samples(bits, 3)
    colour = tuple(int(value) for value in values[1, 3])
    values[2, 5] = colour
    values[2, 6] = np.array(colour) ^ (0, 1, 0)  # at 16 bits the same in the first 8 of each
    found = shown(png(values, bits, COLOUR, transparent=colour), 4)
    assert (found[..., 3] == np.where((values == colour).all(-1), 0, 255)).all()
    assert found[2, 6, 3] == 255
    assert near(found[..., :3], to_8(values, bits))
    assert (shown(png(values, bits, COLOUR, transparent=colour), 3)[1, 3] == 255).all()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("colour_type", "channels"), [(GREY_ALPHA, 2), (COLOUR_ALPHA, 4)])
def test_png_with_an_alpha_channel(bits: int, colour_type: int, channels: int) -> None:
    values = samples(bits, channels)
    found = shown(png(values, bits, colour_type), 4)
    expected = to_8(values, bits)
    assert near(found, expected if channels == 4 else expected[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_of_a_palette(bits: int) -> None:
    palette = np.random.default_rng(0).integers(0, 256, (2**bits, 3), dtype=np.uint8)
    values = samples(bits)
    assert (shown(png(values, bits, INDEXED, palette=palette.tobytes()), 3) == palette[values]).all()


# TIFF


@ORDERS
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize("deflate", [False, True])
def test_tiff_grey_of_every_depth_with_white_or_black_as_zero(
    order: str, bits: int, photometric: int, deflate: bool
) -> None:
    values = samples(bits)
    expected = to_8(values, bits)
    found = shown(tiff(values, bits, photometric, order=order, deflate=deflate), 1)[..., 0]
    assert near(found, 255 - expected if photometric == WHITE_IS_ZERO else expected, 0.5)


@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
def test_a_bigtiff_is_read_as_any_other(photometric: int) -> None:
    for bits in (8, 16):
        values = samples(bits)
        expected = to_8(values, bits)
        found = shown(tiff(values, bits, photometric, big=True), 1)[..., 0]
        assert near(found, 255 - expected if photometric == WHITE_IS_ZERO else expected, 0.5)
    colour = samples(16, 3)
    assert near(shown(tiff(colour, 16, RGB, big=True, planar=True), 3), to_8(colour, 16))
    with pytest.raises(PictureError, match="16 signed bits"):
        decode(tiff(samples(16), 16, BLACK_IS_ZERO, big=True, sample_format=SIGNED), 1)


def test_a_bigtiff_in_big_endian_byte_order_is_refused() -> None:
    with pytest.raises(PictureError, match="unsupported: a BigTIFF in big-endian byte order; convert it to PNG"):
        decode(tiff(samples(8), 8, BLACK_IS_ZERO, order=">", big=True), 1)


def test_white_as_zero_is_seen_in_every_spelling_that_is_read() -> None:
    values = samples(16)
    content = tiff(values, 16, WHITE_IS_ZERO)
    for spelt in (content.replace(tag(262, "H", 0), tag(262, "I", 0)), b"II\0*" + content[4:]):
        assert spelt != content
        assert near(shown(spelt, 1)[..., 0], 255 - to_8(values, 16), 0.5)


@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
def test_tiff_grey_of_12_bits(photometric: int) -> None:
    values = samples(12)
    # Two samples in three bytes, the first in the high bits.
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    rows = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).reshape(H, -1)
    content = tiff(rows.astype(np.uint8), 8, photometric)
    content = content.replace(tag(256, "I", rows.shape[1]), tag(256, "I", W)).replace(
        tag(258, "H", 8), tag(258, "H", 12)
    )
    expected = to_8(values, 12)
    found = shown(content, 1)[..., 0]
    assert near(found, 255 - expected if photometric == WHITE_IS_ZERO else expected)


def tag(number: int, kind: str, value: int) -> bytes:
    """A little-endian directory entry of one value."""
    return struct.pack("<HHI", number, {"H": 3, "I": 4}[kind], 1) + struct.pack(f"<{kind}", value).ljust(4, b"\0")


@ORDERS
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
def test_tiff_colour_together_or_in_planes(order: str, bits: int, planar: bool, deflate: bool) -> None:
    how = {"order": order, "planar": planar, "deflate": deflate}
    values = samples(bits, 4)
    expected = to_8(values, bits)
    assert near(shown(tiff(values[..., :3], bits, RGB, **how), 3), expected[..., :3])  # type: ignore[arg-type]
    assert near(shown(tiff(values, bits, RGB, extra=UNASSOCIATED, **how), 4), expected)  # type: ignore[arg-type]
    inks = 255 - expected
    cmyk = shown(tiff(values, bits, CMYK, **how), 3)  # type: ignore[arg-type]
    assert near(cmyk, inks[..., :3] * inks[..., 3:] / 255, 2)


@ORDERS
@pytest.mark.parametrize("planar", [False, True])
def test_tiff_alpha_that_is_multiplied_in_is_taken_out_and_what_is_not_said_to_be_alpha_is_none(
    order: str, planar: bool
) -> None:
    values = samples(8, 4)
    values[..., 3] |= 1
    values[..., :3] = np.minimum(values[..., :3], values[..., 3:])
    found = shown(tiff(values, 8, RGB, order=order, planar=planar, extra=ASSOCIATED), 4)
    expected = values[..., :3].astype(float) * 255 / values[..., 3:]
    assert (found[..., 3] == values[..., 3]).all()
    assert near(found[..., :3], expected)
    unsaid = shown(tiff(values, 8, RGB, order=order, planar=planar, extra=UNSPECIFIED), 4)
    assert (unsaid[..., 3] == 255).all()
    assert (unsaid[..., :3] == values[..., :3]).all()


def test_tiff_grey_with_alpha() -> None:
    values = samples(8, 2)
    values[..., 1] |= 1
    assert (shown(tiff(values, 8, BLACK_IS_ZERO, extra=UNASSOCIATED), 4) == values[..., [0, 0, 0, 1]]).all()
    values[..., 0] = np.minimum(values[..., 0], values[..., 1])
    found = shown(tiff(values, 8, BLACK_IS_ZERO, extra=ASSOCIATED), 4)
    assert near(found[..., 0], values[..., 0].astype(float) * 255 / values[..., 1])


@ORDERS
def test_tiff_palette_luma_and_floats(order: str) -> None:
    palette = np.random.default_rng(0).integers(0, 256, (3, 16)).astype(np.uint16) * 257
    values = samples(4)
    found = shown(tiff(values, 4, PALETTE, order=order, palette=palette), 3)
    assert (found == (palette // 257).T[values]).all()
    luma = np.full((H, W, 3), (120, 128, 128), np.uint8)
    assert near(shown(tiff(luma, 8, YCBCR, order=order, more=((530, "H", (1, 1)),)), 3), np.array(120))
    floats = np.random.default_rng(0).random((H, W)).astype(np.float32)
    assert near(shown(tiff(floats, 32, BLACK_IS_ZERO, order=order, sample_format=FLOAT), 1)[..., 0], floats * 255)


@ORDERS
@pytest.mark.parametrize(
    ("bits", "channels", "photometric", "how", "words"),
    [
        (8, None, BLACK_IS_ZERO, {"sample_format": SIGNED}, "1 x 8 signed bits per pixel, whose values for black"),
        (16, None, BLACK_IS_ZERO, {"sample_format": SIGNED}, "1 x 16 signed bits per pixel, whose values for black"),
        (32, None, WHITE_IS_ZERO, {}, "1 x 32 bits per pixel, in which 0 is white; convert it to PNG"),
        (32, 3, RGB, {}, "3 x 32 bits per pixel; convert it"),
        (8, 2, BLACK_IS_ZERO, {"planar": True, "extra": UNASSOCIATED}, "2 x 8 bits per pixel, in planes; convert it"),
        (8, 2, WHITE_IS_ZERO, {"extra": UNASSOCIATED}, "2 x 8 bits per pixel, in which 0 is white; convert it"),
        (16, 2, BLACK_IS_ZERO, {"extra": UNASSOCIATED}, "2 x 16 bits per pixel; convert it"),
        (8, 3, LAB, {}, "pixels in the colour space LAB; convert the picture to sRGB"),
    ],
)
def test_what_is_not_read_is_refused_and_named(
    order: str, bits: int, channels: int | None, photometric: int, how: dict[str, int], words: str
) -> None:
    with pytest.raises(PictureError, match=f"^unsupported: .*{words}"):
        decode(tiff(samples(bits, channels), bits, photometric, order=order, **how), 3)  # type: ignore[arg-type]


def test_numbers_without_a_known_white_are_refused_with_their_range() -> None:
    large = np.full((H, W), 70_000, np.uint32)
    with pytest.raises(PictureError, match=r"unsupported: whole numbers from 70000 to 70000, outside 0\.\.65535"):
        decode(tiff(large, 32, BLACK_IS_ZERO), 1)
    with pytest.raises(PictureError, match=r"unsupported: floating-point pixels outside 0\.\.1"):
        decode(tiff(large.astype(np.float32), 32, BLACK_IS_ZERO, sample_format=FLOAT), 1)


# Unsupported formats


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a picture in the format HEIC; convert it to PNG or JPEG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "the format JPEG XL"),
        (b"\xff\x0a" + bytes(20), "the format JPEG XL"),
        (b"8BPS\0\1" + bytes(40), "the format Photoshop"),
        (b"\x76\x2f\x31\x01" + bytes(40), "the format OpenEXR"),
        (b"PF\n2 2\n-1.0\n" + bytes(48), "the format colour PFM"),
        (b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x08\0\x08\1\1\x11\0" + bytes(30), "a JPEG of 12 bits"),
    ],
)
def test_a_picture_of_a_kind_that_is_not_read_is_told_so(content: bytes, words: str) -> None:
    with pytest.raises(PictureError, match=f"^unsupported: .*{words}"):
        decode(content, 3)


def test_a_bitmap_whose_transparency_would_be_lost_is_refused() -> None:
    masks = struct.pack("<4I", 0x7C00, 0x3E0, 0x1F, 0x8000)
    header = struct.pack("<IiiHHIIiiII", 56, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0) + masks
    content = b"BM" + struct.pack("<IHHI", 14 + 56 + 4, 0, 0, 14 + 56) + header + struct.pack("<2H", 0x7FFF, 0xFFFF)
    with pytest.raises(PictureError, match="unsupported: a BMP of 16 bits per pixel with transparency"):
        decode(content, 4)


# Independent readers


def files() -> Iterator[tuple[str, bytes]]:
    """Name and content of a file of each kind that both programs read according to the specifications."""
    for bits in (1, 2, 4, 8, 16):
        values = samples(bits)
        yield f"grey-{bits}.png", png(values, bits, GREY)
        yield f"grey-clear-{bits}.png", png(values, bits, GREY, transparent=(int(values[1, 3]),))
        yield f"black-{bits}.tif", tiff(values, bits, BLACK_IS_ZERO)
        if bits in (1, 8, 16):  # ImageMagick 6 inverts 2 and 4 bits, libvips does not
            yield f"white-{bits}.tif", tiff(values, bits, WHITE_IS_ZERO, order=">")
    for bits in (8, 16):
        colour = samples(bits, 4)
        clear = tuple(int(value) for value in colour[1, 3, :3])
        yield f"colour-{bits}.png", png(colour, bits, COLOUR_ALPHA)
        yield f"colour-clear-{bits}.png", png(colour[..., :3], bits, COLOUR, transparent=clear)
        for planar in (False, True):
            yield f"colour-{bits}-{planar}.tif", tiff(colour[..., :3], bits, RGB, planar=planar)
            yield f"alpha-{bits}-{planar}.tif", tiff(colour, bits, RGB, planar=planar, extra=UNASSOCIATED, order=">")
            yield f"cmyk-{bits}-{planar}.tif", tiff(colour, bits, CMYK, planar=planar)


@functools.cache
def imagemagick() -> str | None:
    """Path of the program; skip if it is missing or a different program has this name."""
    for folder in os.get_exec_path():
        for name in ("magick", "convert"):
            program = shutil.which(name, path=folder)
            if program is not None:
                said = subprocess.run([program, "-version"], capture_output=True, check=False).stdout
                if b"ImageMagick" in said.split(b"\n")[0]:
                    return program
    return None


def visible_difference(found: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Largest difference of the colours of visible pixels, and of alpha, between two pictures (H, W, 4)."""
    apart = np.abs(found - other.astype(int))
    seen = (found[..., 3] > 0) | (other[..., 3] > 0)
    return int((apart[..., :3] * seen[..., None]).max()), int(apart[..., 3].max())


@pytest.mark.parametrize(("name", "content"), [pytest.param(*file, id=file[0]) for file in files()])
def test_imagemagick_sees_the_same(tmp_path: Path, name: str, content: bytes) -> None:
    if (program := imagemagick()) is None:
        pytest.skip("needs ImageMagick")
    (tmp_path / name).write_bytes(content)
    command = [program, str(tmp_path / name), "-alpha", "on", "-colorspace", "sRGB", "-depth", "8", "rgba:-"]
    pixels = subprocess.run(command, capture_output=True, check=True).stdout
    colour, alpha = visible_difference(shown(content, 4), np.frombuffer(pixels, np.uint8).reshape(H, W, 4))
    assert colour <= 2
    assert alpha <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
def test_libvips_sees_the_same(tmp_path: Path, bits: int, photometric: int) -> None:
    if shutil.which("vips") is None:
        pytest.skip("needs libvips")
    content = tiff(samples(bits), bits, photometric)
    (tmp_path / "a.tif").write_bytes(content)
    subprocess.run(["vips", "copy", str(tmp_path / "a.tif"), str(tmp_path / "a.v")], check=True)
    for column in range(0, W, 3):
        point = ["vips", "getpoint", str(tmp_path / "a.v"), str(column), "1"]
        value = float(subprocess.run(point, capture_output=True, check=True).stdout.split()[0])
        assert abs(shown(content, 1)[1, column, 0] - (value / 257 if bits == 16 else value)) <= 1


def test_our_own_png_is_what_it_was() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, H, W), dtype=np.uint8)
    assert (decode(encode_png(pixels), 3) == pixels).all()
