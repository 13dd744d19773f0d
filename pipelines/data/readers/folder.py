"""A folder tree of pictures: classes and splits from its sub-folders."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from gan_core.errors import DataError
from gan_core.images.files import with_drawings
from pipelines.data.readers.annotations import find_annotations
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
from pipelines.data.readers.labels import label_places, same_text
from pipelines.data.readers.layout import Place, own_side, read_layout

log = logging.getLogger(__name__)


def matches(root: Path) -> bool:
    """Any folder will do."""
    return True


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """Every file that is meant to be a picture, even if it turns out to be broken; other files are left aside.

    Drawings (SVG) are pictures where there are no others.
    Splits and classes are read off the folders, see :mod:`pipelines.data.readers.layout`. Classes are those of the train
    split; with fewer than two, or with pictures outside of them, there are no labels. Another split may have none of them:
    then a table in it may give its labels (as in Tiny ImageNet), or its pictures have none.
    """
    files, others = with_drawings(*partition(root, walk_files(root)))
    layout = read_layout(files)
    classes, labels = _labels(root, files, layout.places)
    others_used: set[str] = set()
    notes: list[str] = []
    for split in sorted({place.split for place in layout.places} - {"train"}) if classes else ():
        members = [file for file, place in zip(files, layout.places, strict=True) if place.split == split]
        if any(labels[file] >= 0 for file in members):
            continue
        if annotated := find_annotations(root, others, members, split, classes):
            labels.update(annotated.labels)
            others_used.add(annotated.table)
            notes.append(f"labels of the {split} split come from {annotated.table}")
    entries = [
        Entry(file, label=labels[file], split=place.split) for file, place in zip(files, layout.places, strict=True)
    ]
    return Listing(
        mixed(entries),
        classes,
        ignored=[file for file in others if file not in others_used],
        unclear=layout.unclear,
        configurations=layout.configurations,
        notes=tuple(notes),
    )


def _labels(root: Path, files: Sequence[str], places: Sequence[Place]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes, and of each picture its position among them, -1 without."""
    none: tuple[tuple[str, ...], dict[str, int]] = ((), dict.fromkeys(files, -1))
    kept = {place.side for place in places if place.split in ("train", "")}
    if "" in kept:
        if len(kept) > 2:
            stray = next(file for file, place in zip(files, places, strict=True) if not place.side)
            log.warning("%s: pictures lie both in and outside of class folders (%s); taken as unlabelled.", root, stray)
        return none
    known = {same_text(side) for side in kept}
    if len(known) < 2:
        return none
    for split in sorted({place.split for place in places} - {"train", ""}):
        there = {place.side for place in places if place.split == split} - {""}
        new = sorted(side for side in there if same_text(side) not in known)
        # With no class of the train split it has a folder such as "images", of pictures that nobody has labelled.
        if len(new) < len(there):
            kept |= there
            if new:
                log.warning("%s: the %s split has %s, and the train split does not.", root, split, ", ".join(new[:6]))
    position, classes = label_places(kept)
    return classes, {file: position.get(place.side, -1) for file, place in zip(files, places, strict=True)}


def open_reader(root: Path, note: SourceNote) -> FileReader:
    """A reader of files."""
    return FileReader(root)


def bare_folders(root: Path, files: Sequence[str]) -> list[str]:
    """Folders that lie where classes do (at the top, or in a split's folder) and hold none of the pictures ``files``.

    Where pictures lie at the top themselves no folder is a class, and none is bare; beside trainA, trainB and the like no
    other folder is one.
    """
    inner = innermost(root)
    prefix = "" if inner == root else inner.relative_to(root).as_posix() + "/"
    parts = [file.removeprefix(prefix).split("/") for file in files]
    if any(len(way) < 2 for way in parts):
        return []
    names = _folders(inner)
    there = {way[0] for way in parts}
    if any(own_side(name) for name in there):
        return [prefix + name for name in names if name not in there and own_side(name)]
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
