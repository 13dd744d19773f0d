"""The shards of prepared data in a storage, fetched one row group at a time: for data larger than a node."""

import functools
import hashlib
import io
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.shards import open_shard
from pipelines.storage.folders import list_folder
from pipelines.storage.node_cache import PieceCache
from pipelines.storage.objects import Entry, Storage

_METADATA = 64
"""Number of shards whose metadata is kept in memory."""
_CHECKSUM = 4
"""Bytes of the CRC-32 at the end of a row group in the cache."""
_FRAME = 1 << 14
"""Bytes that a row group may need in the cache besides its pictures."""


class StorageShards:
    """The shards of the prepared data below ``prefix``; a :class:`gan_core.shards.ShardSource`.

    A row group is kept in the cache of the node, as an Arrow file with a checksum. Of metadata and labels only these bytes are
    transferred.
    """

    def __init__(self, storage: Storage, prefix: str, cache: PieceCache) -> None:
        """
        Raises:
            MissingObjectError: the storage does not hold the data.
        """
        self._storage, self._cache = storage, cache
        self._files = list_folder(storage, prefix)
        self._metadata = functools.lru_cache(_METADATA)(self._read_metadata)

    def fetch(self, name: str, path: Path) -> None:
        """Write a small file of the prepared data, such as its description, to ``path``."""
        self._storage.download(self._files[name].name, path)

    def names(self, split: str) -> list[str]:
        """See :class:`gan_core.shards.ShardSource`."""
        return sorted(name for name in self._files if name.startswith(f"{split}-") and name.endswith(".parquet"))

    def place(self, name: str) -> str:
        """See :class:`gan_core.shards.ShardSource`."""
        return f"{self._storage.uri}/{self._files[name].name} ({name})"

    @contextmanager
    def open(self, name: str) -> Iterator[pq.ParquetFile]:
        """See :class:`gan_core.shards.ShardSource`."""
        with open_shard(_RangeFile(self._storage, self._files[name]), self._metadata(name)) as file:
            yield file

    def _read_metadata(self, name: str) -> pq.FileMetaData:
        return pq.read_metadata(_RangeFile(self._storage, self._files[name]))

    @contextmanager
    def row_group(self, name: str, number: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See :class:`gan_core.shards.ShardSource`.

        Raises:
            StorageError: the storage cannot be reached, or the row group is larger than the cache.
        """
        with self.open(name) as file:
            group = file.metadata.row_group(number)
            parts = [group.column(index) for index in range(group.num_columns)]
            size = sum(c.total_uncompressed_size for c in parts if c.path_in_schema.partition(".")[0] in columns)
            # Those of earlier versions of Gantry have no checksum, and another key.
            named = ["crc32", self._files[name].name, str(number), *columns]
            key = hashlib.sha256("/".join(named).encode()).hexdigest()[:32]

            def fetch(path: Path) -> None:
                # The metadata of the schema names all classes, and is not needed.
                table = file.read_row_group(number, columns=list(columns)).replace_schema_metadata(None)
                with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table)
                with path.open("r+b") as piece:
                    checksum = _checksum(piece.fileno())
                    piece.seek(0, os.SEEK_END)
                    piece.write(checksum)

            # Arrow pads each buffer and adds an offset a picture.
            with (
                self._cache.open(key, fetch, size + 64 * group.num_rows + _FRAME, _is_whole) as descriptor,
                pa.memory_map(f"/dev/fd/{descriptor}") as mapped,
            ):
                content = mapped.read_buffer(mapped.size() - _CHECKSUM)  # mapped, not copied
                yield pa.ipc.open_file(content).read_all()


def _checksum(descriptor: int, end: int | None = None) -> bytes:
    """CRC-32 of an open file up to the byte ``end``."""
    with (
        mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as content,
        content[:end] as part,
    ):
        return zlib.crc32(part).to_bytes(_CHECKSUM, "big")


def _is_whole(descriptor: int) -> bool:
    """Whether a row group in the cache is as it was written."""
    end = os.fstat(descriptor).st_size - _CHECKSUM
    return end > 0 and _checksum(descriptor, end) == os.pread(descriptor, _CHECKSUM, end)


class _RangeFile(io.RawIOBase):
    """An object as a file for Arrow: each read is a request for just these bytes."""

    def __init__(self, storage: Storage, entry: Entry) -> None:
        super().__init__()
        self._storage, self._entry, self._at = storage, entry, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._entry.size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = self._entry.size - self._at
        length = left if size is None or size < 0 else min(size, left)
        content = self._storage.read_range(self._entry.name, self._at, length) if length > 0 else b""
        self._at += len(content)
        return content
