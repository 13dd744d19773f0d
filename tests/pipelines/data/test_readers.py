"""Readers of all formats list pictures, labels, splits and rejects alike."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_core.errors import DataError
from gan_core.images.pictures import PictureError, decode
from pipelines.data.readers import detect, list_pictures, open_reader, parquet, read_note, write_note
from pipelines.data.readers.base import Entry, SourceNote
from pipelines.data.readers.folder import folders_without_pictures
from pipelines.data.readers.idx import write_idx
from tests.pipelines.data.samples import pets, png, without_privileges, write


def listed(root: Path) -> dict[str, tuple[str | None, str]]:
    """Class and split by the name of the picture."""
    listing = list_pictures(root, read_note(root))
    return {
        entry.source: (listing.classes[entry.label] if entry.label >= 0 else None, entry.split)
        for entry in listing.entries
    }


def rejected(root: Path) -> dict[str, str]:
    return {reject.source: reject.reason for reject in list_pictures(root, read_note(root)).rejects}


# Folders


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    pets(tmp_path, each=2)
    assert listed(tmp_path) == {
        "cat/000.png": ("cat", ""),
        "cat/001.png": ("cat", ""),
        "dog/000.png": ("dog", ""),
        "dog/001.png": ("dog", ""),
    }


def test_a_wrapping_folder_and_clutter_do_not_matter(tmp_path: Path) -> None:
    pets(tmp_path / "download" / "pets", each=1)
    write(tmp_path / ".DS_Store", b"x")
    write(tmp_path / "__MACOSX" / "cat" / "._000.png", b"x")
    write(tmp_path / "download" / "pets" / "cat" / "Thumbs.db", b"x")
    assert listed(tmp_path) == {
        "download/pets/cat/000.png": ("cat", ""),
        "download/pets/dog/000.png": ("dog", ""),
    }


def test_folders_named_train_and_test_are_splits(tmp_path: Path) -> None:
    pets(tmp_path / "train", each=1)
    pets(tmp_path / "val", each=1)
    write(tmp_path / "Test" / "cat" / "9.png", png(9))
    assert listed(tmp_path) == {
        "train/cat/000.png": ("cat", "train"),
        "train/dog/000.png": ("dog", "train"),
        "val/cat/000.png": ("cat", "validation"),
        "val/dog/000.png": ("dog", "validation"),
        "Test/cat/9.png": ("cat", "test"),
    }


def test_pictures_in_one_place_have_no_label(tmp_path: Path) -> None:
    write(tmp_path / "pictures" / "a.png", png(1))
    assert listed(tmp_path) == {"pictures/a.png": (None, "")}


def test_pictures_inside_and_outside_of_folders_are_unlabelled_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pets(tmp_path, each=1)
    write(tmp_path / "stray.png", png(5))
    assert {label for label, _ in listed(tmp_path).values()} == {None}
    assert "all are read without labels" in caplog.text


def test_files_are_listed_in_a_fixed_order_that_mixes_the_classes(tmp_path: Path) -> None:
    pets(tmp_path / "a", each=40)
    pets(tmp_path / "b" / "deeper", each=40)
    orders = []
    for root in (tmp_path / "a", tmp_path / "b" / "deeper"):
        listing = list_pictures(root, read_note(root))
        orders.append([entry.file for entry in listing.entries])
        assert 10 < sum(entry.label for entry in listing.entries[:40]) < 30
    assert orders[0] == orders[1]
    assert sorted(orders[0]) != orders[0]


def test_other_files_are_ignored_and_define_no_class(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/without-suffix", "dog/other.dat"):
        write(tmp_path / name, png(1))
    for name in ("docs/readme.txt", "dog/notes", "list.csv", "Python.py", "BM.html"):
        write(tmp_path / name, b"Python: a text\n")
    for name in ("cat/empty.png", "dog/phone.HEIC"):  # broken pictures, which ingestion rejects
        write(tmp_path / name, b"")
    listing = list_pictures(tmp_path, read_note(tmp_path))
    expected = {"cat/a.png", "cat/empty.png", "dog/without-suffix", "dog/other.dat", "dog/phone.HEIC"}
    assert {entry.file for entry in listing.entries} == expected
    assert listing.classes == ("cat", "dog")
    assert listing.ignored == ["BM.html", "Python.py", "docs/readme.txt", "dog/notes", "list.csv"]


def test_an_error_lists_the_files_of_a_folder_without_pictures(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        write(tmp_path / name, b"text")
    with pytest.raises(DataError, match=r"holds no pictures, only 3 files \(2 \.txt, 1 \.md\)"):
        listed(tmp_path)


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gantry data fetch"):
        read_note(tmp_path / "nowhere")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no picture"):
        listed(tmp_path / "empty")


def test_an_error_shows_the_bytes_of_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    write(tmp_path / "cat" / os.fsdecode(b"caf\xe9.png"), png(1))
    write(tmp_path / "dog" / "1.png", png(2))
    with pytest.raises(DataError, match=r"picture cat/caf\\xe9\.png is not UTF-8\. Rename it"):
        listed(tmp_path)


def test_a_folder_without_read_permission_is_an_error(tmp_path: Path) -> None:
    pets(tmp_path / "pets", each=1)
    (tmp_path / "pets" / "dog").chmod(0)
    with without_privileges():
        with pytest.raises(DataError, match="/pets/dog cannot be listed: Permission denied"):
            listed(tmp_path / "pets")
        with pytest.raises(DataError, match="/pets/dog cannot be listed: Permission denied"):
            list_pictures(tmp_path / "pets" / "dog", SourceNote(format="folder"))


def test_class_folders_without_pictures_are_found_in_each_split(tmp_path: Path) -> None:
    files = ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png"]
    for name in ("train/owl", "test/dog", "val", "train/cat/deeper", ".git"):
        (tmp_path / "wrapped" / name).mkdir(parents=True)
    for name in files:
        write(tmp_path / "wrapped" / name, png(1))
    found = folders_without_pictures(tmp_path, [f"wrapped/{name}" for name in files])
    assert found == ["wrapped/val", "wrapped/test/dog", "wrapped/train/owl"]
    assert folders_without_pictures(tmp_path / "wrapped" / "train" / "cat", ["1.png"]) == []


# StyleGAN


def test_stylegan_labels_are_read(tmp_path: Path) -> None:
    for name in ("00000/img0.png", "00000/img1.png", "00001/img2.png"):
        write(tmp_path / name, png(hash(name) % 100))
    labels = [["00000/img0.png", 2], ["00001/img2.png", 0], ["00000/gone.png", 1]]
    write(tmp_path / "dataset.json", json.dumps({"labels": labels}).encode())
    assert detect(tmp_path) == "stylegan"
    assert listed(tmp_path) == {"00000/img0.png": ("2", ""), "00001/img2.png": ("0", "")}
    assert list_pictures(tmp_path, read_note(tmp_path)).classes == ("0", "1", "2")
    assert rejected(tmp_path) == {"00000/img1.png": "no-label", "00000/gone.png": "missing"}


def test_stylegan_labels_may_be_null(tmp_path: Path) -> None:
    write(tmp_path / "00000/img0.png", png(0))
    write(tmp_path / "00001/img1.png", png(1))
    write(tmp_path / "dataset.json", b'{"labels": null}')
    assert listed(tmp_path) == {"00000/img0.png": (None, ""), "00001/img1.png": (None, "")}


def test_invalid_stylegan_labels_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "img0.png", png(0))
    write(tmp_path / "dataset.json", b'{"labels": [["img0.png", [1, 2]]]}')
    with pytest.raises(DataError, match=r"dataset\.json.*whole number"):
        listed(tmp_path)
    write(tmp_path / "dataset.json", b'{"labels": [["img0.png", 20230105]]}')
    with pytest.raises(DataError, match=r"label of img0\.png is 20230105, so that there would be as many classes"):
        listed(tmp_path)


@pytest.mark.parametrize("content", [b'{"labels": [["00000/img0.png", 2], ["00', b'{"labels": \xff}'])
def test_a_damaged_stylegan_label_file_is_refused_and_its_folders_are_no_classes(
    tmp_path: Path, content: bytes
) -> None:
    write(tmp_path / "00000/img0.png", png(0))
    write(tmp_path / "00001/img1.png", png(1))
    write(tmp_path / "dataset.json", content)
    with pytest.raises(DataError, match=r"dataset\.json is not a StyleGAN label file"):
        listed(tmp_path)
    write(tmp_path / "dataset.json", b'\xef\xbb\xbf{"labels": [["00000/img0.png", 1], ["00001/img1.png", 0]]}')
    assert listed(tmp_path) == {"00000/img0.png": ("1", ""), "00001/img1.png": ("0", "")}


# Label tables


def test_a_csv_beside_the_pictures_gives_labels_and_splits(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.png"):
        write(tmp_path / "images" / name, png(1))
    table = "filename,Label,split\nimages/a.png,shirt,train\nb.jpg,bag,test\nc,bag,train\n"
    write(tmp_path / "labels.csv", table.encode())
    assert detect(tmp_path) == "table"
    assert listed(tmp_path) == {
        "images/a.png": ("shirt", "train"),
        "images/b.jpg": ("bag", "test"),
        "images/c.png": ("bag", "train"),
    }


def test_a_parquet_table_with_named_columns(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png(1))
    write(tmp_path / "b.png", png(2))
    pq.write_table(
        pa.table({"where": ["a.png", "b.png"], "kind": [10, 9], "label": ["x", "x"]}), tmp_path / "t.parquet"
    )
    write_note(tmp_path, SourceNote(format="table", labels="t.parquet", image_column="where", label_column="kind"))
    assert listed(tmp_path) == {"a.png": ("10", ""), "b.png": ("9", "")}
    assert list_pictures(tmp_path, read_note(tmp_path)).classes == ("9", "10")


def test_files_without_a_row_and_rows_without_a_file_are_rejects(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png(1))
    write(tmp_path / "b.png", png(2))
    write(tmp_path / "c.png", png(3))
    write(tmp_path / "readme.txt", b"about the pictures")
    write(tmp_path / "labels.csv", b"file,label\na.png,x\nc.png,\ngone.png,y\n")
    assert listed(tmp_path) == {"a.png": ("x", "")}
    assert list_pictures(tmp_path, read_note(tmp_path)).ignored == ["readme.txt"]
    assert rejected(tmp_path) == {"b.png": "no-label", "c.png": "no-label", "gone.png": "missing"}


def test_an_error_for_a_missing_column_lists_the_columns(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png(1))
    write(tmp_path / "labels.csv", b"file,label\na.png,x\n")
    write_note(tmp_path, SourceNote(format="table", labels="labels.csv", label_column="kind"))
    with pytest.raises(DataError, match=r"no column 'kind'; it has file, label.*--label-column"):
        listed(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "file,label\na.png,x\nb.png,caf\xe9\n".encode("latin-1"),
            r"labels\.csv, line 3: not UTF-8 \(byte 0xe9\)",
        ),
        (b'file,label\na.png,"' + b"x" * 200_000 + b'"\n', r"labels\.csv, line 2: field larger than field limit"),
    ],
    ids=["latin-1", "very long cell"],
)
def test_an_error_names_the_line_of_an_unreadable_table(tmp_path: Path, content: bytes, message: str) -> None:
    write(tmp_path / "a.png", png(1))
    write(tmp_path / "labels.csv", content)
    with pytest.raises(DataError, match=message + r".*UTF-8"):
        listed(tmp_path)


def test_two_labels_for_one_picture_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png(1))
    write(tmp_path / "labels.csv", b"file,label\na.png,x\na.png,y\n")
    with pytest.raises(DataError, match="two labels"):
        listed(tmp_path)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_two_used_columns_with_the_same_name_are_refused(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "a.png", png(1))
    table = tmp_path / f"labels.{suffix}"
    for columns in (["file", "label", "label"], ["file", "label", "note", "note"]):
        values = ["a.png", "x", "y", "z"][: len(columns)]
        if suffix == "parquet":
            pq.write_table(pa.Table.from_arrays([pa.array([value]) for value in values], names=columns), table)
        else:
            between = "," if suffix == "csv" else "\t"
            write(table, f"{between.join(columns)}\n{between.join(values)}\n".encode())
        if "note" in columns:
            assert listed(tmp_path) == {"a.png": ("x", "")}
        else:
            with pytest.raises(
                DataError, match=rf"labels\.{suffix} has 2 columns named 'label'\. Rename or remove one"
            ):
                listed(tmp_path)


# IDX


def idx_source(root: Path, *, test: bool = True) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    root.mkdir(exist_ok=True)
    write_idx(pixels[:4], root / "train-images-idx3-ubyte")
    write_idx(np.array([0, 1, 1, 0]), root / "train-labels-idx1-ubyte")
    if test:
        write_idx(pixels[4:], root / "t10k-images-idx3-ubyte")
        write_idx(np.array([1, 0]), root / "t10k-labels-idx1-ubyte")
    return pixels


def test_idx_rows_have_labels_splits_and_pixels(tmp_path: Path) -> None:
    pixels = idx_source(tmp_path)
    write_note(tmp_path, SourceNote(format="idx", classes=("shirt", "bag")))
    found = listed(tmp_path)
    assert len(found) == 6
    assert found["train-images-idx3-ubyte#1"] == ("bag", "train")
    assert found["t10k-images-idx3-ubyte#1"] == ("shirt", "test")
    reader = open_reader(tmp_path, read_note(tmp_path))
    assert (reader.read(Entry("t10k-images-idx3-ubyte", 1)) == pixels[5][None]).all()


def test_a_single_idx_file_has_no_split(tmp_path: Path) -> None:
    idx_source(tmp_path, test=False)
    assert detect(tmp_path) == "idx"
    assert listed(tmp_path)["train-images-idx3-ubyte#1"] == ("1", "")


def test_idx_pictures_may_have_channels_first_or_last(tmp_path: Path) -> None:
    first = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
    for name, array in (("a-images-idx4-ubyte", first), ("b-images-idx4-ubyte", first.transpose(0, 2, 3, 1))):
        write_idx(array, tmp_path / name)
        reader = open_reader(tmp_path, SourceNote(format="idx"))
        assert (reader.read(Entry(name, 1)) == first[1]).all()


def test_a_broken_idx_file_is_refused(tmp_path: Path) -> None:
    idx_source(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte has 93 bytes, but its header requires 96"):
        listed(tmp_path)
    path.write_bytes(b"no idx")
    with pytest.raises(DataError, match="is not an IDX file"):
        listed(tmp_path)


def test_idx_files_of_labels_and_pictures_must_have_equal_lengths(tmp_path: Path) -> None:
    idx_source(tmp_path)
    write_idx(np.array([0, 1]), tmp_path / "train-labels-idx1-ubyte")
    with pytest.raises(DataError, match="2 labels, but train-images-idx3-ubyte holds 4 pictures"):
        listed(tmp_path)


# CIFAR-10


def test_cifar_records(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    labels = np.array([[3], [9], [0]], dtype=np.uint8)
    records = np.concatenate([labels, pixels], axis=1)
    write(tmp_path / "data_batch_1.bin", records[:2].tobytes())
    write(tmp_path / "test_batch.bin", records[2:].tobytes())
    assert detect(tmp_path) == "cifar"
    assert listed(tmp_path) == {
        "data_batch_1.bin#0": ("3", "train"),
        "data_batch_1.bin#1": ("9", "train"),
        "test_batch.bin#0": ("0", "test"),
    }
    reader = open_reader(tmp_path, read_note(tmp_path))
    assert (np.asarray(reader.read(Entry("data_batch_1.bin", 1))).reshape(-1) == pixels[1]).all()
    write(tmp_path / "test_batch.bin", b"short")
    with pytest.raises(DataError, match=r"test_batch\.bin has 5 bytes"):
        listed(tmp_path)


# Parquet


@pytest.mark.parametrize("at_once", [1, 500, 2**20])
def test_rows_of_a_large_row_group_are_read_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(parquet, "_AT_ONCE", at_once)
    pq.write_table(pa.table({"image": [png(seed) for seed in range(20)]}), tmp_path / "a.parquet", row_group_size=12)
    reader = open_reader(tmp_path, read_note(tmp_path))
    for row in (*range(20), 3, 2, 11, 12, 19, 0):
        assert reader.read(Entry("a.parquet", row)) == png(row)


def test_hugging_face_parquet_with_class_names(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for split, seeds in (("train", range(5)), ("test", range(5, 7))):
        rows = [{"image": {"bytes": png(seed), "path": None}, "label": seed % 2} for seed in seeds]
        path = tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=2)
    found = listed(tmp_path)
    assert found["data/train-00000-of-00001.parquet#3"] == ("dog", "train")
    assert found["data/test-00000-of-00001.parquet#1"] == ("cat", "test")
    reader = open_reader(tmp_path, read_note(tmp_path))
    for row in (0, 3, 4, 1):
        content = reader.read(Entry("data/train-00000-of-00001.parquet", row))
        assert content == png(row)


def test_a_list_of_labels_in_parquet_is_no_class_unless_it_is_named(tmp_path: Path) -> None:
    table = pa.table({"image": [png(0), png(1)], "labels": [[0, 2], []]})
    pq.write_table(table, tmp_path / "data.parquet")
    listing = list_pictures(tmp_path, read_note(tmp_path))
    assert (len(listing.entries), listing.classes) == (2, ())
    assert listing.notes == ("columns that are not used: labels",)
    with pytest.raises(DataError, match="must be text or a whole number, got"):
        list_pictures(tmp_path, SourceNote(format="parquet", label_column="labels"))


def test_a_measured_quantity_in_parquet_is_no_class_unless_it_is_named(tmp_path: Path) -> None:
    table = pa.table({"image": [png(0), png(1)], "target": [0.0, 0.37], "fine_label": [3, 4]})
    pq.write_table(table, tmp_path / "data.parquet")
    listing = list_pictures(tmp_path, read_note(tmp_path))
    assert listing.classes == ("3", "4")
    assert listing.notes == ("columns that are not used: target",)
    pq.write_table(table.drop_columns(["fine_label"]), tmp_path / "data.parquet")
    assert list_pictures(tmp_path, read_note(tmp_path)).classes == ()
    with pytest.raises(DataError, match=r"row 1: a label must be text or a whole number, got '0\.37'"):
        list_pictures(tmp_path, SourceNote(format="parquet", label_column="target"))


def test_parquet_with_plain_bytes_text_labels_and_nulls(tmp_path: Path) -> None:
    table = pa.table({"img": [png(0), None, png(2)], "class": ["dog", "cat", None]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert detect(tmp_path) == "parquet"
    assert listed(tmp_path) == {"x.parquet#0": ("dog", ""), "x.parquet#1": ("cat", "")}
    assert rejected(tmp_path) == {"x.parquet#2": "no-label"}
    reader = open_reader(tmp_path, read_note(tmp_path))
    assert decode(bytes(reader.read(Entry("x.parquet", 0))), 3).shape == (3, 12, 10)
    with pytest.raises(PictureError, match="missing"):
        reader.read(Entry("x.parquet", 1))


def test_an_error_lists_several_columns_of_pictures(tmp_path: Path) -> None:
    pq.write_table(pa.table({"front": [png(0)], "back": [png(1)]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"front, back.*--image-column"):
        listed(tmp_path)
    write_note(tmp_path, SourceNote(format="parquet", image_column="back"))
    note = read_note(tmp_path)
    assert open_reader(tmp_path, note).read(list_pictures(tmp_path, note).entries[0]) == png(1)


# Source note


def test_equal_source_notes_have_equal_bytes_and_are_checked(tmp_path: Path) -> None:
    note = SourceNote(format="idx", classes=("b", "a"))
    write_note(tmp_path, note)
    first = (tmp_path / "source.json").read_bytes()
    write_note(tmp_path, note)
    assert (tmp_path / "source.json").read_bytes() == first
    assert read_note(tmp_path) == note
    write(tmp_path / "source.json", b'{"format": "folders"}')
    with pytest.raises(DataError, match="Did you mean 'folder'"):
        read_note(tmp_path)
    write(tmp_path / "source.json", b'{"format": "idx", "clases": []}')
    with pytest.raises(DataError, match="Did you mean 'classes'"):
        read_note(tmp_path)


# Properties

_LABELS = st.text(st.sampled_from("abXYZé,;\t\"' -"), min_size=1, max_size=8).filter(lambda text: text == text.strip())


@given(
    rows=st.dictionaries(st.sampled_from([f"{number}.png" for number in range(6)]), _LABELS, min_size=1),
    separator=st.sampled_from([",", ";", "\t"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_every_label_in_a_table_is_read_as_written(
    tmp_path_factory: pytest.TempPathFactory,
    rows: dict[str, str],
    separator: str,
    quoting: int,
    end: str,
    encoding: str,
) -> None:
    root = tmp_path_factory.mktemp("table")
    for name in rows:
        write(root / name, b"x")
    suffix = "tsv" if separator == "\t" else "csv"
    with open(root / f"labels.{suffix}", "w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end)
        writer.writerow(["file", "label"])
        writer.writerows(rows.items())
    assert {source: label for source, (label, _) in listed(root).items()} == rows


# Without -1, which usually means a missing label, see test_tables.py.
@given(
    labels=st.lists(st.none() | st.integers(-4, -2) | st.integers(0, 40), min_size=1, max_size=8), floats=st.booleans()
)
def test_numeric_labels_in_parquet_are_classes_in_numeric_order(
    tmp_path_factory: pytest.TempPathFactory, labels: list[int | None], floats: bool
) -> None:
    root = tmp_path_factory.mktemp("parquet")
    column = pa.array(labels, pa.float64() if floats else pa.int64())
    pq.write_table(pa.table({"image": [b"x"] * len(labels), "label": column}), root / "data.parquet")
    listing = list_pictures(root, read_note(root))
    assert list(listing.classes) == [str(label) for label in sorted({label for label in labels if label is not None})]
    assert {entry.row: listing.classes[entry.label] for entry in listing.entries} == {
        row: str(label) for row, label in enumerate(labels) if label is not None
    }
    assert {reject.source for reject in listing.rejects} == {
        f"data.parquet#{row}" for row, label in enumerate(labels) if label is None
    }
