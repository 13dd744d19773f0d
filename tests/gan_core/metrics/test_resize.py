"""The resize equals TensorFlow 1's, checked against a loop over its definition."""

import numpy as np
import pytest
import torch
from PIL import Image

from gan_core.metrics.resize import resize_clean, resize_tf1


def by_loops(image: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = image.shape
    result = np.empty((height, width), np.float32)
    for y in range(height):
        source_y = np.float32(y) * (np.float32(rows) / np.float32(height))
        top = int(source_y)
        bottom, down = min(top + 1, rows - 1), source_y - np.float32(top)
        for x in range(width):
            source_x = np.float32(x) * (np.float32(columns) / np.float32(width))
            left = int(source_x)
            right, along = min(left + 1, columns - 1), source_x - np.float32(left)
            upper = image[top, left] + (image[top, right] - image[top, left]) * along
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * along
            result[y, x] = upper + (lower - upper) * down
    return result


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((8, 8), (29, 29)),
        ((5, 7), (11, 13)),
        ((40, 30), (13, 9)),
        ((33, 6), (17, 31)),
        ((6, 33), (31, 17)),
        ((1, 1), (4, 3)),
    ],
)
def test_equals_the_definition(source: tuple[int, int], target: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, *source), dtype=np.uint8)
    resized = resize_tf1(torch.from_numpy(images), *target).numpy()
    assert resized.shape == (2, 3, *target)
    assert resized.dtype == np.float32
    for n, c in np.ndindex(2, 3):
        np.testing.assert_allclose(resized[n, c], by_loops(images[n, c].astype(np.float32), *target), atol=1e-3)


def test_keeps_pixels_of_the_right_size_as_they_are() -> None:
    images = torch.randint(0, 256, (1, 3, 299, 299), dtype=torch.uint8)
    assert torch.equal(resize_tf1(images, 299, 299), images.float())


def test_has_no_half_pixel_shift() -> None:
    ramp = torch.arange(4.0).reshape(1, 1, 1, 4).expand(1, 1, 4, 4)
    row = resize_tf1(ramp, 8, 8)[0, 0, 0]
    assert row.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0]


@pytest.mark.parametrize("size", [(32, 32), (500, 333), (299, 299), (20, 700)])
def test_the_clean_resize_is_pillows_antialiased_bicubic_one_on_float_values(size: tuple[int, int]) -> None:
    """What clean-fid does, channel by channel: mode F, no rounding in between, clipped to 8 bits' range."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8)
    expected = [
        np.asarray(Image.fromarray(channel.astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)).clip(
            0, 255
        )
        for channel in pixels
    ]
    found = resize_clean((torch.from_numpy(pixels)[None].float() - 128) / 128, 299, 299)[0] * 128 + 128
    np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=0.01)


OF_CLEAN_FID = {
    (5, 7): [
        [0.0, 123.398, 52.699, 226.961, 78.111],
        [11.068, 155.442, 84.391, 140.618, 122.06],
        [56.335, 154.965, 106.5, 154.089, 179.463],
        [99.523, 194.527, 164.447, 50.402, 226.815],
        [138.337, 234.751, 206.267, 112.402, 0.0],
    ],
    (400, 310): [
        [58.826, 188.875, 92.561, 65.513, 204.787],
        [207.189, 101.163, 67.295, 214.748, 157.82],
        [125.882, 194.164, 104.27, 163.286, 172.005],
        [53.572, 62.667, 130.206, 111.791, 133.112],
        [189.912, 95.51, 102.376, 25.013, 230.742],
    ],
}
"""By size of the picture: every 70th value, from column 3, of ``cleanfid.resize.build_resizer("clean")`` (0.1.35)."""


@pytest.mark.parametrize("size", OF_CLEAN_FID)
def test_the_clean_resize_gives_the_values_of_clean_fid(size: tuple[int, int]) -> None:
    y, x = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    picture = (37 * y + 101 * x + y * x) % 256
    found = resize_clean((picture[None, None].float() - 128) / 128, 299, 299)[0, 0] * 128 + 128
    np.testing.assert_allclose(found[::70, 3::70].numpy(), OF_CLEAN_FID[size], atol=0.01)
