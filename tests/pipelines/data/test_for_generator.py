"""Pictures for a translating generator are prepared in its shape, as the kind of data that its family learns from."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_core.errors import DataError
from gan_core.families import ImageShape
from pipelines.data.for_generator import prepare_for


def test_the_condition_side_of_pairs_is_the_source(tmp_path: Path) -> None:
    red, blue = np.zeros((2, 16, 16, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    for number in range(2):  # pictures that differ, or one would be left out as a duplicate
        red[0, 0], blue[0, 0] = number, number
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(np.concatenate([red, blue], axis=1)).save(tmp_path / "pictures" / f"{number}.png")
    shape = ImageShape(channels=3, height=16, width=16, condition_channels=3)
    for side, source, target in (("first", 0, 2), ("second", 2, 0)):
        scratch = tmp_path / side
        scratch.mkdir()
        dataset = prepare_for(
            "pix2pix", shape, tmp_path / "pictures", scratch, pairs="side-by-side", condition_side=side
        ).dataset
        assert [dataset.conditions()[:, c, 8, 8].max() for c in (source, target)] == [255, 0]
        assert [dataset.pixels()[:, c, 8, 8].max() for c in (source, target)] == [0, 255]


def test_pictures_of_which_none_can_be_used_are_refused_without_a_path_that_will_be_gone(tmp_path: Path) -> None:
    for side in ("A", "B"):
        (tmp_path / "pictures" / side).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "pictures" / side / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "scratch").mkdir()
    shape = ImageShape(channels=3, height=16, width=16, condition_channels=3)
    with pytest.raises(
        DataError, match=r"cannot be measured with pix2pix.* has no usable pictures: .*Or give prepared"
    ) as caught:
        prepare_for("pix2pix", shape, tmp_path / "pictures", tmp_path / "scratch")
    assert "scratch" not in str(caught.value)
