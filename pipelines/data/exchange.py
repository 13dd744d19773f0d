"""Ingestion on hosts without a shared disk: tasks exchange part files through the storage, and write the shards there.

The driver fetches each shard once, because DVC tracks the prepared data on its host. Training finds it in the storage.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gan_core.data import DATASET_FILE
from gan_core.files import sha256_file
from pipelines.data.mapping import Mapper
from pipelines.data.shards import PartRows, ShardSpec, extract_rows, write_shard
from pipelines.runtime.drivers import driver_lease
from pipelines.runtime.owned import scratch_folder
from pipelines.settings.storage import StorageSettings
from pipelines.storage.folders import data_name, file_name, publish_folder
from pipelines.storage.lease import Holder
from pipelines.storage.objects import Storage, StorageError
from pipelines.storage.uses import note_use

SCRATCH = "ingest"
"""Name of the folder of tasks in the user's cache of a host."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A place in the storage for the raw files and part files of one run of ingestion."""

    uri: str
    user: str
    """Name of the lease on the work."""
    prefix: str
    cache_bytes: int
    """Largest size of the cache of raw files of each host."""

    def name(self, name: str) -> str:
        """Name of a part file in the storage."""
        return f"{self.prefix}/{name}"

    def send_part(self, path: Path, name: str) -> None:
        """Write a part file to the storage."""
        Storage(self.uri).write(self.name(name), path)

    def write_shards(self, mapper: Mapper, shards: Sequence[ShardSpec], folder: Path) -> None:
        """Write the shards, and publish the prepared data in the storage.

        Args:
            mapper: runs the tasks.
            shards: all of them; their parts are in the storage.
            folder: holds ``dataset.json`` and the other files; the shards are fetched into it.

        Raises:
            StorageError: the storage cannot be used, or a shard arrives damaged.
        """
        storage, data = Storage(self.uri), data_name(sha256_file(folder / DATASET_FILE))
        note_use(storage, data, self.user)
        for written in mapper(_write_remotely, _RemoteShards(shards, self, data)):
            storage.download(file_name(data, written.sha256), folder / written.name)
            if sha256_file(folder / written.name) != written.sha256:
                raise StorageError(f"{self.uri}/{file_name(data, written.sha256)} is damaged. Remove it there.")
        publish_folder(storage, data, folder)


@contextmanager
def exchange_through(
    uri: str,
    name: str,
    waiting: Callable[[Holder], None] = lambda holder: None,
    *,
    cache_gib: float = StorageSettings.cache_gib,
) -> Iterator[Exchange]:
    """Hold the lease on the work ``name`` for the length of the block; its part files are removed at the end.

    Args:
        uri: of the storage.
        name: of the work in the storage, such as ``work/ingest/KEY``.
        waiting: called with another holder of the lease, if there is one to wait for.
        cache_gib: largest size of the cache of raw files of each host, GiB.

    Raises:
        StageError: another driver works under this name.
        StorageError: the storage cannot be reached.
    """
    storage = Storage(uri)
    storage.check()
    with driver_lease(storage, name, waiting) as held:
        storage.delete_below(name)  # left by a driver that was killed
        try:
            yield Exchange(
                uri=uri, user=name, prefix=f"{name}/{held.epoch:08d}", cache_bytes=int(cache_gib * (1 << 30))
            )
            held.check()
        finally:
            with suppress(StorageError):  # the next run removes them
                storage.delete_below(f"{name}/{held.epoch:08d}")


@dataclass(frozen=True, kw_only=True)
class _RemoteShard:
    """A shard that is written to the storage from parts there."""

    spec: ShardSpec
    exchange: Exchange
    data: str
    """Name of the prepared data in the storage."""


@dataclass(frozen=True, kw_only=True)
class _Written:
    """A shard in the storage."""

    name: str
    sha256: str


class _RemoteShards(Sequence[_RemoteShard]):
    """Shards for the storage. Each is made where it is asked for."""

    def __init__(self, shards: Sequence[ShardSpec], exchange: Exchange, data: str) -> None:
        self._shards, self._exchange, self._data = shards, exchange, data

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, at):  # type: ignore[no-untyped-def]  # slices are not needed
        return _RemoteShard(spec=self._shards[at], exchange=self._exchange, data=self._data)


def _write_remotely(shard: _RemoteShard) -> _Written:
    """Write one shard to the storage. The disk of this host holds the shard, its rows and one part at a time."""
    spec, storage = shard.spec, Storage(shard.exchange.uri)
    with scratch_folder(SCRATCH) as folder:
        parts = []
        for rows in spec.parts:
            whole, part = folder / "whole.arrow", folder / rows.part.name
            storage.download(shard.exchange.name(rows.part.name), whole)
            extract_rows(PartRows(part=whole, rows=rows.rows), part, paired=spec.paired)
            whole.unlink()
            parts.append(PartRows(part=part, rows=np.arange(len(rows.rows))))
        path = folder / spec.path.name
        write_shard(replace(spec, path=path, parts=tuple(parts)))
        digest = sha256_file(path)
        storage.write(file_name(shard.data, digest), path)
    return _Written(name=spec.path.name, sha256=digest)
