"""Types and helpers of all readers: entries (one for each picture), listings, rejects and the source note."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from gan_core.images.files import is_clutter, raise_unlistable, read_picture_file, render_if_svg
from gan_core.images.files import partition as partition
from gan_core.images.files import summarize_suffixes as summarize_suffixes
from gan_core.images.files import walk_files as walk_files
from gan_core.images.pictures import PictureError
from pipelines.data.readers.entries import Entries as Entries
from pipelines.data.readers.entries import Entry as Entry
from pipelines.data.readers.entries import printable_name as printable_name

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
    """``source.json``: how to read a folder of raw data."""

    format: str
    """Name of the reader."""
    classes: tuple[str, ...] = ()
    """Class names in the order of labels, if the data holds numbers only."""
    labels: str | None = None
    """Path of the label table within the folder."""
    image_column: str | None = None
    label_column: str | None = None
    bucket: str | None = None
    """URI of the bucket that holds the pictures, for the format ``bucket``."""
    about: str | None = None
    """Origin and licence of the data."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A picture that is not used, with the reason that it is counted under."""

    source: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Listing:
    """All pictures of a source, in the order of ingestion."""

    entries: Entries
    classes: tuple[str, ...] = ()
    rejects: list[Reject] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    """Files that are not pictures, and that no table lists as one. They are not used."""
    without_label: list[Entry] = field(default_factory=list)
    """The pictures of the rejects with the reason ``no-label``. Data without labels uses them."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes, of which a picture may have several. A source with attributes has no classes."""
    ambiguity: str = ""
    """Why the layout is ambiguous, and the remedy; such a source is refused. Empty if it is not."""
    configurations: str = ""
    """Why the source may be several datasets; it is refused unless ``ingest.kind`` says that its folders belong together."""
    notes: tuple[str, ...] = ()
    """Other information for the user, for example columns and tables that are not used."""


class Reader(Protocol):
    """Reads the content of entries."""

    def read(self, entry: Entry) -> bytes | np.ndarray:
        """The bytes of a picture file, or pixels as uint8 (C, H, W); raises PictureError if they cannot be read."""
        ...


class FileReader:
    """Reader of sources in which each picture is a file."""

    def __init__(self, root: Path) -> None:
        self._prefix = f"{root}/"

    def read(self, entry: Entry) -> bytes | np.ndarray:
        """The bytes of the file, or the pixels of a drawing (SVG)."""
        return render_if_svg(entry.file, self.read_file(entry))

    def read_file(self, entry: Entry) -> bytes:
        """The bytes of the file; raises PictureError if they cannot be read."""
        try:
            return read_picture_file(self._prefix + entry.file)
        except OSError as error:
            raise PictureError("unreadable", f"{type(error).__name__}: {error.strerror}") from error


def canonical_split(name: str) -> str | None:
    """``train``, ``test`` or ``validation`` for their usual names (``val``, ``dev``, ...); None for any other name."""
    return _SPLIT_NAMES.get(name.lower())


def split_column(columns: Sequence[str]) -> str | None:
    """The column of splits: ``split``, or a name that differs from it in upper case only; None if there is none."""
    return "split" if "split" in columns else next((name for name in columns if name.lower() == "split"), None)


def content_root(root: Path) -> Path:
    """Descend from ``root`` while it holds nothing but one folder: archives often wrap their content in folders.

    Documents about the data (readme, licence) do not count.
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


def sort_labels(values: set[str] | set[int]) -> tuple[list[str | int], tuple[str, ...]]:
    """Sorted distinct labels and their names. If all labels are whole numbers, they sort as numbers."""
    texts = {str(value) for value in values}
    if all(text.lstrip("-").isascii() and text.lstrip("-").isdigit() for text in texts):
        ordered: list[str | int] = sorted(values, key=int)
    else:
        ordered = sorted(values, key=str)
    return ordered, tuple(str(value) for value in ordered)
