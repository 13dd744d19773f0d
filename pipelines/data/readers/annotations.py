"""Find the labels of a split without class folders in a table of pictures and classes, as in Tiny ImageNet."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gan_core.errors import DataError
from gan_core.images.files import MAX_FILE_BYTES
from pipelines.data.readers.labels import normalize_text
from pipelines.data.readers.layout import find_split
from pipelines.data.readers.tabular import TEXT, read_cells


@dataclass(frozen=True)
class Annotations:
    """The labels in a table."""

    table: str
    labels: dict[str, int]
    """Position in the classes, by picture."""


def find_annotations(
    root: Path, others: Sequence[str], pictures: Sequence[str], split: str, classes: Sequence[str]
) -> Annotations | None:
    """Find the table with the classes of the pictures of a split; None unless there is exactly one.

    The header is ignored: one column must name the pictures, and exactly one other must hold only classes.

    Args:
        root: the raw data.
        others: files below ``root`` that are not pictures.
        pictures: all pictures of the split.
        split: the split. A table outside its folder must have it in its name.
        classes: classes of the train split.
    """
    above = os.path.commonpath([str(PurePosixPath(picture).parent) for picture in pictures])
    place = {normalize_text(name): position for position, name in enumerate(classes)}
    found = []
    for table in others:
        path = PurePosixPath(table)
        if path.suffix.lower() not in (".csv", ".tsv", TEXT) or not _is_about(path, split, PurePosixPath(above)):
            continue
        try:
            if (root / table).stat().st_size <= MAX_FILE_BYTES:
                labels = _labels([*read_cells(root / table)], pictures, place)
                found += [Annotations(table, labels)] if labels else []
        except DataError:  # a text file that is not a table
            continue
    return found[0] if len(found) == 1 else None


def _is_about(table: PurePosixPath, split: str, pictures: PurePosixPath) -> bool:
    """Whether a table belongs to the split with the folder ``pictures``, by its own name or that of a folder above it."""
    if not pictures.is_relative_to(table.parent):
        return False
    said = next((found[0] for name in reversed(table.parent.parts) if (found := find_split(name))), None)
    named = find_split(table.stem)
    return split in (said, named[0] if named else None)


def _labels(rows: list[list[str]], pictures: Sequence[str], place: dict[str, int]) -> dict[str, int]:
    by_name = {normalize_text(PurePosixPath(picture).name): picture for picture in pictures}
    by_name |= {normalize_text(PurePosixPath(picture).stem): picture for picture in pictures}
    if len({PurePosixPath(picture).stem for picture in pictures}) < len(pictures):
        return {}
    names = [column for column in range(max(map(len, rows), default=0)) if _named(rows, column, by_name)]
    if len(names) != 1:
        return {}
    named = [(by_name[name], row) for row in rows if (name := _name(row, names[0])) in by_name]
    width = min(len(row) for _, row in named)
    columns = [c for c in range(width) if c != names[0] and all(normalize_text(row[c]) in place for _, row in named)]
    if len(columns) != 1:
        return {}
    labels: dict[str, int] = {}
    for picture, row in named:
        if labels.setdefault(picture, place[normalize_text(row[columns[0]])]) != place[normalize_text(row[columns[0]])]:
            return {}
    return labels


def _named(rows: list[list[str]], column: int, by_name: dict[str, str]) -> bool:
    """Whether a column names more than half of the pictures."""
    return 2 * len({by_name[name] for row in rows if (name := _name(row, column)) in by_name}) > len(
        set(by_name.values())
    )


def _name(row: list[str], column: int) -> str:
    return normalize_text(row[column].replace("\\", "/").rsplit("/", 1)[-1]) if column < len(row) else ""
