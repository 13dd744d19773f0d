"""A prepared dataset enlarged by generated pictures, each with the columns that say where it comes from."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.config import as_dict
from gan_core.data import DATASET_FILE, DatasetInfo, PreparedDataset
from gan_core.download.fetch import progress_bar
from gan_core.errors import DataError
from gan_core.files import explain_os_errors, replacing, write_json
from gan_core.images.pictures import encode_png
from gan_core.inference.generator import Generator
from pipelines.data.shards import shard_name

_CHUNK = 256
_GROUP_BYTES = 2**28
"""Of a row group. Arrow reads none whose pictures take 2 GiB."""
_PROVENANCE = {"generator": pa.string(), "seed": pa.int64(), "index": pa.int64()}
"""Null for real pictures; for generated ones the generator's digest, and which picture of which seed it is."""


def check_generator(generator: Generator, info: DatasetInfo) -> None:
    """Raise DataError unless ``generator`` makes pictures of the dataset's shape and of its classes."""
    shape = generator.info["shape"]
    theirs = (shape["height"], shape["width"], shape["channels"])
    if theirs != (info.height, info.width, info.channels):
        raise DataError(
            f"The generator makes pictures of {'x'.join(map(str, theirs))}, {info.name} holds "
            f"{info.height}x{info.width}x{info.channels}. Train one on this dataset."
        )
    if not info.classes:
        raise DataError(f"{info.name} has no labels: there are no classes to add pictures to.")
    if generator.translates:
        raise DataError(
            f"A {generator.info['family']} generator makes pictures from pictures, and none from nothing (gantry translate "
            "uses it). Train cgan, biggan, or stylegan2 or r3gan with model.conditional: true."
        )
    if not generator.conditional:
        raise DataError(
            f"A {generator.info['family']} generator takes no class, so nobody knows what its pictures show. Train cgan, "
            "biggan, or stylegan2 or r3gan with model.conditional: true."
        )
    known = tuple(generator.info.get("classes", ()))
    if known != info.classes:
        raise DataError(
            f"The generator knows the classes {', '.join(known)}; {info.name} has {', '.join(info.classes)}."
        )


def enlarge(
    dataset: PreparedDataset,
    generator: Generator,
    out: Path,
    *,
    per_class: int,
    seed: int,
    truncation: float | None = None,
    shard_pictures: int = 8192,
) -> DatasetInfo:
    """Write ``dataset`` and ``per_class`` generated pictures of each class to ``out``, whole or not at all.

    Generated pictures join the train split, behind the real ones; other splits stay real. Picture i of class c is picture
    ``c * per_class + i`` of ``seed`` with that label.

    Raises:
        DataError: the generator's shape or classes are not the dataset's.
    """
    info = dataset.info
    check_generator(generator, info)
    digest = hashlib.sha256(f"{info.digest}\n{generator.digest}\n{per_class} {seed} {truncation}".encode()).hexdigest()
    added = per_class * len(info.classes)
    splits = {**info.splits, "train": info.splits["train"] + added}
    # Mean and deviation are of the real pictures still: what a network is fed with stays comparable.
    described = replace(info, name=f"{info.name}+{per_class}", splits=splits, digest=digest)
    with replacing(out) as folder:
        folder.mkdir()
        for split in sorted(info.splits):
            real = dataset.shards(split)
            fakes = -(-added // shard_pictures) if split == "train" else 0
            count = len(real) + fakes
            for index, shard in enumerate(real):
                columns = _with_provenance(pq.read_schema(shard).empty_table()).schema
                _write(folder / shard_name(split, index, count), columns, _batches(shard))
            if fakes:
                columns = _with_provenance(pq.read_schema(real[0]).empty_table()).schema
                rows = _rows(generator, info, per_class, seed, truncation)
                for index in range(len(real), count):
                    tables = _tables(itertools.islice(rows, shard_pictures), columns)
                    _write(folder / shard_name(split, index, count), columns, tables)
        write_json(folder / DATASET_FILE, as_dict(described))
    return described


def _batches(shard: Path) -> Iterator[pa.Table]:
    """The rows of a shard of real pictures with their empty provenance columns, few at a time."""
    with pq.ParquetFile(shard, memory_map=True) as file:
        for batch in file.iter_batches(batch_size=_CHUNK):
            yield _with_provenance(pa.Table.from_batches([batch], schema=batch.schema))


def _tables(rows: Iterator[dict[str, object]], columns: pa.Schema) -> Iterator[pa.Table]:
    """Rows as tables, few at a time."""
    while some := list(itertools.islice(rows, _CHUNK)):
        yield pa.Table.from_pylist(some, columns)


def _write(path: Path, columns: pa.Schema, tables: Iterator[pa.Table]) -> None:
    """Write ``tables`` as one file, in row groups of about :data:`_GROUP_BYTES`: that much is in memory at once."""
    waiting: list[pa.Table] = []
    size, empty = 0, True
    with explain_os_errors(path), pq.ParquetWriter(path, columns) as writer:
        for table in tables:
            waiting.append(table)
            size, empty = size + table.nbytes, False
            if size >= _GROUP_BYTES:
                _write_group(writer, waiting)
                size = 0
        if waiting:
            _write_group(writer, waiting)
        if empty:
            writer.write_table(columns.empty_table())


def _write_group(writer: pq.ParquetWriter, waiting: list[pa.Table]) -> None:
    table = pa.concat_tables(waiting).combine_chunks()
    waiting.clear()
    writer.write_table(table, row_group_size=len(table))


def _with_provenance(table: pa.Table) -> pa.Table:
    """``table`` with empty provenance columns, known to readers of the dataset's features too."""
    metadata = dict(table.schema.metadata or {})
    features = json.loads(metadata.get(b"huggingface", b'{"info": {"features": {}}}'))
    for name, kind in _PROVENANCE.items():
        table = table.append_column(name, pa.nulls(len(table), kind))
        features["info"]["features"][name] = {"dtype": str(kind), "_type": "Value"}
    return table.replace_schema_metadata({**metadata, b"huggingface": json.dumps(features).encode()})


def _rows(
    generator: Generator, info: DatasetInfo, per_class: int, seed: int, truncation: float | None
) -> Iterator[dict[str, object]]:
    place = info.splits["train"]
    with progress_bar("generate", per_class * len(info.classes), unit="picture") as bar:
        for label in range(len(info.classes)):
            for start in range(0, per_class, _CHUNK):
                first = label * per_class + start
                made = generator.sample(min(_CHUNK, per_class - start), seed, label, truncation, first=first)
                for offset, picture in enumerate(made.numpy()):
                    yield {
                        "image": {"bytes": encode_png(np.ascontiguousarray(picture)), "path": f"train-{place:08d}.png"},
                        "label": label,
                        "split": "train",
                        "source": f"generated/{generator.digest[:12]}/{seed}/{first + offset}",
                        "generator": generator.digest,
                        "seed": seed,
                        "index": first + offset,
                    }
                    place += 1
                bar.update(len(made))
