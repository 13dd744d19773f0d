"""Prepared shards: Parquet that ``datasets.load_dataset("parquet", ...)`` shows as pictures, the same bytes every time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_PART = pa.schema([("png", pa.binary())])
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


def shard_name(split: str, index: int, count: int) -> str:
    """File name of shard ``index`` of ``count``."""
    return f"{split}-{index:05d}-of-{count:05d}.parquet"


def schema(classes: Sequence[str]) -> pa.Schema:
    """Columns of a shard with the features that Hugging Face ``datasets`` looks for in the metadata."""
    fields = [pa.field("image", _IMAGE)]
    features: dict[str, object] = {"image": {"_type": "Image"}}
    if classes:
        fields.append(pa.field("label", pa.int64()))
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
    for name in ("split", "source"):
        fields.append(pa.field(name, pa.string()))
        features[name] = {"dtype": "string", "_type": "Value"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=metadata)


def write_part(path: Path, pictures: Sequence[bytes]) -> None:
    """Write PNGs to a part file, from which shards are put together once it is known which pictures stay."""
    batch = pa.record_batch([pa.array(pictures, type=pa.binary())], schema=_PART)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _PART) as writer:
        writer.write_batch(batch)


def write_shard(spec: ShardSpec) -> str:
    """Put one shard together from its parts; returns its file name."""
    columns = schema(spec.classes)
    tables = []
    done = 0
    for piece in spec.pieces:
        count = len(piece.rows)
        with pa.memory_map(str(piece.part)) as source:
            pictures = pa.ipc.open_file(source).read_all()["png"].combine_chunks().take(pa.array(piece.rows))
        paths = [f"{spec.split}-{spec.first + done + row:08d}.png" for row in range(count)]
        arrays: list[pa.Array] = [
            pa.StructArray.from_arrays([pictures, pa.array(paths, type=pa.string())], fields=list(_IMAGE))
        ]
        if spec.classes:
            arrays.append(pa.array(spec.labels[done : done + count], type=pa.int64()))
        arrays.append(pa.array([spec.split] * count, type=pa.string()))
        arrays.append(pa.array(spec.sources[done : done + count], type=pa.string()))
        tables.append(pa.Table.from_arrays(arrays, schema=columns))
        done += count
    pq.write_table(
        pa.concat_tables(tables) if tables else columns.empty_table(),
        spec.path,
        version="2.6",
        row_group_size=_ROW_GROUP,
        # PNG does not compress again; the text columns do.
        compression={name: "none" if name == "image.bytes" else "zstd" for name in _leaves(columns)},
        use_dictionary=["split"],
        write_statistics=False,
        store_schema=True,
    )
    return spec.path.name


def _leaves(columns: pa.Schema) -> list[str]:
    return [
        f"{field.name}.{child.name}" if child is not None else field.name
        for field in columns
        for child in (list(field.type) if pa.types.is_struct(field.type) else [None])
    ]
