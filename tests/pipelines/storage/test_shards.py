"""Prepared data ten times as large as the cache of a node is trained on straight from the storage."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.data import DATASET_FILE, PreparedDataset
from gan_core.randomness import WorkerSlice
from gan_core.training.stream import StreamFeed
from pipelines.storage.folders import publish_folder
from pipelines.storage.node_cache import PieceCache
from pipelines.storage.objects import Storage, StorageError
from pipelines.storage.shards import StorageShards
from tests.datasets import write_prepared

PIXELS = np.random.default_rng(0).integers(0, 256, (2000, 3, 64, 64), dtype=np.uint8)


def folder_bytes(root: Path) -> int:
    total = 0
    for path in root.iterdir():
        with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
            total += path.stat().st_size
    return total


@pytest.fixture
def published(tmp_path: Path) -> Storage:
    folder = write_prepared(tmp_path / "data", PIXELS, np.arange(2000) % 7, shards=5, row_group=25)
    storage = Storage(f"file://{tmp_path}/bucket")
    publish_folder(storage, "data/x", folder)
    return storage


def opened(storage: Storage, place: Path, limit: int) -> PreparedDataset:
    shards = StorageShards(storage, "data/x", PieceCache(place / "cache", limit))
    shards.fetch(DATASET_FILE, place / "described" / DATASET_FILE)
    return PreparedDataset(place / "described", shards=shards)


def test_a_data_set_of_ten_times_the_cache_is_served_with_disk_and_memory_below_their_limits(
    published: Storage, tmp_path: Path
) -> None:
    limit = sum(entry.size for entry in published.entries("data/x/files")) // 10
    data = opened(published, tmp_path, limit)
    groups = data.row_groups()
    fed = {"memory": limit // 2, "batch": 50, "seed": 0, "device": torch.device("cpu")}
    workers = [StreamFeed(data, groups, part=WorkerSlice(rank, 2), **fed) for rank in range(2)]
    local = PreparedDataset(tmp_path / "data", tmp_path / "never").streaming()
    alone = StreamFeed(local, local.row_groups(), part=WorkerSlice(), **fed)
    most = 0
    for step in range(45):
        (images, labels, _), parts = alone(step), [worker(step) for worker in workers]
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)
        most = max(most, folder_bytes(tmp_path / "cache"))
    assert limit / 2 < most <= limit
    assert not (tmp_path / "never").exists()


def test_only_the_metadata_and_labels_are_read_before_training(
    published: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = Storage.read_range

    def counted(self: Storage, name: str, first: int, length: int) -> bytes:
        read.append(length)
        return original(self, name, first, length)

    monkeypatch.setattr(Storage, "read_range", counted)
    data = opened(published, tmp_path, 1 << 30)
    data.row_groups()
    assert data.class_shares() == pytest.approx(np.bincount(np.arange(2000) % 7) / 2000)
    assert sum(read) < PIXELS.nbytes / 20
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("harm", ["emptied", "cut", "changed"])
def test_a_damaged_row_group_in_the_cache_is_fetched_again(
    published: Storage, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After a power failure a file may be empty. The data in the storage is not damaged, and need not be ingested again."""
    rows = np.array([0, 1, 24])
    assert np.array_equal(opened(published, tmp_path, 1 << 30).pixels()[rows], PIXELS[rows])
    (piece,) = (path for path in (tmp_path / "cache").iterdir() if not path.name.startswith("."))
    content = piece.read_bytes()
    half = len(content) // 2
    changed = {"emptied": b"", "cut": content[:half], "changed": content[:half] + b"damaged" + content[half + 7 :]}
    piece.write_bytes(changed[harm])
    assert np.array_equal(opened(published, tmp_path, 1 << 30).pixels()[rows], PIXELS[rows])
    assert f"{piece} is damaged" in caplog.text
    assert piece.read_bytes() == content


def test_a_row_group_larger_than_the_cache_is_refused(published: Storage, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"a piece of the data needs .* Raise storage\.cache_gib"):
        opened(published, tmp_path, 1000).pixels()[np.array([0])]
