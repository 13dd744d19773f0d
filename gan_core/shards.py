"""Shards of a prepared dataset: where they are read from, and their row groups, which can be read one at a time."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.errors import DataError

_READERS = 8
_PICTURES = ("image.bytes", "condition.bytes")
_REPLACED = (
    "{} was changed while it was in use, for example by another run or by dvc checkout. Let that command end, then run this "
    "one again."
)


class ShardSource(Protocol):
    """Where the shards of one prepared dataset are: a folder, or a place from which they are fetched in parts."""

    def names(self, split: str) -> list[str]:
        """File names of the shards of ``split``, in order."""
        ...

    def place(self, name: str) -> str:
        """The path or address of a shard, for messages."""
        ...

    def open(self, name: str) -> AbstractContextManager[pq.ParquetFile]:
        """Open a shard; reads of its metadata or of a column transfer only these."""
        ...

    def row_group(self, name: str, number: int, columns: Sequence[str]) -> AbstractContextManager[pa.Table]:
        """Yield row group ``number`` of a shard; it is valid within the block."""
        ...


def open_shard(source: Path | io.RawIOBase, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Open a shard. The checksum of each page is verified when it is read, so that a changed label is noticed too.

    Args:
        source: its path, which is mapped into memory, or an open file.
        metadata: if they have been read already.
    """
    return pq.ParquetFile(
        source, metadata=metadata, memory_map=isinstance(source, Path), page_checksum_verification=True
    )


class FolderShards:
    """The shards in a local folder, as they are now.

    Another command may replace them while they are in use. Pictures of two datasets would then be mixed, and cached as those of
    the first.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known = {path.name: _version(path) for path in directory.glob("*-of-*.parquet")}

    def names(self, split: str) -> list[str]:
        """See :class:`ShardSource`."""
        return sorted(path.name for path in self._directory.glob(f"{split}-*-of-*.parquet"))

    def place(self, name: str) -> str:
        """See :class:`ShardSource`."""
        return str(self._directory / name)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[pq.ParquetFile]:
        """See :class:`ShardSource`; raises DataError if the shard is no longer the same file."""
        path = self._directory / name
        if name not in self._known or not path.is_file():
            raise DataError(_REPLACED.format(path))
        with open_shard(path) as file:
            if _version(path) != self._known[name]:
                raise DataError(_REPLACED.format(path))
            yield file

    @contextlib.contextmanager
    def row_group(self, name: str, number: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See :class:`ShardSource`."""
        with self.open(name) as file:
            yield file.read_row_group(number, columns=list(columns))


def _version(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True, kw_only=True)
class RowGroups:
    """The row groups of a split, in order."""

    names: tuple[str, ...]
    """Names of the shards."""
    shard: np.ndarray
    """int64 (g,): index of the shard of each row group."""
    number: np.ndarray
    """int64 (g,): its number in that shard."""
    rows: np.ndarray
    """int64 (g,): number of pictures."""
    size: np.ndarray
    """int64 (g,): bytes of the PNGs."""
    members: np.ndarray
    """int64 (domains, g): number of pictures of each domain; (0, g) if not asked for."""


def list_row_groups(source: ShardSource, split: str, *, domains: int = 0) -> RowGroups:
    """Read the metadata of all shards of ``split``, and their labels if ``domains`` are to be counted.

    Args:
        source: the shards.
        split: name of the split.
        domains: number of domains, labels 0 to domains - 1.

    Raises:
        DataError: a shard is damaged.
    """
    names = source.names(split)

    def read(name: str) -> list[tuple[int, int, list[int]]]:
        with explain_damage(source.place(name)), source.open(name) as file:
            labels = file.read(columns=["label"])["label"].to_numpy() if domains else np.zeros(0, np.int64)
            found, first = [], 0
            for number in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(number)
                columns = [group.column(index) for index in range(group.num_columns)]
                size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema in _PICTURES)
                here = labels[first : first + group.num_rows]
                found.append((group.num_rows, size, [int((here == domain).sum()) for domain in range(domains)]))
                first += group.num_rows
            return found

    with ThreadPoolExecutor(_READERS) as pool:
        listed = [
            (shard, number, *group)
            for shard, groups in enumerate(pool.map(read, names))
            for number, group in enumerate(groups)
            if group[0]
        ]
    table = np.array([entry[:4] for entry in listed], dtype=np.int64).reshape(-1, 4)
    members = np.array([entry[4] for entry in listed], dtype=np.int64).reshape(len(listed), domains).T
    return RowGroups(
        names=tuple(names),
        shard=table[:, 0],
        number=table[:, 1],
        rows=table[:, 2],
        size=table[:, 3],
        members=members,
    )


def binary_column(table: pa.Table, column: str) -> pa.Array:
    """The PNGs in a column of pictures of a row group, as one array."""
    return table[column].combine_chunks().field("bytes")


@contextlib.contextmanager
def explain_damage(shard: Path | str) -> Iterator[None]:
    """Raise DataError for a damaged ``shard`` that is read in the block."""
    try:
        yield
    # Arrow and Pillow raise various errors if a length or an offset in a file is wrong.
    except (pa.ArrowException, LookupError, ValueError, SyntaxError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # an error of the disk
            raise
        raise DataError(f"{shard} is damaged ({error}). Run the ingest stage again.") from error
