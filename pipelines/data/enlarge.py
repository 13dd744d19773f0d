"""Add generated pictures to a prepared dataset, with columns that state the origin of each picture."""

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
from gan_core.files import atomic_write, explain_os_errors, write_json
from gan_core.images.pictures import encode_png
from gan_core.inference.generator import Generator
from gan_core.shards import open_shard
from pipelines.data.shards import shard_name

_CHUNK = 256
_GROUP_BYTES = 2**28
"""Approximate size of a row group, bytes. Arrow cannot read row groups with 2 GiB of pictures."""
_PROVENANCE = {"generator": pa.string(), "seed": pa.int64(), "index": pa.int64()}
"""Columns for the origin of generated pictures: digest of the generator, seed, and index among the samples of the seed. They
are null for real pictures."""

_TRAIN_CONDITIONAL = "Train cgan or biggan, or stylegan2 or r3gan with model.conditional: true."


def check_generator(generator: Generator, info: DatasetInfo) -> None:
    """Raise DataError unless ``generator`` is class-conditional, with the shape and the classes of the dataset ``info``."""
    shape = generator.info["shape"]
    theirs = (shape["height"], shape["width"], shape["channels"])
    if theirs != (info.height, info.width, info.channels):
        raise DataError(
            f"The generator makes pictures of {'x'.join(map(str, theirs))} (height, width, channels), but {info.name} holds "
            f"{info.height}x{info.width}x{info.channels}. Train a generator on this dataset."
        )
    if not info.classes:
        raise DataError(
            f"{info.name} has no labels, but pictures are generated for each class. Use a labelled dataset."
        )
    if generator.translates:
        raise DataError(
            f"A {generator.info['family']} generator translates pictures (gantry translate); it does not make new ones from "
            f"noise. {_TRAIN_CONDITIONAL}"
        )
    if not generator.conditional:
        raise DataError(
            f"This {generator.info['family']} generator is not class-conditional, so that the labels of its pictures are "
            f"unknown. {_TRAIN_CONDITIONAL}"
        )
    known = tuple(generator.info.get("classes", ()))
    if known != info.classes:
        raise DataError(
            f"The generator has the classes {', '.join(known)}, but {info.name} has {', '.join(info.classes)}. Train a "
            "generator on this dataset."
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
    """Write ``dataset`` and ``per_class`` generated pictures of each class to ``out``, completely or not at all.

    Generated pictures are added to the train split, after the real ones; other splits do not change. Picture i of class c is
    sample ``c * per_class + i`` of ``seed`` with that label.

    Args:
        dataset: the prepared dataset; it is not modified.
        generator: a class-conditional generator with the shape and the classes of ``dataset``.
        out: folder to write; an existing one is replaced.
        per_class: number of generated pictures of each class.
        seed: seed of the samples.
        truncation: truncation of the samples, see :meth:`gan_core.inference.generator.Generator.sample`.
        shard_pictures: generated pictures in one shard.

    Returns:
        The content of ``dataset.json`` of the enlarged dataset.

    Raises:
        DataError: see :func:`check_generator`; or ``dataset`` holds generated pictures already.
    """
    info = dataset.info
    check_generator(generator, info)
    _check_real(dataset)
    # Of the pixels, too: a caller's cache of decoded pictures has the digest as its name, and another device rounds otherwise.
    digest = hashlib.sha256(f"{info.digest}\n{generator.digest}\n{per_class} {seed} {truncation}\n".encode())
    added = per_class * len(info.classes)
    splits = {**info.splits, "train": info.splits["train"] + added}
    with atomic_write(out) as folder:
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
                rows = _rows(generator, info, per_class, seed, truncation, digest)
                for index in range(len(real), count):
                    tables = _tables(itertools.islice(rows, shard_pictures), columns)
                    _write(folder / shard_name(split, index, count), columns, tables)
        # Keep the mean and standard deviation of the real pictures, so that inputs of networks are comparable.
        described = replace(info, name=f"{info.name}+{per_class}", splits=splits, digest=digest.hexdigest())
        write_json(folder / DATASET_FILE, as_dict(described))
    return described


def _check_real(dataset: PreparedDataset) -> None:
    """Raise DataError if generated pictures are in the dataset already: they would count as real ones."""
    for shard in dataset.shards("train"):
        if not set(pq.read_schema(shard).names).isdisjoint(_PROVENANCE):
            raise DataError(
                f"{dataset.directory} was enlarged already: some of its pictures are generated. Enlarge the dataset that it "
                "was made from, with a larger --per-class."
            )


def _batches(shard: Path) -> Iterator[pa.Table]:
    """Read a shard of real pictures in small tables, with empty provenance columns."""
    with open_shard(shard) as file:
        for batch in file.iter_batches(batch_size=_CHUNK):
            yield _with_provenance(pa.Table.from_batches([batch], schema=batch.schema))


def _tables(rows: Iterator[dict[str, object]], columns: pa.Schema) -> Iterator[pa.Table]:
    """Collect rows in small tables."""
    while some := list(itertools.islice(rows, _CHUNK)):
        yield pa.Table.from_pylist(some, columns)


def _write(path: Path, columns: pa.Schema, tables: Iterator[pa.Table]) -> None:
    """Write ``tables`` as one file in row groups of about :data:`_GROUP_BYTES`, which also limits the memory in use."""
    waiting: list[pa.Table] = []
    size, empty = 0, True
    with explain_os_errors(path), pq.ParquetWriter(path, columns, write_page_checksum=True) as writer:
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
    """Add empty provenance columns to ``table``, and describe them in its metadata for Hugging Face ``datasets``."""
    metadata = dict(table.schema.metadata or {})
    features = json.loads(metadata.get(b"huggingface", b'{"info": {"features": {}}}'))
    for name, kind in _PROVENANCE.items():
        table = table.append_column(name, pa.nulls(len(table), kind))
        features["info"]["features"][name] = {"dtype": str(kind), "_type": "Value"}
    return table.replace_schema_metadata({**metadata, b"huggingface": json.dumps(features).encode()})


def _rows(
    generator: Generator,
    info: DatasetInfo,
    per_class: int,
    seed: int,
    truncation: float | None,
    digest: "hashlib._Hash",
) -> Iterator[dict[str, object]]:
    """Generate the pictures, class by class, and add their pixels to ``digest``."""
    number = info.splits["train"]
    with progress_bar("generate", per_class * len(info.classes), unit="picture") as bar:
        for label in range(len(info.classes)):
            for start in range(0, per_class, _CHUNK):
                first = label * per_class + start
                made = generator.sample(min(_CHUNK, per_class - start), seed, label, truncation, first=first)
                for offset, picture in enumerate(made.numpy()):
                    pixels = np.ascontiguousarray(picture)
                    digest.update(pixels.data)
                    yield {
                        "image": {
                            "bytes": encode_png(pixels),
                            "path": f"train-{number:08d}.png",
                        },
                        "label": label,
                        "split": "train",
                        "source": f"generated/{generator.digest[:12]}/{seed}/{first + offset}",
                        "generator": generator.digest,
                        "seed": seed,
                        "index": first + offset,
                    }
                    number += 1
                bar.update(len(made))
