"""Reader of Parquet files of pictures: Hugging Face's ``struct<bytes, path>``, or a plain column of bytes."""

import json
import math
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from gan_core.errors import DataError
from gan_core.images.files import MAX_FILE_BYTES
from gan_core.images.pictures import PictureError
from pipelines.data.readers.base import (
    Entries,
    Entry,
    Listing,
    Reject,
    SourceNote,
    canonical_split,
    split_column,
    walk_files,
)
from pipelines.data.readers.labels import HIDDEN_DETAIL, hidden_labels, label_positions
from pipelines.data.readers.layout import file_splits
from pipelines.data.readers.parquet_columns import (
    PARQUET_ERRORS,
    Head,
    open_file,
    read_columns,
    read_head,
    short_message,
)

_AT_ONCE = 64 * 2**20
"""Bytes of pictures that a reader keeps in memory: a row group may exceed the memory of a worker."""
_LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "fine_label")


def matches(root: Path) -> bool:
    """Whether there is a Parquet file with a column of pictures."""
    return any(_image_columns(read_head(root / file).schema) for file in _files(root))


@dataclass(frozen=True)
class _File:
    """Labels and splits of the rows of a file."""

    file: str
    labels: list[str | None]
    """Labels as text; None for null, or without a column of labels."""
    splits: list[str]
    """Empty without a column of splits."""
    label_column: str | None
    text: bool
    """Whether labels are words rather than numbers."""
    unused: tuple[str, ...]


class _Row(NamedTuple):
    file: str
    row: int
    label: str | None
    split: str


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """List every row of every file.

    Splits come from a column ``split``, or from the names of files and folders as on the Hugging Face hub:
    ``default/train/0000.parquet``, ``data/train-00000-of-00002-HASH.parquet``. If all rows of a split other than train have no
    label or the label -1, the labels of the split are not published, and its pictures are listed without labels.
    """
    paths = _files(root)
    by_name = file_splits(paths, [path.removesuffix(".parquet") for path in paths])
    found, classes = [], note.classes
    named_by = ""
    for path in paths:
        head = read_head(root / path)
        schema = head.schema
        found.append(_read(root, path, head, note, by_name.by_file[path]))
        names = _names_in_metadata(schema, found[-1].label_column)
        if names and not note.classes:
            if classes and names != classes:
                raise DataError(
                    f"{root}: {named_by} and {path} have different classes ({', '.join(classes[:4])}, ... and "
                    f"{', '.join(names[:4])}, ...), and are two datasets. Give the files of one of them."
                )
            classes, named_by = names, path
    splits = [split for part in found for split in part.splits or [by_name.by_file[part.file]] * len(part.labels)]
    ambiguity = "" if all(part.splits for part in found) else by_name.ambiguity
    there = set(splits)
    if len(there) < 2 or there == {"", "train"}:
        splits = [""] * len(splits)  # a single split means that there are no splits
    elif not ambiguity and "" in there:
        ambiguity = (
            "some files have a column 'split' or a split in their names, but others have neither. Name every file by its "
            "split, or give each of them a column 'split'."
        )
    elif not ambiguity and "train" not in there:
        ambiguity = f"the rows have the splits {', '.join(sorted(there))}, but the train split is missing. Add it."
    places = [(part.file, row, value) for part in found for row, value in enumerate(part.labels)]
    rows = [_Row(*place, split) for place, split in zip(places, splits, strict=True)]
    labelled = [part for part in found if part.label_column]
    unlabelled = [part.file for part in found if not part.label_column and by_name.by_file[part.file] in ("", "train")]
    if labelled and unlabelled:
        raise DataError(
            f"{root}: {unlabelled[0]} has no column of labels, but {labelled[0].file} has one. Name it with --label-column."
        )
    if labelled:
        entries, bare, names = _entries(root, rows, classes, text=any(part.text for part in labelled))
    else:
        entries, bare, names = [Entry(row.file, row.row, split=row.split) for row in rows], [], ()
    unused = sorted({name for part in found for name in part.unused})
    notes = (f"columns that are not used: {', '.join(unused[:8])}",) if unused else ()
    others = [file for file in walk_files(root) if file not in set(paths)]
    return Listing(
        Entries.of(entries),
        names,
        [Reject(entry.source, "no-label", detail) for entry, detail in bare],
        others,
        without_label=[entry for entry, _ in bare],
        ambiguity=ambiguity,
        notes=notes,
    )


def _read(root: Path, file: str, head: Head, note: SourceNote, by_name: str) -> _File:
    """Read the labels and splits of a file's rows; no splits without a column of them."""
    schema, rows = head
    image = image_column(root / file, schema, note.image_column)
    candidates = _label_columns(root / file, schema, note.label_column)
    split_name = split_column(schema.names)
    columns = [*candidates, *([split_name] if split_name else [])]
    values = dict(zip(columns, read_columns(root / file, columns) if columns else [], strict=True))
    # "target" is also the usual name of a measured quantity.
    measured = {name for name in candidates if name.lower() == "target" and any(map(_is_fraction, values[name]))}
    label = next((name for name in candidates if note.label_column or name not in measured), None)
    labels = [_label(root / file, row, value) for row, value in enumerate(values.get(label or "", []))]
    splits = []
    if split_name:
        for row, value in enumerate(values[split_name]):
            split = canonical_split(str(value))
            if split is None:
                raise DataError(
                    f"{root / file}, row {row}: the column 'split' must be train, test or validation, got '{value}'. Correct "
                    "it."
                )
            if by_name not in ("", "train", split):
                raise DataError(
                    f"{root / file}, row {row}: the column 'split' says {split}, but the name of the file says {by_name}. "
                    "Correct one of them."
                )
            splits.append(split)
    unused = tuple(name for name in schema.names if name not in (image, label, split_name))
    text = label is not None and not pa.types.is_primitive(schema.field(label).type)
    return _File(file, labels or [None] * rows, splits, label, text, unused)


def _is_fraction(value: object) -> bool:
    return isinstance(value, (float, Decimal)) and math.isfinite(value) and value != round(value)


def _label(path: Path, row: int, value: object) -> str | None:
    """A label as text. A whole number of type float or decimal is written without a decimal point; NaN is no label."""
    if value is None or value != value:
        return None
    if (isinstance(value, float) and value.is_integer()) or (
        isinstance(value, Decimal) and value == value.to_integral_value()
    ):
        return str(int(value))
    if isinstance(value, (int, str)):
        return str(value)
    raise DataError(
        f"{path}, row {row}: a label must be text or a whole number, got {str(value)[:60]!r}. Name the column of labels with "
        "--label-column."
    )


def _entries(
    root: Path, rows: list[_Row], classes: tuple[str, ...], *, text: bool
) -> tuple[list[Entry], list[tuple[Entry, str]], tuple[str, ...]]:
    """The entries, without labels in a split that has none; those that lack a label, with the reason; and the classes."""
    given: dict[str, set[str | None]] = {}
    for row in rows:
        given.setdefault(row.split, set()).add(row.label)
    numbered = bool(classes) and not text
    trained = set() if numbered else given.get("train", set()) | given.get("", set())
    none = hidden_labels(trained, classes if text else ())
    hidden = {split for split, labels in given.items() if split not in ("", "train") and labels <= none}
    labelled = [row for row in rows if row.split not in hidden and row.label not in none]
    position, names = _positions(root, labelled, classes, text=text)
    entries, unlabelled = [], []
    for row in rows:
        bare = Entry(row.file, row.row, split=row.split)
        if row.split in hidden:
            entries.append(bare)
        elif not row.label:
            detail = "nothing in the label column" if row.label == "" else "null in the label column"
            unlabelled.append((bare, detail))
        elif row.label in none:
            unlabelled.append((bare, HIDDEN_DETAIL))
        else:
            entries.append(Entry(row.file, row.row, position[row.label], row.split))
    return entries, unlabelled, names


def image_column(path: Path, schema: pa.Schema, wanted: str | None = None) -> str:
    """Name of the column of pictures; raises DataError if it is missing or ambiguous."""
    found = _image_columns(schema)
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise DataError(
            f"{path} has several columns named '{twice[0]}'. Give each its own name, and write the file again."
        )
    if wanted is not None and wanted in found:
        return wanted
    if wanted is not None or not found:
        raise DataError(
            f"{path} has no column of pictures{f' {wanted}' if wanted else ''} (bytes, or struct<bytes, path>); it has "
            f"{', '.join(schema.names)}. Name it with --image-column."
        )
    if len(found) > 1 and "image" not in found:
        raise DataError(f"{path} has several columns of bytes: {', '.join(found)}. Name one with --image-column.")
    return "image" if "image" in found else found[0]


class ParquetReader:
    """Reads the bytes of rows. Keeps a few rows of one row group in memory, because rows are read in order."""

    def __init__(self, root: Path, column: str | None) -> None:
        self.root = root
        self._wanted = column
        self._file = ""
        self._starts: list[int] = []
        self._group = -1

    def read(self, entry: Entry) -> bytes:
        """The picture file in one row."""
        if entry.file != self._file:
            self._parquet = open_file(self.root / entry.file)
            self._name = image_column(self.root / entry.file, self._parquet.schema_arrow, self._wanted)
            metadata = self._parquet.metadata
            self._starts = [0]
            for group in range(metadata.num_row_groups):
                self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
            self._file, self._group = entry.file, -1
        group = next((g for g in range(len(self._starts) - 1) if entry.row < self._starts[g + 1]), -1)
        if group < 0:
            raise PictureError("corrupt", "the file states more rows than it has")
        row = entry.row - self._starts[group]
        if group != self._group or row < self._first:
            self._begin(group)
        while row >= self._first + len(self._rows):
            self._go_on()
        value = self._rows[row - self._first].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise PictureError("missing", "null in the picture column")
        if len(content) > MAX_FILE_BYTES:
            raise PictureError("too-many-bytes", f"more than {MAX_FILE_BYTES} bytes in one row")
        return content

    def _begin(self, group: int) -> None:
        """Move to the first row of a row group."""
        metadata = self._parquet.metadata.row_group(group)
        columns = [metadata.column(index) for index in range(metadata.num_columns)]
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == self._name)
        at_once = max(1, min(metadata.num_rows, _AT_ONCE * metadata.num_rows // max(1, size)))
        self._group, self._first, self._rows = group, 0, pa.array([])
        self._end: PictureError | None = None
        self._batches = self._parquet.iter_batches(at_once, row_groups=[group], columns=[self._name], use_threads=False)

    def _go_on(self) -> None:
        """Read the next rows of the row group; raises PictureError if there are none or they are damaged."""
        if self._end is not None:
            raise self._end
        try:
            batch = next(self._batches, None)
        except MemoryError:  # Arrow's memory error is one, too
            self._group = -1
            raise
        except PARQUET_ERRORS as error:
            self._end = PictureError(
                "corrupt", f"row group {self._group} of the file is damaged: {short_message(error)}"
            )
            raise self._end from error
        if batch is None:
            self._end = PictureError("corrupt", f"row group {self._group} has fewer rows than the file states")
            raise self._end
        self._first += len(self._rows)
        self._rows = batch.column(0)


def open_reader(root: Path, note: SourceNote) -> ParquetReader:
    """Open the reader of rows."""
    return ParquetReader(root, note.image_column)


def _files(root: Path) -> list[str]:
    return [file for file in walk_files(root) if file.lower().endswith(".parquet")]


def _image_columns(schema: pa.Schema) -> list[str]:
    def is_picture(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
        return _is_bytes(kind)

    return [field.name for field in schema if is_picture(field.type)]


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _label_columns(path: Path, schema: pa.Schema, wanted: str | None) -> list[str]:
    """The columns that may hold the labels, the likeliest first."""
    if wanted is not None:
        if wanted not in schema.names:
            raise DataError(
                f"{path} has no column '{wanted}'; it has {', '.join(schema.names)}. Name one of them with --label-column."
            )
        return [wanted]
    # A list, as in multi-label data, is no class.
    lowered = {field.name.lower(): field.name for field in schema if not pa.types.is_nested(field.type)}
    return [lowered[name] for name in _LABEL_COLUMNS if name in lowered]


def _names_in_metadata(schema: pa.Schema, label: str | None) -> tuple[str, ...]:
    """Class names from Hugging Face ``datasets``' metadata in the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()


def _positions(
    root: Path, rows: list[_Row], classes: tuple[str, ...], *, text: bool
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The position of each label, and the classes: the given ``classes``, or those that the labels themselves define."""
    values = {row.label for row in rows if row.label is not None}
    known = {name: position for position, name in enumerate(classes if text else map(str, range(len(classes))))}
    strange = next((row for row in rows if row.label not in known), None)
    if classes and strange is not None:
        raise DataError(
            f"{root / strange.file}, row {strange.row}: the label '{str(strange.label)[:60]}' is not one of the {len(classes)} "
            f"classes ({', '.join(classes[:6])}). Correct it, or choose another column with --label-column."
        )
    if classes and not text:
        return known, classes
    return label_positions(values, numbers=True)
