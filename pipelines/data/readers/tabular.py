"""Tables as text: CSV with whatever separator, TSV, JSON lines, Parquet, and text as CelebA's."""

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
"""Columns apart by spaces. A line with the number of rows may come first; the column of file names may have no name."""

_SEPARATORS = (",", ";", "\t", "|")
_FILE_COLUMN = "file_name"


def column_names(table: Path) -> list[str]:
    """The columns of a table; raises DataError when it has none."""
    if table.suffix.lower() == ".parquet":
        return list(read_head(table).schema.names)
    if table.suffix.lower() == ".jsonl":
        return list(dict.fromkeys(name for _, row in _objects(table) for name in row))
    _, header = next(_lines(table), (0, None))
    if not header:
        raise DataError(f"{table} is empty; its first line must name the columns.")
    return header


def read_rows(table: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The wanted columns as text; a missing value is empty text. Rows whose every cell is empty are left out.

    Raises:
        DataError: two columns have the name of one, a row has more cells than there are columns, a cell is no single value.
    """
    header = column_names(table)
    for name in columns:
        if header.count(name) > 1:
            raise DataError(f"{table} has {header.count(name)} columns '{name}'. Rename or remove one.")
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
                f"{table}, line {number}: {len(row)} cells where there are {len(header)} columns. Put a cell that holds a "
                "separator between quotes."
            )
        if any(row):
            found.append(tuple(row[place] if place < len(row) else "" for place in places))
    return found


def cells(table: Path) -> Iterator[list[str]]:
    """Every row of a CSV, TSV or plain text, its first line too; raises DataError for what is no such text."""
    if table.suffix.lower() != TEXT:
        yield from (row for _, row in _lines(table))
        return
    text = _decoded(table)
    separator = "\t" if "\t" in text else None
    yield from ([cell.strip() for cell in line.split(separator)] for line in text.splitlines() if line.strip())


def without_header(columns: Sequence[str]) -> str | None:
    """The picture that the first line of a table names where the columns should be named; None when it names none."""
    return next((name for name in columns if has_picture_suffix(name)), None)


def _text(table: Path, where: str, column: str, value: Any) -> str:
    if value is None or value != value:  # NaN, pandas' missing value
        return ""
    if isinstance(value, (bytes, list, tuple, dict)):
        raise DataError(
            f"{table}, {where}: the column '{column}' holds {type(value).__name__}, where one text or number is wanted."
        )
    return str(value).strip()


def _objects(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their lines."""
    for number, line in enumerate(_decoded(table).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{table}, line {number}: this is not JSON ({error}). Mend the line.") from error
        if not isinstance(row, dict):
            raise DataError(f'{table}, line {number}: expected an object such as {{"file_name": "1.png", "label": 3}}.')
        yield number, row


def _decoded(table: Path) -> str:
    """UTF-8 with or without its mark, or UTF-16 with it (Excel's "Unicode text")."""
    content = table.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{table}, line {line}: this is not UTF-8 (byte {content[error.start]:#04x}). Save the table as UTF-8."
        ) from error


def _lines(table: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that is text, with their lines; raises DataError for what is no text or no table."""
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
            f"{table}, line {before + rows.line_num}: {error}. Mend the line, and save the table as UTF-8."
        ) from error


def _separator(table: Path, text: str) -> tuple[str, str, int]:
    """What parts the cells (the separator that makes most of the first line), the table, and how many lines came before it."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # Excel's own way to say it
        return first[4], text.split("\n", 1)[-1], 1
    usual = "\t" if table.suffix.lower() == ".tsv" else ","
    candidates = (usual, *(separator for separator in _SEPARATORS if separator != usual))
    return max(candidates, key=lambda separator: _cells(first, separator)), text, 0


def _cells(line: str, separator: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=separator), []))
    except csv.Error:  # which reading the table is going to say
        return 0


def _spaced(table: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table in the way of CelebA's list_attr (Liu et al. 2015), the column of file names named."""
    rows = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    announced = None
    if rows and len(rows[0][1]) == 1 and rows[0][1][0].isdecimal():
        announced = int(rows.pop(0)[1][0])
    if not rows:
        return
    number, header = rows.pop(0)
    if announced is not None and announced != len(rows):
        raise DataError(f"{table} announces {announced} rows and holds {len(rows)}; it is cut off, or joined of two.")
    if rows and len(rows[0][1]) == len(header) + 1:
        header = [_FILE_COLUMN, *header]
    yield number, header
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(f"{table}, line {number}: {len(row)} values where there are {len(header)} columns.")
        yield number, row
