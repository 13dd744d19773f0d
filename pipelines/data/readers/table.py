"""Reader of pictures with a table of labels or attributes (CSV, TSV, JSON lines, Parquet, or text like CelebA's).

There is one table beside the pictures, or one for each split: ``train.csv`` and ``test.csv``, or ``train/metadata.csv`` and
``test/metadata.csv``.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from gan_core.errors import DataError, did_you_mean
from pipelines.data.readers.base import (
    Entries,
    Entry,
    FileReader,
    Listing,
    Reject,
    SourceNote,
    content_root,
    is_clutter,
    split_column,
)
from pipelines.data.readers.folder import shuffle_by_hash
from pipelines.data.readers.labels import (
    HIDDEN_DETAIL,
    are_numbers,
    attribute_value,
    hidden_labels,
    label_positions,
    normalize_number,
)
from pipelines.data.readers.layout import find_split
from pipelines.data.readers.rows import MatchedRows, TableSource, match_rows
from pipelines.data.readers.tabular import TABLES, TEXT, column_names, picture_in_header, read_rows

# Usual names of these columns, the most specific first.
_IMAGE_COLUMNS = (
    *("file_name", "filename", "file", "path", "filepath", "image_path", "image", "img", "image_id", "id"),
    *("image_name", "image_file", "img_name", "file_path"),
)
_LABEL_COLUMNS = ("label", "class", "category", "target", "labels", "class_name", "label_name", "species", "breed")


def matches(root: Path, note: SourceNote | None = None) -> bool:
    """Whether there is a table of labels beside the pictures, or one for each split.

    Its columns of file names and labels must have usual names, or those in ``note``.
    """
    return bool(_label_tables(root, note))


def find_table(root: Path) -> Path | None:
    """The table at the top of ``root``; None unless there is exactly one."""
    found = _tables(content_root(root))
    return found[0] if len(found) == 1 else None


def find_attribute_table(root: Path, wanted: Sequence[str] = ()) -> Path | None:
    """The table of attributes at the top of ``root``, with ``wanted`` as its columns if it has any of them; None unless there
    is exactly one."""
    found = []
    for path in _tables(content_root(root), (*TABLES, TEXT)):
        try:
            _, names = _attribute_columns(path, wanted)
            if names and all(attribute_value(row[0]) is not None for row in read_rows(path, names[:1])):
                found.append(path)
        except DataError:  # a text file that is not a table; see why_no_attributes
            continue
    return found[0] if len(found) == 1 else None


def why_no_attributes(root: Path, wanted: Sequence[str] = ()) -> str | None:
    """Why a table of files at the top of ``root`` is not a table of attributes; None if there is no such table."""
    for path in _tables(content_root(root), (*TABLES, TEXT)):
        # A text file may be anything, unless it starts with its number of rows, like CelebA's, or also holds attributes.
        certain = path.suffix.lower() != TEXT or path.read_bytes()[:20].split(b"\n")[0].strip().isdigit()
        try:
            image, names = _attribute_columns(path, wanted)
            for file, *values in read_rows(path, [image, *names]) if names else []:
                held = [attribute_value(value) for value in values]
                if None in held and (certain or any(value is not None for value in held)):
                    strange = held.index(None)
                    return _no_attribute(path, file, names[strange], values[strange])
        except DataError as error:
            if certain:
                return str(error)
    return None


def _attribute_columns(table: Path, wanted: Sequence[str]) -> tuple[str, list[str]]:
    """The column of file names and the columns of attributes (of ``wanted``, if any exist); none without file names."""
    columns = column_names(table)
    image = _guess(columns, _IMAGE_COLUMNS)
    others = [name for name in columns if name and name not in (image, split_column(columns))]
    return image or "", [name for name in others if name in wanted] or others if image else []


def why_unused(root: Path) -> str | None:
    """Why a table at the top of ``root`` is not used for labels; None if there is no table, or it is used."""
    if matches(root):
        return None
    if (attributes := find_attribute_table(root)) is not None:
        return f"{attributes.name} looks like a table of attributes. To use it, set ingest.kind to domains."
    inner = content_root(root)
    within = [path for folder in _split_folders(inner) for path in _tables(folder)]
    found = _tables(inner) or within
    if len(found) > 1:
        names = ", ".join(path.relative_to(inner).as_posix() for path in found[:6])
        return (
            f"{names} may all hold labels, so that none is used. Name the label table with --labels FILE, or rename one "
            "table for each split to train.csv and test.csv, with equal columns."
        )
    if not found:
        return None
    columns = column_names(found[0])
    if picture := picture_in_header(columns):
        return (
            f"{found[0].name} is not used: its first line must name the columns, but names the picture {picture}. Add a first "
            "line such as file,label."
        )
    return (
        f"{found[0].name} is not used: its columns ({', '.join(columns)}) do not have the usual names of columns of file names "
        "and labels. If it holds labels, name its columns with --image-column and --label-column."
    )


def _tables(folder: Path, suffixes: tuple[str, ...] = TABLES) -> list[Path]:
    names = [name for name in os.listdir(folder) if name.lower().endswith(suffixes) and not is_clutter(name)]
    return [folder / name for name in sorted(names) if (folder / name).is_file()]


def _split_folders(inner: Path) -> list[Path]:
    return sorted(
        path for path in inner.iterdir() if path.is_dir() and not is_clutter(path.name) and find_split(path.name)
    )


def _label_tables(root: Path, note: SourceNote | None = None) -> list[TableSource]:
    """The label tables: the single one at the top, or one for each split, at the top or in the folders of the splits."""
    inner = content_root(root)
    top = _tables(inner)
    if len(top) == 1 and _has_labels(top[0], note):
        return [TableSource(top[0])]
    by_split: dict[str, list[Path]] = {}
    named = [(path, find_split(path.stem)) for path in top]
    if len(top) < 2 or not any(found for _, found in named):
        named = [(path, find_split(folder.name)) for folder in _split_folders(inner) for path in _tables(folder)]
    for path, found in named:
        if found is not None and _has_labels(path, note, strict=False):
            by_split.setdefault(found[0], []).append(path)
    chosen = {split: _metadata(paths) for split, paths in by_split.items()}
    if "train" not in chosen or not all(chosen.values()):
        return []
    return [TableSource(path, split) for split, path in sorted(chosen.items()) if path is not None]


def _metadata(paths: list[Path]) -> Path | None:
    """The table of a split: the only one, or the one named metadata."""
    called = [path for path in paths if path.stem.lower() == "metadata"]
    return paths[0] if len(paths) == 1 else called[0] if len(called) == 1 else None


def _has_labels(table: Path, note: SourceNote | None, *, strict: bool = True) -> bool:
    """Whether the table has columns of file names and labels. A broken table has none; with ``strict`` it raises DataError."""
    try:
        columns = column_names(table)
    except DataError:
        if strict:
            raise
        return False
    image, label = (note.image_column, note.label_column) if note else (None, None)
    return all(
        given in columns if given else _guess(columns, usual) is not None
        for given, usual in ((image, _IMAGE_COLUMNS), (label, _LABEL_COLUMNS))
    )


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """List the pictures with the labels from the table, matched by path, or by unique file name with or without suffix.

    The split of a picture comes from a column ``split``, from the table of its split, or from its folder. Pictures without a
    row and rows without a file are rejects, except in a split other than train that has no labels at all: its labels are not
    published.

    A label table without a column of labels is a table of attributes, see :func:`list_attributes`.
    """
    if is_attribute_table(root, note):
        return list_attributes(root, note)
    sources = [TableSource(label_table(root, note))] if note.labels else _label_tables(root, note)
    if not sources:
        sources = [TableSource(label_table(root, note))]
    notes = []
    for source in sources:
        columns = column_names(source.table)
        source.image = _column(source.table, columns, note.image_column, _IMAGE_COLUMNS, "--image-column")
        source.columns = (_column(source.table, columns, note.label_column, _LABEL_COLUMNS, "--label-column"),)
        notes += _unused(source, columns)
    matched = match_rows(root, sources)
    entries, unlabelled, classes = _labelled(matched, note)
    rejects = sorted([*matched.rejects, *(reject for _, reject in unlabelled)], key=lambda reject: reject.source)
    return Listing(
        shuffle_by_hash(Entries.of(entries)),
        classes,
        rejects,
        matched.others,
        without_label=[entry for entry, _ in unlabelled],
        ambiguity=matched.ambiguity,
        notes=(*notes, *matched.notes),
    )


def _labelled(
    matched: MatchedRows, note: SourceNote
) -> tuple[list[Entry], list[tuple[Entry, Reject]], tuple[str, ...]]:
    """The entries with their labels, the pictures without a label and their rejects, and the classes.

    Splits whose labels are all hidden have no labels.
    """
    rows = {file: (value, row) for file, row in matched.rows.items() for value in row.values}
    if any(value.lower() == "nan" for value, _ in rows.values()) and are_numbers(
        value for value, _ in rows.values() if value.lower() not in ("", "nan")
    ):
        # pandas and others write a missing number as nan.
        rows = {file: ("" if value.lower() == "nan" else value, row) for file, (value, row) in rows.items()}
    splits: dict[str, set[str]] = {}
    for value, row in rows.values():
        splits.setdefault(row.split, set()).add(normalize_number(value))
    none = hidden_labels(set() if note.classes else splits.get("train", set()) | splits.get("", set()))
    hidden = {
        split
        for split in {*splits, *(split for _, split in matched.without_row)} - {"train", ""}
        if splits.get(split, set()) <= none
    }
    entries, unlabelled, values = [], [], {}

    def reject(file: str, split: str, detail: str) -> None:
        unlabelled.append((Entry(file, split=split), Reject(file, "no-label", detail)))

    for file, (value, row) in rows.items():
        if row.split in hidden:
            entries.append(Entry(file, split=row.split))
        elif not value:
            reject(file, row.split, f"no label in {row.table.name}")
        elif normalize_number(value) in none:
            reject(file, row.split, HIDDEN_DETAIL)
        else:
            values[file] = value
    for file, split in matched.without_row:
        if split in hidden:
            entries.append(Entry(file, split=split))
        else:
            reject(file, split, f"no label in {', '.join(matched.tables)}")
    if note.classes:
        numbers = {str(number): number for number in range(len(note.classes))}
        for file, value in values.items():
            if normalize_number(value) not in numbers:
                raise DataError(
                    f"{rows[file][1].table}: the label '{value}' of {file} is not one of the {len(note.classes)} classes in "
                    "source.json. Correct the label, or remove the classes from source.json."
                )
        position, classes = {value: numbers[normalize_number(value)] for value in values.values()}, note.classes
    else:
        position, classes = label_positions(values.values(), numbers=True)
    entries += [Entry(file, label=position[value], split=rows[file][1].split) for file, value in values.items()]
    return entries, unlabelled, classes


def _unused(source: TableSource, columns: Sequence[str]) -> list[str]:
    others = [name for name in columns if name and name not in (source.image, *source.columns, split_column(columns))]
    return [f"{source.table.name} has columns that are not used: {', '.join(others[:8])}"] if others else []


def is_attribute_table(root: Path, note: SourceNote, *, wanted: bool = False) -> bool:
    """Whether the table is one of attributes: it has no column of labels, or the settings want attributes (``wanted``)."""
    if note.format != "table" or note.label_column is not None:
        return False
    if not note.labels and any(source.split for source in _label_tables(root, note)):
        return False
    columns = column_names(label_table(root, note))
    named = note.image_column in columns or _guess(columns, _IMAGE_COLUMNS) is not None
    return named and len(columns) > 1 and (wanted or _guess(columns, _LABEL_COLUMNS) is None)


def list_attributes(root: Path, note: SourceNote, wanted: Sequence[str] = ()) -> Listing:
    """List the files in the table with their attributes (1 or true if the picture has it; -1, 0 or false if not).

    Args:
        root: the raw data.
        note: names the table, and its column of file names if that has no usual name.
        wanted: the attributes to use, in this order; empty: all columns.

    Raises:
        DataError: the table lacks an attribute (the message suggests the nearest name), or a column holds other values.
    """
    table = label_table(root, note)
    columns = column_names(table)
    image = _column(table, columns, note.image_column, _IMAGE_COLUMNS, "--image-column")
    known = [name for name in columns if name and name not in (image, split_column(columns))]
    for name in wanted:
        if name not in known:
            raise DataError(
                f"{table} has no attribute '{name}' (ingest.attributes).{did_you_mean(name, known)} It has {', '.join(known)}."
            )
    names = tuple(wanted) or tuple(known)
    source = TableSource(table, image=image, columns=names)
    matched = match_rows(root, [source])
    entries = []
    for file, row in matched.rows.items():
        held = [attribute_value(value) for value in row.values]
        if None in held:
            strange = held.index(None)
            raise DataError(_no_attribute(table, file, names[strange], row.values[strange]))
        entries.append(Entry(file, split=row.split, attributes=bytes(value for value in held if value is not None)))
    given = {row.split for row in matched.rows.values()}
    rejects, unlabelled = list(matched.rejects), []
    for file, split in matched.without_row:
        if split in given or split in ("", "train"):
            rejects.append(Reject(file, "no-label", f"no label in {table.name}"))
            unlabelled.append(Entry(file, split=split))
        else:
            entries.append(Entry(file, split=split))
    return Listing(
        shuffle_by_hash(Entries.of(entries)),
        rejects=sorted(rejects, key=lambda reject: reject.source),
        ignored=matched.others,
        without_label=unlabelled,
        attributes=names,
        ambiguity=matched.ambiguity,
        notes=tuple(matched.notes),
    )


def _no_attribute(table: Path, file: str, column: str, value: str) -> str:
    found = f"'{value}'" if value else "an empty cell"
    return (
        f"{table}: the attribute '{column}' of {file} must be 1 (present), -1 or 0 (absent), got {found}. Correct the cell, "
        "choose columns of attributes with ingest.attributes, or name a column of labels with --label-column."
    )


def label_table(root: Path, note: SourceNote) -> Path:
    """The table of labels or attributes; raises DataError if it is missing."""
    table = root / note.labels if note.labels else find_table(root)
    if table is None or not table.is_file():
        raise DataError(f"{root}: label table {note.labels or ''} not found. Add the data again with --labels FILE.")
    return table


def open_reader(root: Path, note: SourceNote) -> FileReader:
    """Open the reader of files."""
    return FileReader(root)


def _column(table: Path, columns: list[str], wanted: str | None, usual: Sequence[str], option: str) -> str:
    if picture := picture_in_header(columns):
        raise DataError(
            f"{table}: the first line must name the columns, but names the picture {picture}. Add a first line such as "
            "file,label."
        )
    if wanted is not None:
        if wanted not in columns:
            raise DataError(
                f"{table} has no column '{wanted}'; it has {', '.join(columns)}. Name one of them with {option}."
            )
        return wanted
    guess = _guess(columns, usual)
    if guess is None:
        meant = option.removeprefix("--").removesuffix("-column")
        raise DataError(
            f"{table}: cannot tell which column holds the {meant}s; it has {', '.join(columns)}. Name it with {option}."
        )
    return guess


def _guess(columns: Sequence[str], usual: Sequence[str]) -> str | None:
    lowered = {column.lower(): column for column in columns}
    return next((lowered[name] for name in usual if name in lowered), None)
