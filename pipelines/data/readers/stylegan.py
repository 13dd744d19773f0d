"""Reader of folders with StyleGAN's ``dataset.json``: ``{"labels": [["00000/img0.png", 6], ...]}``, or null for labels."""

import json
from pathlib import Path
from typing import Any

from gan_core.errors import DataError
from pipelines.data.readers.base import (
    Entries,
    Entry,
    FileReader,
    Listing,
    Reject,
    SourceNote,
    content_root,
    partition,
    walk_files,
)
from pipelines.data.readers.folder import shuffle_by_hash
from pipelines.data.readers.layout import read_layout

_LABELS = "dataset.json"
_MAX_CLASSES = 100_000
"""Most classes: each number up to the highest label is one. A larger label is an identifier of something else."""


def matches(root: Path) -> bool:
    """Whether the folder holds a ``dataset.json`` with labels. A damaged one matches, so that :func:`list_pictures` refuses it:
    without it, StyleGAN's numbered folders would be read as classes."""
    path = content_root(root) / _LABELS
    if not path.is_file():
        return False
    content = path.read_bytes()
    try:
        labelled = json.loads(content)
    except (ValueError, RecursionError):
        return b'"labels"' in content
    return isinstance(labelled, dict) and "labels" in labelled


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """List every file with its label in ``dataset.json``. Label k has the name k, unless the note names the classes."""
    inner = content_root(root)
    prefix = "" if inner == root else inner.relative_to(root).as_posix() + "/"
    path = inner / _LABELS
    try:
        labels: Any = json.loads(path.read_bytes())["labels"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is not a StyleGAN label file: {error}. Correct or remove it.") from error
    files = [file for file in walk_files(inner) if file != _LABELS]
    meant, others = partition(inner, files)
    layout = read_layout(meant)
    splits = {file: place.split for file, place in zip(meant, layout.places, strict=True)}
    if labels is None:
        entries = [Entry(prefix + file, split=splits[file]) for file in meant]
        return Listing(
            shuffle_by_hash(Entries.of(entries)), ignored=[prefix + file for file in others], ambiguity=layout.ambiguity
        )
    given = _given(path, labels)
    there = set(files)
    # If no picture of a split has a label, the labels of the split are not published.
    labelled = {splits[file] for file, label in given.items() if label >= 0 and file in splits}
    hidden = {split for split in set(splits.values()) - {"", "train"} if split not in labelled}
    for file, label in given.items():
        if label < 0 and splits.get(file) not in hidden:
            raise DataError(
                f"{path}: the label of {file} must be a whole number from 0, got {label}. Write null for no labels."
            )
    highest = max((label for label in given.values()), default=-1)
    if highest < 0:
        raise DataError(f"{path}: labels must be whole numbers from 0. Write null for no labels.")
    if highest >= _MAX_CLASSES and not note.classes:
        file = next(file for file, label in given.items() if label == highest)
        raise DataError(
            f"{path}: the label of {file} is {highest}, so that there would be as many classes. Number the classes from 0, "
            f"without gaps, or write null for no labels; at most {_MAX_CLASSES} are possible."
        )
    classes = note.classes or tuple(str(label) for label in range(highest + 1))
    if highest >= len(classes):
        file = next(file for file, label in given.items() if label == highest)
        raise DataError(
            f"{path}: the label of {file} is {highest}, but source.json names {len(classes)} classes. Correct one of them."
        )
    unnamed = [file for file in meant if file not in given and splits[file] not in hidden]
    rejects = [Reject(prefix + file, "no-label", f"not in {_LABELS}") for file in unnamed]
    rejects += [Reject(prefix + file, "missing", f"named in {_LABELS}") for file in sorted(given) if file not in there]
    entries = [
        Entry(prefix + file, label=-1 if splits.get(file) in hidden else given[file], split=splits.get(file, ""))
        for file in files
        if splits.get(file) in hidden or file in given
    ]
    others = [file for file in others if file not in given]
    return Listing(
        shuffle_by_hash(Entries.of(entries)),
        classes,
        rejects,
        [prefix + file for file in others],
        without_label=[Entry(prefix + file, split=splits[file]) for file in unnamed],
        ambiguity=layout.ambiguity,
    )


def _given(path: Path, labels: Any) -> dict[str, int]:
    """Labels by picture; raises DataError unless they are pairs of a path and a whole number, one for each picture."""
    given: dict[str, int] = {}
    try:
        pairs = [(str(file).replace("\\", "/"), label) for file, label in labels]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: labels must be pairs of a path and a whole number ({error}).") from error
    for file, label in pairs:
        if not isinstance(label, int) or isinstance(label, bool):
            raise DataError(f"{path}: the label of {file} must be one whole number, got {str(label)[:60]}. Correct it.")
        if given.setdefault(file, label) != label:
            raise DataError(f"{path}: {file} has two labels, {given[file]} and {label}. Remove one of them.")
    return given


def open_reader(root: Path, note: SourceNote) -> FileReader:
    """Open the reader of files."""
    return FileReader(root)
