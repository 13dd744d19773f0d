"""The pictures of a source as columns: about 100 bytes for each, where a Python object takes several times as much."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gan_core.errors import DataError

T = TypeVar("T")

_BLOCK = 4096
"""Entries that are Python objects at a time."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture of a source: a file, or a row of a file."""

    file: str
    """Path within the source, with forward slashes."""
    row: int = -1
    label: int = -1
    """Position in the class names; -1 without a label. In a source with classes, -1 means that the labels of the split are
    not published, as in many competitions."""
    split: str = ""
    """Split in the source; empty if it has none."""
    condition: str = ""
    """Path of the condition, for a pair of two files."""
    attributes: bytes = b""
    """One byte for each attribute of the source: 1 if the picture has it, otherwise 0."""

    @property
    def source(self) -> str:
        """Name of the picture in shards and rejects."""
        return self.file if self.row < 0 else f"{self.file}#{self.row}"


class Texts(Sequence[str]):
    """Texts in an Arrow array."""

    def __init__(self, values: pa.LargeStringArray) -> None:
        self.values = values

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """Collect texts, which may come from an iterator, a block at a time.

        Raises:
            DataError: a text, which is the name of a file, is not UTF-8 and cannot be stored in a shard.
        """
        blocks = []
        for block in _blocks(texts):
            try:
                blocks.append(pa.array(block, type=pa.large_string()))
            except UnicodeEncodeError as error:
                bad = next(text for text in block if printable_name(text) != text)
                raise DataError(
                    f"The name of the picture {printable_name(bad)} is not UTF-8. Rename it (convmv renames many files)."
                ) from error
        return cls(pa.concat_arrays(blocks) if blocks else pa.array([], type=pa.large_string()))

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> "Texts": ...
    def __getitem__(self, at: int | slice) -> "str | Texts":
        if isinstance(at, slice):
            return Texts(self.values[at])
        return self.values[at].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.values), _BLOCK):
            yield from self.values.slice(start, _BLOCK).to_pylist()

    def take(self, at: np.ndarray) -> "Texts":
        """The texts at the positions ``at``, int64 (n,), in that order."""
        return Texts(self.values.take(pa.array(at)))


class Entries(Sequence[Entry]):
    """Entries in columns. An :class:`Entry` is made where one is asked for."""

    def __init__(
        self,
        files: Texts,
        *,
        rows: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        split_codes: np.ndarray | None = None,
        split_names: Sequence[str] = ("",),
        conditions: Texts | None = None,
        attributes: pa.Array | None = None,
    ) -> None:
        """Hold the columns.

        Args:
            files: path of each.
            rows: int64 (n,); None if all are whole files.
            labels: int64 (n,); None without labels.
            split_codes: int16 (n,), positions in ``split_names``; None if all have the first.
            split_names: the splits.
            conditions: None without pairs.
            attributes: binary (n,); None without attributes.
        """
        self.files, self.conditions, self.attributes = files, conditions, attributes
        self.rows, self.labels = (np.full(len(files), -1) if column is None else column for column in (rows, labels))
        self.split_codes = np.zeros(len(files), dtype=np.int16) if split_codes is None else split_codes
        self.split_names = tuple(split_names)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Entries":
        """Collect entries, which may come from an iterator, a block at a time.

        Raises:
            DataError: the name of a file is not UTF-8.
        """
        rows, labels, codes = array("q"), array("q"), array("h")
        splits: dict[str, int] = {"": 0}
        files, conditions, attributes = [], [], []
        for block in _blocks(entries):
            rows.extend(entry.row for entry in block)
            labels.extend(entry.label for entry in block)
            codes.extend(splits.setdefault(entry.split, len(splits)) for entry in block)
            files.append(Texts.of(entry.file for entry in block).values)
            conditions.append(Texts.of(entry.condition for entry in block).values)
            attributes.append(pa.array([entry.attributes for entry in block], type=pa.binary()))
        if not files:
            return cls(Texts.of(()))
        paired, held = pa.concat_arrays(conditions), pa.concat_arrays(attributes)
        return cls(
            Texts(pa.concat_arrays(files)),
            rows=np.array(rows, dtype=np.int64),
            labels=np.array(labels, dtype=np.int64),
            split_codes=np.array(codes, dtype=np.int16),
            split_names=tuple(splits),
            conditions=Texts(paired) if pc.max(pc.binary_length(paired)).as_py() else None,
            attributes=held if pc.max(pc.binary_length(held)).as_py() else None,
        )

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> "Entries": ...
    def __getitem__(self, at: int | slice) -> "Entry | Entries":
        if isinstance(at, slice):
            return self.take(np.arange(len(self))[at])
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        return Entry(
            self.files[at],
            int(self.rows[at]),
            int(self.labels[at]),
            self.split_names[self.split_codes[at]],
            self.conditions[at] if self.conditions is not None else "",
            self.attributes[at].as_py() if self.attributes is not None else b"",
        )

    def __iter__(self) -> Iterator[Entry]:
        for start in range(0, len(self), _BLOCK):
            here = slice(start, start + _BLOCK)
            count = len(self.rows[here])
            yield from map(
                Entry,
                self.files.values[here].to_pylist(),
                self.rows[here].tolist(),
                self.labels[here].tolist(),
                [self.split_names[code] for code in self.split_codes[here]],
                self.conditions.values[here].to_pylist() if self.conditions is not None else [""] * count,
                self.attributes[here].to_pylist() if self.attributes is not None else [b""] * count,
            )

    def take(self, at: np.ndarray) -> "Entries":
        """The entries at the positions ``at``, int64 (n,), in that order."""
        return Entries(
            self.files.take(at),
            rows=self.rows[at],
            labels=self.labels[at],
            split_codes=self.split_codes[at],
            split_names=self.split_names,
            conditions=self.conditions.take(at) if self.conditions is not None else None,
            attributes=self.attributes.take(pa.array(at)) if self.attributes is not None else None,
        )

    def relabelled(self, labels: np.ndarray | None, split_codes: np.ndarray, split_names: Sequence[str]) -> "Entries":
        """The same pictures with other labels, int64 (n,), and splits, and without attributes."""
        return Entries(
            self.files,
            rows=self.rows,
            labels=labels,
            split_codes=split_codes,
            split_names=split_names,
            conditions=self.conditions,
        )

    def splits(self) -> set[str]:
        """The splits that occur."""
        return {self.split_names[code] for code in np.unique(self.split_codes)}

    def source(self, at: int) -> str:
        """Name of one picture in shards and rejects."""
        return self.files[at] if self.rows[at] < 0 else f"{self.files[at]}#{self.rows[at]}"

    def sources(self, at: np.ndarray) -> list[str]:
        """Names of the pictures at the positions ``at``, int64 (n,), in shards and rejects."""
        return [
            file if row < 0 else f"{file}#{row}"
            for file, row in zip(self.files.take(at), self.rows[at].tolist(), strict=True)
        ]


def printable_name(name: str) -> str:
    """The name of a file as printable text; bytes that are not UTF-8 become escapes such as ``\\xe9``."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def _blocks(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while block := list(islice(iterator, _BLOCK)):
        yield block
