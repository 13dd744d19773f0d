"""A published folder comes back as it was, or not at all."""

import os

import pytest

from pipelines.storage.folders import fetch_folder, publish_folder, read_note
from pipelines.storage.objects import MissingObjectError, StorageError


@pytest.fixture
def folder(tmp_path):
    """With names that an object cannot have everywhere, and two equal files."""
    folder = tmp_path / "folder"
    (folder / "sub folder").mkdir(parents=True)
    for name, content in {"a": b"1", "sub folder/ü #?%2F": b"2" * 100_000, "same": b"1", "empty": b""}.items():
        (folder / name).write_bytes(content)
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_comes_back_with_its_note(storage, folder, tmp_path):
    publish_folder(storage, "data/1", folder, {"kind": "labelled"})
    fetch_folder(storage, "data/1", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    assert read_note(storage, "data/1") == {"kind": "labelled"}
    files = [entry for entry in storage.entries("data/1/files")]
    assert len(files) == 3, "equal files are stored once"


def test_a_folder_that_was_not_published_to_the_end_is_absent_and_is_not_sent_again(
    storage, folder, tmp_path, monkeypatch
):
    written = []
    original = type(storage).write

    def write(self, name, content):
        if name.endswith("manifest.json") and len(written) < 4:
            raise StorageError("away")
        written.append(name)
        original(self, name, content)

    monkeypatch.setattr(type(storage), "write", write)
    with pytest.raises(StorageError, match="away"):
        publish_folder(storage, "data/1", folder)
    with pytest.raises(MissingObjectError):
        fetch_folder(storage, "data/1", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert len(written) == 3
    written.append("the manifest may be written now")
    publish_folder(storage, "data/1", folder)
    assert written[4:] == ["data/1/manifest.json"]


@pytest.mark.parametrize("how", ["cut", "flipped", "missing", "manifest", "escape"])
def test_damage_is_found_and_nothing_is_left(storage, folder, tmp_path, how):
    publish_folder(storage, "data/1", folder)
    large = next(entry.name for entry in storage.entries("data/1/files") if entry.size == 100_000)
    if how == "cut":
        storage.write(large, b"2" * 50_000)
    elif how == "flipped":
        storage.write(large, b"2" * 99_999 + b"3")
    elif how == "missing":
        storage.delete(large)
    elif how == "manifest":
        storage.write("data/1/manifest.json", b"{")
    else:
        content = storage.read("data/1/manifest.json")
        storage.write("data/1/manifest.json", content.replace(b'"same"', b'"../same"'))
    with pytest.raises(StorageError, match="is damaged.*(Remove|leads out)"):
        fetch_folder(storage, "data/1", tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("folder", "storage", "cache")] == []
    assert os.listdir(tmp_path).count("same") == 0
