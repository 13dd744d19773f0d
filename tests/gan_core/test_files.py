"""Files are written atomically; digests identify content."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gan_core import files
from gan_core.disk import describe_os_error


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_atomic_write_keeps_the_old_file_if_the_block_raises(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    files.write_text(target, "old")

    def write_half() -> None:
        with files.atomic_write(target) as temporary:
            temporary.write_text("half")
            assert target.read_text() == "old"  # a reader meanwhile sees the old file
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_atomic_write_creates_missing_parents_and_leaves_only_the_result(tmp_path: Path) -> None:
    files.write_text(tmp_path / "deep" / "er" / "b.txt", "ü\n")
    assert (tmp_path / "deep" / "er" / "b.txt").read_bytes() == "ü\n".encode()
    assert names(tmp_path / "deep" / "er") == ["b.txt"]


def test_an_error_of_the_system_names_the_path_of_the_caller(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match="Not a directory") as caught,
        files.atomic_write(tmp_path / "file" / "sub" / "new"),
    ):
        pass
    assert describe_os_error(caught.value) == f"{tmp_path / 'file' / 'sub' / 'new'}: not a directory."
    denied = PermissionError(13, "Permission denied", "x")
    assert describe_os_error(denied) == "x: permission denied. Change its permissions, or choose another folder."


@pytest.mark.parametrize("name", ["n" * 254, "ü" * 127, "n" * 254 + "\udcff"], ids=["ascii", "utf-8", "bytes"])
def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path: Path, name: str) -> None:
    files.write_text(tmp_path / name, "first")
    files.write_text(tmp_path / name, "second")
    assert (tmp_path / name).read_text() == "second"
    assert names(tmp_path) == [name]


def test_stale_temporary_folders_of_a_long_name_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_STALE_SECONDS", -1)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as where it is killed
    files.write_text(tmp_path / ("n" * 254), "first")
    monkeypatch.undo()
    assert len(names(tmp_path)) == 2
    monkeypatch.setattr(files, "_STALE_SECONDS", -1)
    files._holders_at_first.cache_clear()
    files.write_text(tmp_path / ("n" * 254), "second")
    assert names(tmp_path) == ["n" * 254]


def test_stale_temporary_folders_of_a_folder_are_removed_with_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [".folder.20260101", ".folder.gantry-another", ".other.gantry-12345678"]
    for name in (".folder.gantry-12345678", *kept):
        (tmp_path / name / "folder").mkdir(parents=True)
    (tmp_path / ".folder.gantry-another" / "a persons").touch()
    monkeypatch.setattr(files, "_STALE_SECONDS", -1)
    with files.atomic_write(tmp_path / "folder") as one, files.atomic_write(tmp_path / "folder") as two:
        one.mkdir()
        two.mkdir()
    assert names(tmp_path) == [*kept, "folder"]


def test_stale_temporary_folders_of_a_file_are_removed_with_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [".file.json.gantry-another", ".other.gantry-12345678"]
    for name in (".file.json.gantry-12345678", *kept):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.json").touch()
    (tmp_path / ".file.json.gantry-another" / "a persons").touch()
    files.write_json(tmp_path / "file.json", "young ones may belong to a process that has just begun")
    assert ".file.json.gantry-12345678" in names(tmp_path)
    monkeypatch.setattr(files, "_STALE_SECONDS", -1)
    files.write_json(tmp_path / "file.json", "old ones")
    assert names(tmp_path) == [*kept, "file.json"]


def test_a_copy_that_fails_names_the_file_and_why(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="No such file") as caught, files.atomic_write(tmp_path / "to") as temporary:
        shutil.copytree(tmp_path / "from", temporary)
    assert "gone: " in describe_os_error(caught.value)
    assert names(tmp_path) == ["from"]


@pytest.mark.parametrize("error", [None, errno.EXDEV, errno.EPERM])
def test_a_file_is_linked_or_else_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None) -> None:
    def refused(*_: object) -> None:
        raise OSError(error, "refused")

    (tmp_path / "one").write_text("x")
    if error is not None:
        monkeypatch.setattr(os, "link", refused)
    files.link_or_copy(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_text() == "x"
    assert os.path.samefile(tmp_path / "one", tmp_path / "two") == (error is None)


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("first", "second"):
        with files.atomic_write(target) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert names(target) == ["second"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot exchange two folders")
def test_a_folder_is_there_at_every_moment_while_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = tmp_path / "best", os.replace

    def checked(source: Path, to: Path) -> None:
        rename(source, to)
        assert target.is_dir(), "a process that is killed now leaves none"

    monkeypatch.setattr(os, "replace", checked)
    for content in ("old", "new"):
        with files.atomic_write(target) as temporary:
            temporary.mkdir()
            (temporary / "file").write_text(content)
    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_folder_is_replaced_where_two_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_core.files._exchange", lambda one, other: False)
    for content in ("old", "new"):
        with files.atomic_write(tmp_path / "best") as temporary:
            temporary.mkdir()
            (temporary / "file").write_text(content)
    assert (tmp_path / "best" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_folder_stays_if_another_one_cannot_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.replace

    def failing(source: Path, to: Path) -> None:
        if Path(source).name == "best" and to == tmp_path / "best":  # the new one, not the old one that is moved back
            raise OSError(errno.EIO, "Input/output error")
        rename(source, to)

    monkeypatch.setattr("gan_core.files._exchange", lambda one, other: False)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "file").write_text("old")
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output error"), files.atomic_write(tmp_path / "best") as temporary:
        temporary.mkdir()
    assert (tmp_path / "best" / "file").read_text() == "old"
    assert names(tmp_path) == ["best"]


def test_a_folder_of_a_containers_image_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.replace

    def overlay(source: Path, to: Path) -> None:
        if Path(source) == tmp_path / "best":  # such a folder can be removed, but not moved
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, to)

    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "file").write_text("of the image")
    monkeypatch.setattr("gan_core.files._exchange", lambda one, other: False)
    monkeypatch.setattr(os, "replace", overlay)
    with files.atomic_write(tmp_path / "best") as temporary:
        temporary.mkdir()
    assert names(tmp_path) == ["best"]
    assert names(tmp_path / "best") == []


def test_a_folder_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    target = tmp_path / "keep.png"
    target.mkdir()
    (target / "mine").write_text("mine")
    with pytest.raises(IsADirectoryError, match=r"keep\.png"):
        files.write_text(target, "a file")
    with pytest.raises(IsADirectoryError), files.atomic_write(target):
        pass  # nothing was made
    assert (target / "mine").read_text() == "mine"
    assert names(tmp_path) == ["keep.png"]


def test_a_link_to_a_folder_is_replaced_and_the_folder_kept(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    files.write_text(tmp_path / "link", "a file")
    assert (tmp_path / "link").read_text() == "a file"
    assert (tmp_path / "folder").is_dir()


def test_obstacles_are_found_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert files.find_obstacle(tmp_path / "folder") == "there is a folder of that name"
    assert files.find_obstacle(tmp_path / "file", folder=True) == "there is a file of that name"
    for folder in (False, True):
        assert files.find_obstacle(tmp_path / "file/new/er", folder=folder) == f"{tmp_path / 'file'} is not a folder"
        assert files.find_obstacle(tmp_path / "folder/new/er", folder=folder) is None
    assert files.find_obstacle(tmp_path / "file") is None
    assert files.find_obstacle(tmp_path / "folder", folder=True) is None


def test_same_file_resolves_links(tmp_path: Path) -> None:
    one = tmp_path / "a"
    one.touch()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "folder").mkdir()
    assert files.same_file(one, tmp_path / "link")
    assert files.same_file(one, tmp_path / "folder/../a")
    assert not files.same_file(one, tmp_path / "folder")
    assert not files.same_file(tmp_path / "none", tmp_path / "none")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_apply_umask_sets_the_mode(tmp_path: Path, mask: int, mode: int) -> None:
    closed = tmp_path / "weights"
    closed.touch(mode=0o600)
    before = os.umask(mask)
    try:
        files.apply_umask(closed)
    finally:
        os.umask(before)
    assert closed.stat().st_mode & 0o777 == mode
    assert names(tmp_path) == ["weights"]


def test_json_is_sorted_keeps_unicode_and_reads_back(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "Schnürsenkel"}
    files.write_json(tmp_path / "v.json", value)
    text = (tmp_path / "v.json").read_text(encoding="utf-8")
    assert text.index('"a"') < text.index('"b"')
    assert "Schnürsenkel" in text
    assert text.endswith("}\n")
    assert files.read_json(tmp_path / "v.json") == value


def test_sha256_file_is_the_sum_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "c").write_bytes(content)
    assert files.sha256_file(tmp_path / "c") == hashlib.sha256(content).hexdigest()


def test_sha256_json_does_not_depend_on_the_order_of_keys_but_on_values() -> None:
    assert files.sha256_json({"a": 1, "b": 2}) == files.sha256_json({"b": 2, "a": 1})
    assert files.sha256_json({"a": 1}) != files.sha256_json({"a": 2})


def test_a_pipe_or_a_device_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.write_text(tmp_path / "pipe", "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(NotADirectoryError, match=r"a folder cannot replace a pipe or a device: .*pipe"):  # noqa: SIM117
        with files.atomic_write(tmp_path / "pipe") as temporary:
            temporary.mkdir()
    files.write_text("/dev/null", "into nothing")
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="the system has no /dev/stdout")
def test_what_is_written_to_standard_output_stays_in_order_with_what_is_printed(tmp_path: Path) -> None:
    program = "from gan_core.files import write_text; print('1'); write_text('/dev/stdout', '2\\n'); print('3')"
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "1\n2\n3\n"
