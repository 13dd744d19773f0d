"""Pairs of a picture and its condition: computed conditions, and conditions from files of other sizes."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gan_core.images.pictures import PictureError
from pipelines.data.pairs import LOWRES, edges, lowres, mask, prepare_pair
from pipelines.settings.ingest import Pairing, Pairs, Side
from tests.pipelines.data.samples import picture


def file(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def disc(size: int = 32, mode: str = "RGB", background: str | tuple[int, ...] = "white") -> Image.Image:
    image = Image.new(mode, (size, size), background)
    ImageDraw.Draw(image).ellipse((8, 8, size - 9, size - 9), fill="red")
    return image


def pair(
    content: bytes,
    partner: bytes | None = None,
    how: Pairs = "folders",
    side: Side = "first",
    size: tuple[int, int] = (32, 32),
    channels: tuple[int, int] = (3, 3),
    mode: str = "crop",
) -> tuple[np.ndarray, np.ndarray]:
    pairing = Pairing(pairs=how, side=side, channels=channels[1])
    return prepare_pair(content, partner, pairing, size=size, channels=channels[0], mode=mode)  # type: ignore[arg-type]


def test_greyscale_is_lightness_and_the_picture_keeps_its_colours() -> None:
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((1, 0), (255, 255, 255))
    image.putpixel((2, 0), (255, 0, 0))
    target, condition = pair(file(image), how="greyscale", size=(2, 4))
    assert target[:, 0, 2].tolist() == [255, 0, 0]
    # L* of sRGB red is 53.24 of 100 (IEC 61966-2-1, CIE 15).
    assert condition[0, 0].tolist() == [0, 255, 136, 0]


def test_edges_are_thin_closed_black_lines_on_white() -> None:
    found = edges(np.asarray(disc()).transpose(2, 0, 1))
    assert found.shape == (1, 32, 32)
    assert set(np.unique(found)) == {0, 255}
    lines = found[0] == 0
    # A circle of radius 8: about 45 pixels on it, none inside or far outside, and no gap.
    assert 35 <= lines.sum() <= 60
    assert not lines[12:20, 12:20].any()
    assert not lines[:6].any()
    assert all(line.any() for line in lines[8:24])
    assert (edges(np.full((1, 9, 7), 90, dtype=np.uint8)) == 255).all()


def test_edges_of_a_transposed_picture_are_transposed() -> None:
    ramp = np.zeros((1, 16, 16), dtype=np.uint8)
    ramp[0, :, 8:] = 200
    upright, level = edges(ramp), edges(np.ascontiguousarray(ramp.transpose(0, 2, 1)))
    np.testing.assert_array_equal(upright, level.transpose(0, 2, 1))
    assert ((upright == 0).sum(axis=2) == 1).all()


@pytest.mark.parametrize(
    "image",
    [disc(), disc(background="navy"), disc(mode="RGBA", background=(0, 0, 0, 0))],
    ids=["on white", "on blue", "on transparency"],
)
def test_a_mask_is_the_silhouette(image: Image.Image) -> None:
    _, condition = pair(file(image), how="mask", channels=(3, 1))
    y, x = np.mgrid[:32, :32] - 15.5
    inside, outside = x**2 + y**2 < 7**2, x**2 + y**2 > 9**2
    assert (condition[0][inside] == 255).all()
    assert (condition[0][outside] == 0).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (500, 251)])
def test_the_bars_beside_a_padded_picture_are_neither_its_background_nor_its_silhouette(
    shape: tuple[int, int], kind: str
) -> None:
    height, width = shape
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).rectangle((width // 4, height // 4, width * 3 // 4 - 1, height * 3 // 4 - 1), fill="red")
    buffer = io.BytesIO()
    image.save(buffer, kind)
    target, condition = pair(buffer.getvalue(), how="mask", size=(64, 64), channels=(3, 1), mode="pad")
    red = (target[0].astype(int) - target[1]) > 128
    # A quarter of the picture, which covers about half of the square; an edge may round to either side.
    assert 0.1 < red.mean() < 0.15
    assert ((condition[0] == 255) != red).mean() < 0.01


def test_a_picture_of_one_colour_has_an_empty_mask() -> None:
    assert not mask(np.full((3, 5, 6), 77, dtype=np.uint8)).any()


def test_low_resolution_keeps_the_size_and_removes_detail() -> None:
    fine = np.indices((16, 12)).sum(axis=0).astype(np.uint8)[None] % 2 * 255
    reduced = lowres(fine)
    assert reduced.shape == fine.shape
    assert reduced.std() < 0.1 * fine.std()
    coarse = np.full((3, 2 * LOWRES, LOWRES), 40, dtype=np.uint8)
    np.testing.assert_array_equal(lowres(coarse), coarse)


@pytest.mark.parametrize(("side", "order"), [("first", (1, 0)), ("second", (0, 1))])
def test_side_by_side_pictures_are_split_into_halves(side: Side, order: tuple[int, int]) -> None:
    halves = picture(1, 8, 6), picture(2, 8, 6)
    both = Image.new("RGB", (12, 8))
    both.paste(halves[0], (0, 0))
    both.paste(halves[1], (6, 0))
    found = pair(file(both), how="side-by-side", side=side, size=(8, 6))
    for pixels, half in zip(found, order, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(halves[half]).transpose(2, 0, 1))


def test_side_by_side_pictures_of_odd_width_are_refused() -> None:
    with pytest.raises(PictureError, match="unequal-pair: two halves of 8x6 and 8x7 pixels"):
        pair(file(picture(0, 8, 13)), how="side-by-side")


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
def test_pairs_of_different_sizes_keep_the_same_part(mode: str) -> None:
    small = disc(32).crop((0, 0, 32, 24))
    large = small.resize((128, 96), Image.Resampling.BICUBIC)
    for one, other in ((small, large), (large, small)):
        target, condition = pair(file(one), file(other), size=(40, 40), mode=mode)
        assert np.abs(target.astype(int) - condition).mean() < 6


def test_pairs_of_different_shapes_are_refused() -> None:
    with pytest.raises(PictureError, match="unequal-pair: 12x10 pixels, but its condition has 10x12"):
        pair(file(picture(0, 12, 10)), file(picture(1, 10, 12)))
    # A program may round a third of 100x75 to 33x25.
    pair(file(picture(0, 75, 100)), file(picture(1, 25, 33)))


def test_picture_and_condition_have_their_own_channels() -> None:
    clear, grey = file(picture(0, mode="RGBA")), file(picture(1, mode="L"))
    target, condition = pair(clear, grey, channels=(4, 3), size=(12, 10))
    np.testing.assert_array_equal(target, np.asarray(picture(0, mode="RGBA")).transpose(2, 0, 1))
    np.testing.assert_array_equal(condition, np.asarray(picture(1, mode="L").convert("RGB")).transpose(2, 0, 1))
    target, condition = pair(grey, clear, channels=(3, 1))
    assert (len(target), len(condition)) == (3, 1)


def test_an_error_in_the_condition_says_so() -> None:
    with pytest.raises(PictureError, match="not-an-image: its condition: no known picture format"):
        pair(file(picture(0)), b"no picture")
