"""Pictures with a table of labels (CSV, TSV or Parquet) beside them."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.errors import DataError
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


def why_unused(root: Path) -> str | None:
    """Why what lies at the top of ``root`` and looks like a label table is none; None when nothing does."""
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


def _tables(root: Path) -> list[Path]:
    inner = innermost(root)
    names = [name for name in os.listdir(inner) if name.lower().endswith(_TABLES) and not is_clutter(name)]
    return [inner / name for name in sorted(names) if (inner / name).is_file()]


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """Every file that is no table, labelled by the row that names it (by path, else by unique file name, with or
    without suffix). A column ``split`` is followed. Pictures without a row and rows without a file are rejects.
    """
    table = root / note.labels if note.labels else find_table(root)
    if table is None or not table.is_file():
        raise DataError(f"{root}: the label table {note.labels or ''} is missing.")
    columns = column_names(table)
    image = _column(table, columns, note.image_column, _IMAGE_COLUMNS, "--image-column")
    label = _column(table, columns, note.label_column, _LABEL_COLUMNS, "--label-column")
    split = "split" if "split" in columns else None
    rows = _rows(table, [image, label, *([split] if split else [])])
    inside = table.parent.relative_to(root).as_posix()
    prefix = "" if inside == "." else inside + "/"
    files = [file for file in walk_files(root) if Path(file).suffix.lower() not in _TABLES]
    lookup = _lookup(files)
    labels: dict[str, tuple[str, str]] = {}
    rejects = []
    for name, value, *rest in rows:
        key = name.replace("\\", "/").removeprefix("./")
        file = lookup.get(prefix + key) or lookup.get(key)
        if file is None:
            rejects.append(Reject(prefix + key, "missing", f"named in {table.name}"))
        elif value != "":
            if labels.get(file, (value,))[0] != value:
                raise DataError(f"{table} gives {file} two labels, '{labels[file][0]}' and '{value}'.")
            labels[file] = (value, _split(table, rest[0]) if rest else "")
    unnamed, others = partition(root, [file for file in files if file not in labels])
    rejects += [Reject(file, "no-label", f"no label in {table.name}") for file in unnamed]
    ordered, names = class_names({value for value, _ in labels.values()})
    if note.classes:
        if any(not name.isdigit() or int(name) >= len(note.classes) for name in names):
            raise DataError(f"{table}: labels {', '.join(names)} do not fit the {len(note.classes)} classes named.")
        ordered, names = [str(position) for position in range(len(note.classes))], note.classes
    place = {value: position for position, value in enumerate(ordered)}
    entries = [Entry(file, label=place[value], split=part) for file, (value, part) in labels.items()]
    return Listing(mixed(entries), names, sorted(rejects, key=lambda reject: reject.source), others)


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
    """The rows of a CSV or TSV file; raises DataError, with the line, for what is no text or no table."""
    content = table.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{table}, line {line}: this is not UTF-8 (byte {content[error.start]:#04x}). Save the table as UTF-8."
        ) from error
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
    try:
        yield from rows
    except csv.Error as error:
        raise DataError(
            f"{table}, line {rows.line_num}: {error}. Mend the line, and save the table as UTF-8."
        ) from error


def _rows(table: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The wanted columns as text; a missing value is empty text."""
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
