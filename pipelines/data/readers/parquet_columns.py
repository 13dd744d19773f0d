"""Read columns of labels from untrusted Parquet files, in a process with limits on time and memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.errors import DataError
from gan_core.images import sandbox
from pipelines.data.names import MAX_CLASS_LETTERS

T = TypeVar("T")

PARQUET_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)
"""Errors that pyarrow raises for a damaged file."""


class Head(NamedTuple):
    """The schema and the number of rows of a Parquet file, from its footer."""

    schema: pa.Schema
    rows: int


def open_file(path: Path) -> pq.ParquetFile:
    """Open a Parquet file and map it into memory; raises DataError if it is not one. Call it in a worker only."""
    try:
        file = pq.ParquetFile(path, memory_map=True)
        _ = file.schema_arrow.names  # raises if they are not UTF-8
    except MemoryError:
        raise
    except PARQUET_ERRORS as error:
        raise DataError(f"{path} cannot be read as Parquet: {short_message(error)}. Download it again.") from error
    return file


def read_head(path: Path) -> Head:
    """Read the schema and the number of rows.

    Raises:
        DataError: the file is not Parquet or is damaged, or reading it takes too much time or memory.
    """
    return _in_worker(path, _head, path)


def read_columns(path: Path, columns: Sequence[str]) -> list[list[Any]]:
    """Read the values of ``columns``, which hold labels, splits or file names.

    Raises:
        DataError: the file is not Parquet or is damaged, a column holds values that Python cannot represent or more bytes
            than labels may have, or reading it takes too much time or memory.
    """
    return _in_worker(path, _columns, path, tuple(columns))


def short_message(error: Exception) -> str:
    """The message of an Arrow error on one line, shortened."""
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def _in_worker(path: Path, function: Callable[..., T], *arguments: object) -> T:
    try:
        return sandbox.call(function, *arguments)
    except sandbox.WorkerEndedError as error:
        raise DataError(
            f"{path} is damaged: its columns cannot be read ({error.detail}). Download it again."
        ) from error
    except MemoryError as error:
        raise DataError(
            f"{path}: reading its columns exceeds the memory limit of a reader. Download it again, or write it with shorter "
            "labels."
        ) from error


def _head(path: Path) -> Head:
    file = open_file(path)
    rows = file.metadata.num_rows
    if rows != sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)):
        raise DataError(
            f"{path} is damaged (it states {rows} rows, but its row groups do not add up). Download it again."
        )
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
                f"{path}: the column '{name}' does not hold labels ({error}). Choose another with --label-column."
            ) from error
        except PARQUET_ERRORS as error:
            raise DataError(f"{path} is damaged ({short_message(error)}). Download it again.") from error
    return found


def _check_sizes(path: Path, metadata: pq.FileMetaData, columns: Sequence[str]) -> None:
    """Raise DataError if a row group holds more bytes of a column than labels may have."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(index) for index in range(group.num_columns)]
        for name in columns:
            # A list or struct has one or more leaves below the name of the column.
            size = sum(c.total_uncompressed_size for c in chunks if f"{c.path_in_schema}.".startswith(f"{name}."))
            if size > MAX_CLASS_LETTERS * 8 * max(1, group.num_rows) + 2**20:
                raise DataError(
                    f"{path}: the column '{name}' holds {size >> 20} MiB in {group.num_rows} rows, too much for labels. Choose "
                    "another with --label-column."
                )
