"""Ingestion, ``gantry fid`` and ``gantry translate`` find the same picture files."""

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from gan_core.errors import DataError
from gan_core.images import files
from gan_core.images.files import PICTURE_SUFFIXES, PictureFiles, is_picture, walk_files
from gan_core.images.pictures import PictureError
from gan_core.metrics.sources import PictureFolder as Measured
from pipelines.data.readers import list_pictures, read_note


def picture(kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(content, kind)
    return content.getvalue()


def folder_of_all_sorts(root: Path) -> Path:
    contents = {
        "a.png": picture(),
        "b.jfif": picture("JPEG"),
        "c": picture("GIF"),
        "deep/er/d.TIF": picture("TIFF"),
        "deep/e.heic": b"\0\0\0\x18ftypheic" + bytes(8),
        "deep/broken.jpg": b"words",
        "notes.txt": b"words",
        "deep/README": b"words",
        ".hidden.png": picture(),
        ".git/f.png": picture(),
        "__MACOSX/._a.png": b"words",
        "Thumbs.db": b"words",
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def packed(folder: Path, to: Path) -> Path:
    with zipfile.ZipFile(to, "w") as zipped:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                zipped.write(path, path.relative_to(folder))
    return to


PICTURES = ["a.png", "b.jfif", "c", "deep/broken.jpg", "deep/e.heic", "deep/er/d.TIF"]
OTHERS = ["deep/README", "notes.txt"]


def test_a_folder_and_its_zip_hold_the_same_pictures_for_every_command(tmp_path: Path) -> None:
    folder = folder_of_all_sorts(tmp_path / "folder")
    for place in (folder, packed(folder, tmp_path / "packed.zip")):
        with PictureFiles(place) as found:
            assert (found.names, found.others) == (PICTURES, OTHERS)
            assert found.read("a.png") == picture()
        assert Measured(place).files.names == PICTURES
    listing = list_pictures(folder, read_note(folder))
    assert sorted(entry.file for entry in listing.entries) == PICTURES
    assert sorted(listing.ignored) == OTHERS


def test_a_single_picture_is_read_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(picture())
    with PictureFiles(tmp_path / "one") as found:
        assert (found.names, found.others, found.is_single) == (["one"], [], True)
        assert found.read("one") == picture()


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x18ftypheic\0\0\0\0",
        b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\0",
        b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0",
        b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\0",
    ],
)
def test_a_picture_in_an_unsupported_format_counts_as_a_picture(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "file").write_bytes(head)
    assert is_picture(tmp_path / "file")


def test_a_linked_subfolder_is_refused_but_the_root_may_be_a_link(tmp_path: Path) -> None:
    folder = folder_of_all_sorts(tmp_path / "folder")
    (tmp_path / "link").symlink_to(folder)
    assert PictureFiles(tmp_path / "link").names == PICTURES
    (folder / "deep" / "again").symlink_to(folder)
    (folder / "a-link.png").symlink_to(folder / "a.png")
    for look in (PictureFiles, Measured, lambda root: list_pictures(root, read_note(root))):
        with pytest.raises(
            DataError, match="deep/again is a link to a folder. Replace it with the folder itself, or give the"
        ):
            look(folder)
    (folder / "deep" / "again").unlink()
    assert PictureFiles(folder).names == ["a-link.png", *PICTURES]


def test_pipes_and_dangling_links_with_picture_suffixes_are_unreadable_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    found = PictureFiles(tmp_path)
    assert found.names == ["a.png", "device.png", "lost.png", "pipe.png"]
    assert found.others == ["pipe"]
    for name, words in (
        ("device.png", "pipe or a device"),
        ("lost.png", "No such file"),
        ("pipe.png", "pipe or a device"),
    ):
        with pytest.raises(PictureError, match=f"unreadable: .*{words}"):
            found.read(name)
    with pytest.raises(DataError, match="pipe is a pipe or a device. Give a picture"):
        PictureFiles(tmp_path / "pipe")


def test_a_file_beyond_the_limit_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 50)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(picture())
    for place in (tmp_path / "folder", packed(tmp_path / "folder", tmp_path / "a.zip"), tmp_path / "folder" / "a.png"):
        with (
            PictureFiles(place) as found,
            pytest.raises(PictureError, match="too-many-bytes: the file has more than 50 bytes"),
        ):
            found.read("a.png")


def test_a_link_in_a_zip_is_resolved_to_its_target(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("real/a.png", picture())
        for name, target in (("links/b.png", "../real/a.png"), ("links/c.png", "/etc/passwd")):
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            zipped.writestr(info, target)
    with PictureFiles(tmp_path / "a.zip") as found:
        assert found.names == ["links/b.png", "links/c.png", "real/a.png"]
        assert found.read("links/b.png") == picture()
        assert found.read("links/c.png") == b"/etc/passwd", "the words of the link, which are no picture"


def test_two_members_with_the_same_path_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("deep/a.png", picture())
        zipped.writestr("deep\\a.png", picture("GIF"))
    with pytest.raises(DataError, match=r"a\.zip has two files with the same path, deep/a\.png"):
        PictureFiles(tmp_path / "a.zip")


def test_a_path_that_cannot_be_opened_gives_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b" + bytes(20))
    (tmp_path / "cut.zip").write_bytes(b"PK\3\4" + bytes(20))
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("a.tar.gz", "is a tar archive. Unpack it and give the folder"),
        ("cut.zip", "is a broken zip file, perhaps truncated"),
        ("empty", "contains no pictures. Give a folder or a zip with pictures"),
        ("nothing", "does not exist. Give a picture"),
    ):
        with pytest.raises(DataError, match=words):
            PictureFiles(tmp_path / name)


def test_the_walk_is_sorted_and_leaves_clutter_out(tmp_path: Path) -> None:
    assert [*walk_files(folder_of_all_sorts(tmp_path))] == sorted(PICTURES + OTHERS)
    assert {".jfif", ".heic", ".jxl"} <= PICTURE_SUFFIXES
