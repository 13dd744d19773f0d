"""What every reader speaks of: entries (pictures by place), listings, rejects, the note beside raw data."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from gan_core.images.files import drawn, is_clutter, raise_unlistable, read_picture_file
from gan_core.images.files import kinds as kinds
from gan_core.images.files import partition as partition
from gan_core.images.files import walk_files as walk_files
from gan_core.images.pictures import PictureError

NOTE_FILE = "source.json"

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "test": "test",
    "testing": "test",
    "t10k": "test",
    "tst": "test",
    "eval": "test",
    "evaluation": "test",
    "val": "validation",
    "dev": "validation",
    "valid": "validation",
    "validation": "validation",
}


@dataclass(frozen=True, kw_only=True)
class SourceNote:
    """``source.json``: how to read a raw folder, where its own form does not say."""

    format: str
    classes: tuple[str, ...] = ()
    """Class names in label order, where the data only holds numbers."""
    labels: str | None = None
    """Label table, as a path within the folder."""
    image_column: str | None = None
    label_column: str | None = None
    about: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture of a source: a file, or a row of one."""

    file: str
    """Path within the source, with forward slashes."""
    row: int = -1
    label: int = -1
    """Position in the class names; -1 without. Where there are classes, such a picture is of a split whose labels nobody
    gives, as in many competitions."""
    split: str = ""
    """The source's own split; empty when it has none."""
    condition: str = ""
    """Of a pair in two files: path of what the picture is to be made from."""
    attributes: bytes = b""
    """Of a source with attributes: one byte each, 1 where it holds of the picture, else 0."""

    @property
    def source(self) -> str:
        """The picture's name in manifests and rejects."""
        return self.file if self.row < 0 else f"{self.file}#{self.row}"


@dataclass(frozen=True, slots=True)
class Reject:
    """A picture that was put aside, with the reason it is counted under."""

    source: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Listing:
    """All pictures of a source, in the order in which they are ingested."""

    entries: list[Entry]
    classes: tuple[str, ...] = ()
    rejects: list[Reject] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    """Files that are no pictures and that nothing names as one; neither used nor counted among the pictures."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes, of which a picture may have several; such a source has no classes."""
    unclear: str = ""
    """Why the layout may mean two things, and what to do; such a source is refused."""
    configurations: str = ""
    """Why it may be several data sets, unless ``ingest.kind`` says that its folders belong together."""
    notes: tuple[str, ...] = ()
    """What else a user wants to know of how it was read: columns and tables that are not used, and the like."""


class Reader(Protocol):
    """Gives the content of entries."""

    def read(self, entry: Entry) -> bytes | np.ndarray:
        """A picture file's bytes, or pixels as uint8 (C, H, W); raises PictureError when there is nothing to read."""
        ...


class FileReader:
    """Reader of sources in which every picture is a file of its own."""

    def __init__(self, root: Path) -> None:
        self._prefix = f"{root}/"

    def read(self, entry: Entry) -> bytes | np.ndarray:
        """The file's bytes; of a drawing (SVG) its pixels."""
        return drawn(entry.file, self._bytes(entry))

    def _bytes(self, entry: Entry) -> bytes:
        try:
            return read_picture_file(self._prefix + entry.file)
        except OSError as error:
            raise PictureError("unreadable", f"{type(error).__name__}: {error.strerror}") from error


def split_name(name: str) -> str | None:
    """``train``, ``test`` or ``validation`` for the names that people give them, None for any other."""
    return _SPLIT_NAMES.get(name.lower())


def readable(name: str) -> str:
    """A file's name as text that can be shown and stored: bytes of it that are not UTF-8 are spelt out."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def innermost(root: Path) -> Path:
    """``root``, or the only folder in it when there is nothing else, and so on: archives often wrap their content.

    Documents about the data (readme, licence) are nothing else.
    """
    while True:
        only = None
        try:
            with os.scandir(root) as entries:
                for entry in entries:
                    if is_clutter(entry.name) or (entry.is_file() and _is_document(entry.name)):
                        continue
                    if only is not None or not entry.is_dir():
                        return root
                    only = root / entry.name
        except OSError as error:
            raise_unlistable(error)
        if only is None:
            return root
        root = only


def _is_document(name: str) -> bool:
    stem, _, suffix = name.lower().rpartition(".")
    return suffix in ("md", "pdf", "html", "rst") or (stem or suffix) in ("readme", "license", "licence", "citation")


def class_names(values: set[str] | set[int]) -> tuple[list[str | int], tuple[str, ...]]:
    """Sorted distinct labels and their names; labels that are all whole numbers sort as numbers."""
    texts = {str(value) for value in values}
    if all(text.lstrip("-").isascii() and text.lstrip("-").isdigit() for text in texts):
        ordered: list[str | int] = sorted(values, key=int)
    else:
        ordered = sorted(values, key=str)
    return ordered, tuple(str(value) for value in ordered)
