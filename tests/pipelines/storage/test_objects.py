"""Objects are whole or absent, exactly one of several writers creates one, and each refusal says what to do."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import obstore
import pyarrow.fs
import pytest
from obstore.exceptions import GenericError

from pipelines.storage.objects import MissingObjectError, Storage, StorageError
from tests.s3_server import SECRET


def test_what_was_written_is_read_listed_downloaded_and_deleted(storage, tmp_path):
    (tmp_path / "large").write_bytes(os.urandom(20 << 20))
    storage.write("a/large", tmp_path / "large")
    storage.write("a/b/small", b"1")
    storage.write("a/b/small", b"22")
    storage.write("ab", b"another name, not below a/")
    assert storage.read("a/b/small") == b"22"
    storage.download("a/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
    assert {entry.name: entry.size for entry in storage.entries("a")} == {"a/large": 20 << 20, "a/b/small": 2}
    assert [entry.name for entry in storage.entries("a", after="a/b/small")] == ["a/large"]
    storage.delete_below("a")
    assert [entry.name for entry in storage.entries()] == ["ab"]


def test_objects_are_deleted_although_some_of_them_are_gone(storage):
    names = [f"folder/{number}" for number in range(30)]
    for name in names:
        storage.write(name, b"1")
    storage.delete(names[3])
    storage.delete(*names)
    assert list(storage.entries("folder")) == []


def test_a_file_of_this_host_is_not_taken_for_an_object(storage, tmp_path):
    storage.write("name", b"1")
    with pytest.raises(FileNotFoundError, match="there-is-none"):
        storage.write("name", tmp_path / "there-is-none")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        storage.download("name", tmp_path / "file" / "name")


def test_a_missing_object_is_named(storage, tmp_path):
    with pytest.raises(MissingObjectError, match=r"Storage .* holds no x/y\."):
        storage.read("x/y")
    with pytest.raises(MissingObjectError):
        storage.download("x/y", tmp_path / "y")
    assert not (tmp_path / "y").exists()
    storage.delete("x/y")  # is no error: what is wanted is so


def test_one_of_many_writers_creates_an_object(storage):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: storage.create("one", f"writer {number}".encode()), range(16)))
    assert won.count(True) == 1
    assert storage.read("one") == f"writer {won.index(True)}".encode()
    assert storage.create("one", storage.read("one")), "repeated after a lost answer, it finds its own"


def test_the_check_tries_everything_and_leaves_nothing(storage):
    storage.check()
    assert not list(storage.entries())


def test_the_check_refuses_a_storage_that_replaces_what_exists(tmp_path, monkeypatch):
    """As a server of S3's protocol does that does not know If-None-Match: of two drivers, both would get the lease."""
    put = obstore.put
    monkeypatch.setattr(
        "obstore.put", lambda store, name, content, mode=None, **more: put(store, name, content, **more)
    )
    storage = Storage(f"file://{tmp_path}/storage")
    with pytest.raises(StorageError, match=r"file://.*/storage .*If-None-Match.*Update its server, or use another"):
        storage.check()
    assert not list(storage.entries())


def test_a_full_disk_is_named_with_its_remedy(tmp_path, monkeypatch):
    def full(*_, **__):
        raise GenericError("Generic LocalFileSystem error: Unable to copy data to file: No space left (os error 28)")

    monkeypatch.setattr("obstore.put", full)
    with pytest.raises(StorageError, match=r"cannot write name: .*/storage: no space left on device .*Free some space"):
        Storage(f"file://{tmp_path}/storage").write("name", b"1")


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file://.*/file/storage .*cannot.*not a directory.*permissions"):
        Storage(f"file://{tmp_path}/file/storage")


@pytest.mark.parametrize(
    ("changes", "bucket", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "", r"refuses to .*SignatureDoesNotMatch.*Set AWS_ACCESS_KEY_ID"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "",
            r"cannot .*tried for 1 s.*Check that it runs and that this host",
        ),
        ({}, "absent", r"there is no bucket 'absent'\. Create it, or correct storage\.uri"),
    ],
    ids=["credentials", "away", "bucket"],
)
def test_a_bucket_that_cannot_be_used_is_named_with_host_and_remedy(s3, monkeypatch, changes, bucket, message):
    for name, value in (s3.environment | changes).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=message) as caught:
        Storage(f"s3://{bucket or s3.bucket}/x", patience=1).check()
    assert "from host " in str(caught.value)
    assert s3.environment["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_libraries_use_the_storage_as_a_file_system_of_pyarrow(storage, tmp_path):
    filesystem, root = storage.filesystem()
    filesystem = pickle.loads(pickle.dumps(filesystem))
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "large").write_bytes(bytes(20 << 20))
    copy = {"source_filesystem": pyarrow.fs.LocalFileSystem(), "destination_filesystem": filesystem}
    filesystem.create_dir(f"{root}/a")
    pyarrow.fs.copy_files(f"{tmp_path}/folder", f"{root}/a", **copy)
    assert {entry.name: entry.size for entry in storage.entries()} == {"a/sub/large": 20 << 20}
    storage.write("a/small", b"1")
    with filesystem.open_input_stream(f"{root}/a/small") as file:
        assert file.readall() == b"1"
    with filesystem.open_input_file(f"{root}/a/small") as file:
        assert (file.size(), file.readall()) == (1, b"1")
    with filesystem.open_output_stream(f"{root}/a/written") as file:
        file.write(b"2" * (9 << 20))
        file.write(b"3")
    assert storage.read("a/written") == b"2" * (9 << 20) + b"3"
    with filesystem.open_output_stream(f"{root}/a/empty"):
        pass
    assert storage.read("a/empty") == b""
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(f"{root}/a", recursive=False))
    assert sorted(info.base_name for info in found) == ["empty", "small", "sub", "written"]
    assert filesystem.get_file_info(f"{root}/none").type == pyarrow.fs.FileType.NotFound
    filesystem.delete_dir(f"{root}/a")
    assert list(storage.entries()) == []


def test_the_file_system_holds_no_secret(storage):
    filesystem, _ = storage.filesystem()
    pickled = pickle.dumps(filesystem)
    assert SECRET.encode() not in pickled
    assert b"PRIVATE KEY" not in pickled


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), ("{", "Unable to decode service account file"), ('{"type": 1}', "decode")],
)
def test_a_key_file_of_google_that_cannot_be_used_is_named(tmp_path, monkeypatch, content, reason):
    if content is not None:
        (tmp_path / "key.json").write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(
        StorageError, match=rf"cannot be opened: .*{reason}.* Set GOOGLE_APPLICATION_CREDENTIALS to a key file"
    ):
        Storage("gs://bucket/prefix", patience=2)


def test_a_host_without_an_account_of_azure_is_told_what_to_set(monkeypatch):
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StorageError, match=r"no credentials on this host\. Set AZURE_STORAGE_ACCOUNT_NAME"):
        Storage("az://container/prefix")


def test_a_storage_that_lists_more_than_what_is_behind_a_name_is_corrected(tmp_path, monkeypatch):
    storage = Storage(f"file://{tmp_path}/storage")
    for number in range(4):
        storage.write(f"journal/{number}", b"")
    everything = obstore.list
    monkeypatch.setattr(obstore, "list", lambda store, prefix, offset: everything(store, prefix))
    assert sorted(entry.name for entry in storage.entries("journal", after="journal/1")) == ["journal/2", "journal/3"]


def test_the_folders_below_a_name_are_listed(storage):
    for name in ("a/x/1", "a/y/z/2", "a/3", "ab/4"):
        storage.write(name, b"")
    assert storage.subfolders("a") == ["x", "y"]
    assert storage.subfolders("none") == []
