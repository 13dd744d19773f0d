"""A prepared dataset is read as the arrays that were written, and data that does not match its description is refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from gan_core import files
from gan_core.data import PreparedDataset, decode_prepared
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


def test_what_a_process_left_that_was_killed_after_it_had_cached_the_pictures_is_removed(tmp_path: Path) -> None:
    prepared = PreparedDataset(write_prepared(tmp_path / "data", blobs(4)), tmp_path / "cache")
    prepared.pixels()
    (cached,) = (tmp_path / "cache").glob("*.npy")
    left = cached.with_name(f".{cached.name}.gantry-abc")
    left.mkdir()
    os.utime(left, (0, 0))
    files._holders_at_first.cache_clear()  # a new process lists the folder anew
    prepared.pixels()
    assert not left.exists()


def test_decoded_pictures_are_cached_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTRY_CACHE_DIR", str(tmp_path / "mine"))
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


def test_another_format_is_refused_by_its_number(tmp_path: Path) -> None:
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
        ({"splits": {"train": 3}}, "train has 4 pictures, but dataset.json states 3. Run the ingest stage again"),
        ({"splits": {"train": 5}}, "train has 4 pictures, but dataset.json states 5. Run the ingest stage again"),
        ({"height": 8}, "a picture has 16x16 pixels, but dataset.json states 8x16. Run the ingest stage again"),
        ({"channels": 3}, "has 1 channels, expected 3"),
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
def test_a_truncated_shard_is_an_error_that_names_it(tmp_path: Path, read: str) -> None:
    directory = write_prepared(tmp_path / "data", blobs(4), np.arange(4) % 2)
    (shard,) = directory.glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-00000-of-00001.parquet is damaged .*Run the ingest stage again"):
        getattr(PreparedDataset(directory, tmp_path / "cache"), read)()
    assert not list(tmp_path.rglob("*.npy"))


def test_a_flipped_byte_anywhere_in_a_picture_is_detected(tmp_path: Path) -> None:
    pixels = blobs(4)
    directory = write_prepared(tmp_path / "data", pixels)
    (shard,) = directory.glob("*.parquet")
    whole = shard.read_bytes()
    begin, end = whole.index(b"\x89PNG"), whole.index(b"IEND")  # of the first picture
    for place in range(begin, end):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(DataError, match=rf"{shard.name} is damaged .*Run the ingest stage again"):
            PreparedDataset(directory, tmp_path / "cache").pixels()


def test_a_damaged_or_missing_shard_is_detected_although_its_pictures_are_cached(tmp_path: Path) -> None:
    directory = write_prepared(tmp_path / "data", blobs(4))
    PreparedDataset(directory, tmp_path / "cache").pixels()
    (shard,) = directory.glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"{shard.name} is damaged"):
        PreparedDataset(directory, tmp_path / "cache").pixels()
    shard.unlink()
    with pytest.raises(DataError, match="train has 0 pictures, but dataset.json states 4"):
        PreparedDataset(directory, tmp_path / "cache").pixels()


@pytest.mark.parametrize("read", ["pixels", "labels", "streamed"])
def test_data_that_is_replaced_while_it_is_in_use_is_refused_and_not_cached_as_the_first(
    tmp_path: Path, read: str
) -> None:
    """As by dvc checkout, or a run of the stage ingest, in another terminal."""
    first, labels = blobs(8), np.arange(8) % 2
    data = write_prepared(tmp_path / "data", first, labels)
    shutil.copytree(data, tmp_path / "kept")
    dataset = PreparedDataset(data, tmp_path / "cache")
    shutil.rmtree(data)
    write_prepared(data, 255 - first, 1 - labels)
    with pytest.raises(DataError, match=r"train-.*parquet was changed while it was in use"):
        dataset.streaming().pixels()[:] if read == "streamed" else getattr(dataset, read)()
    again = PreparedDataset(tmp_path / "kept", tmp_path / "cache")
    np.testing.assert_array_equal(again.pixels(), first)


def test_a_damaged_cache_is_written_again(tmp_path: Path) -> None:
    pixels = blobs(4)
    directory = write_prepared(tmp_path / "data", pixels)
    for damage in (lambda whole: b"", lambda whole: b"junk", lambda whole: whole[:-10], _flip_a_pixel):
        np.testing.assert_array_equal(PreparedDataset(directory, tmp_path / "cache").pixels(), pixels)
        (cached,) = (tmp_path / "cache").glob("*.npy")
        cached.write_bytes(damage(cached.read_bytes()))
    np.testing.assert_array_equal(PreparedDataset(directory, tmp_path / "cache").pixels(), pixels)


def _flip_a_pixel(whole: bytes) -> bytes:
    return whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_label_that_was_changed_into_another_is_detected(tmp_path: Path, streamed: bool) -> None:
    directory = write_prepared(tmp_path / "data", blobs(8), np.arange(8), row_group=8)
    shard = next(directory.glob("*.parquet"))
    whole = shard.read_bytes()
    labels = np.arange(8, dtype=np.int64).tobytes()
    assert whole.count(labels) == 1
    shard.write_bytes(whole.replace(labels, labels[:8] + labels[16:24] + labels[16:]))
    dataset = PreparedDataset(directory, tmp_path / "cache")
    with pytest.raises(DataError, match=rf"{shard.name} is damaged .*Run the ingest stage again"):
        (dataset.streaming() if streamed else dataset).labels()


def test_a_label_without_a_class_is_refused(tmp_path: Path) -> None:
    directory = write_prepared(tmp_path / "data", blobs(4), np.arange(4) % 2)
    write_prepared(tmp_path / "other", blobs(4), np.arange(4) + 6)
    shutil.copyfile(next((tmp_path / "other").glob("*.parquet")), next(directory.glob("*.parquet")))
    with pytest.raises(DataError, match=r"train has the label 6, but labels must be 0 to 1.*ingest stage again"):
        PreparedDataset(directory, tmp_path / "cache").labels()


def test_decoding_gives_channels_first(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pixels = blobs(1, channels=3)
    shard = write_prepared(tmp_path / "data", pixels) / "train-00000-of-00001.parquet"
    content = pq.read_table(shard)["image"][0]["bytes"].as_py()
    np.testing.assert_array_equal(decode_prepared(content, pixels.shape[1:], "shard"), pixels[0])
