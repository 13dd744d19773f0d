"""Common layouts of datasets: each is read with its splits and classes, or refused with the reason."""

import json
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_core.errors import DataError
from pipelines.data.arrange import arrange
from pipelines.data.description import describe
from pipelines.data.readers import read_note, write_note
from pipelines.data.readers.base import Listing, SourceNote
from pipelines.data.readers.idx import write_idx
from pipelines.data.readers.layout import find_split, read_layout
from pipelines.data.readers.tabular import read_rows
from tests.pipelines.data.samples import png, write


def pictures(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        write(root / name, b"a text" if name.endswith((".md", ".txt")) else png(sum(name.encode())))
    return root


def read(root: Path, kind: str = "auto") -> Listing:
    return arrange(root, read_note(root), kind=kind)[1]  # type: ignore[arg-type]


def found(root: Path, kind: str = "auto") -> dict[str, dict[str, int]]:
    """Number of pictures by split and class; the class "" counts those without a label."""
    listing = read(root, kind)
    counts: dict[str, Counter[str]] = {}
    for entry in listing.entries:
        name = listing.classes[entry.label] if entry.label >= 0 else ""
        counts.setdefault(entry.split, Counter())[name] += 1
    return {split: dict(by_class) for split, by_class in counts.items()}


# Folders

PETS = {"train": {"cat": 2, "dog": 2}, "test": {"cat": 1, "dog": 1}}


def pets_at(pattern: str, train: str = "train", test: str = "test") -> list[str]:
    """Two training pictures and a test picture of cat and dog."""
    return [
        pattern.format(split=split, pet=pet) + f"/{number}.png"
        for split, count in ((train, 2), (test, 1))
        for pet in ("cat", "dog")
        for number in range(count)
    ]


@pytest.mark.parametrize(
    "names",
    [
        pets_at("{split}/{pet}"),
        pets_at("{split}/{pet}", "TRAIN", "Test"),
        pets_at("{split}/{pet}", "training_set", "test_set"),
        pets_at("{split}/{pet}", "train2017", "test2017"),
        pets_at("{split}/{pet}", "trainval", "test"),
        pets_at("{split}/{pet}/images"),
        pets_at("{split}/images/{pet}"),
        pets_at("data/{split}/{pet}"),
        [*pets_at("data/{split}/{pet}"), "README.md"],
        [*pets_at("download/data/{split}/{pet}"), "notes.txt"],
        pets_at("{pet}/{split}"),
        pets_at("pets/{pet}/{split}"),
        pets_at("seg_{split}/seg_{split}/{pet}"),  # as in Intel's image classification
        pets_at("{split}-00000-of-00001/{pet}"),
    ],
    ids=str,
)
def test_splits_and_classes_of_folders(tmp_path: Path, names: list[str]) -> None:
    assert found(pictures(tmp_path, names)) == PETS


@pytest.mark.parametrize("name", ["val", "valid", "VALIDATION", "dev"])
def test_names_of_the_validation_split(tmp_path: Path, name: str) -> None:
    pictures(tmp_path, [f"train/{n}.png" for n in range(3)] + [f"{name}/9.png"])
    assert found(tmp_path) == {"train": {"": 3}, "validation": {"": 1}}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([*pets_at("seg_{split}/{pet}"), "seg_pred/1.png"], "seg_test, seg_train are splits, but seg_pred beside them"),
        (
            [*pets_at("{split}/{pet}"), "extra/cat/1.png"],
            "test, train are splits, but extra beside them is not in a split",
        ),
        ([*pets_at("{split}/{pet}"), "stray.png"], r"test, train are splits, but stray\.png beside them"),
        (
            ["val/cat/1.png", "val/dog/1.png", "test/cat/1.png"],
            "test, val are splits, but the train split is missing",
        ),
        (["cat/1.png", "dog/1.png", "test/1.png"], "test has the name of a split, but cat, dog beside it does not"),
        (
            ["train/cat/1.png", "train/dog/2.png", "holdout/cat/3.png"],
            "train has the name of a split, but holdout beside",
        ),
        (pets_at("{split}_{pet}"), "test_cat, test_dog, train_cat, train_dog each name a split and something else"),
        (
            ["cat/train/1.png", "cat/test/1.png", "dog/test/2.png"],
            "dog has no folder train, but other folders have one",
        ),
        (["cat/1.png", "cat/test/2.png", "dog/3.png"], "the nested folder test has the name of a split"),
        (
            ["train/a/cat/1.png", "train/a/test/1.png", "train/b/1.png", "val/a/1.png"],
            "the nested folder a/test has the name of a split",
        ),
        (
            [f"{c}/{n}" for c in ("full", "cropped") for n in pets_at("{split}/{pet}")],
            "cropped, full each contain splits",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["auto", "labelled", "unlabelled"])
def test_ambiguous_folders_are_refused(tmp_path: Path, names: list[str], message: str, kind: str) -> None:
    with pytest.raises(DataError, match=message):
        read(pictures(tmp_path, names), kind)


def test_folders_that_contain_splits_are_one_data_set_for_kinds_paired_and_domains(tmp_path: Path) -> None:
    names = [f"{side}/{split}/{city}/1.png" for side in "ab" for split in ("train", "val") for city in ("rome", "oslo")]
    pictures(tmp_path, names)
    assert found(tmp_path, "paired") == {"train": {"": 2}, "validation": {"": 2}}
    assert found(tmp_path, "domains") == {"train": {"a": 2, "b": 2}, "validation": {"a": 2, "b": 2}}


@pytest.mark.parametrize("classes", [("train", "bus", "car"), ("test_tube", "flask"), ("train_station", "test_tube")])
def test_class_names_that_resemble_splits_are_classes(tmp_path: Path, classes: tuple[str, ...]) -> None:
    pictures(tmp_path, [f"{name}/{number}.png" for name in classes for number in range(2)])
    assert found(tmp_path) == {"": dict.fromkeys(classes, 2)}


@pytest.mark.parametrize("kind", ["auto", "labelled"])
def test_a_test_split_without_class_folders_is_not_used_as_labelled_data(tmp_path: Path, kind: str) -> None:
    pictures(tmp_path, [*pets_at("{split}/{pet}")[:4], "test/1.png", "test/2.png"])
    assert found(tmp_path, kind) == {"train": {"cat": 2, "dog": 2}}
    assert "2 pictures of the test split have no label and are not used" in " ".join(read(tmp_path, kind).notes)
    assert found(tmp_path, "unlabelled") == {"train": {"": 4}, "test": {"": 2}}


def test_accents_in_nfc_and_nfd_are_one_class(tmp_path: Path) -> None:
    pictures(tmp_path, ["train/caf\u00e9/1.png", "train/dog/1.png", "test/cafe\u0301/1.png"])
    assert found(tmp_path) == {"train": {"caf\u00e9": 1, "dog": 1}, "test": {"caf\u00e9": 1}}


def test_a_class_without_training_pictures_causes_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures(tmp_path, [*pets_at("{split}/{pet}"), "test/owl/1.png"])
    assert found(tmp_path)["test"] == {"cat": 1, "dog": 1, "owl": 1}
    assert "the test split has classes that the train split lacks: owl" in caplog.text


# Tiny ImageNet

WORDNET = ("n01443537", "n01629819", "n01641577")


def tiny_imagenet(root: Path) -> Path:
    pictures(root, [f"train/{word}/images/{word}_{number}.JPEG" for word in WORDNET for number in range(3)])
    for word in WORDNET:
        write(root / f"train/{word}/{word}_boxes.txt", f"{word}_0.JPEG\t0\t0\t62\t62\n".encode())
    pictures(root, [f"val/images/val_{number}.JPEG" for number in range(4)])
    rows = [f"val_{number}.JPEG\t{WORDNET[number % 3]}\t0\t32\t44\t62\n" for number in range(4)]
    write(root / "val/val_annotations.txt", "".join(rows).encode())
    pictures(root, [f"test/images/test_{number}.JPEG" for number in range(2)])
    write(root / "wnids.txt", "\n".join(WORDNET).encode())
    return root


def test_tiny_imagenets_validation_labels_come_from_its_annotations(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path)
    assert found(root) == {
        "train": dict.fromkeys(WORDNET, 3),
        "validation": {WORDNET[0]: 2, WORDNET[1]: 1, WORDNET[2]: 1},
    }
    listing = read(root)
    assert {e.file: listing.classes[e.label] for e in listing.entries}["val/images/val_1.JPEG"] == WORDNET[1]
    lines = "\n".join(describe("labelled", listing))
    assert "labels of the validation split come from val/val_annotations.txt" in lines
    assert "2 pictures of the test split have no label and are not used" in lines
    assert "train: 9 pictures; 3 classes: n01443537 3, n01629819 3, n01641577 3" in lines
    assert "not used: 4 files (4 .txt)" in lines


def test_annotations_that_do_not_match_are_ignored(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path)
    for content in ("val_0.JPEG\tn09999999\n" * 4, "val_0.JPEG\tn01443537\nval_0.JPEG\tn01629819\n", "no table\n"):
        write(root / "val/val_annotations.txt", content.encode())
        assert "validation" not in found(root)


# Parquet


def parquet(path: Path, labels: list[object], first: int = 0, kind: pa.DataType | None = None, **columns: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = [{"bytes": png(first + row), "path": f"{row}.png"} for row in range(len(labels))]
    pq.write_table(pa.table({"image": image, "label": pa.array(labels, type=kind), **columns}), path)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("plain_text/partial-train/0000.parquet", "plain_text/partial-test/0000.parquet"),
        ("data/train-00000-of-00002-abcdef0123456789.parquet", "data/test-00000-of-00001-fedcba9876543210.parquet"),
        ("train/part-0.parquet", "test/part-0.parquet"),
        ("mnist_train.parquet", "mnist_test.parquet"),
        ("mnist_test/data/train.parquet", "mnist_test/data/test.parquet"),
        ("Training/0.parquet", "eval/0.parquet"),
    ],
)
def test_splits_of_parquet_come_from_file_and_folder_names(tmp_path: Path, train: str, test: str) -> None:
    parquet(tmp_path / train, [0, 1, 1])
    parquet(tmp_path / test, [1], first=10)
    write(tmp_path / "README.md", b"about it")
    assert found(tmp_path) == {"train": {"0": 1, "1": 2}, "test": {"1": 1}}
    assert "not used: 1 file (1 .md)" in describe("labelled", read(tmp_path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["full/train/0.parquet", "full/test/0.parquet", "small/train/0.parquet", "small/test/0.parquet"],
            r"several datasets \(configurations\), each with its own splits: full, small\. Give the folder",
        ),
        (["a_train.parquet", "a_test.parquet", "b_train.parquet", "b_test.parquet"], "several datasets .*: a, b"),
        (
            ["facade_train.parquet", "facade_test.parquet", "decade_train.parquet", "decade_test.parquet"],
            "several datasets .*: decade, facade",
        ),
        (
            ["train-0.parquet", "test-0.parquet", "extra-0.parquet"],
            r"extra-0\.parquet names no split, but other files do\. Rename it to train-",
        ),
        (["cats.parquet", "test.parquet"], r"cats\.parquet names no split"),
        (["test.parquet", "validation.parquet"], "the splits test, validation, but the train split is missing"),
        (["train/test-0.parquet", "train/train-0.parquet", "x.parquet"], r"train/test-0\.parquet names two splits"),
    ],
)
def test_ambiguous_parquet_files_are_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for number, file in enumerate(files):
        parquet(tmp_path / file, [0, 1], first=10 * number)
    for kind in ("auto", "unlabelled"):
        with pytest.raises(DataError, match=message):
            read(tmp_path, kind)


def test_parquet_files_of_one_split_or_none_are_one_data_set(tmp_path: Path) -> None:
    for name in ("a/0.parquet", "b/0.parquet"):
        parquet(tmp_path / "folders" / name, [0, 1])
    parquet(tmp_path / "one" / "test-00000-of-00001.parquet", [0, 1])
    assert found(tmp_path / "folders") == {"": {"0": 2, "1": 2}}
    assert found(tmp_path / "one") == {"": {"0": 1, "1": 1}}


def test_the_column_of_splits_of_parquet_may_be_in_upper_case(tmp_path: Path) -> None:
    parquet(tmp_path / "data.parquet", [0, 1, 1], Split=["Train", "Train", "Test"])
    assert found(tmp_path) == {"train": {"0": 1, "1": 1}, "test": {"1": 1}}


def test_a_split_column_divides_train_files_and_must_not_contradict_other_files(tmp_path: Path) -> None:
    parquet(tmp_path / "train-0.parquet", [0, 1, 1], split=["train", "train", "dev"])
    parquet(tmp_path / "test-0.parquet", [0], first=5, split=["test"])
    assert found(tmp_path) == {"train": {"0": 1, "1": 1}, "validation": {"1": 1}, "test": {"0": 1}}
    parquet(tmp_path / "test-0.parquet", [0], first=5, split=["train"])
    with pytest.raises(
        DataError, match=r"test-0\.parquet, row 0: the column 'split' says train, but the name of the file says test"
    ):
        read(tmp_path)
    parquet(tmp_path / "test-0.parquet", [0], first=5, split=["unlabeled"])
    with pytest.raises(
        DataError, match=r"row 0: the column 'split' must be train, test or validation, got 'unlabeled'"
    ):
        read(tmp_path)


def test_a_split_with_hidden_labels_is_not_used_as_labelled_data(tmp_path: Path) -> None:
    parquet(tmp_path / "train-0.parquet", [0, 1, 1])
    for hidden in ([-1, -1], [None, None], [-1, None]):
        parquet(tmp_path / "test-0.parquet", hidden, first=5, kind=pa.int64())
        assert found(tmp_path) == {"train": {"0": 1, "1": 2}}
        assert "2 pictures of the test split have no label and are not used" in read(tmp_path).notes[0]
        assert found(tmp_path, "unlabelled") == {"train": {"": 3}, "test": {"": 2}}


def test_an_error_names_the_row_of_an_unknown_label(tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", [0, 1, 7, -1])
    write_note(tmp_path, SourceNote(format="parquet", classes=("cat", "dog")))
    with pytest.raises(DataError, match=r"x\.parquet, row 2: the label '7' is not one of the 2 classes \(cat, dog\)"):
        read(tmp_path)
    parquet(tmp_path / "x.parquet", [0, 1, 1, -1])
    assert found(tmp_path) == {"": {"cat": 1, "dog": 2}}
    assert [(reject.source, reject.reason) for reject in read(tmp_path).rejects] == [("x.parquet#3", "no-label")]


def test_labels_of_type_float_must_be_whole_and_nan_is_a_missing_label(tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", [0.0, 10.0, 2.0, float("nan")])
    listing = read(tmp_path)
    assert listing.classes == ("0", "2", "10")
    assert [reject.source for reject in listing.rejects] == ["x.parquet#3"]
    parquet(tmp_path / "x.parquet", [0.5, 1.0])
    with pytest.raises(DataError, match=r"x\.parquet, row 0: a label must be text or a whole number, got '0\.5'"):
        read(tmp_path)


def test_labels_of_type_decimal_as_databases_export_them_must_be_whole(tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", [Decimal(0), Decimal(10), Decimal(2), None], kind=pa.decimal128(38, 2))
    listing = read(tmp_path)
    assert listing.classes == ("0", "2", "10")
    assert [reject.source for reject in listing.rejects] == ["x.parquet#3"]
    parquet(tmp_path / "x.parquet", [Decimal("0.5"), Decimal(1)], kind=pa.decimal128(38, 2))
    with pytest.raises(DataError, match=r"x\.parquet, row 0: a label must be text or a whole number, got '0\.50'"):
        read(tmp_path)


def test_unused_columns_are_listed(tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", [0, 1], coarse_label=[3, 4], caption=["a", "b"])
    assert "columns that are not used: caption, coarse_label" in describe("labelled", read(tmp_path))


@pytest.mark.parametrize("big", [["x" * 2**26], {"a": {"b": "x" * 2**26}}])
def test_a_list_or_struct_of_megabytes_is_refused_as_a_label(tmp_path: Path, big: object) -> None:
    parquet(tmp_path / "pictures" / "x.parquet", [None, big])
    write_note(tmp_path / "pictures", SourceNote(format="parquet", label_column="label"))
    pq.write_table(pa.table({"file": ["a.png", "b.png"], "label": [None, big]}), tmp_path / "t.parquet")
    for reading in (lambda: read(tmp_path / "pictures"), lambda: read_rows(tmp_path / "t.parquet", ["label"])):
        with pytest.raises(
            DataError, match=r"parquet: the column 'label' holds \d+ MiB in 2 rows, too much for labels"
        ):
            reading()


def test_long_texts_are_refused_as_labels(tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", ["cat", "x" * 2**26])
    with pytest.raises(DataError, match=r"x\.parquet: the column 'label' holds \d+ MiB in 2 rows, too much for labels"):
        read(tmp_path)
    parquet(tmp_path / "x.parquet", ["cat", "x" * 300])
    with pytest.raises(DataError, match="a class name has 300 letters, more than 200"):
        read(tmp_path)
    parquet(tmp_path / "x.parquet", ["cat", "dog\nregistered: yes"])
    with pytest.raises(DataError, match=r"'dog\\nregistered: yes' is not a valid class name"):
        read(tmp_path)


def test_files_with_different_classes_are_refused(tmp_path: Path) -> None:
    for split, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        schema = pa.schema(
            [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )
        rows = [{"image": {"bytes": png(label), "path": None}, "label": label} for label in (0, 1)]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / f"{split}-0.parquet")
    with pytest.raises(DataError, match=r"test-0\.parquet and train-0\.parquet have different classes"):
        read(tmp_path)


# IDX


def idx(root: Path, stem: str, count: int, *, labelled: bool = True) -> None:
    root.mkdir(exist_ok=True, parents=True)
    (root / f"{stem}x").parent.mkdir(exist_ok=True)
    write_idx(
        np.random.default_rng(count).integers(0, 256, (count, 4, 4), dtype=np.uint8), root / f"{stem}images-idx3-ubyte"
    )
    if labelled:
        write_idx(np.arange(count) % 2, root / f"{stem}labels-idx1-ubyte")


@pytest.mark.parametrize(
    ("train", "test"), [("emnist-letters-train-", "emnist-letters-test-"), ("train/", "test/"), ("train-", "t10k-")]
)
def test_splits_of_idx_files(tmp_path: Path, train: str, test: str) -> None:
    idx(tmp_path, train, 4)
    idx(tmp_path, test, 2)
    assert found(tmp_path) == {"train": {"0": 2, "1": 2}, "test": {"0": 1, "1": 1}}


def test_several_data_sets_of_idx_files_are_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("letters-train", "letters-test", "digits-train", "digits-test")):
        idx(tmp_path, f"emnist-{name}-", number + 2)
    with pytest.raises(DataError, match="several datasets .*: emnist digits, emnist letters"):
        read(tmp_path)


def test_idx_labels_may_be_missing_for_the_test_split_only(tmp_path: Path) -> None:
    idx(tmp_path, "train-", 4)
    idx(tmp_path, "test-", 2, labelled=False)
    assert found(tmp_path) == {"train": {"0": 2, "1": 2}}
    idx(tmp_path, "train-2-", 3, labelled=False)
    with pytest.raises(DataError, match="train-2-images-idx3-ubyte has no label file, but other files have one"):
        read(tmp_path)


def test_pictures_beside_idx_files_are_listed_as_unused(tmp_path: Path) -> None:
    idx(tmp_path, "train-", 4)
    pictures(tmp_path, ["preview.png"])
    assert "not used: 1 file (1 .png)" in describe("labelled", read(tmp_path))


# StyleGAN


def test_stylegans_labels_keep_the_splits_of_their_folders(tmp_path: Path) -> None:
    pictures(tmp_path, ["train/0.png", "train/1.png", "test/0.png"])
    labels: list[list[object]] = [["train/0.png", 0], ["train/1.png", 1], ["test/0.png", 1]]
    write(tmp_path / "dataset.json", json.dumps({"labels": labels}).encode())
    assert found(tmp_path) == {"train": {"0": 1, "1": 1}, "test": {"1": 1}}
    write(tmp_path / "dataset.json", json.dumps({"labels": [*labels[:2], ["test/0.png", -1]]}).encode())
    assert found(tmp_path) == {"train": {"0": 1, "1": 1}}
    for wrong, message in (
        (["train/0.png", -1], r"dataset\.json: the label of train/0\.png must be a whole number from 0, got -1"),
        (["train/1.png", 2.5], r"dataset\.json: the label of train/1\.png must be one whole number, got 2\.5"),
        (["train/1.png", 0], r"dataset\.json: train/1\.png has two labels, 1 and 0"),
    ):
        rows = [["train/1.png", 1], wrong]
        write(tmp_path / "dataset.json", json.dumps({"labels": rows}).encode())
        with pytest.raises(DataError, match=message):
            read(tmp_path)


def test_deeply_nested_json_is_a_damaged_label_file_or_none(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png"])
    write(tmp_path / "dataset.json", b'{"labels": ' + b"[" * 100_000)
    with pytest.raises(DataError, match=r"dataset\.json is not a StyleGAN label file: maximum recursion depth"):
        read(tmp_path)
    write(tmp_path / "dataset.json", b'{"tree": ' + b"[" * 100_000)
    assert found(tmp_path) == {"": {"": 1}}


@pytest.mark.parametrize(
    ("name", "hint"), [("train/data-00000-of-00001.arrow", "to_parquet"), ("train.zip", "Unpack the nested archives")]
)
def test_errors_for_unsupported_formats_have_a_remedy(tmp_path: Path, name: str, hint: str) -> None:
    write(tmp_path / name, b"no picture")
    with pytest.raises(DataError, match=f"holds no pictures, only 1 file .*{hint}"):
        read(tmp_path)


def test_every_path_has_a_place() -> None:
    names = [
        "train",
        "test",
        "val",
        "cat",
        "dog",
        "images",
        "trainA",
        "testB",
        "train_a",
        "x1",
        "seg_train",
        "README.md",
    ]
    random = np.random.default_rng(0)
    for _ in range(3000):
        paths = {"/".join(random.choice(names, random.integers(1, 5))) for _ in range(random.integers(1, 9))}
        files = sorted(f"{path}.png" for path in paths)
        layout = read_layout(files)
        assert len(layout.places) == len(files)
        for file, place in zip(files, layout.places, strict=True):
            assert file.endswith(place.name)
            if place.split and not layout.ambiguity:
                assert any((said := find_split(part)) and said[0] == place.split for part in file.split("/")[:-1])
        splits = {place.split for place in layout.places}
        assert splits == {""} or "train" in splits
