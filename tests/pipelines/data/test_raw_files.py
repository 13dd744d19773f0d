"""Raw files on the driver's disk reach tasks on other hosts through the storage; the prepared data has the same bytes."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gan_core.cache import user_cache_dir
from gan_core.errors import DataError
from gan_core.files import sha256_file
from pipelines.data import ingest as module
from pipelines.data.convert import convert
from pipelines.data.exchange import SCRATCH, exchange_through
from pipelines.data.ingest import ingest
from pipelines.data.readers.idx import write_idx
from pipelines.settings.ingest import IngestSettings
from pipelines.storage.objects import Storage, StorageError
from tests.pipelines.data.samples import pets, png, write

SMALL = IngestSettings(size=(8, 8), channels=3, test_share=0.3, max_reject_share=0.5, shard_pictures=9)


def pictures(folder: Path) -> IngestSettings:
    """Pictures, a duplicate, one that is broken, a pipe, and a link to a file that is gone."""
    pets(folder, each=20)
    write(folder / "cat" / "copy.png", png(0))
    write(folder / "cat" / "é broken.png", b"no picture")
    os.mkfifo(folder / "dog" / "pipe.png")
    (folder / "dog" / "gone.png").symlink_to(folder / "nowhere.png")
    return SMALL


def pairs(folder: Path) -> IngestSettings:
    """Pairs of files, of which one lacks a readable picture, and one a readable condition."""
    for number in range(16):
        write(folder / "photo" / f"{number}.png", png(number))
        write(folder / "sketch" / f"{number}.png", png(number + 100))
    for file in ("sketch/3.png", "photo/4.png"):
        (folder / file).unlink()
        (folder / file).symlink_to(folder / "nowhere.png")
    return replace(SMALL, kind="paired")


def idx(folder: Path) -> IngestSettings:
    """Two files with many pictures each."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, count in (("train", 30), ("t10k", 12)):
        write_idx(generator.integers(0, 256, (count, 8, 8)), folder / f"{name}-images-idx3-ubyte")
        write_idx(generator.integers(0, 3, count), folder / f"{name}-labels-idx1-ubyte")
    return replace(SMALL, channels=1, test_share=0.0)


def elsewhere(raw: Path) -> Callable:
    """A mapper whose tasks cannot see ``raw``, as on another host."""

    def mapper(function, items) -> Iterator:
        for item in items:
            hidden = raw.rename(raw.with_name("hidden"))
            try:
                result = function(item)
            finally:
                hidden.rename(raw)
            yield result

    return mapper


@pytest.mark.parametrize("make", [pictures, pairs, idx])
def test_tasks_that_cannot_see_the_raw_data_write_the_same_bytes(
    make: Callable[[Path], IngestSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)
    settings = make(raw := tmp_path / "raw")
    ingest(raw, tmp_path / "alone", settings, name="data")
    uri = f"file://{tmp_path}/storage"
    with exchange_through(uri, "work/ingest/key") as exchange:
        ingest(raw, tmp_path / "shared", settings, name="data", mapper=elsewhere(raw), exchange=exchange)
    alone = {path.name: sha256_file(path) for path in (tmp_path / "alone").iterdir()}
    assert {path.name: sha256_file(path) for path in (tmp_path / "shared").iterdir()} == alone
    assert len(alone) > 4
    if make is pictures:
        rejects = (tmp_path / "alone" / "rejects.csv").read_text()
        assert all(name in rejects for name in ("copy.png", "é broken.png", "pipe.png", "gone.png"))
    assert not list(Storage(uri).entries("work/ingest/key/00000001")), "the raw files are removed in the end"
    assert not list((user_cache_dir() / SCRATCH).iterdir())


def test_a_raw_file_with_many_pictures_is_sent_and_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)
    settings = idx(raw := tmp_path / "raw")
    moved: list[str] = []
    for name in ("write", "download"):
        real = getattr(Storage, name)

        def noted(self, what, *rest, real=real, name=name, **named):
            moved.append(f"{name} {what.rpartition('/')[2]}")
            return real(self, what, *rest, **named)

        monkeypatch.setattr(Storage, name, noted)
    with exchange_through(f"file://{tmp_path}/storage", "work/ingest/key") as exchange:
        ingest(raw, tmp_path / "out", settings, name="data", exchange=exchange)
    for file in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        digest = sha256_file(raw / file)
        assert moved.count(f"write {digest}") == moved.count(f"download {digest}") == 1


def test_a_raw_file_larger_than_the_cache_names_the_setting(tmp_path: Path) -> None:
    settings = idx(raw := tmp_path / "raw")
    with (
        exchange_through(f"file://{tmp_path}/storage", "work/ingest/key", cache_gib=1e-6) as exchange,
        pytest.raises(StorageError, match="holds at most .* needs .*storage.cache_gib"),
    ):
        ingest(raw, tmp_path / "out", settings, name="data", exchange=exchange)


def test_without_a_storage_the_error_names_the_host_and_the_remedies(tmp_path: Path) -> None:
    pets(raw := tmp_path / "raw")

    def mapper(function, items) -> Iterator:
        return map(function, [replace(item, raw=tmp_path / "gone") if function is convert else item for item in items])

    with pytest.raises(DataError, match=f"gone is not on host {os.uname().nodename}.*Set storage.uri"):
        ingest(raw, tmp_path / "out", SMALL, name="data", mapper=mapper)
