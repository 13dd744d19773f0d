"""Reader of pictures that stay in a bucket. The raw data is a list of the objects, with the version of each.

Splits and classes come from the names of the objects, as from folders. Tables in the bucket are not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gan_core.errors import DataError
from gan_core.images.files import has_picture_suffix, include_svgs
from pipelines.data.readers.base import Entries, FileReader, Listing, SourceNote, is_clutter
from pipelines.data.readers.entries import Texts
from pipelines.data.readers.folder import list_files

OBJECTS_FILE = "objects.parquet"
_SCHEMA = pa.schema([("name", pa.large_string()), ("size", pa.int64()), ("version", pa.large_string())])


@dataclass(frozen=True, kw_only=True)
class Objects:
    """Some objects of a bucket."""

    uri: str
    names: Sequence[str]
    sizes: Sequence[int]
    versions: Sequence[str]


class ObjectList:
    """The objects that ``gantry data add`` found, in columns."""

    def __init__(self, root: Path, note: SourceNote) -> None:
        """Read ``objects.parquet``; raises DataError if it is missing or damaged."""
        path = root / OBJECTS_FILE
        try:
            self._table = pq.read_table(path, schema=_SCHEMA).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} is missing or damaged: {error}. Add the data again.") from error
        if not note.bucket:
            raise DataError(f"{root}/source.json names no bucket. Add the data again.")
        self._uri = note.bucket

    @property
    def names(self) -> Texts:
        """Their names, sorted."""
        return Texts(_column(self._table, "name"))

    def positions(self, names: Texts) -> np.ndarray:
        """Position of each name in the list, int64 (n,)."""
        found = pc.index_in(names.values, value_set=_column(self._table, "name"))
        return found.to_numpy(zero_copy_only=False).astype(np.int64)

    def take(self, positions: np.ndarray) -> Objects:
        """The objects at ``positions``, int64 (n,)."""
        some = self._table.take(pa.array(np.unique(positions))).to_pydict()
        return Objects(uri=self._uri, names=some["name"], sizes=some["size"], versions=some["version"])


def write_objects(root: Path, objects: pa.Table) -> None:
    """Write the list of objects, with the columns name, size and version; equal lists give equal bytes."""
    table = objects.sort_by("name").cast(_SCHEMA)
    pq.write_table(table, root / OBJECTS_FILE, compression="zstd", write_statistics=False)


def matches(root: Path) -> bool:
    """False: only a source note says that pictures are in a bucket."""
    return False


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """List the objects whose names have the suffix of a picture; the first bytes of others are not looked at."""
    files: list[str] = []
    others: list[str] = []
    for name in ObjectList(root, note).names:
        if not any(is_clutter(part) for part in name.split("/")):
            (files if has_picture_suffix(name) else others).append(name)
    return list_files(root, *include_svgs(files, others), find=None)


def open_reader(root: Path, note: SourceNote) -> FileReader:
    """Open the reader of objects that were fetched into ``root``."""
    return FileReader(root)


def positions_of(objects: ObjectList, entries: Entries) -> list[np.ndarray]:
    """Positions of the files of all entries in the list: int64 (n,) for the pictures, and the same for conditions."""
    columns = [entries.files, *([entries.conditions] if entries.conditions is not None else [])]
    return [objects.positions(column) for column in columns]


def _column(table: pa.Table, name: str) -> pa.LargeStringArray:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
