"""Labels of a split without class folders, from a table that names its pictures and their classes, as in Tiny ImageNet."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gan_core.errors import DataError
from gan_core.images.files import MAX_FILE_BYTES
from pipelines.data.readers.labels import same_text
from pipelines.data.readers.layout import split_in
from pipelines.data.readers.tabular import TEXT, cells


@dataclass(frozen=True)
class Annotations:
    """Labels that a table gives."""

    table: str
    labels: dict[str, int]
    """Position among the classes by picture."""


def find_annotations(
    root: Path, others: Sequence[str], pictures: Sequence[str], split: str, classes: Sequence[str]
) -> Annotations | None:
    """The table that gives the classes of the pictures of one split; None where there is none, or no single one.

    Its header does not matter: one of its columns names the pictures, exactly one other holds nothing but classes.

    Args:
        root: the raw data.
        others: files below it that are no pictures.
        pictures: all of the split's.
        split: the split. A table outside of its folder has to be called after it.
        classes: those of the train split.
    """
    above = os.path.commonpath([str(PurePosixPath(picture).parent) for picture in pictures])
    place = {same_text(name): position for position, name in enumerate(classes)}
    found = []
    for table in others:
        path = PurePosixPath(table)
        if path.suffix.lower() not in (".csv", ".tsv", TEXT) or not _is_about(path, split, PurePosixPath(above)):
            continue
        try:
            if (root / table).stat().st_size <= MAX_FILE_BYTES:
                labels = _labels([*cells(root / table)], pictures, place)
                found += [Annotations(table, labels)] if labels else []
        except DataError:  # a text that is no table
            continue
    return found[0] if len(found) == 1 else None


def _is_about(table: PurePosixPath, split: str, pictures: PurePosixPath) -> bool:
    """Whether a table is of the split whose pictures lie below the folder ``pictures``, by its own name or its folder's."""
    if not pictures.is_relative_to(table.parent):
        return False
    said = next((found[0] for name in reversed(table.parent.parts) if (found := split_in(name))), None)
    named = split_in(table.stem)
    return split in (said, named[0] if named else None)


def _labels(rows: list[list[str]], pictures: Sequence[str], place: dict[str, int]) -> dict[str, int]:
    by_name = {same_text(PurePosixPath(picture).name): picture for picture in pictures}
    by_name |= {same_text(PurePosixPath(picture).stem): picture for picture in pictures}
    if len({PurePosixPath(picture).stem for picture in pictures}) < len(pictures):
        return {}
    names = [column for column in range(max(map(len, rows), default=0)) if _named(rows, column, by_name)]
    if len(names) != 1:
        return {}
    named = [(by_name[name], row) for row in rows if (name := _name(row, names[0])) in by_name]
    width = min(len(row) for _, row in named)
    columns = [c for c in range(width) if c != names[0] and all(same_text(row[c]) in place for _, row in named)]
    if len(columns) != 1:
        return {}
    labels: dict[str, int] = {}
    for picture, row in named:
        if labels.setdefault(picture, place[same_text(row[columns[0]])]) != place[same_text(row[columns[0]])]:
            return {}
    return labels


def _named(rows: list[list[str]], column: int, by_name: dict[str, str]) -> bool:
    """Whether a column names most of the pictures."""
    return 2 * len({by_name[name] for row in rows if (name := _name(row, column)) in by_name}) > len(
        set(by_name.values())
    )


def _name(row: list[str], column: int) -> str:
    return same_text(row[column].replace("\\", "/").rsplit("/", 1)[-1]) if column < len(row) else ""
