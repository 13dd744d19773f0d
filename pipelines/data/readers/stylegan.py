"""A folder tree with StyleGAN's ``dataset.json``: ``{"labels": [["00000/img0.png", 6], ...]}`` or null labels."""

import json
from pathlib import Path
from typing import Any

from gan_core.errors import DataError
from pipelines.data.readers.base import Entry, FileReader, Listing, Reject, SourceNote, innermost, partition, walk_files
from pipelines.data.readers.folder import mixed

_LABELS = "dataset.json"


def matches(root: Path) -> bool:
    """Whether a ``dataset.json`` with labels lies at the top."""
    path = innermost(root) / _LABELS
    if not path.is_file():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and "labels" in content


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """Every file but ``dataset.json``, with the label that it gives; label k is called k unless the note names it."""
    inner = innermost(root)
    prefix = "" if inner == root else inner.relative_to(root).as_posix() + "/"
    path = inner / _LABELS
    try:
        labels: Any = json.loads(path.read_text(encoding="utf-8"))["labels"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a StyleGAN label file: {error}.") from error
    files = [file for file in walk_files(inner) if file != _LABELS]
    if labels is None:
        meant, others = partition(inner, files)
        return Listing(mixed([Entry(prefix + file) for file in meant]), ignored=[prefix + file for file in others])
    try:
        given = {str(file).replace("\\", "/"): int(label) for file, label in labels}
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: labels must be pairs of a path and a whole number ({error}).") from error
    if not given or min(given.values()) < 0:
        raise DataError(f"{path}: labels must be whole numbers from 0; write null for none.")
    highest = max(given.values())
    classes = note.classes or tuple(str(label) for label in range(highest + 1))
    if highest >= len(classes):
        raise DataError(f"{path}: label {highest} where source.json names {len(classes)} classes.")
    there = set(files)
    unnamed, others = partition(inner, [file for file in files if file not in given])
    rejects = [Reject(prefix + file, "no-label", f"not in {_LABELS}") for file in unnamed]
    rejects += [Reject(prefix + file, "missing", f"named in {_LABELS}") for file in sorted(given) if file not in there]
    entries = [Entry(prefix + file, label=given[file]) for file in files if file in given]
    return Listing(mixed(entries), classes, rejects, [prefix + file for file in others])


def open_reader(root: Path, note: SourceNote) -> FileReader:
    """A reader of files."""
    return FileReader(root)
