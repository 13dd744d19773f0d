"""A folder tree of pictures: classes and splits from its sub-folders."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from gan_core.errors import DataError
from pipelines.data.drawing import SUFFIX
from pipelines.data.readers.base import (
    Entry,
    FileReader,
    Listing,
    SourceNote,
    innermost,
    is_clutter,
    partition,
    readable,
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
        stray = files[[("/" in path) for path in below].index(False)]
        log.warning("%s: pictures lie both in and outside of class folders (%s); taken as unlabelled.", root, stray)
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


def bare_folders(root: Path, files: Sequence[str]) -> list[str]:
    """Folders that lie where classes do (at the top, or in a split's folder) and hold none of the pictures ``files``.

    Where pictures lie at the top themselves no folder is a class, and none is bare.
    """
    inner = innermost(root)
    prefix = "" if inner == root else inner.relative_to(root).as_posix() + "/"
    parts = [file.removeprefix(prefix).split("/") for file in files]
    if any(len(way) < 2 for way in parts):
        return []
    names = _folders(inner)
    there = {way[0] for way in parts}
    bare = [name for name in names if name not in there]
    tops = [split_name(name) for name in names]
    if None in tops or "train" not in tops:
        return [prefix + name for name in bare]
    classes = {"/".join(way[:2]) for way in parts if len(way) > 2}
    without = {way[0] for way in parts if len(way) == 2}  # splits with pictures of their own have no classes
    for split in names:
        if split not in bare and split not in without:
            within = [f"{split}/{name}" for name in _folders(inner / split)]
            bare += [name for name in within if name not in classes]
    return [prefix + name for name in bare]


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not is_clutter(path.name))


def mixed(entries: list[Entry]) -> list[Entry]:
    """Entries in a fixed order without order: sorted by a hash of the path, so that the first n are a fair sample.

    Raises:
        DataError: a file's name is not UTF-8, and can be written into no manifest.
    """
    for entry in entries:
        if (shown := readable(entry.file)) != entry.file:
            raise DataError(f"The name of the picture {shown} is not UTF-8. Rename it (convmv does many at once).")
    return sorted(entries, key=lambda entry: (hashlib.sha256(entry.file.encode()).digest(), entry.file))
