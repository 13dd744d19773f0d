"""Columns of labels in Parquet files that a stranger wrote, read in a process with limits on time and memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.errors import DataError
from gan_core.images import bounded
from pipelines.data.names import MAX_CLASS_LETTERS

T = TypeVar("T")

DAMAGED = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises where the bytes between the parts of a file are not what they say."""


class Head(NamedTuple):
    """What the end of a Parquet file says of it."""

    schema: pa.Schema
    rows: int


def open_file(path: Path) -> pq.ParquetFile:
    """The file, mapped; raises DataError where it is no Parquet. To be called in a worker."""
    try:
        file = pq.ParquetFile(path, memory_map=True)
        _ = file.schema_arrow.names  # raises where they are not UTF-8
    except MemoryError:
        raise
    except DAMAGED as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    return file


def read_head(path: Path) -> Head:
    """Schema and number of rows.

    Raises:
        DataError: it is no Parquet, it is damaged, or reading it takes too much time or memory.
    """
    return _in_worker(path, _head, path)


def read_columns(path: Path, columns: Sequence[str]) -> list[list[Any]]:
    """The values of each of ``columns``, which are labels, splits or names of files.

    Raises:
        DataError: it is no Parquet, it is damaged, a column holds no values that Python knows or more bytes than labels may,
            or reading it takes too much time or memory.
    """
    return _in_worker(path, _columns, path, tuple(columns))


def short(error: Exception) -> str:
    """What an error of Arrow's says, on one line."""
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def _in_worker(path: Path, function: Callable[..., T], *arguments: object) -> T:
    try:
        return bounded.call(function, *arguments)
    except bounded.WorkerEndedError as error:
        raise DataError(
            f"{path} is damaged: what it says of its columns cannot be read ({error.detail}). Get it again."
        ) from error
    except MemoryError as error:
        raise DataError(
            f"{path}: reading its columns takes more memory than a reader may use. Get it again, or write it "
            "with shorter labels."
        ) from error


def _head(path: Path) -> Head:
    file = open_file(path)
    rows = file.metadata.num_rows
    if rows != sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)):
        raise DataError(f"{path} is damaged (it says {rows} rows, and its parts other numbers). Get it again.")
    return Head(file.schema_arrow, rows)


def _columns(path: Path, columns: Sequence[str]) -> list[list[Any]]:
    file = open_file(path)
    _check_sizes(path, file.metadata, columns)
    found = []
    for name in columns:
        try:
            found.append(file.read(columns=[name], use_threads=False)[name].to_pylist())
        except MemoryError:
            raise
        except OverflowError as error:  # a time before year 1, or after year 9999
            raise DataError(
                f"{path}: the column '{name}' holds no labels ({error}). Choose another with --label-column."
            ) from error
        except DAMAGED as error:
            raise DataError(f"{path} is damaged ({short(error)}). Get it again.") from error
    return found


def _check_sizes(path: Path, metadata: pq.FileMetaData, columns: Sequence[str]) -> None:
    """Raise DataError where a row group holds more bytes of a column than labels may have."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(index) for index in range(group.num_columns)]
        for name in columns:
            # A list or a struct has a leaf, or several, below the column's name.
            size = sum(c.total_uncompressed_size for c in chunks if f"{c.path_in_schema}.".startswith(f"{name}."))
            if size > MAX_CLASS_LETTERS * 8 * max(1, group.num_rows) + 2**20:
                raise DataError(
                    f"{path}: the column '{name}' holds {size >> 20} MiB for {group.num_rows} rows, which is no label. Choose "
                    "another with --label-column."
                )
