"""The difference between two datasets: pictures by content, splits, classes, duplicates, and distances."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.files import read_json, write_json
from pipelines.data.ingest import ingest
from pipelines.datadiff.diff import Counts, DataDiff, added_pictures, diff_datasets, measure_figures
from pipelines.datadiff.report import diff_lines
from pipelines.settings.ingest import IngestSettings
from tests.datasets import blobs, write_prepared
from tests.gan_core.metrics.conftest import Averages

NAMES = ("before", "after")
PICTURES = blobs(48)


def dataset(
    place: Path,
    pixels: np.ndarray,
    labels: list[int] | None = None,
    *,
    test: np.ndarray | None = None,
    **changes: object,
) -> PreparedDataset:
    """A prepared dataset, with a test split if ``test`` is given."""
    given = None if labels is None else np.array(labels)
    write_prepared(place, pixels, given)
    described = read_json(place / "dataset.json")
    if test is not None:
        write_prepared(place / "other", test, None if labels is None else np.zeros(len(test), int), split="test")
        (shard,) = (place / "other").glob("*.parquet")
        shard.rename(place / shard.name)
        described["splits"]["test"] = len(test)
        described["digest"] += read_json(place / "other" / "dataset.json")["digest"]
    write_json(place / "dataset.json", {**described, **changes})
    return PreparedDataset(place, place / "decoded")


def test_added_and_removed_pictures_are_counted_by_split_and_class(tmp_path: Path) -> None:
    before = dataset(tmp_path / "a", PICTURES[:20], [0, 1] * 10)
    after = dataset(tmp_path / "b", PICTURES[4:30], [0, 1] * 8 + [2] * 10)
    diff, added = diff_datasets(before, after, NAMES)
    assert diff.pictures == Counts(before=20, after=26, added=10, removed=4)
    assert diff.splits == {"train": diff.pictures}
    assert diff.classes == {
        "0": Counts(before=10, after=8, added=0, removed=2),
        "1": Counts(before=10, after=8, added=0, removed=2),
        "2": Counts(before=0, after=10, added=10, removed=0),
    }
    assert (diff.moved, diff.relabelled) == (0, 0)
    assert diff.share == 14 / 20
    assert np.array_equal(added_pictures(after, added, 4), PICTURES[[20, 23, 26, 29]])


def test_pictures_in_another_split_or_class_are_neither_added_nor_removed(tmp_path: Path) -> None:
    before = dataset(tmp_path / "a", PICTURES[:10], [0] * 8 + [1] * 2, test=PICTURES[10:14])
    after = dataset(tmp_path / "b", PICTURES[[*range(10), 12]], [0] * 6 + [1] * 5, test=PICTURES[[10, 11, 13]])
    diff, added = diff_datasets(before, after, NAMES)
    assert (diff.pictures.added, diff.pictures.removed, added) == (0, 0, [])
    assert diff.moved == 1  # number 12
    assert diff.relabelled == 3  # 6 and 7 from class 0 to 1, and 12
    assert diff.share == 4 / 14


def test_a_picture_of_several_classes_or_splits_is_relabelled_or_moved_by_the_loss_of_one(tmp_path: Path) -> None:
    """Ingestion keeps such a picture in each. Otherwise cleaning the data would count as no change."""
    twice = PICTURES[[*range(10), *range(10)]]
    before = dataset(tmp_path / "a", twice, [0] * 10 + [1] * 10, test=PICTURES[:3])
    after = dataset(tmp_path / "b", PICTURES[:10], [0] * 6 + [1] * 4, test=PICTURES[:1])
    diff, _ = diff_datasets(before, after, NAMES)
    assert (diff.pictures.added, diff.pictures.removed) == (0, 0)
    assert (diff.moved, diff.relabelled) == (2, 10)
    again, _ = diff_datasets(before, before, NAMES)
    assert (again.moved, again.relabelled) == (0, 0)


def test_classes_are_compared_by_name(tmp_path: Path) -> None:
    before = dataset(tmp_path / "a", PICTURES[:4], [0, 0, 1, 1], classes=["cat", "dog"])
    after = dataset(tmp_path / "b", PICTURES[:4], [1, 1, 2, 2], classes=["ant", "cat", "dog"])
    diff, _ = diff_datasets(before, after, NAMES)
    assert diff.relabelled == 0
    assert diff.classes["cat"] == Counts(before=2, after=2, added=0, removed=0)
    assert diff.classes["ant"] == Counts(before=0, after=0, added=0, removed=0)


def test_pictures_in_two_splits_and_removed_duplicates_are_counted(tmp_path: Path) -> None:
    before = dataset(tmp_path / "a", PICTURES[:8], test=PICTURES[8:12], rejects={"duplicate": 3, "truncated": 2})
    after = dataset(tmp_path / "b", PICTURES[:8], test=PICTURES[6:12])
    diff, _ = diff_datasets(before, after, NAMES)
    assert (diff.before.shared, diff.after.shared) == (0, 2)
    assert (diff.before.duplicates, diff.before.rejects, diff.after.duplicates) == (3, 2, 0)


def test_pictures_of_another_size_are_matched_by_the_names_of_their_source_files(tmp_path: Path) -> None:
    def ingested(name: str, files: Sequence[str], size: int) -> PreparedDataset:
        (tmp_path / name).mkdir()
        for number, file in enumerate(files):
            Image.fromarray(PICTURES[number, 0]).save(tmp_path / name / file)
        ingest(tmp_path / name, tmp_path / f"{name}-prepared", IngestSettings(size=(size, size)), name=name)
        return PreparedDataset(tmp_path / f"{name}-prepared", tmp_path / "decoded")

    before = ingested("a", ["1.png", "2.png", "3.png"], 16)
    after = ingested("b", ["0.png", "2.png", "3.png"], 8)
    diff, added = diff_datasets(before, after, NAMES)
    assert diff.matched_by == "name"
    assert (diff.pictures.added, diff.pictures.removed, len(added)) == (1, 1, 1)
    assert "16x16" in diff_lines(diff)[0]
    assert "8x8" in diff_lines(diff)[1]


def test_pictures_are_compared_by_their_pixels_however_their_files_were_compressed(tmp_path: Path) -> None:
    """As by another zlib: some distributions have one that compresses to other bytes."""
    before = dataset(tmp_path / "a", PICTURES[:10], [0] * 10, test=PICTURES[10:14])
    dataset(tmp_path / "b", PICTURES[2:11], [0] * 8 + [1], test=PICTURES[11:16])
    for shard in (tmp_path / "b").glob("*.parquet"):
        rows = pq.read_table(shard).to_pylist()
        for row in rows:
            with Image.open(io.BytesIO(row["image"]["bytes"])) as picture:
                picture.save(again := io.BytesIO(), "PNG", compress_level=0)
            row["image"]["bytes"] = again.getvalue()
        pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(shard)), shard, write_page_checksum=True)
    diff, _ = diff_datasets(before, PreparedDataset(tmp_path / "b"), NAMES)
    assert diff.pictures == Counts(before=14, after=14, added=2, removed=2)
    assert (diff.moved, diff.relabelled) == (1, 1)


def test_pairs_are_compared_by_both_pictures(tmp_path: Path) -> None:
    write_prepared(tmp_path / "a", PICTURES[:4], conditions=PICTURES[4:8])
    write_prepared(tmp_path / "b", PICTURES[:4], conditions=PICTURES[[4, 5, 6, 8]])
    diff, added = diff_datasets(PreparedDataset(tmp_path / "a"), PreparedDataset(tmp_path / "b"), NAMES)
    assert (diff.pictures.added, diff.pictures.removed, added) == (1, 1, [3])


def test_renamed_classes_are_a_difference(tmp_path: Path) -> None:
    before = dataset(tmp_path / "a", PICTURES[:4], [0, 0, 1, 1], classes=["cat", "dog"])
    after = dataset(tmp_path / "b", PICTURES[:4], [0, 0, 1, 1], classes=["cat", "wolf"])
    diff, _ = diff_datasets(before, after, NAMES)
    assert before.info.digest == after.info.digest
    assert not diff.same
    assert diff.relabelled == 2
    assert "The data is the same." not in diff_lines(diff)


def test_attributes_are_counted_and_compared(tmp_path: Path) -> None:
    labels = np.array([[1, 0], [1, 1], [0, 0]])
    write_prepared(tmp_path / "a", PICTURES[:3], labels)
    write_prepared(tmp_path / "b", PICTURES[:3], labels[:, ::-1].copy())
    diff, _ = diff_datasets(PreparedDataset(tmp_path / "a"), PreparedDataset(tmp_path / "b"), NAMES)
    assert diff.classes["attribute 0"] == Counts(before=2, after=1, added=0, removed=0)
    assert diff.relabelled == 1


def test_figures_tell_new_pictures_of_the_same_kind_from_others(tmp_path: Path) -> None:
    before = dataset(tmp_path / "a", blobs(60))
    same = dataset(tmp_path / "b", blobs(60, seed=1))
    other = dataset(tmp_path / "c", 255 - blobs(60, seed=2))
    found = [measured(before, after, tmp_path) for after in (same, other)]
    for figure in ("fid", "kid"):
        assert found[1].value(figure) > 10 * max(found[0].value(figure), 1e-3)
    assert found[0].value("coverage") > 0.8
    assert found[1].value("coverage") < 0.2
    assert found[0].figures[0]["protocol"]["dataset_digest"] == same.info.digest
    assert found[0].figures[0]["generator_digest"] == before.info.digest


def measured(before: PreparedDataset, after: PreparedDataset, place: Path) -> DataDiff:
    diff, _ = diff_datasets(before, after, NAMES)
    figures, omitted = measure_figures(before, after, extractor=Averages(), count=50, cache_dir=place / "cache")
    return dataclasses.replace(diff, figures=figures, omitted=omitted)


def test_figures_that_need_more_pictures_are_named_with_the_reason(tmp_path: Path) -> None:
    diff = measured(dataset(tmp_path / "a", PICTURES[:4]), dataset(tmp_path / "b", PICTURES[4:8]), tmp_path)
    assert diff.value("coverage") is None
    assert "at least 6 pictures" in diff.omitted["coverage"]
    assert any(line.startswith("COVERAGE was not measured") for line in diff_lines(diff))


def test_the_table_has_the_counts_and_the_same_data_is_said_to_be_the_same(tmp_path: Path) -> None:
    before = dataset(tmp_path / "a", PICTURES[:20], [0, 1] * 10)
    after = dataset(tmp_path / "b", PICTURES[:25], [0, 1] * 10 + [0] * 5)
    lines = diff_lines(diff_datasets(before, after, NAMES)[0])
    assert [line.split() for line in lines if line.startswith("split train")] == [
        ["split", "train", "20", "25", "5", "0"]
    ]
    assert "1 classes have the same pictures." in lines
    assert lines[-3].endswith("with another label): 25.0% of the number of old pictures.")
    assert diff_lines(diff_datasets(before, before, NAMES)[0])[-1] == "The data is the same."


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    before, after = dataset(tmp_path / "a", PICTURES[:5]), dataset(tmp_path / "b", PICTURES[:5])
    (shard,) = (tmp_path / "b").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(DataError, match=shard.name):
        diff_datasets(before, after, NAMES)
