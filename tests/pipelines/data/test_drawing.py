"""A drawing is a picture of its own shape, transparent where nothing is drawn."""

from pathlib import Path

import numpy as np
import pytest

from gan_core.pictures import PictureError
from pipelines.data.drawing import LONGER_SIDE, draw
from pipelines.data.ingest import IngestSettings, ingest
from pipelines.data.readers import list_pictures, read_note
from tests.pipelines.data.samples import png, write

FLAG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20"><rect width="20" height="20" fill="{}"/></svg>'


def test_the_longer_side_has_a_fixed_length_and_the_shape_is_kept() -> None:
    pixels = draw(FLAG.format("#ff8000").encode())
    assert pixels.shape == (4, LONGER_SIDE // 2, LONGER_SIDE)
    assert pixels[:, 10, 10].tolist() == [255, 128, 0, 255]
    assert not pixels[3, :, LONGER_SIDE // 2 + 1 :].any()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "corrupt"), (b"<html/>", "corrupt"), (b"<svg", "corrupt"), (b"\xff\xfe", "not-an-image")],
)
def test_what_is_no_drawing_is_put_aside_with_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        draw(content)


def test_a_drawing_of_absurd_proportions_takes_no_more_room_than_any_other() -> None:
    assert max(draw(FLAG.replace("40 20", "1 9000000").format("red").encode()).shape[1:]) <= LONGER_SIDE


def test_a_folder_of_drawings_is_ingested_and_among_photographs_a_drawing_is_left_aside(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for side, colour in (("line", "black"), ("colour", "red")):
        write(raw / side / "a.svg", FLAG.format(colour).encode())
    settings = IngestSettings(kind="paired", condition_side="second", condition_channels=1, size=(8, 16))
    info = ingest(raw, tmp_path / "out", settings, name="x")
    assert (info.splits, info.condition_channels) == ({"train": 1}, 1)
    np.testing.assert_allclose(info.mean, [1, 0.5, 0.5], atol=0.05)
    write(raw / "line" / "photo.png", png(1))
    listing = list_pictures(raw, read_note(raw))
    assert [entry.file for entry in listing.entries] == ["line/photo.png"]
    assert len(listing.ignored) == 2
