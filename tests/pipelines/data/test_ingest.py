"""Ingestion: equal input gives equal bytes, and everything that is not used is reported."""

import ast
import csv
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_core.config import build
from gan_core.data import DatasetInfo, PreparedDataset
from gan_core.errors import DataError, SettingsError
from gan_core.files import read_json
from gan_core.images.svg import LONGER_SIDE
from pipelines.data import ingest as module
from pipelines.data.ingest import ingest
from pipelines.data.mapping import map_sequentially, map_with_ray
from pipelines.data.readers import write_note
from pipelines.data.readers.base import SourceNote
from pipelines.data.readers.idx import write_idx
from pipelines.settings.ingest import IngestSettings
from tests.pipelines.data.samples import pets, picture, png, write

# Pillow warns about the decompression bomb in the samples.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

SMALL = IngestSettings(size=(8, 8), channels=3, fit="stretch")


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rejects(path: Path) -> dict[str, tuple[str, str]]:
    with open(path, newline="") as file:
        return {row["path"]: (row["reason"], row["detail"]) for row in csv.DictReader(file)}


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of few pictures, so that small data has several chunks in each shard and several shards."""
    monkeypatch.setattr(module, "_CHUNK", 7)


def messy(folder: Path) -> Path:
    """Pictures in many formats, and six files that are broken or duplicates."""
    pets(folder, each=30)
    picture(50, mode="L").save(folder / "cat" / "grey.tif")
    picture(51, mode="RGBA").save(folder / "cat" / "clear.webp", lossless=True)
    picture(52, mode="CMYK").save(folder / "dog" / "print.jpg")
    picture(53).quantize(16).save(folder / "dog" / "palette.gif")
    write(folder / "cat" / "empty.png", b"")
    write(folder / "cat" / "notes.png", b"not a picture at all")
    write(folder / "cat" / "readme.txt", b"nor meant to be one")
    write(folder / "dog" / "cut.png", png(54, height=60, width=60)[:2000])
    Image.new("1", (12_000, 12_000)).save(folder / "dog" / "bomb.png")
    write(folder / "dog" / "zz-copy.png", png(3))  # cat/003.png under another name
    picture(4).save(folder / "dog" / "zz-copy.bmp")  # cat/004.png in another format
    return folder


def test_the_result_can_be_read_as_a_prepared_dataset(tmp_path: Path, short_chunks: None) -> None:
    raw = pets(tmp_path / "raw", each=20)
    info = ingest(raw, tmp_path / "out", IngestSettings(size=(12, 10), shard_pictures=16), name="pets")
    data = PreparedDataset(tmp_path / "out")
    assert data.info == info
    assert (info.name, info.kind, info.classes) == ("pets", "labelled", ("cat", "dog"))
    assert (info.channels, info.height, info.width) == (3, 12, 10)
    assert info.splits == {"train": 40}
    assert [path.name for path in data.shards("train")] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    pixels, labels = data.pixels("train"), data.labels("train")
    assert labels is not None
    originals = {
        name: {np.asarray(picture(1000 * k + i)).transpose(2, 0, 1).tobytes() for i in range(20)}
        for k, name in enumerate(("cat", "dog"))
    }
    for array, label in zip(pixels, labels, strict=True):
        originals[info.classes[label]].remove(array.tobytes())
    assert originals == {"cat": set(), "dog": set()}


def test_statistics_are_computed_from_the_train_split(tmp_path: Path, short_chunks: None) -> None:
    raw = tmp_path / "raw"
    pets(raw / "train", each=12)
    write(raw / "test" / "cat" / "white.png", png(77))
    info = ingest(raw, tmp_path / "out", SMALL, name="pets")
    pixels = PreparedDataset(tmp_path / "out").pixels("train").astype(np.float64) / 255
    assert info.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), abs=1e-12)
    assert info.std == pytest.approx(pixels.std(axis=(0, 2, 3)), abs=1e-9)


def test_hugging_face_datasets_reads_pictures_and_class_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_chunks: None
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    raw = tmp_path / "raw"
    pets(raw / "train", each=4)
    pets(raw / "test", each=2)
    ingest(raw, tmp_path / "out", SMALL, name="pets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets

        files = {split: str(tmp_path / "out" / f"{split}-*.parquet") for split in ("train", "test")}
        loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 8, "test": 4}
    row = loaded["train"][0]
    assert isinstance(row["image"], Image.Image)
    assert row["image"].size == (8, 8)
    assert loaded["train"].features["label"].names == ["cat", "dog"]
    assert row["source"].startswith(f"train/{loaded['train'].features['label'].int2str(row['label'])}/")
    assert row["split"] == "train"


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, short_chunks: None) -> None:
    raw = messy(tmp_path / "raw")
    settings = IngestSettings(size=(16, 16), test_share=0.2, max_reject_share=0.2, shard_pictures=20)
    ingest(raw, tmp_path / "a", settings, name="pets")
    copied = shutil.copytree(raw, tmp_path / "elsewhere" / "copy")
    ingest(copied, tmp_path / "b", settings, name="pets")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.ray
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, ray_cluster: str, short_chunks: None) -> None:
    raw = messy(tmp_path / "raw")
    settings = IngestSettings(size=(16, 16), test_share=0.2, max_reject_share=0.2, shard_pictures=20)
    ingest(raw, tmp_path / "one", settings, name="pets", mapper=map_sequentially)
    for workers in (2, 3):
        ingest(raw, tmp_path / "many", settings, name="pets", mapper=map_with_ray(workers))
        assert tree(tmp_path / "many") == tree(tmp_path / "one")


def test_a_single_item_runs_in_this_process_without_a_cluster(tmp_path: Path) -> None:
    def connect() -> None:
        raise AssertionError("a single item must not start a cluster")

    info = ingest(pets(tmp_path / "raw"), tmp_path / "out", SMALL, name="x", mapper=map_with_ray(2, connect))
    assert info.splits["train"]


def test_several_items_connect_to_a_cluster(tmp_path: Path, short_chunks: None) -> None:
    import ray

    if ray.is_initialized():
        pytest.skip("the session's cluster is up")
    asked = []
    mapper = map_with_ray(2, lambda: asked.append(True))
    with pytest.raises(DataError, match="need a Ray cluster"):
        ingest(pets(tmp_path / "raw"), tmp_path / "out", SMALL, name="x", mapper=mapper)
    assert asked == [True]


@pytest.mark.ray
def test_the_ray_mapper_keeps_the_order_and_raises_errors_of_tasks(ray_cluster: str) -> None:
    def slow_first(item: int) -> int:

        time.sleep(0.3 if item == 0 else 0)
        if item == 9:
            raise ValueError("nine")
        return item * item

    assert list(map_with_ray(2)(slow_first, range(8))) == [n * n for n in range(8)]
    with pytest.raises(ValueError, match="nine"):
        list(map_with_ray(2)(slow_first, range(10)))


@pytest.mark.ray
def test_the_ray_mapper_runs_at_most_as_many_tasks_as_workers(ray_cluster: str) -> None:
    def span(item: int) -> tuple[float, float]:

        began = time.time()
        time.sleep(0.2)
        return began, time.time()

    for workers in (1, 2):
        spans = list(map_with_ray(workers)(span, range(6)))
        for moment, _ in spans:
            assert sum(began <= moment < ended for began, ended in spans) <= workers


def test_unusable_files_are_rejected_with_a_reason(tmp_path: Path, short_chunks: None) -> None:
    raw = messy(tmp_path / "raw")
    info = ingest(raw, tmp_path / "out", IngestSettings(size=(8, 8), max_reject_share=0.1), name="pets")
    assert info.rejects == {"duplicate": 2, "empty": 1, "not-an-image": 1, "too-many-pixels": 1, "truncated": 1}
    assert info.splits == {"train": 64}
    listed = rejects(tmp_path / "out" / "rejects.csv")
    assert {path: reason for path, (reason, _) in listed.items()} == {
        "cat/empty.png": "empty",
        "cat/notes.png": "not-an-image",
        "dog/bomb.png": "too-many-pixels",
        "dog/cut.png": "truncated",
        "dog/zz-copy.bmp": "duplicate",
        "dog/zz-copy.png": "duplicate",
    }
    assert "cat/003.png, which has another label" in listed["dog/zz-copy.png"][1]


def test_of_duplicates_the_first_by_path_is_kept(tmp_path: Path, short_chunks: None) -> None:
    raw = tmp_path / "raw"
    for index in range(30):
        write(raw / f"{index:02d}.png", png(0))
    for index in range(30, 40):
        write(raw / f"{index}.png", png(index))
    info = ingest(raw, tmp_path / "out", IngestSettings(size=(8, 8), max_reject_share=0.9), name="x")
    assert info.splits == {"train": 11}
    listed = rejects(tmp_path / "out" / "rejects.csv")
    assert sorted(listed) == [f"{index:02d}.png" for index in range(1, 30)]
    assert all("00.png" in detail for _, detail in listed.values())


def test_equal_pictures_in_two_splits_are_not_duplicates(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for split in ("train", "test"):
        write(raw / split / "a.png", png(1))
    assert ingest(raw, tmp_path / "out", SMALL, name="x").splits == {"test": 1, "train": 1}


def test_pictures_with_hidden_labels_do_not_count_as_unusable(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number in range(6):
        write(raw / ("train" if number < 2 else "test") / f"{number}.png", png(number))
    write(raw / "train.csv", b"id,label\n0,cat\n1,dog\n")
    info = ingest(raw, tmp_path / "out", SMALL, name="x")  # which allows 1 % of damage
    assert (info.splits, info.rejects) == ({"train": 2}, {"hidden-label": 4})
    listed = rejects(tmp_path / "out" / "rejects.csv")
    assert listed["test/3.png"] == ("hidden-label", "the test split has no labels")
    assert len(listed) == 4


def test_an_error_for_too_many_rejects_states_share_limit_reasons_and_list(tmp_path: Path) -> None:
    raw = messy(tmp_path / "raw")
    out = tmp_path / "out"
    with pytest.raises(DataError) as caught:
        ingest(raw, out, IngestSettings(size=(8, 8), max_reject_share=0.05), name="pets")
    message = str(caught.value)
    assert "4 of 70 pictures (5.71%) are unusable" in message
    assert "max_reject_share (5.00%)" in message
    assert "duplicate" not in message
    listing = tmp_path / "out.rejects.csv"
    assert str(listing) in message
    assert len(rejects(listing)) == 6
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.rejects.csv", "raw"]
    # A later success removes the old list.
    ingest(raw, out, IngestSettings(size=(8, 8), max_reject_share=0.1), name="pets")
    assert not listing.exists()


def test_duplicates_have_their_own_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw, out = pets(tmp_path / "raw"), tmp_path / "out"
    for index in range(4):
        write(raw / "dog" / f"copy-{index}.png", png(index))  # of cats
    info = ingest(raw, out, IngestSettings(size=(8, 8), max_reject_share=0.0), name="pets")
    assert (info.splits, info.rejects) == ({"train": 10}, {"duplicate": 4})
    assert "4 of 14 pictures are not used (4 duplicate)" in caplog.text
    assert "4 of the duplicates have another label than the picture that is kept" in caplog.text
    with pytest.raises(
        DataError, match=r"4 of 14 pictures \(28\.57%\) are duplicates, above ingest\.max_duplicate_share \(25\.00%\)"
    ):
        ingest(raw, out, IngestSettings(size=(8, 8), max_duplicate_share=0.25), name="pets")


def test_test_pictures_that_are_training_pictures_cause_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = tmp_path / "raw"
    for name in ("train/1.png", "train/2.png", "test/2.png", "test/3.png"):
        write(raw / name, png(int(Path(name).stem)))
    ingest(raw, tmp_path / "out", SMALL, name="x")
    assert (
        "1 pictures of the test split are also in the train split (for example test/2.png and train/2.png)"
        in caplog.text
    )


def test_the_splits_and_classes_are_logged_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    pets(raw / "train", each=3)
    write(raw / "test" / "cat" / "1.png", png(99))
    write(raw / "notes.txt", b"about the pictures")
    monkeypatch.setattr(module, "convert", lambda spec: 1 / 0)
    with caplog.at_level("INFO"), pytest.raises(ZeroDivisionError):
        ingest(raw, tmp_path / "out", SMALL, name="x")
    assert "x: train: 6 pictures; 2 classes: cat 3, dog 3\n" in caplog.text
    assert "x: test: 1 picture; 2 classes: cat 1, dog 0\n" in caplog.text
    assert "x: not used: 1 file (1 .txt)" in caplog.text


def test_drawings_that_are_rendered_smaller_than_they_are_prepared_cause_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        drawing = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle r="{number + 3}"/></svg>'
        write(tmp_path / "raw" / f"{number}.svg", drawing.encode())
    for side, expected in ((LONGER_SIDE, False), (LONGER_SIDE + 8, True)):
        caplog.clear()
        ingest(tmp_path / "raw", tmp_path / "out", IngestSettings(size=(side, side)), name="drawings")
        assert (
            "drawings (SVG) are rendered with 256 pixels on the longer side and then enlarged" in caplog.text
        ) == expected


def test_a_reject_whose_name_is_not_utf_8_is_listed(tmp_path: Path) -> None:
    raw = pets(tmp_path / "raw")
    write(
        raw / "labels.csv",
        b"file,label\n" + b"".join(b"cat/%03d.png,a\ndog/%03d.png,b\n" % (i, i) for i in range(5)),
    )
    write(raw / os.fsdecode(b"\xe9.png"), png(99))
    ingest(raw, tmp_path / "out", IngestSettings(max_reject_share=0.1), name="pets")
    assert r"\xe9.png,no-label" in (tmp_path / "out" / "rejects.csv").read_text()


def test_a_folder_without_usable_pictures_is_refused_for_any_limit(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "readme.png", b"nothing here")
    with pytest.raises(DataError, match=r"no usable pictures: 1 not-an-image"):
        ingest(tmp_path / "raw", tmp_path / "out", IngestSettings(max_reject_share=1.0), name="x")
    with pytest.raises(DataError, match="No raw data in"):
        ingest(tmp_path / "nowhere", tmp_path / "out", IngestSettings(), name="x")


def test_a_killed_run_leaves_no_dataset_and_the_next_run_removes_its_files(tmp_path: Path) -> None:
    raw, out = pets(tmp_path / "raw"), tmp_path / "work" / "out"
    script = (
        "import os, signal, sys\nfrom pipelines.data import ingest as module\n"
        "module.write_shard = lambda spec: os.kill(os.getpid(), signal.SIGKILL)\n"
        "module.ingest(sys.argv[1], sys.argv[2], module.IngestSettings(), name='x')\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(raw), str(out)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert list(out.parent.glob(".out.parts-*"))
    ingest(raw, out, SMALL, name="x")
    assert not list(out.parent.glob(".out.parts-*"))
    assert PreparedDataset(out).info.splits == {"train": 10}


def test_raw_data_is_not_modified(tmp_path: Path) -> None:
    raw = messy(tmp_path / "raw")
    before = {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    ingest(raw, tmp_path / "out", IngestSettings(size=(8, 8), max_reject_share=0.1), name="pets")
    assert {path: path.stat().st_mtime_ns for path in raw.rglob("*")} == before


def test_the_held_out_share_depends_on_content_and_is_stable_when_pictures_are_added(tmp_path: Path) -> None:
    def test_split(raw: Path, settings: IngestSettings) -> set[str]:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        ingest(raw, tmp_path / "out", settings, name="x")
        import pyarrow.parquet as pq

        return set(pq.read_table(tmp_path / "out" / "test-00000-of-00001.parquet")["source"].to_pylist())

    raw = tmp_path / "raw"
    for index in range(200):
        write(raw / f"{index}.png", png(index))
    settings = IngestSettings(size=(8, 8), test_share=0.25)
    before = test_split(raw, settings)
    assert 30 <= len(before) <= 70
    for index in range(200, 240):
        write(raw / f"{index}.png", png(index))
    assert {name for name in test_split(raw, settings) if int(name[:-4]) < 200} == before
    other_shape = IngestSettings(size=(4, 6), channels=1, fit="pad", test_share=0.25)
    assert {name for name in test_split(raw, other_shape) if int(name[:-4]) < 200} == before


def test_splits_of_the_source_take_precedence_over_test_share(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    pets(raw / "train", each=20)
    write(raw / "test" / "cat" / "a.png", png(99))
    settings = IngestSettings(size=(8, 8), test_share=0.5)
    assert ingest(raw, tmp_path / "out", settings, name="x").splits == {"test": 1, "train": 40}


def test_idx_pictures_padded_by_two_keep_their_pixels_and_class_names(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20) % 2
    (tmp_path / "raw").mkdir()
    write_idx(pixels, tmp_path / "raw" / "train-images-idx3-ubyte")
    write_idx(labels, tmp_path / "raw" / "train-labels-idx1-ubyte")
    write_note(tmp_path / "raw", SourceNote(format="idx", classes=("T-shirt/top", "Bag")))
    settings = IngestSettings(size=(32, 32), channels=1, fit="pad")
    info = ingest(tmp_path / "raw", tmp_path / "out", settings, name="x")
    data = PreparedDataset(tmp_path / "out")
    assert info.classes == ("T-shirt/top", "Bag")
    assert (data.pixels("train")[:, 0, 2:30, 2:30] == pixels).all()
    assert data.pixels("train").sum() == pixels.sum()
    assert (data.labels("train") == labels).all()


def test_unlabelled_data_has_no_label_column(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / "raw" / f"{index}.png", png(index))
    info = ingest(tmp_path / "raw", tmp_path / "out", SMALL, name="x")
    assert (info.kind, info.classes) == ("unlabelled", ())
    assert PreparedDataset(tmp_path / "out").labels("train") is None


def test_a_prepared_dataset_can_be_ingested_again(tmp_path: Path) -> None:
    first = ingest(pets(tmp_path / "raw"), tmp_path / "a", SMALL, name="x")
    again = ingest(tmp_path / "a", tmp_path / "b", IngestSettings(size=(8, 8), max_reject_share=0.5), name="x")
    assert again.digest == first.digest
    assert again.classes == first.classes


def test_the_digest_depends_on_the_content(tmp_path: Path) -> None:
    raw = pets(tmp_path / "raw")
    digest = ingest(raw, tmp_path / "out", SMALL, name="a").digest
    assert ingest(raw, tmp_path / "out", SMALL, name="another name").digest == digest
    assert ingest(raw, tmp_path / "out", IngestSettings(size=(8, 9), fit="stretch"), name="a").digest != digest
    picture(500).save(raw / "cat" / "000.png")
    assert ingest(raw, tmp_path / "out", SMALL, name="a").digest != digest


def test_the_code_version_covers_each_module_that_determines_the_result() -> None:
    package, others = (
        Path(module.__file__).parent,
        {"readers", "description"},
    )  # readers are covered; the other describes
    for name in module._OWN_MODULES:
        imports = [
            node
            for node in ast.walk(ast.parse((package / f"{name}.py").read_text()))
            if isinstance(node, ast.ImportFrom)
        ]
        for node in imports:
            parts = (node.module or "").split(".")
            names = {alias.name for alias in node.names} if parts == ["pipelines", "data"] else {*parts[2:3]}
            assert parts[:2] != ["pipelines", "data"] or names <= {*module._OWN_MODULES, *others}


def test_dataset_json_has_the_documented_keys(tmp_path: Path) -> None:
    ingest(pets(tmp_path / "raw"), tmp_path / "out", SMALL, name="x")
    values = read_json(tmp_path / "out" / "dataset.json")
    assert set(values) == set(DatasetInfo.__dataclass_fields__)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dataset.json",
        "rejects.csv",
        "train-00000-of-00001.parquet",
    ]


def test_several_workers_without_a_cluster_are_refused(tmp_path: Path, short_chunks: None) -> None:
    import ray

    if ray.is_initialized():
        pytest.skip("the session's cluster is up")
    with pytest.raises(DataError, match="2 ingest workers need a Ray cluster"):
        ingest(pets(tmp_path / "raw"), tmp_path / "out", SMALL, name="x", mapper=map_with_ray(2))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"size": [0, 8]}, "size"),
        ({"channels": 2}, "channels"),
        ({"fit": "corp"}, "Did you mean 'crop'"),
        ({"test_share": 1.0}, "test_share"),
        ({"max_reject_share": 1.5}, "max_reject_share"),
        ({"max_duplicate_share": -0.1}, "max_duplicate_share"),
        ({"shard_pictures": 0}, "shard_pictures"),
        ({"workers": 0}, "workers"),
        ({"chanels": 1}, "Did you mean 'channels'"),
    ],
)
def test_invalid_settings_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build(IngestSettings, setting, where="ingest")


def test_each_png_in_a_shard_decodes_on_its_own(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    ingest(pets(tmp_path / "raw"), tmp_path / "out", SMALL, name="x")
    image = pq.read_table(tmp_path / "out" / "train-00000-of-00001.parquet")["image"][0].as_py()
    assert image["path"] == "train-00000000.png"
    with Image.open(io.BytesIO(image["bytes"])) as shown:
        assert (shown.format, shown.mode, shown.size) == ("PNG", "RGB", (8, 8))


def test_results_do_not_pile_up_behind_a_slow_one(ray_cluster: str, tmp_path: Path) -> None:
    def note(number: int) -> int:
        (tmp_path / str(number)).touch()
        while number == 0 and not (tmp_path / "go").exists():
            time.sleep(0.05)
        return number

    results: list[int] = []
    thread = threading.Thread(target=lambda: results.extend(map_with_ray(2)(note, range(100))))
    thread.start()
    time.sleep(5)
    started = len(list(tmp_path.iterdir()))
    (tmp_path / "go").touch()
    thread.join(60)
    assert results == [*range(100)]
    assert 2 <= started <= 10 * 4
