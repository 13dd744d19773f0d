"""Every format that Pillow reads is decoded to uint8 of the target shape; anything else is refused with a reason."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gan_core.errors import DataError
from gan_core.images.files import PICTURE_SUFFIXES, is_picture
from gan_core.images.pictures import FORMATS, PictureError, decode, encode_png, fit, open_picture, prepare


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(height: int, width: int) -> np.ndarray:
    """A smooth RGB picture, uint8 (H, W, 3)."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = (rows * 255 // max(1, height - 1), columns * 255 // max(1, width - 1), (rows + columns) % 256)
    return np.stack(planes, axis=-1).astype(np.uint8)


def half_red() -> Image.Image:
    """Two pixels: clear, and opaque red."""
    return Image.fromarray(np.array([[[0, 0, 0, 0], [255, 0, 0, 255]]], dtype=np.uint8))


# Telling pictures from other files


def test_every_suffix_of_a_format_that_is_read_is_a_pictures() -> None:
    Image.init()
    assert {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS} <= PICTURE_SUFFIXES


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "DDS", "ICO"])
def test_a_picture_is_known_by_its_content_whatever_its_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_bytes(saved(Image.fromarray(gradient(16, 16)), kind))
    assert is_picture(tmp_path / "file")


def test_a_text_is_no_picture_unless_its_name_says_so(tmp_path: Path) -> None:
    for text in ("BMW", "Python", "P5", "PNG", "", "GIF is a format", "II", "RIFF"):
        for name, meant in (("file", False), ("file.txt", False), ("file.JPG", True)):
            (tmp_path / name).write_text(text)
            assert is_picture(tmp_path / name) == meant, (text, name)


# Decoding


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_picture_becomes_the_wanted_number_of_channels(channels: int) -> None:
    array = decode(saved(Image.fromarray(gradient(5, 7))), channels)
    assert array.dtype == np.uint8
    assert array.shape == (channels, 5, 7)
    if channels == 3:
        assert (array.transpose(1, 2, 0) == gradient(5, 7)).all()
    if channels == 4:
        assert (array[3] == 255).all()


def test_16_bits_scale_to_8_over_the_whole_range() -> None:
    values = np.array([[0, 128, 257, 32896, 65535]], dtype=np.uint16)
    assert decode(saved(Image.fromarray(values)), 1).tolist() == [[[0, 0, 1, 128, 255]]]
    assert decode(saved(Image.fromarray(values), "TIFF"), 3)[0].tolist() == [[0, 0, 1, 128, 255]]


def test_32_bit_integers_are_taken_as_16_bits_and_floats_as_0_to_1() -> None:
    whole = Image.fromarray(np.array([[0, 65535]], dtype=np.int32))
    assert decode(saved(whole, "TIFF"), 1).tolist() == [[[0, 255]]]
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert decode(saved(floats, "TIFF"), 1).tolist() == [[[0, 128, 255]]]
    for strange in (np.array([[70_000]], dtype=np.int32), np.array([[np.nan]], dtype=np.float32)):
        with pytest.raises(PictureError, match="unsupported"):
            decode(saved(Image.fromarray(strange), "TIFF"), 1)


def test_a_palette_gives_its_colours() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([0, 1])
    assert decode(saved(picture), 3).transpose(1, 2, 0).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_a_transparent_palette_colour_is_composed_on_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([0, 1])
    array = decode(saved(picture, transparency=0), 3)
    assert array.transpose(1, 2, 0).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_cmyk_becomes_rgb() -> None:
    content = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")
    assert decode(content, 3)[:, 4, 4].tolist() == [255, 0, 0]
    assert decode(content, 4)[:, 4, 4].tolist() == [255, 0, 0, 255]


def test_one_bit_becomes_black_and_white() -> None:
    picture = Image.new("1", (2, 1))
    picture.putdata([0, 255])
    assert decode(saved(picture), 1).tolist() == [[[0, 255]]]


@pytest.mark.parametrize(("channels", "clear"), [(1, [255]), (3, [255, 255, 255]), (4, [0, 0, 0, 0])])
def test_transparency_is_composed_on_white_unless_there_is_a_channel_for_it(channels: int, clear: list[int]) -> None:
    array = decode(saved(half_red()), channels)
    assert array[:, 0, 0].tolist() == clear


def test_half_transparency_mixes_with_white() -> None:
    content = saved(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))
    assert decode(content, 1).item() == 127


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("size", [None, (24, 24)])
def test_every_exif_orientation_comes_out_upright(kind: str, orientation: int, size: tuple[int, int] | None) -> None:
    upright = np.zeros((24, 24), dtype=np.uint8)
    upright[:12, :12], upright[:12, 12:] = 255, 128  # bright top left, grey top right, black below
    # How a camera held in each way stores that scene (EXIF 2.3, table 6).
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {}
    content = saved(Image.fromarray(np.ascontiguousarray(turned)), kind, exif=exif, **options)
    array = decode(content, 1) if size is None else prepare(content, size=size, channels=1, mode="crop")
    assert [int(array[0, r, c]) // 100 for r, c in ((5, 5), (5, 18), (18, 5), (18, 18))] == [2, 1, 0, 0]


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(content, 1) == 10).all()


# Refusing


def truncated(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), kind)
    return content[: len(content) // 2]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    with pytest.raises(PictureError) as caught:
        decode(truncated(kind), 3)
    assert caught.value.reason in ("truncated", "corrupt", "not-an-image")


def test_truncated_png_and_jpeg_are_called_so() -> None:
    for kind in ("PNG", "JPEG"):
        with pytest.raises(PictureError, match="^truncated"):
            decode(truncated(kind), 3)


def photo(height: int, width: int) -> Image.Image:
    """Soft blotches of colour."""
    blotches = np.random.default_rng(0).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return Image.fromarray(blotches).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 2}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_whose_data_was_lost_is_refused_even_if_it_ends_as_it_should(mode: str, options: dict[str, Any]) -> None:
    """Pillow shows a flat or shifted part, without a word."""
    content = saved(photo(256, 256).convert(mode), "JPEG", quality=90, **options)
    decode(content, 3)
    half = len(content) // 2
    for damaged in (
        content[:half] + b"\xff\xd9",
        content[:half] + bytes(len(content) - half - 2) + b"\xff\xd9",
        content[:half] + bytes(2048) + content[half + 2048 :],
    ):
        Image.open(io.BytesIO(damaged)).load()
        for read in (partial(decode, channels=3), partial(prepare, size=(32, 32), channels=3, mode="crop")):
            with pytest.raises(PictureError, match="a part of the picture is (missing|damaged)") as caught:
                read(damaged)
            assert caught.value.reason in ("truncated", "corrupt")


def test_bytes_that_follow_the_last_pixel_of_a_jpeg_do_no_harm() -> None:
    """As cameras and video cards write them."""
    for options in ({}, {"progressive": True}):
        content = saved(photo(64, 64), "JPEG", **options)
        expected = decode(content, 3)
        for filling in (bytes(100), b"\xff" * 500, bytes(range(1, 200))):
            for padded in (content[:-2] + filling + content[-2:], content + filling):
                np.testing.assert_array_equal(decode(padded, 3), expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (33, 17), (250, 333)])
def test_a_jpeg_is_read_as_pillow_reads_it(mode: str, height: int, width: int) -> None:
    kinds = [
        {"progressive": progressive, "optimize": not progressive, "subsampling": subsampling, "quality": quality}
        for progressive in (False, True)
        for subsampling in ("4:4:4", "4:2:2", "4:2:0")
        for quality in (50, 95)
    ]
    for options in kinds if mode == "RGB" else kinds[::3]:
        content = saved(photo(height, width).convert(mode), "JPEG", **options)
        for near in (None, (60, 80), (20, 20), (8, 6)):
            expected = Image.open(io.BytesIO(content))
            if near is not None:
                expected.draft(None, (near[1] * 2, near[0] * 2))
            found = open_picture(content, 1 if mode == "L" else 3, near=near)
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), str((options, near)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"just a text file\n" * 20, "not-an-image"), (b"\x89PNG\r\n\x1a\n", "not-an-image")],
)
def test_what_is_no_picture_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(PictureError) as caught:
        decode(content, 3)
    assert caught.value.reason == reason
    assert isinstance(caught.value, DataError)


def test_formats_that_run_other_programs_are_refused() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(PictureError, match="not-an-image"):
        decode(postscript, 3)


def test_damage_of_any_kind_is_a_picture_error_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        content = bytearray(saved(Image.fromarray(gradient(32, 32)), kind))
        for _ in range(60):
            damaged = bytearray(content)
            for place in rng.integers(0, len(damaged), 6):
                damaged[place] = rng.integers(0, 256)
            try:
                array = prepare(bytes(damaged), size=(16, 16), channels=3, mode="crop", max_pixels=10**6)
            except PictureError:
                continue
            assert array.shape == (3, 16, 16)


def test_a_bomb_is_refused_by_its_header() -> None:
    content = saved(Image.new("1", (3000, 3000)))
    assert len(content) < 5000
    with pytest.raises(PictureError, match="too-many-pixels: 3000 x 3000"):
        prepare(content, size=(8, 8), channels=1, mode="crop", max_pixels=1000 * 1000)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [12_000, 16_000])
def test_the_usual_limit_refuses_bombs_above_and_below_pillows_own(side: int) -> None:
    with pytest.raises(PictureError, match="too-many-pixels"):
        decode(saved(Image.new("1", (side, side))), 1)


# Fitting


def test_padding_keeps_every_pixel_of_a_smaller_picture() -> None:
    small = np.arange(1, 28 * 28 + 1, dtype=np.uint16).astype(np.uint8).reshape(1, 28, 28)
    padded = fit(small, (32, 32), "pad")
    assert (padded[:, 2:30, 2:30] == small).all()
    assert padded.sum() == small.sum()
    assert (prepare(small, size=(32, 32), channels=1, mode="pad") == padded).all()


def test_padding_shrinks_a_larger_picture_and_keeps_its_aspect() -> None:
    wide = np.full((3, 40, 80), 200, dtype=np.uint8)
    padded = fit(wide, (32, 32), "pad")
    assert (padded[:, 8:24] == 200).all()
    assert padded[:, :8].max() == padded[:, 24:].max() == 0


def test_padding_is_transparent_where_there_is_an_alpha_channel() -> None:
    padded = fit(np.full((4, 2, 2), 255, dtype=np.uint8), (4, 4), "pad")
    assert padded[3].tolist() == [[0, 0, 0, 0], [0, 255, 255, 0], [0, 255, 255, 0], [0, 0, 0, 0]]


def test_cropping_takes_the_centre() -> None:
    wide = np.zeros((1, 32, 96), dtype=np.uint8)
    wide[:, :, 32:64] = 250
    assert (fit(wide, (32, 32), "crop") == 250).all()
    tall = np.zeros((1, 300, 100), dtype=np.uint8)
    tall[:, 60:240] = 250
    assert (fit(tall, (20, 20), "crop") == 250).all()


def test_cropping_enlarges_what_is_too_small_and_keeps_what_fits() -> None:
    assert fit(np.full((3, 8, 8), 9, dtype=np.uint8), (16, 24), "crop").shape == (3, 16, 24)
    exact = gradient(16, 16).transpose(2, 0, 1)
    assert (fit(exact, (16, 16), "crop") == exact).all()


def test_stretching_ignores_the_aspect() -> None:
    halves = np.zeros((1, 10, 40), dtype=np.uint8)
    halves[:, :, 20:] = 255
    stretched = fit(halves, (40, 10), "stretch")
    assert stretched.shape == (1, 40, 10)
    assert (stretched[:, :, :3] < 30).all()
    assert (stretched[:, :, -3:] > 225).all()


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (37, 53)])
def test_every_shape_fits(mode: str, shape: tuple[int, int]) -> None:
    assert fit(np.ones((3, *shape), dtype=np.uint8), (16, 24), mode).shape == (3, 16, 24)  # type: ignore[arg-type]


def test_colour_under_full_transparency_does_not_bleed_when_scaled() -> None:
    pixels = np.zeros((4, 8, 8), dtype=np.uint8)
    pixels[:2, :, ::2], pixels[3, :, ::2] = 255, 255  # opaque yellow columns
    pixels[2, :, 1::2] = 255  # clear blue ones
    scaled = fit(pixels, (4, 4), "stretch")
    assert scaled[2].max() <= 2


def test_a_large_jpeg_read_at_reduced_size_looks_like_the_whole_one_scaled() -> None:
    content = saved(Image.fromarray(gradient(1024, 1024)[..., :2].mean(-1).astype(np.uint8)), "JPEG", quality=95)
    reduced = prepare(content, size=(32, 32), channels=1, mode="crop").astype(int)
    whole = fit(decode(content, 1), (32, 32), "crop").astype(int)
    assert np.abs(reduced - whole).max() <= 2


# Encoding


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_keeps_every_pixel_and_is_always_the_same(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 9, 13), dtype=np.uint8)
    content = encode_png(pixels)
    assert (decode(content, channels) == pixels).all()
    assert encode_png(pixels.copy()) == content


def test_pixels_of_a_wrong_shape_are_a_clear_error() -> None:
    for wrong in (np.zeros((2, 4, 4), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.float32)):
        with pytest.raises(DataError, match="uint8"):
            encode_png(wrong)
