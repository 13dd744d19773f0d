"""Read label tables as spreadsheets, pandas and datasets write them. No label is lost or invented."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_core.errors import DataError
from pipelines.data.arrange import arrange
from pipelines.data.description import describe
from pipelines.data.readers import detect, list_pictures, read_note, write_note
from pipelines.data.readers.base import Listing, SourceNote
from pipelines.data.readers.folder import shuffle_by_hash
from pipelines.data.readers.labels import attribute_value, label_positions
from pipelines.data.readers.table import why_unused
from tests.pipelines.data.samples import png, write


def pictures(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        write(root / name, png(number))
    return root


def table(root: Path, content: str | bytes, name: str = "labels.csv") -> Path:
    return write(root / name, content.encode() if isinstance(content, str) else content)


def read(root: Path, kind: str = "auto") -> Listing:
    return arrange(root, read_note(root), kind=kind)[1]  # type: ignore[arg-type]


def found(root: Path, kind: str = "auto") -> dict[str, tuple[str, str]]:
    """Class and split by picture."""
    listing = read(root, kind)
    return {e.file: (listing.classes[e.label] if e.label >= 0 else "", e.split) for e in listing.entries}


AB = {"a.png": ("cat", ""), "b.png": ("dog", "")}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "file,label\na.png,cat\nb.png,dog\n"),
        ("labels.csv", "file;label\na.png;cat\nb.png;dog\n"),
        ("labels.csv", "file\tlabel\na.png\tcat\nb.png\tdog\n"),
        ("labels.csv", "file|label\na.png|cat\nb.png|dog\n"),
        ("labels.tsv", "file\tlabel\na.png\tcat\nb.png\tdog\n"),
        ("labels.tsv", "file,label\na.png,cat\nb.png,dog\n"),
        ("labels.csv", "sep=;\nfile;label\na.png;cat\nb.png;dog\n"),
        (
            "labels.csv",
            "file,label,,\r\na.png,cat,,\r\nb.png,dog,,\r\n,,,\r\n,,,\r\n",
        ),  # Excel's trailing cells and rows
        ("labels.csv", "\ufefffile,label\na.png,cat\nb.png,dog\n"),
        ("labels.csv", "file,label\na.png,cat\nb.png,dog\n".encode("utf-16")),
        ("labels.csv", " file , label \n a.png , cat \n b.png , dog \n"),
        ("labels.csv", 'file,label,note\n"a.png",cat,"one, and two"\nb.png,dog,\n'),
        ("labels.csv", "\nfile,label\n\na.png,cat\n\nb.png,dog\n"),
        (
            "labels.jsonl",
            '{"file_name": "a.png", "label": "cat"}\n\n{"file_name": "b.png", "label": "dog", "n": [1]}\n',
        ),
    ],
)
def test_formats_of_label_tables(tmp_path: Path, name: str, content: str | bytes) -> None:
    table(pictures(tmp_path, "a.png", "b.png"), content, name)
    assert detect(tmp_path) == "table"
    assert found(tmp_path) == AB
    assert read(tmp_path).rejects == []


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["0", "0.0", "10.0", "2.0"], ("0", "2", "10")),
        (["1", "01", "2"], ("1", "2")),
        (["01", "02", "10"], ("01", "02", "10")),  # each class with a single spelling keeps it
        (["-1", "1"], ("-1", "1")),
        (["1.5", "10", "2"], ("1.5", "2", "10")),
        (["1.0", "a"], ("1.0", "a")),
        (["caf\u00e9", "cafe\u0301", "b"], ("b", "caf\u00e9")),
    ],
)
def test_equal_labels_in_different_spellings_are_one_class(
    tmp_path: Path, labels: list[str], classes: tuple[str, ...]
) -> None:
    pictures(tmp_path, *(f"{number}.png" for number in range(len(labels))))
    rows = "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels))
    table(tmp_path, f"file,label\n{rows}")
    assert read(tmp_path).classes == classes
    position, names = label_positions(labels, numbers=True)
    assert names == classes
    assert {label for label in labels} == set(position)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([0, 1, -1], ("0", "1")),
        ([1, 2, -1], ("1", "2")),
        ([-1, -1, -1], ()),
        ([1, 1, -1], ("-1", "1")),
        ([-2, 1, -1], ("-2", "-1", "1")),
    ],
)
def test_csv_and_parquet_treat_the_label_minus_one_alike(
    tmp_path: Path, labels: list[int], classes: tuple[str, ...]
) -> None:
    lost = [] if "-1" in classes else [place for place, label in enumerate(labels) if label == -1]
    names = [f"{number}.png" for number in range(3)]
    for folder in ("csv", "table"):
        pictures(tmp_path / folder, *names)
    table(tmp_path / "csv", "file,label\n" + "".join(f"{n},{v}\n" for n, v in zip(names, labels, strict=True)))
    pq.write_table(pa.table({"file": names, "label": labels}), tmp_path / "table" / "labels.parquet")
    (tmp_path / "pictures").mkdir()
    pq.write_table(
        pa.table({"image": [png(seed) for seed in range(3)], "label": labels}), tmp_path / "pictures" / "0.parquet"
    )
    for folder in ("csv", "table", "pictures"):
        listing = list_pictures(tmp_path / folder, read_note(tmp_path / folder))
        assert listing.classes == classes, folder
        assert [int(r.source.removesuffix(".png").rpartition("#")[2]) for r in listing.rejects] == lost, folder
        assert {(r.reason, r.detail) for r in listing.rejects} <= {
            ("no-label", "-1 in the label column, which stands for no label")
        }


def test_nan_is_a_missing_label_beside_numbers_and_a_class_beside_words(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    for label, classes in (("1", ("0", "1")), ("rye", ("0", "nan", "rye"))):
        table(tmp_path, f"file,label\na.png,0\nb.png,nan\nc.png,{label}\n")
        assert read(tmp_path).classes == classes
    path = tmp_path / "labels.parquet"
    (tmp_path / "labels.csv").unlink()
    pq.write_table(pa.table({"file": ["a.png", "b.png", "c.png"], "label": [0.0, float("nan"), 1.0]}), path)
    listing = read(tmp_path)
    assert (listing.classes, [reject.source for reject in listing.rejects]) == (("0", "1"), ["b.png"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a.png,cat\nb.png,dog\n",
            r"labels\.csv: the first line must name the columns, but names the picture a\.png",
        ),
        ("file,label\na.png,cat,black\n", r"labels\.csv, line 2: 3 cells, but there are 2 columns. Put quotes"),
        ("file,label\n\na.png,cat\nb.png,cat\na.png,dog\n", r"labels\.csv gives? a\.png two labels, 'cat' and 'dog'"),
        ("file,label,split\na.png,cat,train\na.png,cat,test\n", r"put a\.png into two splits, train and test"),
        ("file,label,split\na.png,cat,extra\n", "the column 'split' must be train, test or validation, got 'extra'"),
    ],
)
def test_an_error_names_the_place_in_a_contradictory_table(tmp_path: Path, content: str, message: str) -> None:
    table(pictures(tmp_path, "a.png", "b.png"), content)
    write_note(tmp_path, SourceNote(format="table", labels="labels.csv"))
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_table_without_a_header_is_reported(tmp_path: Path) -> None:
    table(pictures(tmp_path, "a.png", "b.png"), "a.png,cat\nb.png,dog\n")
    assert "its first line must name the columns, but names the picture a.png" in (why_unused(tmp_path) or "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"file_name": "a.png", "label": ["cat"]}',
            "line 1: the column 'label' must hold one text or number, got list",
        ),
        ('{"file_name": "a.png", "label": "cat"}\nx', "line 2: invalid JSON"),
        ('["a.png", "cat"]', "line 1: must be an object"),
        ("[" * 100_000, "line 1: invalid JSON"),
    ],
)
def test_an_error_names_an_invalid_line_of_json_lines(tmp_path: Path, content: str, message: str) -> None:
    table(pictures(tmp_path, "a.png"), content, "labels.jsonl")
    write_note(tmp_path, SourceNote(format="table", labels="labels.jsonl"))
    with pytest.raises(DataError, match=rf"labels\.jsonl, {message}"):
        read(tmp_path)


def test_file_names_in_nfc_and_nfd_match(tmp_path: Path) -> None:
    pictures(tmp_path, "cafe\u0301.png", "na\u00efve/1.png")
    table(tmp_path, "file,label\ncaf\u00e9.png,cat\nnai\u0308ve/1.png,dog\n")
    assert found(tmp_path) == {"cafe\u0301.png": ("cat", ""), "na\u00efve/1.png": ("dog", "")}


def test_an_error_names_the_place_of_a_very_long_cell_or_number(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    for content, message in (
        ("file,label," + "x" * 200_000 + "\na.png,cat\n", r"labels\.csv, line 1: field larger than field limit"),
        (f"file,label\na.png,{'9' * 5000}.0\nb.png,1\n", "a class name has 5002 letters, more than 200"),
        ("file,label\na.png,\u00b2\nb.png,1\n", r"the label '²' of a\.png is not one of the 2 classes"),
    ):
        table(tmp_path, content)
        write_note(
            tmp_path, SourceNote(format="table", labels="labels.csv", classes=("x", "y") if "²" in content else ())
        )
        with pytest.raises(DataError, match=message):
            read(tmp_path)


# Splits

SPLIT = {"train/1.png": ("cat", "train"), "train/2.png": ("dog", "train"), "test/1.png": ("dog", "test")}
METADATA = ("file_name,label,caption\n1.png,cat,one\n2.png,dog,two\n", "file_name,label,caption\n1.png,dog,three\n")


@pytest.mark.parametrize("wrapped", ["", "data/"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_metadata_files_of_hugging_face_image_folders(tmp_path: Path, wrapped: str, suffix: str) -> None:
    pictures(tmp_path / wrapped, *SPLIT)
    for split, content in zip(("train", "test"), METADATA, strict=True):
        header, *rows = [line.split(",") for line in content.split()]
        records = [dict(zip(header, row, strict=True)) for row in rows]
        path = tmp_path / wrapped / split / f"metadata.{suffix}"
        if suffix == "csv":
            path.write_text(content)
        elif suffix == "jsonl":
            path.write_text("\n".join(json.dumps(record) for record in records))
        else:
            pq.write_table(pa.Table.from_pylist(records), path)
    assert found(tmp_path) == {wrapped + name: value for name, value in SPLIT.items()}
    assert f"metadata.{suffix} has columns that are not used: caption" in describe("labelled", read(tmp_path))


def test_a_table_for_each_split_at_the_top(tmp_path: Path) -> None:
    pictures(tmp_path, *SPLIT)
    table(tmp_path, "id,label\n1,cat\n2,dog\n", "train.csv")
    table(tmp_path, "id,label\n1,dog\n", "test_labels.csv")
    table(tmp_path, "id,label\n1,cat\n", "sample_submission.csv")
    assert found(tmp_path) == SPLIT
    assert "tables that are not used: sample_submission.csv" in describe("labelled", read(tmp_path))


def test_the_columns_of_tables_for_each_split_can_be_named(tmp_path: Path) -> None:
    pictures(tmp_path, *SPLIT)
    for split, rows in (("train", "1.png,cat\n2.png,dog\n"), ("test", "1.png,dog\n")):
        table(tmp_path, f"photo,kind\n{rows}", f"{split}/list.csv")
    assert set(found(tmp_path).values()) == {("", "train"), ("", "test")}
    write_note(tmp_path, SourceNote(format="table", image_column="photo", label_column="kind"))
    assert found(tmp_path) == SPLIT


def test_a_test_split_whose_labels_are_not_published(tmp_path: Path) -> None:
    pictures(tmp_path, *SPLIT)
    table(tmp_path, "id,label\n1,cat\n2,dog\n", "train.csv")
    labelled = {name: value for name, value in SPLIT.items() if value[1] == "train"}
    assert found(tmp_path) == labelled
    for content in ("id\n1\n", "id,label\n1,\n", "id,label\n1,-1\n", "id,label\n1,-1.0\n"):
        table(tmp_path, content, "test.csv")
        assert found(tmp_path) == labelled
        assert "1 pictures of the test split have no label and are not used" in read(tmp_path).notes[-1]
        assert found(tmp_path, "unlabelled")["test/1.png"] == ("", "test")


def test_a_single_table_keeps_the_splits_of_the_folders(tmp_path: Path) -> None:
    pictures(tmp_path, *SPLIT)
    rows = "".join(f"{name},{label}\n" for name, (label, _) in SPLIT.items())
    table(tmp_path, f"file,label\n{rows}")
    assert found(tmp_path) == SPLIT


def test_a_split_column_may_divide_the_train_folder_but_not_move_test_pictures(tmp_path: Path) -> None:
    pictures(tmp_path, *SPLIT)
    table(tmp_path, "file,label,split\ntrain/1.png,cat,train\ntrain/2.png,dog,val\ntest/1.png,dog,test\n")
    assert found(tmp_path)["train/2.png"] == ("dog", "validation")
    table(tmp_path, "file,label,split\ntrain/1.png,cat,train\ntrain/2.png,dog,train\ntest/1.png,dog,train\n")
    with pytest.raises(DataError, match=r"puts test/1\.png into the train split, but its folder says test"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "parquet", "stylegan", "attributes"])
def test_data_without_labels_uses_the_pictures_that_have_none(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        image, label = [png(number) for number in range(4)], pa.array([0, None, 1, -1])
        pq.write_table(
            pa.table({"image": image, "label": label, "split": ["train"] * 3 + ["test"]}), tmp_path / "x.parquet"
        )
        names = [f"x.parquet#{number}" for number in range(4)]
        rejected = {"x.parquet#1"}  # the test split has no labels at all
    else:
        names = ["1.png", "2.png", "3.png", "4.png"]
        pictures(tmp_path, *names)
        rejected = {"3.png", "4.png"}
        content = {
            "csv": "file,label\n1.png,a\n2.png,b\n3.png,\n",
            "stylegan": '{"labels": [["1.png", 0], ["2.png", 1]]}',
            "attributes": "file,Smiling\n1.png,1\n2.png,0\n",
        }[kind]
        table(tmp_path, content, "dataset.json" if kind == "stylegan" else "labels.csv")
    if kind == "attributes":
        write_note(tmp_path, SourceNote(format="table", labels="labels.csv"))
    listing = read(tmp_path)
    assert {reject.source for reject in listing.rejects if reject.reason == "no-label"} == rejected
    bare = read(tmp_path, "unlabelled")
    assert sorted(bare.entries.sources(np.arange(len(bare.entries)))) == names
    assert (bare.rejects, set(bare.entries.labels.tolist())) == ([], {-1})
    whole = [entry.file for entry in bare.entries]
    assert whole == [entry.file for entry in (bare.entries if kind == "parquet" else shuffle_by_hash(bare.entries))]


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_the_column_of_splits_may_be_in_upper_case_as_the_others_may(tmp_path: Path, name: str) -> None:
    pictures(tmp_path, "1.png", "2.png")
    rows = [("1.png", "cat", "Train"), ("2.png", "dog", "Test")]
    as_json = "".join(json.dumps(dict(zip(("File", "Label", "Split"), row, strict=True))) + "\n" for row in rows)
    as_csv = "File,Label,Split\n" + "".join(",".join(row) + "\n" for row in rows)
    table(tmp_path, as_json if name.endswith("jsonl") else as_csv, name)
    assert found(tmp_path) == {"1.png": ("cat", "train"), "2.png": ("dog", "test")}
    assert not any("not used" in note for note in read(tmp_path).notes)


def test_attributes_leave_out_the_column_of_splits(tmp_path: Path) -> None:
    pictures(tmp_path, "1.png", "2.png")
    table(tmp_path, "file,Smiling,Split\n1.png,1,train\n2.png,0,test\n")
    listing = read(tmp_path, "domains")
    assert listing.attributes == ("Smiling",)
    assert {entry.file: entry.split for entry in listing.entries} == {"1.png": "train", "2.png": "test"}


def test_a_row_in_the_table_of_a_split_matches_no_picture_of_another_split(tmp_path: Path) -> None:
    pictures(tmp_path, "train/1.png", "train/2.png", "test/3.png")
    table(tmp_path, "id,label\n1,cat\n2,dog\n3,cat\n", "train.csv")
    listing = read(tmp_path)
    assert {entry.file for entry in listing.entries} == {"train/1.png", "train/2.png"}
    assert [(reject.source, reject.reason) for reject in listing.rejects] == [
        ("3", "missing"),
        ("test/3.png", "hidden-label"),
    ]


def test_ambiguous_folders_are_refused_unless_the_table_has_a_split_column(tmp_path: Path) -> None:
    pictures(tmp_path, "train/1.png", "test/2.png", "extra/3.png")
    table(tmp_path, "file,label\n1,cat\n2,dog\n3,cat\n")
    with pytest.raises(DataError, match="test, train are splits, but extra beside them is not in a split"):
        read(tmp_path)
    table(tmp_path, "file,label,split\n1,cat,train\n2,dog,test\n3,cat,train\n")
    assert found(tmp_path)["extra/3.png"] == ("cat", "train")


# Attributes


@pytest.mark.parametrize(
    "values", [("1", "-1"), ("1.0", "-1.0"), ("1", "0"), ("True", "False"), ("true", "no"), ("1.0", "0.0")]
)
def test_spellings_of_attribute_values(tmp_path: Path, values: tuple[str, str]) -> None:
    yes, no = values
    pictures(tmp_path, "a.png", "b.png")
    table(tmp_path, f"file,Smiling,Young\na.png,{yes},{no}\nb.png,{no},{yes}\n", "attributes.csv")
    listing = read(tmp_path, "domains")
    assert listing.attributes == ("Smiling", "Young")
    assert {entry.file: [*entry.attributes] for entry in listing.entries} == {"a.png": [1, 0], "b.png": [0, 1]}
    assert describe("domains", listing)[0] == "no splits: 2 pictures; 2 attributes: Smiling 1, Young 1"


@pytest.mark.parametrize("text", ["2", "", "nan", "maybe", "1e0", "\u0661"])
def test_invalid_attribute_values(text: str) -> None:
    assert attribute_value(text) is None


@pytest.mark.parametrize("embedded", [False, True], ids=["labels only", "labels and pictures"])
def test_an_error_names_a_parquet_file_whose_text_is_not_utf_8(tmp_path: Path, embedded: bool) -> None:
    pictures(tmp_path, *([] if embedded else ["a.png", "b.png"]))
    labels = pa.array([b"caf\xe9", b"tea"]).view(pa.string())  # Arrow does not check
    columns = {"image": [png(0), png(1)]} if embedded else {"file_name": ["a.png", "b.png"]}
    pq.write_table(pa.table({**columns, "label": labels}), tmp_path / "labels.parquet")
    with pytest.raises(DataError, match=r"labels\.parquet .*'utf-8' codec can't decode byte 0xe9"):
        read(tmp_path)


def test_a_text_file_that_begins_with_a_number_of_thousands_of_digits_is_no_error(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"{number}.png", png(number))
    table(tmp_path, "3" * 5000 + "\n1\n", "pi.txt")
    with pytest.raises(DataError, match="domains data needs two or more folders"):
        arrange(tmp_path, read_note(tmp_path), kind="domains")
