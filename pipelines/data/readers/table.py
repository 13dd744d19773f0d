"""Pictures with tables beside them (CSV, TSV, JSON lines, Parquet, or text as CelebA's): of labels, or of attributes.

One table lies beside the pictures, or each split has one: ``train.csv`` and ``test.csv``, or ``train/metadata.csv`` and
``test/metadata.csv``.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from gan_core.errors import DataError, nearest
from pipelines.data.readers.base import (
    Entry,
    FileReader,
    Listing,
    Reject,
    SourceNote,
    innermost,
    is_clutter,
)
from pipelines.data.readers.folder import mixed
from pipelines.data.readers.labels import (
    HIDDEN_DETAIL,
    are_numbers,
    attribute_value,
    hidden_labels,
    label_places,
    whole,
)
from pipelines.data.readers.layout import split_in
from pipelines.data.readers.rows import Assigned, Source, assign
from pipelines.data.readers.tabular import TABLES, TEXT, column_names, read_rows, without_header

# What such columns are usually called, most telling first.
_IMAGE_COLUMNS = (
    *("file_name", "filename", "file", "path", "filepath", "image_path", "image", "img", "image_id", "id"),
    *("image_name", "image_file", "img_name", "file_path"),
)
_LABEL_COLUMNS = ("label", "class", "category", "target", "labels", "class_name", "label_name", "species", "breed")


def matches(root: Path, note: SourceNote | None = None) -> bool:
    """Whether a table with recognisable columns lies beside the pictures, or one for each split.

    Recognisable are usual names, and those that ``note`` gives.
    """
    return bool(_label_tables(root, note))


def find_table(root: Path) -> Path | None:
    """The only table at the top of ``root``; None when there is none or several."""
    found = _tables(innermost(root))
    return found[0] if len(found) == 1 else None


def find_attributes(root: Path, wanted: Sequence[str] = ()) -> Path | None:
    """The only table of attributes (of those ``wanted``, where it has one) at the top of ``root``; None when there is none
    or several."""
    found = []
    for path in _tables(innermost(root), (*TABLES, TEXT)):
        try:
            _, names = _attribute_columns(path, wanted)
            if names and all(attribute_value(row[0]) is not None for row in read_rows(path, names[:1])):
                found.append(path)
        except DataError:  # a text that is no table; see why_no_attributes
            continue
    return found[0] if len(found) == 1 else None


def why_no_attributes(root: Path, wanted: Sequence[str] = ()) -> str | None:
    """What keeps a table at the top of ``root`` that names files from being one of attributes; None when there is none."""
    for path in _tables(innermost(root), (*TABLES, TEXT)):
        # A text may be anything, unless it begins with its number of rows as CelebA's does, or holds attributes too.
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
    """The column of file names, and those that may be attributes: the ``wanted`` ones if there is one of them. None of these
    where the table names no files."""
    columns = column_names(table)
    image = _guess(columns, _IMAGE_COLUMNS)
    others = [name for name in columns if name and name not in (image, "split")]
    return image or "", [name for name in others if name in wanted] or others if image else []


def why_unused(root: Path) -> str | None:
    """Why what lies at the top of ``root`` and looks like a label table is none; None when nothing does."""
    if matches(root):
        return None
    if (attributes := find_attributes(root)) is not None:
        return f"{attributes.name} looks like a table of attributes; to use it, set ingest.kind to domains."
    inner = innermost(root)
    within = [path for folder in _split_folders(inner) for path in _tables(folder)]
    found = _tables(inner) or within
    if len(found) > 1:
        names = ", ".join(path.relative_to(inner).as_posix() for path in found[:6])
        return (
            f"{names} may all hold labels; none of them is used. Name the one that does with --labels FILE, or call one for "
            "each split train.csv, test.csv, with equal columns in them."
        )
    if not found:
        return None
    columns = column_names(found[0])
    if picture := without_header(columns):
        return (
            f"{found[0].name} is not used: its first line names the picture {picture}, and should name the columns. Write a "
            "first line such as file,label."
        )
    return (
        f"{found[0].name} is not used: its columns ({', '.join(columns)}) are not called what file names and labels usually "
        "are. If it holds labels, name them with --image-column and --label-column."
    )


def _tables(folder: Path, suffixes: tuple[str, ...] = TABLES) -> list[Path]:
    names = [name for name in os.listdir(folder) if name.lower().endswith(suffixes) and not is_clutter(name)]
    return [folder / name for name in sorted(names) if (folder / name).is_file()]


def _split_folders(inner: Path) -> list[Path]:
    return sorted(
        path for path in inner.iterdir() if path.is_dir() and not is_clutter(path.name) and split_in(path.name)
    )


def _label_tables(root: Path, note: SourceNote | None = None) -> list[Source]:
    """The tables of labels: the only one at the top, or one for each split at the top or in the splits' folders."""
    inner = innermost(root)
    top = _tables(inner)
    if len(top) == 1 and _has_labels(top[0], note):
        return [Source(top[0])]
    by_split: dict[str, list[Path]] = {}
    named = [(path, split_in(path.stem)) for path in top]
    if len(top) < 2 or not any(found for _, found in named):
        named = [(path, split_in(folder.name)) for folder in _split_folders(inner) for path in _tables(folder)]
    for path, found in named:
        if found is not None and _has_labels(path, note, whole=False):
            by_split.setdefault(found[0], []).append(path)
    chosen = {split: _metadata(paths) for split, paths in by_split.items()}
    if "train" not in chosen or not all(chosen.values()):
        return []
    return [Source(path, split) for split, path in sorted(chosen.items()) if path is not None]


def _metadata(paths: list[Path]) -> Path | None:
    """The table of a split: the only one, or the one called metadata."""
    called = [path for path in paths if path.stem.lower() == "metadata"]
    return paths[0] if len(paths) == 1 else called[0] if len(called) == 1 else None


def _has_labels(table: Path, note: SourceNote | None, *, whole: bool = True) -> bool:
    """Whether columns of file names and labels are recognised; a table that is not ``whole`` has none, or raises DataError."""
    try:
        columns = column_names(table)
    except DataError:
        if whole:
            raise
        return False
    image, label = (note.image_column, note.label_column) if note else (None, None)
    return all(
        given in columns if given else _guess(columns, usual) is not None
        for given, usual in ((image, _IMAGE_COLUMNS), (label, _LABEL_COLUMNS))
    )


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """Every file that is no table, labelled by the row that names it (by path, else by unique file name, with or
    without suffix).

    The split of a picture is what a column ``split``, the table of its split, or its folder says. Pictures without a row and
    rows without a file are rejects; but where a whole split other than train has no labels, nobody gives them.

    A table named by the user that has no column of labels is one of attributes, see :func:`list_attributes`.
    """
    if holds_attributes(root, note):
        return list_attributes(root, note)
    sources = [Source(table_of(root, note))] if note.labels else _label_tables(root, note)
    if not sources:
        sources = [Source(table_of(root, note))]
    notes = []
    for source in sources:
        columns = column_names(source.table)
        source.image = _column(source.table, columns, note.image_column, _IMAGE_COLUMNS, "--image-column")
        source.columns = (_column(source.table, columns, note.label_column, _LABEL_COLUMNS, "--label-column"),)
        notes += _unused(source, columns)
    assigned = assign(root, sources)
    entries, rejects, classes = _labelled(assigned, note)
    rejects = sorted([*assigned.rejects, *rejects], key=lambda reject: reject.source)
    return Listing(
        mixed(entries), classes, rejects, assigned.others, unclear=assigned.unclear, notes=(*notes, *assigned.notes)
    )


def _labelled(assigned: Assigned, note: SourceNote) -> tuple[list[Entry], list[Reject], tuple[str, ...]]:
    """Entries with their labels. Where a split other than train has none but hidden labels, its pictures have none."""
    rows = {file: (value, row) for file, row in assigned.rows.items() for value in row.values}
    if any(value.lower() == "nan" for value, _ in rows.values()) and are_numbers(
        value for value, _ in rows.values() if value.lower() not in ("", "nan")
    ):
        # As pandas and others write that there is no number.
        rows = {file: ("" if value.lower() == "nan" else value, row) for file, (value, row) in rows.items()}
    splits: dict[str, set[str]] = {}
    for value, row in rows.values():
        splits.setdefault(row.split, set()).add(whole(value))
    none = hidden_labels(set() if note.classes else splits.get("train", set()) | splits.get("", set()))
    hidden = {
        split
        for split in {*splits, *(split for _, split in assigned.unnamed)} - {"train", ""}
        if splits.get(split, set()) <= none
    }
    entries, rejects, values = [], [], {}
    for file, (value, row) in rows.items():
        if row.split in hidden:
            entries.append(Entry(file, split=row.split))
        elif not value:
            rejects.append(Reject(file, "no-label", f"no label in {row.table.name}"))
        elif whole(value) in none:
            rejects.append(Reject(file, "no-label", HIDDEN_DETAIL))
        else:
            values[file] = value
    for file, split in assigned.unnamed:
        if split in hidden:
            entries.append(Entry(file, split=split))
        else:
            rejects.append(Reject(file, "no-label", f"no label in {', '.join(assigned.tables)}"))
    if note.classes:
        numbers = {str(number): number for number in range(len(note.classes))}
        for file, value in values.items():
            if whole(value) not in numbers:
                raise DataError(
                    f"{rows[file][1].table}: the label '{value}' of {file} fits none of the {len(note.classes)} classes that "
                    "source.json names. Mend the label, or remove the names."
                )
        position, classes = {value: numbers[whole(value)] for value in values.values()}, note.classes
    else:
        position, classes = label_places(values.values(), numbers=True)
    entries += [Entry(file, label=position[value], split=rows[file][1].split) for file, value in values.items()]
    return entries, rejects, classes


def _unused(source: Source, columns: Sequence[str]) -> list[str]:
    others = [name for name in columns if name and name not in (source.image, *source.columns, "split")]
    return [f"{source.table.name} has columns that are not used: {', '.join(others[:8])}"] if others else []


def holds_attributes(root: Path, note: SourceNote, *, wanted: bool = False) -> bool:
    """Whether the table is one of attributes: it has no column of labels, or attributes are ``wanted`` of it."""
    if note.format != "table" or note.label_column is not None:
        return False
    if not note.labels and any(source.split for source in _label_tables(root, note)):
        return False
    columns = column_names(table_of(root, note))
    named = note.image_column in columns or _guess(columns, _IMAGE_COLUMNS) is not None
    return named and len(columns) > 1 and (wanted or _guess(columns, _LABEL_COLUMNS) is None)


def list_attributes(root: Path, note: SourceNote, wanted: Sequence[str] = ()) -> Listing:
    """Every file that the table names, with the attributes that hold of it (1 or true in their columns; -1, 0 or false where
    they do not).

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
    known = [name for name in columns if name and name not in (image, "split")]
    for name in wanted:
        if name not in known:
            raise DataError(
                f"{table} has no attribute '{name}' (ingest.attributes).{nearest(name, known)} It has {', '.join(known)}."
            )
    names = tuple(wanted) or tuple(known)
    source = Source(table, image=image, columns=names)
    assigned = assign(root, [source])
    entries = []
    for file, row in assigned.rows.items():
        held = [attribute_value(value) for value in row.values]
        if None in held:
            strange = held.index(None)
            raise DataError(_no_attribute(table, file, names[strange], row.values[strange]))
        entries.append(Entry(file, split=row.split, attributes=bytes(value for value in held if value is not None)))
    given = {row.split for row in assigned.rows.values()}
    rejects = list(assigned.rejects)
    for file, split in assigned.unnamed:
        if split in given or split in ("", "train"):
            rejects.append(Reject(file, "no-label", f"no label in {table.name}"))
        else:
            entries.append(Entry(file, split=split))
    return Listing(
        mixed(entries),
        rejects=sorted(rejects, key=lambda reject: reject.source),
        ignored=assigned.others,
        attributes=names,
        unclear=assigned.unclear,
        notes=tuple(assigned.notes),
    )


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


def open_reader(root: Path, note: SourceNote) -> FileReader:
    """A reader of files."""
    return FileReader(root)


def _column(table: Path, columns: list[str], wanted: str | None, usual: Sequence[str], option: str) -> str:
    if picture := without_header(columns):
        raise DataError(
            f"{table}: its first line names the picture {picture}, and should name the columns. Write a first line such as "
            "file,label."
        )
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
