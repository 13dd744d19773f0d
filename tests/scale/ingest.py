"""List and plan many pictures, and print the peak memory and the time of the driver: ``make scale``.

The names are generated and the pictures do not exist: what runs is everything that ingestion does on the driver, which are the
listing, the choice of duplicates and splits, the plan of the shards and the description. A task that would convert pictures
returns digests of their names instead.
"""

import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SIZES = (10_000, 100_000, 1_000_000)
_CLASSES = 1000
_EQUAL_EVERY = 250
"""Distance of the pictures in a chunk, from the first one on, that equal each other and those of all other chunks."""


def names(count: int) -> Iterator[str]:
    """Paths of pictures in class folders, such as ImageNet's."""
    for number in range(count):
        yield f"n{number % _CLASSES:08d}/n{number % _CLASSES:08d}_{number:08d}.JPEG"


def converted(spec: Any) -> Any:
    """The result for a chunk whose pictures all exist."""
    from pipelines.data.convert import ConvertedChunk

    digests = [hashlib.sha256(entry.file.encode()).digest() for entry in spec.entries]
    contents = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
    pixels = contents.copy()
    pixels[::_EQUAL_EVERY] = 7 if len(spec.entries) > 200 else pixels[0]
    count = len(spec.entries)
    return ConvertedChunk(
        positions=np.arange(count),
        pixel_digests=pixels,
        content_digests=contents,
        sums=np.ones((count, spec.channels), dtype=np.int64),
        squares=np.ones((count, spec.channels), dtype=np.int64),
        rejects=(),
    )


def measure(count: int, kind: str) -> dict[str, float | str]:
    """Plan ``count`` pictures in this process, of the kind ``folder`` or ``bucket``.

    Returns:
        Pictures, seconds, and the peak of memory in MiB before and at the end.
    """
    from pipelines.data import convert
    from pipelines.data.ingest import ingest
    from pipelines.data.readers import bucket, folder
    from pipelines.settings.ingest import IngestSettings

    def mapper(function: Callable[[Any], Any], items: Sequence[Any], /) -> Iterator[Any]:
        for item in items:
            yield converted(item) if function is convert.convert else len(item.sources)

    folder.walk_files = lambda root: iter(sorted(names(count)))  # type: ignore[assignment]
    before = _peak()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "raw"
        raw.mkdir()
        (raw / "source.json").write_text(
            json.dumps({"format": kind, "bucket": "s3://bucket" if kind == "bucket" else None})
        )
        if kind == "bucket":
            _write_objects(raw / bucket.OBJECTS_FILE, bucket._SCHEMA, count)
        settings = IngestSettings(size=(64, 64), channels=3, test_share=0.1)
        info = ingest(raw, Path(scratch) / "out", settings, name="names", mapper=mapper)
        assert sum(info.splits.values()) + sum(info.rejects.values()) == count
    return {
        "in a": kind,
        "pictures": count,
        "seconds": round(time.monotonic() - began, 1),
        "MiB before": before,
        "MiB peak": _peak(),
        "digest": info.digest,
    }


def _write_objects(path: Path, schema: pa.Schema, count: int) -> None:
    """A list of objects, in blocks, so that writing it does not count."""
    with pq.ParquetWriter(path, schema) as writer:
        ordered = (number for kind in range(_CLASSES) for number in range(kind, count, _CLASSES))
        while block := list(itertools.islice(ordered, 10_000)):
            listed = [f"n{number % _CLASSES:08d}/n{number % _CLASSES:08d}_{number:08d}.JPEG" for number in block]
            versions = [hashlib.md5(name.encode()).hexdigest() for name in listed]
            writer.write_table(pa.table([listed, [100_000] * len(block), versions], names=schema.names).cast(schema))


def _peak() -> int:
    """MiB that this process had at most. The kernel's ``ru_maxrss`` would begin at what the process that started it has."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) // 1024


def main() -> None:
    """Print a row for each number of pictures; each runs in a process of its own."""
    if len(sys.argv) > 2:
        measure(1000, sys.argv[1])  # imports
        print(json.dumps(measure(int(sys.argv[2]), sys.argv[1])))
        return
    for kind in ("folder", "bucket"):
        for count in SIZES:
            command = [sys.executable, "-m", "tests.scale.ingest", kind, str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(done.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
