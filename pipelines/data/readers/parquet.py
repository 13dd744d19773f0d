"""Parquet files of pictures: Hugging Face's ``struct<bytes, path>``, or a plain column of bytes."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.errors import DataError
from gan_core.pictures import PictureError
from pipelines.data.readers.base import Entry, Listing, Reject, SourceNote, class_names, split_name, walk_files

_LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "fine_label")


def matches(root: Path) -> bool:
    """Whether there is a Parquet file with pictures in it."""
    return any(_image_columns(_open(root / file).schema_arrow) for file in _files(root))


def list_pictures(root: Path, note: SourceNote) -> Listing:
    """Every row of every file; splits from a column ``split`` or from file names that start with one."""
    found: list[tuple[str, list[object], list[str]]] = []
    labelled = True
    classes: tuple[str, ...] = note.classes
    for file in _files(root):
        parquet = _open(root / file)
        schema = parquet.schema_arrow
        image_column(root / file, schema, note.image_column)
        label = _label_column(root / file, schema, note.label_column)
        columns = [name for name in (label, "split") if name and name in schema.names]
        table = parquet.read(columns=columns, use_threads=False) if columns else None
        rows = parquet.metadata.num_rows
        labels = table[label].to_pylist() if table is not None and label else [None] * rows
        labelled = labelled and label is not None
        if label and not classes:
            classes = _names_in_metadata(schema, label)
        if table is not None and "split" in columns:
            splits = [split_name(str(value)) or "" for value in table["split"].to_pylist()]
        else:
            splits = [split_name(re.split(r"[-._]", file.rsplit("/", 1)[-1])[0]) or ""] * rows
        found.append((file, labels, splits))
    own_splits = len({split for *_, splits in found for split in splits}) > 1
    place, names = _places(root, found, classes) if labelled else ({}, ())
    entries, rejects = [], []
    for file, labels, splits in found:
        for row, (value, split) in enumerate(zip(labels, splits, strict=True)):
            part = (split or "train") if own_splits else ""
            if not labelled:
                entries.append(Entry(file, row, split=part))
            elif value is None:
                rejects.append(Reject(f"{file}#{row}", "no-label", "null in the label column"))
            else:
                entries.append(Entry(file, row, place[value], part))
    return Listing(entries, names, rejects)


def image_column(path: Path, schema: pa.Schema, wanted: str | None = None) -> str:
    """The column that holds the pictures."""
    found = _image_columns(schema)
    if wanted is not None and wanted in found:
        return wanted
    if wanted is not None or not found:
        raise DataError(
            f"{path}: no column {wanted or ''} of pictures (bytes, or struct<bytes, path>); "
            f"it has {', '.join(schema.names)}."
        )
    if len(found) > 1 and "image" not in found:
        raise DataError(f"{path} has several columns of bytes: {', '.join(found)}. Name one with --image-column.")
    return "image" if "image" in found else found[0]


class ParquetReader:
    """Bytes of rows; holds one row group at a time, since rows are read in order."""

    def __init__(self, root: Path, column: str | None) -> None:
        self.root = root
        self._wanted = column
        self._file = ""
        self._starts: list[int] = []
        self._group = -1
        self._column: pa.ChunkedArray | None = None

    def read(self, entry: Entry) -> bytes:
        """The picture file in one row."""
        if entry.file != self._file:
            self._parquet = _open(self.root / entry.file)
            self._name = image_column(self.root / entry.file, self._parquet.schema_arrow, self._wanted)
            metadata = self._parquet.metadata
            self._starts = [0]
            for group in range(metadata.num_row_groups):
                self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
            self._file, self._group = entry.file, -1
        group = next(g for g in range(len(self._starts) - 1) if entry.row < self._starts[g + 1])
        if group != self._group:
            table = self._parquet.read_row_group(group, columns=[self._name], use_threads=False)
            self._column, self._group = table[self._name], group
        assert self._column is not None  # read above
        value = self._column[entry.row - self._starts[group]].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise PictureError("missing", "null in the picture column")
        return content


def open_reader(root: Path, note: SourceNote) -> ParquetReader:
    """A reader of rows."""
    return ParquetReader(root, note.image_column)


def _files(root: Path) -> list[str]:
    return [file for file in walk_files(root) if file.lower().endswith(".parquet")]


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _image_columns(schema: pa.Schema) -> list[str]:
    def is_picture(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
        return _is_bytes(kind)

    return [field.name for field in schema if is_picture(field.type)]


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _label_column(path: Path, schema: pa.Schema, wanted: str | None) -> str | None:
    if wanted is not None:
        if wanted not in schema.names:
            raise DataError(f"{path} has no column '{wanted}'; it has {', '.join(schema.names)}. See --label-column.")
        return wanted
    lowered = {name.lower(): name for name in schema.names}
    return next((lowered[name] for name in _LABEL_COLUMNS if name in lowered), None)


def _names_in_metadata(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """Class names that Hugging Face ``datasets`` leaves in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _places(
    root: Path, found: list[tuple[str, list[object], list[str]]], classes: tuple[str, ...]
) -> tuple[dict[object, int], tuple[str, ...]]:
    present = {value for _, labels, _ in found for value in labels if value is not None}
    if not all(isinstance(value, (int, str)) for value in present):
        raise DataError(f"{root}: labels must be text or whole numbers, one a picture. See --label-column.")
    if classes and all(isinstance(value, int) and 0 <= value < len(classes) for value in present):
        return {position: position for position in range(len(classes))}, classes
    if classes and not present <= set(classes):
        raise DataError(f"{root}: labels do not fit the class names {', '.join(classes)}.")
    ordered, names = class_names({str(value) for value in present})
    by_text = {text: position for position, text in enumerate(ordered)}
    return {value: by_text[str(value)] for value in present}, names
