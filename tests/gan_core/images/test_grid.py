"""A contact sheet shows every picture at its row and column, pixel for pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_core.images.grid import contact_sheet, save_sheet


def pictures(n: int, channels: int, height: int = 3, width: int = 5) -> torch.Tensor:
    return (
        torch.arange(n * channels * height * width).reshape(n, channels, height, width).remainder(255).to(torch.uint8)
    )


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_each_picture_lies_at_its_row_and_column_on_white(channels: int, mode: str) -> None:
    images = pictures(5, channels)
    sheet = contact_sheet(images, columns=3, gap=2, scale=2)
    assert sheet.mode == mode
    assert sheet.size == (3 * (10 + 2) + 2, 2 * (6 + 2) + 2)
    array = np.atleast_3d(np.asarray(sheet))
    for index in range(5):
        top, left = 2 + index // 3 * 8, 2 + index % 3 * 12
        cell = array[top : top + 6, left : left + 10]
        np.testing.assert_array_equal(cell[::2, ::2], images[index].permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(cell[1::2, 1::2], cell[::2, ::2])
    assert (array[10:16, 26:36] == 255).all()  # the sixth place is empty
    assert (array[:2] == 255).all()


def test_two_channels_are_shown_as_the_first_in_grey() -> None:
    images = pictures(1, 2)
    sheet = contact_sheet(images, gap=0, scale=1)
    assert sheet.mode == "L"
    np.testing.assert_array_equal(np.asarray(sheet), images[0, 0].numpy())


def test_by_default_the_sheet_is_about_square_and_small_pictures_are_enlarged() -> None:
    assert contact_sheet(pictures(64, 1, 16, 16), gap=0).size == (8 * 64, 8 * 64)
    assert contact_sheet(pictures(2, 1, 128, 128), gap=0).size == (2 * 128, 128)


def test_a_saved_sheet_is_a_png_of_the_same_pixels(tmp_path: Path) -> None:
    save_sheet(tmp_path / "grids" / "a.png", pictures(4, 3), columns=2)
    with Image.open(tmp_path / "grids" / "a.png") as saved:
        assert saved.format == "PNG"
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(contact_sheet(pictures(4, 3), columns=2)))
