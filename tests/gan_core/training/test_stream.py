"""Streamed data: the same global batches for any number of workers and from any step, with memory below its limit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from gan_core.checkpoint import list_checkpoints, load_checkpoint
from gan_core.data import PreparedDataset
from gan_core.errors import CheckpointError, DataError, SettingsError
from gan_core.randomness import WorkerSlice
from gan_core.shards import FolderShards
from gan_core.training.config import GIB, TrainConfig
from gan_core.training.feed import preview_batch
from gan_core.training.stream import StreamFeed, streaming_reason
from tests.datasets import blobs, write_prepared
from tests.gan_core.training.runs import final, short_run
from tests.gan_core.training.test_feed import numbered, shown

CPU = torch.device("cpu")
COUNT = 60


class Counting(FolderShards):
    """Shards in a folder that note which row groups are read."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.read: list[tuple[str, int]] = []

    def row_group(self, name: str, number: int, columns: Sequence[str]):
        self.read.append((name, number))
        return super().row_group(name, number, columns)


def written(place: Path, pixels: np.ndarray | None = None, labels: np.ndarray | None = None, **more) -> PreparedDataset:
    """Prepared data in 12 row groups of 5 pictures."""
    folder = write_prepared(
        place / "data", numbered(COUNT) if pixels is None else pixels, labels, shards=4, row_group=5, **more
    )
    return PreparedDataset(folder, place / "never").streaming()


def feed(
    data: PreparedDataset, batch: int = 8, windows: float = 3.0, part: WorkerSlice | None = None, **more
) -> StreamFeed:
    """A feed with memory for windows of this many row groups."""
    groups = data.row_groups()
    parts = 6 if data.info.kind == "unpaired" else 3
    memory = int(parts * windows * groups.size.max())
    options = {"batch": batch, "seed": 0, "device": CPU, "part": part or WorkerSlice(), **more}
    return StreamFeed(data, groups, memory=memory, unpaired=data.info.kind == "unpaired", **options)


def test_each_epoch_shows_every_picture_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    served = feed(written(tmp_path), batch=10)
    epochs = [[i for step in range(6 * e, 6 * e + 6) for i in shown(served(step)[0])] for e in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(COUNT))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("world", [2, 4])
def test_the_workers_rows_make_up_the_whole_batch(tmp_path: Path, world: int) -> None:
    data = written(tmp_path, labels=np.arange(COUNT))
    alone = feed(data, mirror=True)
    workers = [feed(data, part=WorkerSlice(rank, world), mirror=True) for rank in range(world)]
    for step in range(20):
        parts, whole = [worker(step) for worker in workers], alone(step)
        assert torch.equal(torch.cat([images for images, *_ in parts]), whole[0])
        assert torch.cat([labels for _, labels, _ in parts]).tolist() == whole[1].tolist() == shown(feed(data)(step)[0])


@pytest.mark.parametrize("first", [1, 7, 13, 25])
def test_a_resumed_feed_goes_on_with_the_same_batches_and_reads_nothing_of_earlier_windows(
    tmp_path: Path, first: int
) -> None:
    data = written(tmp_path)
    source = data.source = Counting(data.directory)
    whole = feed(data)
    batches = [whole(step)[0] for step in range(first + 4)]
    resumed = feed(data)
    order = resumed._streams["real"]._order
    source.read.clear()
    for step in range(first, first + 4):
        assert torch.equal(resumed(step)[0], batches[step])
    resumed._reader.shutdown(wait=True)
    allowed, key = [], order.key_of(first * 8)
    while key <= order.after(order.after(order.key_of((first + 8) * 8))):
        groups = np.unique(order.window(key).groups)
        allowed += [
            (data.row_groups().names[data.row_groups().shard[g]], int(data.row_groups().number[g])) for g in groups
        ]
        key = order.after(key)
    assert set(source.read) <= set(allowed)
    assert len(source.read) <= len(allowed)


def test_a_pair_stays_together_and_shares_jitter_and_mirroring(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 1, 8, 8), dtype=np.uint8)
    served = feed(written(tmp_path, pixels, conditions=255 - pixels), mirror=True, jitter=0.25)
    for step in range(10):
        images, labels, condition = served(step)
        torch.testing.assert_close(condition, -images)
        assert labels is None


def test_domains_of_unpaired_data_have_independent_orders(tmp_path: Path) -> None:
    labels = np.array([0] * 13 + [1, 0] * 10 + [1] * 27)
    served = feed(written(tmp_path, labels=labels, kind="unpaired"), batch=1)
    of = [np.flatnonzero(labels == domain).tolist() for domain in (0, 1)]
    batches = [served(step) for step in range(2 * len(of[1]))]
    seen = [[shown(batch[index])[0] for batch in batches] for index in (2, 0)]
    for domain in (0, 1):
        assert sorted(seen[domain][: len(of[domain])]) == of[domain]
    assert batches[0][1] is None


def test_attributes_come_with_their_pictures(tmp_path: Path) -> None:
    attributes = np.stack([np.arange(COUNT) % 2, np.arange(COUNT) // 2 % 2], axis=1)
    images, labels, _ = feed(written(tmp_path, labels=attributes))(5)
    assert labels.dtype == torch.float32
    assert labels.tolist() == attributes[shown(images)].tolist()


def test_pictures_in_memory_stay_below_the_limit(tmp_path: Path) -> None:
    """Ten times the limit in data; measured on the bytes that the feed holds at each step."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 3, 16, 16), dtype=np.uint8)
    folder = write_prepared(tmp_path / "data", pixels, shards=4, row_group=5)
    data = PreparedDataset(folder, tmp_path / "never").streaming()
    groups = data.row_groups()
    limit = int(groups.size.sum()) // 10
    served = StreamFeed(data, groups, memory=limit, batch=2, seed=0, device=CPU, part=WorkerSlice())
    most = 0
    for step in range(300):
        served(step)
        windows = [future.result() for future in list(served._streams["real"]._windows.values())]
        held = sum(len(png) for window in windows for picture in list(window.values()) for png in picture.pngs)
        most = max(most, held)
    assert limit / 4 < most <= limit - groups.size.max()


def test_a_row_group_that_does_not_fit_is_refused_with_the_size_that_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"train\.stream_gib: a row group .* Set train\.stream_gib to at least"):
        feed(written(tmp_path), windows=0.9)


def test_a_domain_without_pictures_and_an_empty_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="both domains"):
        feed(written(tmp_path, labels=np.ones(COUNT, dtype=np.int64), kind="unpaired"))
    with pytest.raises(DataError, match="no pictures"):
        StreamFeed(
            written(tmp_path / "none", pixels=numbered(0)),
            written(tmp_path / "none", pixels=numbered(0)).row_groups(),
            **{"memory": 100, "batch": 2, "seed": 0, "device": CPU, "part": WorkerSlice()},
        )


def test_a_damaged_picture_ends_training_with_the_name_of_its_shard(tmp_path: Path) -> None:
    data = written(tmp_path, pixels=blobs(COUNT))
    shard = data.shards("train")[2]
    content = shard.read_bytes()
    middle = content.index(b"IDAT") + 10
    shard.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    data = PreparedDataset(data.directory, tmp_path / "never").streaming()  # the first one refuses a changed file
    with pytest.raises(DataError, match=r"train-00002-of-00004\.parquet is damaged"):
        list(map(feed(data), range(8)))


def test_auto_streams_data_whose_decoded_pictures_are_over_the_limit(tmp_path: Path) -> None:
    data = PreparedDataset(written(tmp_path).directory)
    size = data.decoded_bytes() / GIB
    assert streaming_reason(data, TrainConfig(decoded_gib=size * 1.01)) is None
    reason = streaming_reason(data, TrainConfig(decoded_gib=size * 0.99))
    assert reason == "its decoded pictures would take 960 bytes, more than train.decoded_gib (950 bytes)"
    assert streaming_reason(data, TrainConfig(feed="decoded", decoded_gib=size / 2)) is None
    assert streaming_reason(data, TrainConfig(feed="stream")) == "train.feed is stream"


def test_an_evaluation_streams_data_of_that_size_too(tmp_path: Path) -> None:
    data = PreparedDataset(written(tmp_path).directory)
    size = data.decoded_bytes() / GIB
    assert not data.streamed_above(size * 1.01).streamed
    assert data.streamed_above(size * 0.99).streamed
    assert not data.streamed


def test_data_that_is_elsewhere_cannot_be_decoded_at_once(tmp_path: Path) -> None:
    folder = written(tmp_path).directory
    remote = PreparedDataset(folder, shards=FolderShards(folder))
    assert streaming_reason(remote, TrainConfig()) == "the prepared data is larger than storage.cache_gib"
    with pytest.raises(SettingsError, match=r"train\.feed: decoded needs all prepared data"):
        streaming_reason(remote, TrainConfig(feed="decoded"))


def test_streamed_pictures_are_those_of_the_decoded_data(tmp_path: Path) -> None:
    pixels = blobs(COUNT, channels=3)
    streamed = written(tmp_path, pixels, conditions=255 - pixels)
    rows = np.array([59, 0, 17, 17, 4])
    np.testing.assert_array_equal(streamed.pixels()[rows], pixels[rows])
    np.testing.assert_array_equal(streamed.conditions()[3:30], 255 - pixels[3:30])
    whole = PreparedDataset(streamed.directory, tmp_path / "decoded")
    looks = [preview_batch(data, "train", CPU) for data in (streamed, whole)]
    assert torch.equal(looks[0].real, looks[1].real)
    assert torch.equal(looks[0].condition, looks[1].condition)


def _worker(rank: int, folder: str, data: str) -> None:
    """Runs in each of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    settings = {"feed": "stream", "steps": 6, "checkpoint_every": 6}
    short_run(PreparedDataset(data, Path(folder) / "never"), Path(folder), name=f"pair{rank}", **settings).run()
    dist.destroy_process_group()


def test_two_processes_train_on_the_batches_of_one(tmp_path: Path) -> None:
    data = written(tmp_path, pixels=blobs(COUNT)).directory
    mp.spawn(_worker, (str(tmp_path), str(data)), nprocs=2)
    settings = {"feed": "stream", "steps": 6, "checkpoint_every": 6}
    short_run(PreparedDataset(data, tmp_path / "never"), tmp_path, name="alone", **settings).run()
    pair, alone = (load_checkpoint(list_checkpoints(tmp_path / name)[0]) for name in ("pair0", "alone"))
    assert pair.step == alone.step == 6
    for name, tensor in alone.tensors.items():
        torch.testing.assert_close(pair.tensors[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    assert not (tmp_path / "never").exists()


def test_a_run_that_is_resumed_ends_with_the_bytes_of_one_that_is_not(tmp_path: Path) -> None:
    data = PreparedDataset(written(tmp_path, pixels=blobs(COUNT)).directory, tmp_path / "never")
    settings = {"feed": "stream", "checkpoint_every": 7}
    short_run(data, tmp_path, name="whole", **settings).run()
    short_run(data, tmp_path, name="cut", **settings).run(until=9)
    short_run(data, tmp_path, name="cut", **settings).run()
    assert final(tmp_path / "whole") == final(tmp_path / "cut")
    assert not (tmp_path / "never").exists()
    with pytest.raises(CheckpointError, match=r"train\.feed: 'stream' in the checkpoint, 'decoded' in this run"):
        short_run(data, tmp_path, name="cut", checkpoint_every=7)
