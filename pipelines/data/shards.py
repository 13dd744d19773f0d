"""Prepared shards: Parquet that ``datasets.load_dataset("parquet", ...)`` shows as pictures, the same bytes every time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.files import naming

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_PART = pa.schema([("image", pa.binary())])
_PAIR = pa.schema([("image", pa.binary()), ("condition", pa.binary())])
# Small enough that a reader of single row groups holds little in memory.
_ROW_GROUP = 1024


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Rows of one part file that go into a shard, in order."""

    part: Path
    rows: np.ndarray
    """int64 (n,)."""


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """Everything that determines one shard."""

    path: Path
    split: str
    first: int
    """Position of the shard's first picture in its split."""
    pieces: tuple[Piece, ...]
    labels: np.ndarray
    """int64 (n,)."""
    sources: tuple[str, ...]
    classes: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    held: np.ndarray | None = None
    """int8 (n, k): 1 where an attribute holds; None without attributes."""
    paired: bool = False
    """Whether the parts hold a condition beside each picture."""


def shard_name(split: str, index: int, count: int) -> str:
    """File name of shard ``index`` of ``count``."""
    return f"{split}-{index:05d}-of-{count:05d}.parquet"


def schema(classes: Sequence[str], attributes: Sequence[str] = (), *, paired: bool = False) -> pa.Schema:
    """Columns of a shard with the features that Hugging Face ``datasets`` looks for in the metadata."""
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


def write_part(path: Path, pictures: Sequence[bytes], conditions: Sequence[bytes] | None = None) -> None:
    """Write PNGs to a part file, from which shards are put together once it is known which pictures stay."""
    columns = [pa.array(column, type=pa.binary()) for column in (pictures, conditions) if column is not None]
    batch = pa.record_batch(columns, schema=_PART if conditions is None else _PAIR)
    # Arrow's errors of the disk name no file.
    with naming(path), pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def write_shard(spec: ShardSpec) -> str:
    """Put one shard together from its parts; returns its file name."""
    columns = schema(spec.classes, spec.attributes, paired=spec.paired)
    tables = []
    done = 0
    for piece in spec.pieces:
        count = len(piece.rows)
        names = [f"{spec.split}-{spec.first + done + row:08d}" for row in range(count)]
        arrays: list[pa.Array] = []
        with pa.memory_map(str(piece.part)) as source:
            part = pa.ipc.open_file(source).read_all()
            for column, ending in (("image", ".png"), ("condition", "-condition.png"))[: 2 if spec.paired else 1]:
                pictures = part[column].combine_chunks().take(pa.array(piece.rows))
                paths = pa.array([name + ending for name in names], type=pa.string())
                arrays.append(pa.StructArray.from_arrays([pictures, paths], fields=list(_IMAGE)))
        if spec.classes:
            arrays.append(pa.array(spec.labels[done : done + count], type=pa.int64()))
        if spec.held is not None:
            arrays.append(pa.array(spec.held[done : done + count].tolist(), type=pa.list_(pa.int8())))
        arrays.append(pa.array([spec.split] * count, type=pa.string()))
        arrays.append(pa.array(spec.sources[done : done + count], type=pa.string()))
        tables.append(pa.Table.from_arrays(arrays, schema=columns))
        done += count
    with naming(spec.path):
        pq.write_table(
            pa.concat_tables(tables) if tables else columns.empty_table(),
            spec.path,
            version="2.6",
            row_group_size=_ROW_GROUP,
            # PNG does not compress again; the text columns do.
            compression={name: "none" if name.endswith(".bytes") else "zstd" for name in _leaves(columns)},
            use_dictionary=["split"],
            write_statistics=False,
            store_schema=True,
        )
    return spec.path.name


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
