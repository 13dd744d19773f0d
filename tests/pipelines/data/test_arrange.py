"""Arrange layouts as pairs, two domains, several domains and attributes, and explain layouts that do not fit."""

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gan_core.config import build
from gan_core.data import DatasetInfo, PreparedDataset
from gan_core.errors import DataError, SettingsError
from gan_core.images.colour import lightness
from pipelines.data import ingest as module
from pipelines.data.ingest import ingest
from pipelines.data.mapping import map_with_ray
from pipelines.data.readers import read_note, write_note
from pipelines.data.readers.base import SourceNote
from pipelines.settings.ingest import IngestSettings
from tests.pipelines.data.samples import pets, picture, png, write
from tests.pipelines.data.test_ingest import tree


def prepared(raw: Path, out: Path, **settings: Any) -> tuple[DatasetInfo, PreparedDataset]:
    values = {"size": (12, 10), "fit": "stretch", "max_reject_share": 0.9, **settings}
    info = ingest(raw, out, IngestSettings(**values), name="x")
    return info, PreparedDataset(out)


def rejects(out: Path) -> list[tuple[str, str, str]]:
    with open(out / "rejects.csv", newline="") as file:
        return [(row["path"], row["reason"], row["detail"]) for row in csv.DictReader(file)]


def sources(out: Path, split: str) -> list[str]:
    return pq.read_table(out / f"{split}-00000-of-00001.parquet")["source"].to_pylist()


def number(name: str) -> int:
    return int(Path(name).stem)


# Pairs


def two_folders(raw: Path, pattern: str, splits: dict[str, range], suffixes: tuple[str, str] = ("png", "png")) -> Path:
    """Picture n of ``photo`` is the partner of picture 1000 + n of ``map``, under the name n."""
    for split, numbers in splits.items():
        for n in numbers:
            for index, side in enumerate(("map", "photo")):
                name = f"{pattern.format(split=split, side=side)}/{n}.{suffixes[index]}"
                write(raw / name, png(1000 * index + n))
    return raw


@pytest.mark.parametrize(
    ("pattern", "splits"),
    [
        ("{side}", {"": range(6)}),
        ("{split}/{side}", {"train": range(6), "val": range(6, 8)}),
        ("{side}/{split}", {"train": range(6), "val": range(6, 8)}),
        ("wrapped/{side}/deeper", {"": range(6)}),
    ],
)
@pytest.mark.parametrize("side", ["first", "second"])
def test_two_folders_of_equal_names_are_pairs(
    tmp_path: Path, pattern: str, splits: dict[str, range], side: str
) -> None:
    raw = two_folders(tmp_path / "raw", pattern, splits)
    info, data = prepared(raw, tmp_path / "out", kind="paired", condition_side=side)
    assert (info.kind, info.classes, info.condition_channels, info.derived) == ("paired", (), 3, "")
    names = {"": "train", "train": "train", "val": "validation"}
    assert info.splits == {names[split]: len(numbers) for split, numbers in splits.items()}
    for split in info.splits:
        conditions = data.conditions(split)
        assert conditions is not None
        for name, target, condition in zip(
            sources(tmp_path / "out", split), data.pixels(split), conditions, strict=True
        ):
            both = [np.asarray(picture(1000 * index + number(name))).transpose(2, 0, 1) for index in (0, 1)]
            np.testing.assert_array_equal([condition, target] if side == "first" else [target, condition], both)


def test_train_a_and_train_b_may_hold_pairs(tmp_path: Path) -> None:
    for folder in ("trainA", "trainB", "testA", "testB"):
        write(tmp_path / "raw" / folder / "1.png", png(len(folder) + ord(folder[-1])))
    info, _ = prepared(tmp_path / "raw", tmp_path / "out", kind="paired")
    assert info.splits == {"test": 1, "train": 1}


def test_pairs_may_differ_in_their_suffix(tmp_path: Path) -> None:
    raw = two_folders(tmp_path / "raw", "{side}", {"": range(3)}, ("png", "bmp"))
    info, _ = prepared(raw, tmp_path / "out", kind="paired")
    assert info.splits == {"train": 3}


def test_the_accents_of_a_pair_may_be_composed_differently(tmp_path: Path) -> None:
    for side, name in (("map", "e\u0301t\u00e9"), ("photo", "\u00e9te\u0301")):
        write(tmp_path / "raw" / side / f"{name}.png", png(len(side)))
    info, _ = prepared(tmp_path / "raw", tmp_path / "out", kind="paired")
    assert (info.splits, info.rejects) == ({"train": 1}, {})
    write(tmp_path / "raw" / "map" / "\u00e9t\u00e9.png", png(9))
    with pytest.raises(DataError, match="have the same name, in folders of the same split and side"):
        prepared(tmp_path / "raw", tmp_path / "out", kind="paired")


def test_pictures_without_a_partner_and_pairs_of_unequal_size_are_rejected(tmp_path: Path) -> None:
    raw = two_folders(tmp_path / "raw", "{side}", {"": range(4)})
    write(raw / "map" / "50.png", png(50))
    write(raw / "photo" / "60.png", png(60))
    write(raw / "map" / "2.png", png(2, height=20, width=9))
    write(raw / "map" / "3.png", b"broken")
    info, _ = prepared(raw, tmp_path / "out", kind="paired")
    assert info.splits == {"train": 2}
    assert info.rejects == {"no-partner": 2, "not-an-image": 1, "unequal-pair": 1}
    assert rejects(tmp_path / "out") == [
        ("map/50.png", "no-partner", "photo has no 50.png"),
        ("photo/2.png", "unequal-pair", "12x10 pixels, but its condition has 20x9"),
        ("photo/3.png", "not-an-image", "its condition: no known picture format, or its header is broken"),
        ("photo/60.png", "no-partner", "map has no 60.png"),
    ]
    # They count against the same limit as broken pictures.
    with pytest.raises(DataError, match=r"4 of 6 pictures \(66\.67%\).*2 no-partner, 1 "):
        prepared(raw, tmp_path / "out", kind="paired", max_reject_share=0.1)


def test_a_reject_says_that_the_condition_cannot_be_read(tmp_path: Path) -> None:
    raw = two_folders(tmp_path / "raw", "{side}", {"": range(4)})
    for file in ("map/2.png", "photo/3.png"):
        (raw / file).unlink()
        (raw / file).symlink_to(raw / "nowhere.png")
    prepared(raw, tmp_path / "out", kind="paired")
    assert rejects(tmp_path / "out") == [
        ("photo/2.png", "unreadable", "its condition: FileNotFoundError: No such file or directory"),
        ("photo/3.png", "unreadable", "FileNotFoundError: No such file or directory"),
    ]


def test_a_pair_is_a_duplicate_if_both_pictures_are_equal(tmp_path: Path) -> None:
    raw = two_folders(tmp_path / "raw", "{side}", {"": range(2)})
    for name, (sketch, photo) in {"7": (0, 1000), "8": (0, 1001)}.items():
        write(raw / "map" / f"{name}.png", png(sketch))
        write(raw / "photo" / f"{name}.png", png(photo))
    info, _ = prepared(raw, tmp_path / "out", kind="paired")
    assert (info.splits, info.rejects) == ({"train": 3}, {"duplicate": 1})


def test_derived_conditions_work_with_any_source_and_keep_its_splits(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    pets(raw / "train", each=4)
    pets(raw / "test", each=1)
    info, data = prepared(raw, tmp_path / "out", kind="paired", pairs="greyscale")
    assert (info.kind, info.classes, info.condition_channels, info.derived) == ("paired", (), 1, "greyscale")
    assert info.splits == {"test": 2, "train": 8}
    np.testing.assert_array_equal(data.conditions("test"), lightness(np.asarray(data.pixels("test"))))
    assert data.labels("test") is None


def test_the_digest_of_pairs_depends_on_both_pictures_and_on_the_pairing(tmp_path: Path) -> None:
    raw = pets(tmp_path / "raw", each=3)
    made = {
        how: prepared(raw, tmp_path / "out", kind="paired", pairs=how)[0].digest
        for how in ("greyscale", "edges", "mask", "lowres", "side-by-side")
    }
    bare = prepared(raw, tmp_path / "out", kind="unlabelled")[0].digest
    assert len({*made.values(), bare}) == 6


def test_the_digest_of_unlabelled_and_labelled_data_has_not_changed_since_the_first_version(tmp_path: Path) -> None:
    raw = pets(tmp_path / "raw", each=20)
    info = ingest(raw, tmp_path / "out", IngestSettings(size=(12, 10), test_share=0.2), name="pets")
    assert info.digest == "6e04785e93b504cab39538b8e81febf7f2791c7818b4c1e1ea4c6f2256023e35"


@pytest.mark.ray
def test_pairs_are_the_same_bytes_for_any_number_of_workers(
    tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 5)
    raw = two_folders(tmp_path / "raw", "{side}", {"": range(17)})
    write(raw / "map" / "3.png", b"broken")
    settings = IngestSettings(kind="paired", size=(8, 8), max_reject_share=0.2, test_share=0.3, shard_pictures=4)
    ingest(raw, tmp_path / "one", settings, name="x")
    ingest(raw, tmp_path / "two", settings, name="x", mapper=map_with_ray(2))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a/1.png", "b/1.png", "c/1.png"), "found 3: a, b, c. Keep two"),
        (("trainA/1.png",), "found 1: A. Keep two"),
        (("1.png", "2.png"), "these pictures are not in folders"),
        (
            ("a/1.png", "b/1.png", "x.png", "y.png"),
            r"; x\.png, y\.png are outside folders\. Move these pictures into a folder",
        ),
        (("trainA/1.png", "trainB/1.png", "x.png"), r"x\.png is beside the folders of two domains \(trainA, trainB"),
        (("a/1.png", "b/2.png"), r"no file name in common \(for example a/1\.png and b/2\.png\)"),
        (
            ("train/a/1.png", "train/b/1.png", "trainval/b/1.png", "test/a/1.png", "test/b/1.png"),
            r"train/b/1\.png and trainval/b/1\.png have the same name, .* partner is ambiguous",
        ),
    ],
)
def test_an_error_describes_a_layout_without_pairs(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    for index, name in enumerate(files):
        write(tmp_path / "raw" / name, png(index))
    with pytest.raises(DataError, match=message):
        prepared(tmp_path / "raw", tmp_path / "out", kind="paired")


@pytest.mark.parametrize("kind", ["table", "stylegan"])
def test_pairs_from_folders_ignore_labels(tmp_path: Path, kind: str) -> None:
    raw = two_folders(tmp_path / "raw", "{side}", {"": range(3)})
    before, _ = prepared(raw, tmp_path / "out", kind="paired")
    if kind == "table":
        write(raw / "meta.csv", b"file,label\nmap/0.png,x\nphoto/0.png,y\n")
    else:
        write(raw / "dataset.json", b'{"labels": [["map/0.png", 1]]}')
    assert read_note(raw).format == kind
    assert prepared(raw, tmp_path / "out", kind="paired")[0].digest == before.digest


def test_an_ignored_split_column_causes_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = two_folders(tmp_path / "raw", "{side}", {"": range(3)})
    write(raw / "meta.csv", b"file,label,split\nmap/0.png,x,test\n")
    prepared(raw, tmp_path / "out", kind="paired")
    assert f"the column 'split' of {raw}/meta.csv is ignored" in caplog.text


# Two domains


def cyclegan(raw: Path, **counts: int) -> Path:
    for folder, count in counts.items():
        for index in range(count):
            write(raw / folder / f"{index}.png", png(1000 * ord(folder[-1]) + 100 * len(folder) + index))
    return raw


def test_auto_detects_train_a_and_train_b_as_two_domains(tmp_path: Path) -> None:
    raw = cyclegan(tmp_path / "raw", trainA=3, trainB=5, testA=1, testB=2)
    info, data = prepared(raw, tmp_path / "out")
    assert (info.kind, info.classes, info.splits) == ("unpaired", ("A", "B"), {"test": 3, "train": 8})
    labels = data.labels("train")
    assert labels is not None
    for name, label in zip(sources(tmp_path / "out", "train"), labels, strict=True):
        assert name.startswith(f"train{'AB'[label]}/")
    write_note(raw, SourceNote(format="folder", classes=("dog", "cat")))
    assert prepared(raw, tmp_path / "out")[0].classes == ("dog", "cat")


def test_two_folders_are_two_domains_for_kind_unpaired(tmp_path: Path) -> None:
    info, data = prepared(pets(tmp_path / "raw"), tmp_path / "out", kind="unpaired")
    assert (info.kind, info.classes) == ("unpaired", ("cat", "dog"))
    assert sorted(np.bincount(data.labels("train"))) == [5, 5]


def test_equal_pictures_in_one_domain_are_duplicates_but_not_in_two_domains(tmp_path: Path) -> None:
    raw = pets(tmp_path / "raw", each=3)
    for name in ("cat/8.png", "cat/9.png", "dog/9.png"):
        write(raw / name, png(99))
    info, _ = prepared(raw, tmp_path / "out", kind="unpaired")
    assert (info.splits, info.rejects) == ({"train": 8}, {"duplicate": 1})


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"trainA": 3}, "the train split has no usable picture of B"),
        ({"trainA": 3, "trainB": 3, "testA": 1}, "the test split has no usable picture of B"),
    ],
)
def test_an_error_names_an_empty_domain_and_its_split(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepared(cyclegan(tmp_path / "raw", **counts), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_domain_whose_pictures_are_all_broken_is_empty(tmp_path: Path) -> None:
    raw = cyclegan(tmp_path / "raw", trainA=3)
    write(raw / "trainB" / "0.png", b"broken")
    with pytest.raises(DataError, match="the train split has no usable picture of B"):
        prepared(raw, tmp_path / "out")


@pytest.mark.parametrize("kind", ["auto", "unpaired", "paired", "unlabelled", "labelled", "domains"])
@pytest.mark.parametrize(("name", "told"), [("stray.png", r"stray\.png"), ("extra/deeper/1.png", "extra")])
def test_pictures_beside_train_a_and_train_b_are_refused(tmp_path: Path, kind: str, name: str, told: str) -> None:
    raw = cyclegan(tmp_path / "raw", trainA=2, trainB=2, testA=1, testB=1)
    write(raw / name, png(77))
    with pytest.raises(DataError, match=rf": {told} is beside the folders of two domains \(trainA, trainB"):
        prepared(raw, tmp_path / "out", kind=kind)


def test_train_a_and_test_a_are_splits_for_every_kind(tmp_path: Path) -> None:
    raw = cyclegan(tmp_path / "raw", trainA=2, trainB=2, testA=1, testB=1)
    for settings in ({"kind": "unlabelled"}, {"kind": "labelled"}, {"kind": "paired", "pairs": "edges"}):
        assert prepared(raw, tmp_path / "out", **settings)[0].splits == {"train": 4, "test": 2}


def test_folders_without_pictures_beside_two_domains_are_ignored(tmp_path: Path) -> None:
    raw = cyclegan(tmp_path / "raw", trainA=2, trainB=2, testA=1, testB=1)
    for name in ("__pycache__/x.pyc", ".git/HEAD", "__MACOSX/trainA/._0.png", "docs/readme.txt"):
        write(raw / name, b"no picture")
    (raw / "empty").mkdir()
    for kind in ("auto", "unpaired", "domains"):
        assert prepared(raw, tmp_path / "out", kind=kind)[0].splits == {"train": 4, "test": 2}
    (raw / "valA").mkdir()
    with pytest.raises(DataError, match="no pictures in valA, and each folder is a domain"):
        prepared(raw, tmp_path / "out")


@pytest.mark.parametrize("kind", ["labelled", "unpaired", "domains"])
def test_a_picture_beside_class_folders_is_refused(tmp_path: Path, kind: str) -> None:
    raw = pets(tmp_path / "raw", each=2)
    write(raw / "stray.png", png(77))
    with pytest.raises(DataError, match=rf"{kind} data .*; stray\.png is outside folders"):
        prepared(raw, tmp_path / "out", kind=kind)


@pytest.mark.parametrize("folder", ["owl", "train/owl"])
def test_a_domain_folder_without_pictures_is_refused(tmp_path: Path, folder: str) -> None:
    raw = tmp_path / "raw"
    pets(raw / "train", each=2) if "/" in folder else pets(raw, each=2)
    if "/" in folder:
        pets(raw / "test", each=1)
    (raw / folder).mkdir()
    for kind in ("unpaired", "domains"):
        with pytest.raises(DataError, match=rf"no pictures in {folder}, and each folder is a domain\. Add pictures"):
            prepared(raw, tmp_path / "out", kind=kind)
    assert prepared(raw, tmp_path / "out")[0].classes == ("cat", "dog")


def test_an_error_names_an_empty_folder_beside_a_single_domain(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "cat" / "1.png", png(1))
    write(tmp_path / "raw" / "dog" / "readme.txt", b"no picture")
    with pytest.raises(DataError, match="no pictures in dog"):
        prepared(tmp_path / "raw", tmp_path / "out", kind="domains")
    cyclegan(tmp_path / "zhu", trainA=1)
    (tmp_path / "zhu" / "trainB").mkdir()
    with pytest.raises(DataError, match="no pictures in trainB"):
        prepared(tmp_path / "zhu", tmp_path / "out")


# Domains


def test_each_folder_is_a_domain_for_kind_domains(tmp_path: Path) -> None:
    raw = pets(tmp_path / "raw")
    write(raw / "cow" / "1.png", png(5000))
    info, _ = prepared(raw, tmp_path / "out", kind="domains")
    assert (info.kind, info.classes) == ("domains", ("cat", "cow", "dog"))
    with pytest.raises(DataError, match="unpaired data needs two domains; found 3: cat, cow, dog"):
        prepared(raw, tmp_path / "out", kind="unpaired")


CELEBA = """4
Black_Hair Smiling   Young
0.png  1 -1  1
1.png -1 -1  1
2.png  1  1 -1
3.png -1 -1 -1
"""
CSV = "file_name,Black_Hair,Smiling,Young\n" + "\n".join(
    ",".join(line.split()).replace("-1", "0") for line in CELEBA.splitlines()[2:]
)
ATTRIBUTES = {"0.png": [1, 0, 1], "1.png": [0, 0, 1], "2.png": [1, 1, 0], "3.png": [0, 0, 0]}


def faces(raw: Path, table: str = "list_attr_celeba.txt", content: str = CELEBA) -> Path:
    for index in range(4):
        write(raw / "img_align" / f"{index}.png", png(index))
    write(raw / table, content.encode())
    return raw


@pytest.mark.parametrize(("table", "content"), [("list_attr_celeba.txt", CELEBA), ("attributes.csv", CSV)])
def test_a_table_of_attributes_beside_the_pictures_is_detected(tmp_path: Path, table: str, content: str) -> None:
    info, data = prepared(faces(tmp_path / "raw", table, content), tmp_path / "out", kind="domains")
    assert (info.kind, info.classes, info.attributes) == ("domains", (), ("Black_Hair", "Smiling", "Young"))
    labels = data.labels("train")
    assert labels is not None
    found = dict(zip(sources(tmp_path / "out", "train"), labels.tolist(), strict=True))
    assert found == {f"img_align/{name}": values for name, values in ATTRIBUTES.items()}


def test_attributes_can_be_selected_and_are_a_hugging_face_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    raw = faces(tmp_path / "raw")
    info, data = prepared(raw, tmp_path / "out", kind="domains", attributes=("Young", "Smiling"))
    assert info.attributes == ("Young", "Smiling")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets

        loaded = datasets.load_dataset(
            "parquet", data_files=str(tmp_path / "out" / "train-*.parquet"), cache_dir=str(tmp_path / "cache")
        )["train"]
    labels = data.labels("train")
    assert labels is not None
    assert loaded["attributes"][:] == labels.tolist()
    assert isinstance(loaded[0]["image"], Image.Image)


def test_auto_uses_a_table_of_attributes_only_if_the_note_names_it(tmp_path: Path) -> None:
    raw = faces(tmp_path / "raw")
    assert prepared(raw, tmp_path / "out")[0].kind == "unlabelled"
    write_note(raw, SourceNote(format="table", labels="list_attr_celeba.txt"))
    assert prepared(raw, tmp_path / "out")[0].kind == "domains"


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (CELEBA, {"attributes": ("Smilling",)}, "has no attribute 'Smilling'.*Did you mean 'Smiling'"),
        (CELEBA.replace("4\n", "5\n", 1), {}, "its first line states 5 rows, but it has 4"),
        (CELEBA.replace("2.png  1  1 -1", "2.png  1  1"), {}, "line 5: 3 values, but there are 4 columns"),
        (CELEBA.replace("1 -1\n3", "1 37\n3"), {}, r"the attribute 'Young' of img_align/2\.png must be .*, got '37'"),
        (CELEBA.replace(".png", ".gif").replace("0", "x"), {}, "matches none of the pictures"),
    ],
)
def test_an_error_describes_an_unusable_table_of_attributes(
    tmp_path: Path, content: str, settings: dict, message: str
) -> None:
    raw = faces(tmp_path / "raw", content=content.replace("x.gif", "9.gif"))
    write_note(raw, SourceNote(format="table", labels="list_attr_celeba.txt"))
    if "gif" in content:
        for path in (raw / "img_align").iterdir():
            path.rename(path.with_name(f"picture{path.name}"))
    with pytest.raises(DataError, match=message):
        prepared(raw, tmp_path / "out", kind="domains", **settings)


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        (
            "attributes.csv",
            "file,Smiling,Young\n0.png,1,0\n1.png,2,1\n",
            "the attribute 'Smiling' of 1.png must be .*, got '2'",
        ),
        (
            "attributes.csv",
            "file,Smiling,Young\n0.png,1,0\n1.png,,1\n",
            "the attribute 'Smiling' of 1.png must be .*, got an empty cell",
        ),
        (
            "list_attr.txt",
            CELEBA.replace("2.png  1", "2.png  5"),
            "the attribute 'Black_Hair' of 2.png must be .*, got '5'",
        ),
        ("list_attr.txt", CELEBA.replace("4\n", "5\n", 1), "its first line states 5 rows, but it has 4"),
        ("attributes.csv", "file,Smiling,Smiling\n0.png,1,0\n", "has 2 columns named 'Smiling'"),
    ],
)
def test_an_error_names_a_cell_that_is_not_an_attribute(tmp_path: Path, table: str, content: str, message: str) -> None:
    raw = faces(tmp_path / "raw", table, content)
    with pytest.raises(DataError, match=rf"{table}:? {message}"):
        prepared(raw, tmp_path / "out", kind="domains")


def test_columns_that_are_not_selected_need_not_be_attributes(tmp_path: Path) -> None:
    raw = faces(
        tmp_path / "raw", "attributes.csv", CSV.replace("file_name", "file_name,Colour").replace("png", "png,red")
    )
    with pytest.raises(
        DataError, match="the attribute 'Colour' of 0.png must be .*, got 'red'.* choose columns of attributes with"
    ):
        prepared(raw, tmp_path / "out", kind="domains")
    assert prepared(raw, tmp_path / "out", kind="domains", attributes=("Young",))[0].attributes == ("Young",)
    (raw / "attributes.csv").write_text(CSV.replace("0.png,1,0,1", "0.png,1,0,maybe"))
    with pytest.raises(DataError, match="the attribute 'Young' of 0.png must be .*, got 'maybe'"):
        prepared(raw, tmp_path / "out", kind="domains", attributes=("Young",))


def test_other_text_files_are_not_broken_tables(tmp_path: Path) -> None:
    raw = faces(tmp_path / "raw", "readme.txt", "file and more\nof a text\n")
    with pytest.raises(DataError, match="these pictures have no labels"):
        prepared(raw, tmp_path / "out", kind="domains")


def test_rows_without_a_picture_and_pictures_without_a_row_are_rejected(tmp_path: Path) -> None:
    raw = faces(tmp_path / "raw", content=CELEBA.replace("3.png", "4.png"))
    info, _ = prepared(raw, tmp_path / "out", kind="domains")
    assert (info.splits, info.rejects) == ({"train": 3}, {"missing": 1, "no-label": 1})


# Kinds that do not fit the data, settings that do not fit each other


def test_kind_unlabelled_ignores_labels_and_other_kinds_need_them(tmp_path: Path) -> None:
    raw = pets(tmp_path / "raw")
    assert prepared(raw, tmp_path / "out", kind="unlabelled")[0].classes == ()
    assert prepared(raw, tmp_path / "out", kind="labelled")[0].kind == "labelled"
    for kind in ("labelled", "unpaired", "domains"):
        with pytest.raises(DataError, match=f"{kind} data .*these pictures have no labels"):
            prepared(raw / "cat", tmp_path / "out", kind=kind)
    with pytest.raises(DataError, match="has no table of attributes"):
        prepared(raw, tmp_path / "out", kind="domains", attributes=("Smiling",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "pairs"}, "Did you mean 'paired'"),
        ({"kind": "paired", "pairs": "grayscale"}, "Did you mean 'greyscale'"),
        ({"pairs": "edges"}, r"ingest\.pairs: for paired data only; set kind to paired \(it is auto\)"),
        ({"kind": "unpaired", "condition_side": "second"}, "condition_side: for paired data only"),
        ({"kind": "paired", "pairs": "greyscale", "channels": 1}, r"channels: must be 3 \(RGB\) for greyscale pairs"),
        ({"kind": "paired", "condition_channels": 2}, "condition_channels: must be 1, 3, 4 or null, got 2"),
        (
            {"kind": "paired", "pairs": "edges", "condition_channels": 3},
            r"condition_channels: must be 1 \(or null\) for edges pairs of 3 channels, got 3",
        ),
        ({"attributes": ["Smiling"]}, r"attributes: for kind domains only; set kind to domains \(it is auto\)"),
        ({"kind": "domains", "attributes": ["a", "a"]}, "a appears twice"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build(IngestSettings, settings, where="ingest")
