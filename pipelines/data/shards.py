"""Write prepared shards: Parquet files that ``datasets.load_dataset("parquet", ...)`` reads as pictures.

Equal input gives equal bytes.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gan_core.files import explain_os_errors

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_PART = pa.schema([("image", pa.binary())])
_PAIR = pa.schema([("image", pa.binary()), ("condition", pa.binary())])
_IMAGE_COLUMNS = (("image", ".png"), ("condition", "-condition.png"))
_ROW_GROUP = 1024
"""Largest number of rows in a row group."""
_ROW_GROUP_BYTES = 128 * 2**20
"""Largest size of a column of pictures in a row group, unless one picture is larger.

The writer of a shard needs about three times as much memory, and streaming reads whole row groups. Arrow cannot read structs
whose offsets exceed 32 bits.
"""
_PART_BATCH = 64 * 2**20
"""Bytes of PNGs that :class:`PartWriter` collects before it writes them."""


@dataclass(frozen=True, kw_only=True)
class PartRows:
    """Rows of one part file that go into a shard, in order."""

    part: Path
    rows: np.ndarray
    """int64 (n,): ascending positions in the part."""


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """Everything that determines one shard."""

    path: Path
    split: str
    first: int
    """Position of the first picture of the shard in its split."""
    parts: tuple[PartRows, ...]
    labels: np.ndarray
    """int64 (n,)."""
    sources: tuple[str, ...]
    classes: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    attribute_values: np.ndarray | None = None
    """int8 (n, k): 1 if a picture has the attribute, otherwise 0; None without attributes."""
    paired: bool = False
    """Whether the parts hold a condition for each picture."""


def shard_name(split: str, index: int, count: int) -> str:
    """File name of shard ``index`` of ``count``."""
    return f"{split}-{index:05d}-of-{count:05d}.parquet"


def shard_schema(classes: Sequence[str], attributes: Sequence[str] = (), *, paired: bool = False) -> pa.Schema:
    """Columns of a shard. The metadata describes them for Hugging Face ``datasets``."""
    fields = [pa.field("image", _IMAGE)]
    features: dict[str, object] = {"image": {"_type": "Image"}}
    if paired:
        fields.append(pa.field("condition", _IMAGE))
        features["condition"] = {"_type": "Image"}
    if classes:
        fields.append(pa.field("label", pa.int64()))
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
    if attributes:
        fields.append(pa.field("attributes", pa.list_(pa.int8())))
        value = {"dtype": "int8", "_type": "Value"}
        features["attributes"] = {"feature": value, "length": len(attributes), "_type": "List"}
    for name in ("split", "source"):
        fields.append(pa.field(name, pa.string()))
        features[name] = {"dtype": "string", "_type": "Value"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=metadata)


class PartWriter:
    """Writes PNGs to a part file. Shards are assembled from part files once duplicates are known.

    Use it in a ``with`` statement. It holds about :data:`_PART_BATCH` bytes of PNGs and one picture in memory.
    """

    def __init__(self, path: Path, *, paired: bool = False) -> None:
        self._path = path
        self._schema = _PAIR if paired else _PART
        self._waiting: list[tuple[bytes, ...]] = []
        self._size = 0
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        # Arrow's own errors do not name the file.
        with explain_os_errors(self._path):
            sink = self._open.enter_context(pa.OSFile(str(self._path), "wb"))
            self._writer = self._open.enter_context(pa.ipc.new_file(sink, self._schema))
        return self

    def add(self, *pngs: bytes) -> None:
        """Append one picture, or a picture and its condition."""
        self._waiting.append(pngs)
        self._size += sum(map(len, pngs))
        if self._size >= _PART_BATCH:
            self._flush()

    def __exit__(self, *error: Any) -> None:
        with explain_os_errors(self._path):
            try:
                if error[0] is None:
                    self._flush()
            finally:
                self._open.close()

    def _flush(self) -> None:
        if self._waiting:
            columns = [pa.array(column, type=pa.binary()) for column in zip(*self._waiting, strict=True)]
            with explain_os_errors(self._path):
                self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
            self._waiting.clear()
            self._size = 0


def extract_rows(rows: PartRows, path: Path, *, paired: bool) -> None:
    """Write some rows of a part file to a part file of their own, one batch at a time."""
    schema, first = _PAIR if paired else _PART, 0
    with pa.memory_map(str(rows.part)) as source, explain_os_errors(path), pa.OSFile(str(path), "wb") as sink:
        reader = pa.ipc.open_file(source)
        with pa.ipc.new_file(sink, schema) as writer:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                inside = rows.rows[(rows.rows >= first) & (rows.rows < first + len(batch))] - first
                first += len(batch)
                if len(inside):
                    writer.write_batch(batch.take(pa.array(inside)))


def write_shard(spec: ShardSpec) -> str:
    """Assemble one shard from its parts, one row group at a time, and return its file name.

    Raises:
        OSError: the shard cannot be written; the message names it.
    """
    columns = shard_schema(spec.classes, spec.attributes, paired=spec.paired)
    with (
        explain_os_errors(spec.path),
        pq.ParquetWriter(
            spec.path,
            columns,
            version="2.6",
            # PNG is compressed already; text columns are not.
            compression={name: "none" if name.endswith(".bytes") else "zstd" for name in _leaves(columns)},
            use_dictionary=["split"],
            write_statistics=False,
            # Pictures have checksums of their own, but labels do not.
            write_page_checksum=True,
            store_schema=True,
        ) as writer,
    ):
        for group in _row_groups(spec):
            writer.write_table(pa.concat_tables(_tables(spec, group, columns)), row_group_size=_ROW_GROUP)
        if not spec.parts:
            writer.write_table(columns.empty_table())
    return spec.path.name


@dataclass(frozen=True)
class _RowRange:
    """Rows of one part that go into one row group, and their position in the shard."""

    part: Path
    rows: np.ndarray
    start: int


def _row_groups(spec: ShardSpec) -> Iterator[list[_RowRange]]:
    """Divide the rows into row groups by number of rows and by bytes of pictures."""
    group: list[_RowRange] = []
    count, sizes = 0, np.zeros(2 if spec.paired else 1, dtype=np.int64)
    done = 0
    for part in spec.parts:
        lengths = _lengths(part, spec.paired)
        begin = 0
        for row in range(len(part.rows)):
            if count == _ROW_GROUP or (count and (sizes + lengths[row] > _ROW_GROUP_BYTES).any()):
                if row > begin:
                    group.append(_RowRange(part.part, part.rows[begin:row], done + begin))
                yield group
                group, count, begin = [], 0, row
                sizes[:] = 0
            count += 1
            sizes += lengths[row]
        group.append(_RowRange(part.part, part.rows[begin:], done + begin))
        done += len(part.rows)
    if group:
        yield group


def _lengths(rows: PartRows, paired: bool) -> np.ndarray:
    """Length of the PNGs of each row in bytes, int64 (n, 1 or 2)."""
    with pa.memory_map(str(rows.part)) as source:
        part = pa.ipc.open_file(source).read_all()
        names = _IMAGE_COLUMNS[: 2 if paired else 1]
        lengths = [pc.binary_length(part[name]).to_numpy()[rows.rows] for name, _ in names]
    return np.stack(lengths, axis=1).astype(np.int64)


def _tables(spec: ShardSpec, group: Sequence[_RowRange], columns: pa.Schema) -> list[pa.Table]:
    tables = []
    for run in group:
        count = len(run.rows)
        names = [f"{spec.split}-{spec.first + run.start + row:08d}" for row in range(count)]
        arrays: list[pa.Array] = []
        # The arrays keep the file mapped.
        with pa.memory_map(str(run.part)) as source:
            reader = pa.ipc.open_file(source)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for column, ending in _IMAGE_COLUMNS[: 2 if spec.paired else 1]:
            paths = pa.array([name + ending for name in names], type=pa.string())
            pngs = _taken([batch.column(column) for batch in batches], run.rows)
            arrays.append(pa.StructArray.from_arrays([pngs, paths], fields=list(_IMAGE)))
        here = slice(run.start, run.start + count)
        if spec.classes:
            arrays.append(pa.array(spec.labels[here], type=pa.int64()))
        if spec.attribute_values is not None:
            arrays.append(pa.array(spec.attribute_values[here].tolist(), type=pa.list_(pa.int8())))
        arrays.append(pa.array([spec.split] * count, type=pa.string()))
        arrays.append(pa.array(spec.sources[here], type=pa.string()))
        tables.append(pa.Table.from_arrays(arrays, schema=columns))
    return tables


def _taken(chunks: Sequence[pa.Array], rows: np.ndarray) -> pa.Array:
    """Select ascending ``rows`` of a column in several chunks, as one array; without a copy if they are contiguous."""
    found, first = [], 0
    for chunk in chunks:
        inside = rows[(rows >= first) & (rows < first + len(chunk))] - first
        first += len(chunk)
        if len(inside) and inside[-1] - inside[0] + 1 == len(inside):
            found.append(chunk.slice(int(inside[0]), len(inside)))
        elif len(inside):
            found.append(chunk.take(pa.array(inside)))
    return found[0] if len(found) == 1 else pa.concat_arrays(found)


def _leaves(columns: pa.Schema) -> list[str]:
    return [
        f"{field.name}.{inner}" if inner else field.name
        for field in columns
        for inner in (
            [child.name for child in field.type]
            if pa.types.is_struct(field.type)
            else ["list.element" if pa.types.is_list(field.type) else ""]
        )
    ]
