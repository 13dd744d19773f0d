"""A prepared dataset is read as the arrays that were written, and anything that does not fit its description is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gan_core.data import PreparedDataset, decode_prepared, user_cache_dir
from gan_core.errors import DataError
from tests.datasets import blobs, write_prepared


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_and_labels_come_back_as_written(tmp_path: Path, channels: int) -> None:
    pixels, labels = blobs(10, channels=channels), np.arange(10) % 3
    dataset = PreparedDataset(write_prepared(tmp_path / "data", pixels, labels), tmp_path / "cache")
    np.testing.assert_array_equal(dataset.pixels("train"), pixels)
    np.testing.assert_array_equal(dataset.labels("train"), labels)
    assert dataset.info.classes == ("0", "1", "2")
    assert dataset.info.splits == {"train": 10}


def test_an_unlabelled_set_has_no_labels(tmp_path: Path) -> None:
    assert PreparedDataset(write_prepared(tmp_path / "data", blobs(3))).labels() is None


def test_pictures_that_are_not_square_keep_height_before_width(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 6, 9), dtype=np.uint8)
    dataset = PreparedDataset(write_prepared(tmp_path / "data", pixels))
    assert (dataset.info.height, dataset.info.width) == (6, 9)
    np.testing.assert_array_equal(dataset.pixels(), pixels)


def test_pixels_are_decoded_once_and_mapped_read_only_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_prepared(tmp_path / "data", blobs(4))
    first = PreparedDataset(directory, tmp_path / "cache").pixels()
    monkeypatch.delattr("gan_core.data.decode_prepared")
    second = PreparedDataset(directory, tmp_path / "cache").pixels()
    np.testing.assert_array_equal(first, second)
    assert isinstance(second, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        second[0] = 0


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTRY_CACHE_DIR", str(tmp_path / "mine"))
    assert user_cache_dir() == tmp_path / "mine"
    PreparedDataset(write_prepared(tmp_path / "data", blobs(2))).pixels()
    assert len(list((tmp_path / "mine").rglob("*.npy"))) == 1


def test_a_folder_without_a_description_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No prepared dataset in .*dataset\.json is missing\. Run the ingest stage"):
        PreparedDataset(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"heigth": 3}'])
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    directory = write_prepared(tmp_path / "data", blobs(2))
    (directory / "dataset.json").write_text(text)
    with pytest.raises(
        DataError, match=r"dataset\.json is not a dataset description: .*[^.]\. Run the ingest stage again"
    ):
        PreparedDataset(directory)


def test_another_format_is_refused_by_its_number_whatever_else_it_says(tmp_path: Path) -> None:
    directory = write_prepared(tmp_path / "data", blobs(2))
    (directory / "dataset.json").write_text('{"format": 2, "pages": 7}')
    with pytest.raises(DataError, match=r"dataset of format 2; .* reads format 1\. Run the ingest stage again"):
        PreparedDataset(directory)


def test_an_unknown_split_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no split 'valid'; it has train"):
        PreparedDataset(write_prepared(tmp_path / "data", blobs(2))).pixels("valid")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": {"train": 3}}, "train holds 4 pictures, dataset.json says 3. Ingest again"),
        ({"splits": {"train": 5}}, "train holds 4 pictures, dataset.json says 5. Ingest again"),
        ({"height": 8}, "a picture is 16x16 pixels where dataset.json says 8x16. Ingest again"),
        ({"channels": 3}, "has 1 channels where 3 are expected"),
    ],
)
def test_pictures_that_contradict_the_description_are_refused_and_nothing_is_cached(
    tmp_path: Path, change: dict, message: str
) -> None:
    directory = write_prepared(tmp_path / "data", blobs(4))
    description = json.loads((directory / "dataset.json").read_text())
    (directory / "dataset.json").write_text(json.dumps({**description, **change}))
    with pytest.raises(DataError, match=message):
        PreparedDataset(directory, tmp_path / "cache").pixels()
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("read", ["pixels", "labels"])
def test_a_shard_that_is_cut_short_is_named_with_the_remedy(tmp_path: Path, read: str) -> None:
    directory = write_prepared(tmp_path / "data", blobs(4), np.arange(4) % 2)
    (shard,) = directory.glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-00000-of-00001.parquet is damaged .*Run the ingest stage again"):
        getattr(PreparedDataset(directory, tmp_path / "cache"), read)()
    assert not list(tmp_path.rglob("*.npy"))


def test_a_flipped_byte_of_a_picture_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    pixels = blobs(4)
    directory = write_prepared(tmp_path / "data", pixels)
    (shard,) = directory.glob("*.parquet")
    whole = shard.read_bytes()
    begin, end = whole.index(b"\x89PNG"), whole.index(b"IEND")  # of the first picture
    for place in range(begin, end):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(DataError, match=rf"{shard.name} is damaged .*Run the ingest stage again"):
            PreparedDataset(directory, tmp_path / "cache").pixels()


def test_a_shard_that_is_damaged_or_gone_is_noticed_although_its_pictures_are_cached(tmp_path: Path) -> None:
    directory = write_prepared(tmp_path / "data", blobs(4))
    PreparedDataset(directory, tmp_path / "cache").pixels()
    (shard,) = directory.glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"{shard.name} is damaged"):
        PreparedDataset(directory, tmp_path / "cache").pixels()
    shard.unlink()
    with pytest.raises(DataError, match="train holds 0 pictures, dataset.json says 4"):
        PreparedDataset(directory, tmp_path / "cache").pixels()


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    pixels = blobs(4)
    directory = write_prepared(tmp_path / "data", pixels)
    for content in (b"", b"junk", None):
        np.testing.assert_array_equal(PreparedDataset(directory, tmp_path / "cache").pixels(), pixels)
        (cached,) = (tmp_path / "cache").glob("*.npy")
        cached.write_bytes(cached.read_bytes()[:-10] if content is None else content)
    np.testing.assert_array_equal(PreparedDataset(directory, tmp_path / "cache").pixels(), pixels)


def test_a_label_that_no_class_has_is_refused(tmp_path: Path) -> None:
    directory = write_prepared(tmp_path / "data", blobs(4), np.arange(4) % 2)
    write_prepared(tmp_path / "other", blobs(4), np.arange(4) + 6)
    shutil.copyfile(next((tmp_path / "other").glob("*.parquet")), next(directory.glob("*.parquet")))
    with pytest.raises(DataError, match=r"train has the label 6, and labels are 0 to 1.*ingest stage again"):
        PreparedDataset(directory, tmp_path / "cache").labels()


def test_decoding_gives_channels_first(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pixels = blobs(1, channels=3)
    shard = write_prepared(tmp_path / "data", pixels) / "train-00000-of-00001.parquet"
    content = pq.read_table(shard)["image"][0]["bytes"].as_py()
    np.testing.assert_array_equal(decode_prepared(content, 3), pixels[0])
