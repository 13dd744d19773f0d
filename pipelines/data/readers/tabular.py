"""Read tables as text: CSV with any separator, TSV, JSON lines, Parquet, and text files like CelebA's."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gan_core.errors import DataError
from gan_core.images.files import has_picture_suffix
from pipelines.data.readers.parquet_columns import read_columns, read_head

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
TEXT = ".txt"
"""Columns separated by spaces. The first line may be the number of rows; the column of file names may have no name."""

_MAX_DIGITS = 18
"""Longest number of rows in the first line of a text file, in digits; Python refuses to read one of thousands of digits."""
_SEPARATORS = (",", ";", "\t", "|")
_FILE_COLUMN = "file_name"


def column_names(table: Path) -> list[str]:
    """Names of the columns of a table; raises DataError if it has none."""
    if table.suffix.lower() == ".parquet":
        return list(read_head(table).schema.names)
    if table.suffix.lower() == ".jsonl":
        return list(dict.fromkeys(name for _, row in _objects(table) for name in row))
    _, header = next(_lines(table), (0, None))
    if not header:
        raise DataError(f"{table} is empty. Its first line must name the columns.")
    return header


def read_rows(table: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Read the rows of ``columns`` as text. A missing value is empty text. Rows whose cells are all empty are skipped.

    Raises:
        DataError: two columns have the same name, a row has more cells than columns, or a cell is not a single value.
    """
    header = column_names(table)
    for name in columns:
        if header.count(name) > 1:
            raise DataError(f"{table} has {header.count(name)} columns named '{name}'. Rename or remove one.")
    if table.suffix.lower() == ".parquet":
        rows = enumerate(zip(*read_columns(table, columns), strict=True), 1)
        return [
            tuple(_text(table, f"row {number}", n, v) for n, v in zip(columns, row, strict=True))
            for number, row in rows
        ]
    if table.suffix.lower() == ".jsonl":
        return [
            tuple(_text(table, f"line {number}", name, row.get(name)) for name in columns)
            for number, row in _objects(table)
        ]
    places = [header.index(name) for name in columns]
    lines = _lines(table)
    next(lines)
    found = []
    for number, row in lines:
        if any(row[len(header) :]):
            raise DataError(
                f"{table}, line {number}: {len(row)} cells, but there are {len(header)} columns. Put quotes around a cell that "
                "contains a separator."
            )
        if any(row):
            found.append(tuple(row[place] if place < len(row) else "" for place in places))
    return found


def read_cells(table: Path) -> Iterator[list[str]]:
    """All rows of a CSV, TSV or text file, including the first line; raises DataError if it is not such a file."""
    if table.suffix.lower() != TEXT:
        yield from (row for _, row in _lines(table))
        return
    text = _decoded(table)
    separator = "\t" if "\t" in text else None
    yield from ([cell.strip() for cell in line.split(separator)] for line in text.splitlines() if line.strip())


def picture_in_header(columns: Sequence[str]) -> str | None:
    """The picture in the first line of a table without a header; None if the first line names no picture."""
    return next((name for name in columns if has_picture_suffix(name)), None)


def _text(table: Path, where: str, column: str, value: Any) -> str:
    if value is None or value != value:  # NaN, pandas' missing value
        return ""
    if isinstance(value, (bytes, list, tuple, dict)):
        raise DataError(
            f"{table}, {where}: the column '{column}' must hold one text or number, got {type(value).__name__}. Correct it, or "
            "choose another column."
        )
    return str(value).strip()


def _objects(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON lines file, with their line numbers."""
    for number, line in enumerate(_decoded(table).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{table}, line {number}: invalid JSON ({error}). Correct the line.") from error
        if not isinstance(row, dict):
            raise DataError(f'{table}, line {number}: must be an object such as {{"file_name": "1.png", "label": 3}}.')
        yield number, row


def _decoded(table: Path) -> str:
    """Decode UTF-8 with or without a byte order mark, or UTF-16 with one (Excel's "Unicode text")."""
    content = table.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{table}, line {line}: not UTF-8 (byte {content[error.start]:#04x}). Save the table as UTF-8."
        ) from error


def _lines(table: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a text table with their line numbers; raises DataError if it is not text or not a table."""
    text = _decoded(table)
    if table.suffix.lower() == TEXT:
        yield from _spaced(table, text)
        return
    separator, text, before = _separator(table, text)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for row in rows:
            if row:
                yield before + rows.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise DataError(
            f"{table}, line {before + rows.line_num}: {error}. Correct the line, and save the table as UTF-8."
        ) from error


def _separator(table: Path, text: str) -> tuple[str, str, int]:
    """The separator (the one with the most cells in the first line), the table's text, and the number of lines before it."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # as Excel states it
        return first[4], text.split("\n", 1)[-1], 1
    usual = "\t" if table.suffix.lower() == ".tsv" else ","
    candidates = (usual, *(separator for separator in _SEPARATORS if separator != usual))
    return max(candidates, key=lambda separator: _cells(first, separator)), text, 0


def _cells(line: str, separator: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=separator), []))
    except csv.Error:  # reading the table raises it again
        return 0


def _spaced(table: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table like CelebA's list_attr (Liu et al. 2015), with a name for the column of file names."""
    rows = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    announced = None
    if rows and len(rows[0][1]) == 1 and rows[0][1][0].isdecimal() and len(rows[0][1][0]) <= _MAX_DIGITS:
        announced = int(rows.pop(0)[1][0])
    if not rows:
        return
    number, header = rows.pop(0)
    if announced is not None and announced != len(rows):
        raise DataError(
            f"{table}: its first line states {announced} rows, but it has {len(rows)}. It is truncated, or two files in one. "
            "Download it again."
        )
    if rows and len(rows[0][1]) == len(header) + 1:
        header = [_FILE_COLUMN, *header]
    yield number, header
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{table}, line {number}: {len(row)} values, but there are {len(header)} columns. Correct the line."
            )
        yield number, row
