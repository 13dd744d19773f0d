"""A folder tree of pictures: classes and splits from its sub-folders."""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

from pipelines.data.drawing import SUFFIX
from pipelines.data.readers.base import (
    Entry,
    FileReader,
    Listing,
    SourceNote,
    innermost,
    partition,
    split_name,
    walk_files,
)

log = logging.getLogger(__name__)


def matches(root: Path) -> bool:
    """Any folder will do."""
    return True


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """Every file that is meant to be a picture, even if it turns out to be broken; other files are left aside.

    Drawings (SVG) are pictures where there are no others: beside photographs such a file is a logo, or the like.
    Folders named train, test, val at the top are splits. Below, the first folder of a path is its class; with fewer
    than two classes, or with pictures outside them, there are no labels.
    """
    inner = innermost(root)
    prefix = "" if inner == root else inner.relative_to(root).as_posix() + "/"
    files, others = partition(inner, walk_files(inner))
    if not files:
        files = [file for file in others if file.lower().endswith(SUFFIX)]
        others = [file for file in others if not file.lower().endswith(SUFFIX)]
    splits = own_splits(files)
    below = [file.split("/", 1)[1] if splits else file for file in files]
    owners = {path.split("/", 1)[0] if "/" in path else None for path in below}
    classes = tuple(sorted(owner for owner in owners if owner is not None))
    if None in owners and len(classes) > 1:
        log.warning("%s: pictures lie both in and outside of class folders; taken as unlabelled.", root)
    if None in owners or len(classes) < 2:
        classes = ()
    place = {name: position for position, name in enumerate(classes)}
    entries = [
        Entry(
            prefix + file,
            label=place[path.split("/", 1)[0]] if classes else -1,
            split=(split_name(file.split("/", 1)[0]) or "") if splits else "",
        )
        for file, path in zip(files, below, strict=True)
    ]
    return Listing(mixed(entries), classes, ignored=[prefix + file for file in others])


def open_reader(root: Path, note: SourceNote) -> FileReader:
    """A reader of files."""
    return FileReader(root)


def own_splits(files: Iterable[str]) -> bool:
    """Whether every path starts with a split's folder, one of which is the train split."""
    tops = {split_name(file.split("/", 1)[0]) if "/" in file else None for file in files}
    return None not in tops and "train" in tops and len(tops) > 1


def mixed(entries: list[Entry]) -> list[Entry]:
    """Entries in a fixed order without order: sorted by a hash of the path, so that the first n are a fair sample."""
    return sorted(entries, key=lambda entry: (hashlib.sha256(entry.file.encode()).digest(), entry.file))
