"""Reader of folders of pictures, with classes and splits from their sub-folders."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from gan_core.images.files import include_svgs
from pipelines.data.readers.annotations import Annotations, find_annotations
from pipelines.data.readers.base import (
    Entries,
    FileReader,
    Listing,
    SourceNote,
    canonical_split,
    content_root,
    is_clutter,
    partition,
    walk_files,
)
from pipelines.data.readers.entries import Texts
from pipelines.data.readers.labels import label_positions, normalize_text
from pipelines.data.readers.layout import Places, read_layout, split_and_domain

log = logging.getLogger(__name__)


def matches(root: Path) -> bool:
    """True: any folder matches."""
    return True


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """List all picture files, broken ones too; other files are ignored. Drawings (SVG) are used only without other pictures.

    Splits and classes come from the folders, see :mod:`pipelines.data.readers.layout`. The train split defines the classes;
    with fewer than two classes, or with pictures outside class folders, there are no labels. For another split without
    class folders, labels come from a table (as in Tiny ImageNet); without a table, it has none.
    """
    files, others = include_svgs(*partition(root, walk_files(root)))
    return list_files(root, files, others, find=find_annotations)


def list_files(
    root: Path, files: Sequence[str], others: Sequence[str], find: Callable[..., Annotations | None] | None
) -> Listing:
    """List the pictures ``files`` by their folders.

    Args:
        root: for messages, and for ``find``.
        files: paths of the pictures.
        others: paths of the other files.
        find: :func:`find_annotations`; None if tables cannot be read.
    """
    layout = read_layout(files)
    classes, labels = _labels(root, files, layout.places)
    split_names = sorted({split for split, _ in layout.places.folders})
    split_codes = layout.places.map(lambda split, _: split_names.index(split)).astype(np.int16)
    others_used: set[str] = set()
    notes: list[str] = []
    for code, split in enumerate(split_names) if classes and find else ():
        members = np.flatnonzero(split_codes == code).tolist()
        if split == "train" or (labels[members] >= 0).any():
            continue
        if find and (annotated := find(root, others, [files[at] for at in members], split, classes)):
            for at in members:
                labels[at] = annotated.labels.get(files[at], labels[at])
            others_used.add(annotated.table)
            notes.append(f"labels of the {split} split come from {annotated.table}")
    entries = Entries(Texts.of(files), labels=labels, split_codes=split_codes, split_names=split_names)
    return Listing(
        shuffle_by_hash(entries),
        classes,
        ignored=[file for file in others if file not in others_used],
        ambiguity=layout.ambiguity,
        configurations=layout.configurations,
        notes=tuple(notes),
    )


def _labels(root: Path, files: Sequence[str], places: Places) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes, and the position of each picture's class, int64 (n,), -1 without."""
    none: tuple[tuple[str, ...], np.ndarray] = ((), np.full(len(files), -1))
    kept = {folder for split, folder in places.folders if split in ("train", "")}
    if "" in kept:
        if len(kept) > 2:
            stray = next(file for file, place in zip(files, places, strict=True) if not place.folder)
            log.warning("%s: some pictures are outside class folders (%s); all are read without labels.", root, stray)
        return none
    known = {normalize_text(side) for side in kept}
    if len(known) < 2:
        return none
    for split in sorted({split for split, _ in places.folders} - {"train", ""}):
        there = {folder for other, folder in places.folders if other == split} - {""}
        new = sorted(side for side in there if normalize_text(side) not in known)
        # A split with none of the train classes has a folder such as "images", of pictures without labels.
        if len(new) < len(there):
            kept |= there
            if new:
                log.warning(
                    "%s: the %s split has classes that the train split lacks: %s.", root, split, ", ".join(new[:6])
                )
    position, classes = label_positions(kept)
    return classes, places.map(lambda _, folder: position.get(folder, -1))


def open_reader(root: Path, note: SourceNote) -> FileReader:
    """Open the reader of files."""
    return FileReader(root)


def folders_without_pictures(root: Path, files: Iterable[str]) -> list[str]:
    """Class folders (at the top, or in the folder of a split) that hold none of the pictures ``files``.

    If pictures are at the top, no folder is a class folder. Beside trainA, trainB, ... no other folder is one.
    """
    inner = content_root(root)
    prefix = "" if inner == root else inner.relative_to(root).as_posix() + "/"
    # The folders decide; one picture of each is enough.
    some = {file.rpartition("/")[0]: file for file in files}
    parts = [file.removeprefix(prefix).split("/") for file in some.values()]
    if any(len(path) < 2 for path in parts):
        return []
    names = _folders(inner)
    there = {path[0] for path in parts}
    if any(split_and_domain(name) for name in there):
        return [prefix + name for name in names if name not in there and split_and_domain(name)]
    bare = [name for name in names if name not in there]
    tops = [canonical_split(name) for name in names]
    if None in tops or "train" not in tops:
        return [prefix + name for name in bare]
    classes = {"/".join(path[:2]) for path in parts if len(path) > 2}
    without = {path[0] for path in parts if len(path) == 2}  # splits with pictures outside folders have no classes
    for split in names:
        if split not in bare and split not in without:
            within = [f"{split}/{name}" for name in _folders(inner / split)]
            bare += [name for name in within if name not in classes]
    return [prefix + name for name in bare]


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not is_clutter(path.name))


def shuffle_by_hash(entries: Entries) -> Entries:
    """Shuffle entries deterministically: sort by a hash of the path, so that the first n are a fair sample."""
    digests = np.empty((len(entries), 32), dtype=np.uint8)
    for at, file in enumerate(entries.files):
        digests[at] = np.frombuffer(hashlib.sha256(file.encode()).digest(), dtype=np.uint8)
    words = digests.view(">u8").astype(np.uint64)
    return entries.take(np.lexsort(words.T[::-1]))
