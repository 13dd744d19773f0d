"""Pictures with a table beside them (CSV, TSV, Parquet, or text as CelebA's): of labels, or of attributes."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.errors import DataError, nearest
from pipelines.data.readers.base import (
    Entry,
    FileReader,
    Listing,
    Reject,
    SourceNote,
    class_names,
    innermost,
    is_clutter,
    partition,
    split_name,
    walk_files,
)
from pipelines.data.readers.folder import mixed

_TABLES = (".csv", ".tsv", ".parquet")
_TEXT = ".txt"
"""Columns apart by spaces. A line with the number of rows may come first; the column of file names may have no name."""
_HOLDS = {"1": 1, "-1": 0, "0": 0}
# What such columns are usually called, most telling first.
_IMAGE_COLUMNS = ("file_name", "filename", "file", "path", "filepath", "image_path", "image", "img", "image_id", "id")
_LABEL_COLUMNS = ("label", "class", "category", "target", "labels", "class_name", "label_name", "species", "breed")


def matches(root: Path) -> bool:
    """Whether exactly one table with recognisable columns lies beside the pictures."""
    path = find_table(root)
    if path is None:
        return False
    columns = column_names(path)
    return _guess(columns, _IMAGE_COLUMNS) is not None and _guess(columns, _LABEL_COLUMNS) is not None


def find_table(root: Path) -> Path | None:
    """The only table at the top of ``root``; None when there is none or several."""
    found = _tables(root)
    return found[0] if len(found) == 1 else None


def find_attributes(root: Path, wanted: Sequence[str] = ()) -> Path | None:
    """The only table of attributes (of those ``wanted``, where it has one) at the top of ``root``; None when there is none
    or several."""
    found = []
    for path in _tables(root, (*_TABLES, _TEXT)):
        try:
            _, names = _attribute_columns(path, wanted)
            if names and all(row[0] in _HOLDS for row in _rows(path, names[:1])):
                found.append(path)
        except DataError:  # a text that is no table; see why_no_attributes
            continue
    return found[0] if len(found) == 1 else None


def why_no_attributes(root: Path, wanted: Sequence[str] = ()) -> str | None:
    """What keeps a table at the top of ``root`` that names files from being one of attributes; None when there is none."""
    for path in _tables(root, (*_TABLES, _TEXT)):
        # A text may be anything, unless it begins with its number of rows as CelebA's does, or holds attributes too.
        certain = path.suffix.lower() != _TEXT or path.read_bytes()[:20].split(b"\n")[0].strip().isdigit()
        try:
            image, names = _attribute_columns(path, wanted)
            for file, *values in _rows(path, [image, *names]) if names else []:
                strange = next((place for place, value in enumerate(values) if value not in _HOLDS), None)
                if strange is not None and (certain or any(value in _HOLDS for value in values)):
                    return _no_attribute(path, file, names[strange], values[strange])
        except DataError as error:
            if certain:
                return str(error)
    return None


def _attribute_columns(table: Path, wanted: Sequence[str]) -> tuple[str, list[str]]:
    """The column of file names, and those that may be attributes: the ``wanted`` ones if there is one of them. None of these
    where the table names no files."""
    columns = column_names(table)
    image = _guess(columns, _IMAGE_COLUMNS)
    others = [name for name in columns if name not in (image, "split")]
    return image or "", [name for name in others if name in wanted] or others if image else []


def why_unused(root: Path) -> str | None:
    """Why what lies at the top of ``root`` and looks like a label table is none; None when nothing does."""
    if not matches(root) and (attributes := find_attributes(root)) is not None:
        return f"{attributes.name} looks like a table of attributes; to use it, set ingest.kind to domains."
    found = _tables(root)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        return f"{names} may all hold labels; none of them is used. Name the one that does with --labels FILE."
    if not found or matches(root):
        return None
    columns = ", ".join(column_names(found[0]))
    return (
        f"{found[0].name} is not used: its columns ({columns}) are not called what file names and labels usually are. "
        "If it holds labels, name them with --image-column and --label-column."
    )


def _tables(root: Path, suffixes: tuple[str, ...] = _TABLES) -> list[Path]:
    inner = innermost(root)
    names = [name for name in os.listdir(inner) if name.lower().endswith(suffixes) and not is_clutter(name)]
    return [inner / name for name in sorted(names) if (inner / name).is_file()]


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """Every file that is no table, labelled by the row that names it (by path, else by unique file name, with or
    without suffix). A column ``split`` is followed. Pictures without a row and rows without a file are rejects.

    A table named by the user that has no column of labels is one of attributes, see :func:`list_attributes`.
    """
    if holds_attributes(root, note):
        return list_attributes(root, note)
    table = table_of(root, note)
    columns = column_names(table)
    image = _column(table, columns, note.image_column, _IMAGE_COLUMNS, "--image-column")
    label = _column(table, columns, note.label_column, _LABEL_COLUMNS, "--label-column")
    labels, rejects, others = _assigned(root, table, image, [label])
    ordered, names = class_names({value for (value,), _ in labels.values()})
    if note.classes:
        if any(not name.isdigit() or int(name) >= len(note.classes) for name in names):
            raise DataError(f"{table}: labels {', '.join(names)} do not fit the {len(note.classes)} classes named.")
        ordered, names = [str(position) for position in range(len(note.classes))], note.classes
    place = {value: position for position, value in enumerate(ordered)}
    entries = [Entry(file, label=place[value], split=part) for file, ((value,), part) in labels.items()]
    return Listing(mixed(entries), names, sorted(rejects, key=lambda reject: reject.source), others)


def holds_attributes(root: Path, note: SourceNote, *, wanted: bool = False) -> bool:
    """Whether the table is one of attributes: it has no column of labels, or attributes are ``wanted`` of it."""
    if note.format != "table" or note.label_column is not None:
        return False
    columns = column_names(table_of(root, note))
    named = note.image_column in columns or _guess(columns, _IMAGE_COLUMNS) is not None
    return named and len(columns) > 1 and (wanted or _guess(columns, _LABEL_COLUMNS) is None)


def list_attributes(root: Path, note: SourceNote, wanted: Sequence[str] = ()) -> Listing:
    """Every file that the table names, with the attributes that hold of it (1 in their columns; -1 or 0 where they do not).

    Args:
        root: the raw data.
        note: names the table, and its column of file names where that is not called as usual.
        wanted: the attributes to use, in this order; empty for every column.

    Raises:
        DataError: the table has no such attribute (names the nearest), or a column holds something else.
    """
    table = table_of(root, note)
    columns = column_names(table)
    image = _column(table, columns, note.image_column, _IMAGE_COLUMNS, "--image-column")
    known = [name for name in columns if name not in (image, "split")]
    for name in wanted:
        if name not in known:
            raise DataError(
                f"{table} has no attribute '{name}' (ingest.attributes).{nearest(name, known)} It has {', '.join(known)}."
            )
    names = tuple(wanted) or tuple(known)
    assigned, rejects, others = _assigned(root, table, image, names)
    entries = []
    for file, (values, split) in assigned.items():
        strange = next((place for place, value in enumerate(values) if value not in _HOLDS), None)
        if strange is not None:
            raise DataError(_no_attribute(table, file, names[strange], values[strange]))
        entries.append(Entry(file, split=split, attributes=bytes(_HOLDS[value] for value in values)))
    rejects = sorted(rejects, key=lambda reject: reject.source)
    return Listing(mixed(entries), rejects=rejects, ignored=others, attributes=names)


def _no_attribute(table: Path, file: str, column: str, value: str) -> str:
    found = f"'{value}'" if value else "nothing"
    return (
        f"{table} gives {file} {found} in the column '{column}', where an attribute is 1 (it holds), -1 or 0. Mend the cell, "
        "choose columns of attributes with ingest.attributes, or name one of labels with --label-column."
    )


def table_of(root: Path, note: SourceNote) -> Path:
    """The table that holds the labels or attributes; raises DataError when there is none."""
    table = root / note.labels if note.labels else find_table(root)
    if table is None or not table.is_file():
        raise DataError(f"{root}: the label table {note.labels or ''} is missing.")
    return table


def _assigned(
    root: Path, table: Path, image: str, columns: Sequence[str]
) -> tuple[dict[str, tuple[tuple[str, ...], str]], list[Reject], list[str]]:
    """By file, the values of its row and its split; rows and pictures without the other; files that are no pictures."""
    split = "split" if "split" in column_names(table) else None
    rows = _rows(table, [image, *columns, *([split] if split else [])])
    inside = table.parent.relative_to(root).as_posix()
    prefix = "" if inside == "." else inside + "/"
    files = [file for file in walk_files(root) if Path(file).suffix.lower() not in _TABLES and root / file != table]
    lookup = _lookup(files)
    assigned: dict[str, tuple[tuple[str, ...], str]] = {}
    rejects = []
    for name, *row in rows:
        key = name.replace("\\", "/").removeprefix("./")
        file = lookup.get(prefix + key) or lookup.get(key)
        values, part = tuple(row[: len(columns)]), _split(table, row[-1]) if split else ""
        if file is None:
            rejects.append(Reject(prefix + key, "missing", f"named in {table.name}"))
        elif any(values) or len(columns) > 1:
            before = assigned.get(file, (values, ""))[0]
            for column, one, two in zip(columns, before, values, strict=True):
                if one != two:
                    what = "two labels" if len(columns) == 1 else f"two values of '{column}'"
                    raise DataError(f"{table} gives {file} {what}, '{one}' and '{two}'.")
            assigned[file] = (values, part)
    unnamed, others = partition(root, [file for file in files if file not in assigned])
    rejects += [Reject(file, "no-label", f"no label in {table.name}") for file in unnamed]
    return assigned, rejects, others


def open_reader(root: Path, note: SourceNote) -> FileReader:
    """A reader of files."""
    return FileReader(root)


def column_names(table: Path) -> list[str]:
    """The columns of a table; raises DataError when it has none."""
    if table.suffix.lower() == ".parquet":
        return list(_schema(table).names)
    header = next(_lines(table), None)
    if not header:
        raise DataError(f"{table} is empty; its first line must name the columns.")
    return header


def _schema(table: Path) -> pa.Schema:
    try:
        return pq.read_schema(table)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{table} cannot be read as Parquet: {error}") from error


def _lines(table: Path) -> Iterator[list[str]]:
    """The rows of a table that is text; raises DataError, with the line, for what is no text or no table."""
    content = table.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{table}, line {line}: this is not UTF-8 (byte {content[error.start]:#04x}). Save the table as UTF-8."
        ) from error
    if table.suffix.lower() == _TEXT:
        yield from _spaced(table, text)
        return
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
    try:
        yield from rows
    except csv.Error as error:
        raise DataError(
            f"{table}, line {rows.line_num}: {error}. Mend the line, and save the table as UTF-8."
        ) from error


def _spaced(table: Path, text: str) -> Iterator[list[str]]:
    """The rows of a table in the way of CelebA's list_attr (Liu et al. 2015), the column of file names named."""
    rows = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    announced = None
    if rows and len(rows[0][1]) == 1 and rows[0][1][0].isdecimal():
        announced = int(rows.pop(0)[1][0])
    if not rows:
        return
    _, header = rows.pop(0)
    if announced is not None and announced != len(rows):
        raise DataError(f"{table} announces {announced} rows and holds {len(rows)}; it is cut off, or joined of two.")
    if rows and len(rows[0][1]) == len(header) + 1:
        header = [_IMAGE_COLUMNS[0], *header]
    yield header
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(f"{table}, line {number}: {len(row)} values where there are {len(header)} columns.")
        yield row


def _rows(table: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The wanted columns as text; a missing value is empty text. Raises DataError where two columns have the name of one."""
    header = [name.strip() for name in column_names(table)]
    for name in columns:
        if header.count(name.strip()) > 1:
            raise DataError(f"{table} has {header.count(name.strip())} columns '{name.strip()}'. Rename or remove one.")
    if table.suffix.lower() == ".parquet":
        try:
            read = pq.read_table(table, columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{table} cannot be read as Parquet: {error}") from error
        lists = [read[name].to_pylist() for name in columns]
        return [tuple("" if value is None else str(value) for value in row) for row in zip(*lists, strict=True)]
    header, *rows = _lines(table)
    places = [header.index(name) for name in columns]
    return [tuple(row[place].strip() if place < len(row) else "" for place in places) for row in rows if row]


def _lookup(files: Sequence[str]) -> dict[str, str]:
    """Files by path, by file name and by file name without suffix; ambiguous short names lead nowhere."""
    lookup: dict[str, str] = {}
    for shorten in (lambda file: Path(file).stem, lambda file: Path(file).name):
        seen: dict[str, list[str]] = {}
        for file in files:
            seen.setdefault(shorten(file), []).append(file)
        lookup.update({short: owners[0] for short, owners in seen.items() if len(owners) == 1})
    lookup.update({file: file for file in files})
    return lookup


def _split(table: Path, value: str) -> str:
    split = split_name(value)
    if split is None:
        raise DataError(f"{table}: '{value}' in the column 'split' is none of train, test, validation.")
    return split


def _column(table: Path, columns: list[str], wanted: str | None, usual: Sequence[str], option: str) -> str:
    if wanted is not None:
        if wanted not in columns:
            raise DataError(f"{table} has no column '{wanted}'; it has {', '.join(columns)}. Name one with {option}.")
        return wanted
    guess = _guess(columns, usual)
    if guess is None:
        meant = option.removeprefix("--").removesuffix("-column")
        raise DataError(f"{table}: which column is the {meant}? It has {', '.join(columns)}. Say it with {option}.")
    return guess


def _guess(columns: Sequence[str], usual: Sequence[str]) -> str | None:
    lowered = {column.lower(): column for column in columns}
    return next((lowered[name] for name in usual if name in lowered), None)
