"""Match the rows of tables with pictures, and find the split of each picture."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gan_core.errors import DataError
from gan_core.images.files import has_picture_suffix
from pipelines.data.readers.base import Reject, canonical_split, partition, split_column, walk_files
from pipelines.data.readers.layout import find_split, read_layout
from pipelines.data.readers.tabular import TABLES, column_names, read_rows


@dataclass
class TableSource:
    """A table, and its columns to read."""

    table: Path
    split: str = ""
    """Split of all rows; empty if a column or the folders of the pictures define it."""
    image: str = ""
    """Column of file names."""
    columns: tuple[str, ...] = ()
    """Columns of labels or attributes."""


@dataclass(frozen=True)
class Row:
    """The row of a table for one picture."""

    values: tuple[str, ...]
    split: str
    table: Path


@dataclass
class MatchedRows:
    """Pictures with their rows."""

    tables: list[str]
    """Names of the tables."""
    rows: dict[str, Row] = field(default_factory=dict)
    """Rows by picture."""
    without_row: list[tuple[str, str]] = field(default_factory=list)
    """Pictures without a row, with the split of their folders."""
    rejects: list[Reject] = field(default_factory=list)
    """Rows without a picture."""
    others: list[str] = field(default_factory=list)
    """Files that are not pictures, and tables that are not used."""
    ambiguity: str = ""
    """Why the splits of the folders are ambiguous; empty if they are not, or if the tables define the splits."""
    notes: list[str] = field(default_factory=list)


def match_rows(root: Path, sources: Sequence[TableSource]) -> MatchedRows:
    """Find the row of each picture below ``root``.

    A row names a picture by its path (from the folder of the table or from ``root``), or by its file name, with or without
    suffix, if that is unique. Rows of a table of one split match only pictures that are not in another split. Accents may be
    composed differently in the table and in the file name.

    Raises:
        DataError: two rows contradict each other, or a row and a folder name different splits.
    """
    used = {source.table for source in sources}
    files = [file for file in walk_files(root) if root / file not in used]
    tables = [file for file in files if Path(file).suffix.lower() in TABLES]
    files = [file for file in files if Path(file).suffix.lower() not in TABLES]
    meant = [file for file in files if has_picture_suffix(file)] or files
    layout = read_layout(meant)
    folder_split = {file: place.split for file, place in zip(meant, layout.places, strict=True)}
    result = MatchedRows([source.table.name for source in sources])
    said_split = bool(sources)
    for source in sources:
        split_name = split_column(column_names(source.table))
        said_split = said_split and bool(split_name or source.split)
        scope = source.split or _scope(source, set(folder_split.values()))
        find = _finder([file for file in files if not scope or folder_split.get(file, "") in ("", scope)])
        inside = source.table.parent.relative_to(root).as_posix()
        prefix = "" if inside == "." else inside + "/"
        for name, *row in read_rows(
            source.table, [source.image, *source.columns, *([split_name] if split_name else [])]
        ):
            key = name.replace("\\", "/").removeprefix("./")
            file = find(prefix + key) or find(key)
            if file is None:
                result.rejects.append(Reject(prefix + key, "missing", f"named in {source.table.name}"))
                continue
            split = _split(source.table, row[-1]) if split_name else source.split
            own = folder_split.get(file, "")
            if split and own not in ("", "train", split):
                raise DataError(
                    f"{source.table} puts {file} into the {split} split, but its folder says {own}. Correct the wrong one."
                )
            _add(result, file, Row(tuple(row[: len(source.columns)]), split or own, source.table), source.columns)
    pictures, others = partition(root, [file for file in files if file not in result.rows])
    result.without_row = [(file, folder_split.get(file, "")) for file in pictures]
    result.others = sorted([*tables, *others])
    if tables:
        result.notes.append(f"tables that are not used: {', '.join(tables[:6])}")
    result.ambiguity = "" if said_split else layout.ambiguity
    return result


def _add(result: MatchedRows, file: str, row: Row, columns: Sequence[str]) -> None:
    before = result.rows.setdefault(file, row)
    if before is row:
        return
    between = str(row.table) if row.table == before.table else f"{before.table} and {row.table}"
    for column, one, two in zip(columns, before.values, row.values, strict=True):
        if one != two:
            what = "two labels" if len(columns) == 1 else f"two values of '{column}'"
            raise DataError(f"{between} give {file} {what}, '{one}' and '{two}'. Remove one of the rows.")
    if before.split != row.split:
        raise DataError(
            f"{between} put {file} into two splits, {before.split} and {row.split}. Remove one of the rows."
        )


def _scope(source: TableSource, splits: set[str]) -> str:
    """The split in the name of a single table (``train.csv``), if pictures are in folders of splits."""
    named = find_split(source.table.stem)
    return named[0] if named and named[0] in splits else ""


def _finder(files: Sequence[str]) -> Callable[[str], str | None]:
    """A look-up of files by path, by file name, and by file name without suffix; names of several files match none."""
    exact: dict[str, str] = {}
    composed: dict[str, str] = {}
    for lookup, spell in ((exact, str), (composed, lambda text: unicodedata.normalize("NFC", text))):
        for shorten in (lambda file: Path(file).stem, lambda file: Path(file).name, str):
            seen: dict[str, list[str]] = {}
            for file in files:
                seen.setdefault(spell(shorten(file)), []).append(file)
            lookup.update({short: owners[0] for short, owners in seen.items() if len(owners) == 1})
    return lambda name: exact.get(name) or composed.get(unicodedata.normalize("NFC", name))


def _split(table: Path, value: str) -> str:
    split = canonical_split(value)
    if split is None:
        raise DataError(f"{table}: the column 'split' must be train, test or validation, got '{value}'. Correct it.")
    return split
