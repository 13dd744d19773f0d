"""Parts and shards: bounded memory, row groups that Arrow can read, and bytes that do not depend on batch sizes."""

import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_core.data import PreparedDataset
from gan_core.images import sandbox
from pipelines.data import convert, shards
from pipelines.data.convert import ChunkSpec, ConvertedChunk
from pipelines.data.ingest import ingest
from pipelines.data.readers.base import Entry, SourceNote
from pipelines.data.shards import PartRows, PartWriter, ShardSpec, extract_rows, write_shard
from pipelines.settings.ingest import IngestSettings
from tests.pipelines.data.samples import pets, picture


def convert_with(spare: int, batch: int, spec: ChunkSpec) -> ConvertedChunk:
    """Convert with ``batch`` bytes a batch of a part, in a worker that may allocate only ``spare`` more bytes."""
    with open("/proc/self/status") as status:
        held = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    usual, shards._PART_BATCH = shards._PART_BATCH, batch
    resource.setrlimit(resource.RLIMIT_DATA, (held + spare, hard))
    try:
        return convert._convert(spec)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        shards._PART_BATCH = usual


def pngs(part: Path, paired: bool = False) -> list[bytes]:
    """PNGs of different lengths, from 1 to 20 bytes; their content does not matter."""
    contents = [bytes([number]) * (1 + number % 20) for number in range(40)]
    with PartWriter(part, paired=paired) as writer:
        for content in contents:
            writer.add(*[content, content[::-1]][: 1 + paired])
    return contents


def test_a_chunk_of_pictures_larger_than_the_memory_is_converted(tmp_path: Path) -> None:
    picture(0, 512, 512).save(tmp_path / "a.bmp")
    spec = ChunkSpec(
        raw=tmp_path,
        note=SourceNote(format="folder"),
        entries=(Entry("a.bmp"),) * 200,  # 150 MiB as PNG, because noise does not compress
        part=tmp_path / "part.arrow",
        size=(512, 512),
        channels=3,
        fit="crop",
        digest_contents=False,
        max_failures=0,
    )
    result = sandbox.call(convert_with, 100 * 2**20, 4 * 2**20, spec)
    assert result.rejects == ()
    assert len(result.positions) == 200
    assert spec.part.stat().st_size > 150 * 2**20


@pytest.mark.parametrize("rows", [range(40), range(5, 31), (0, 3, 4, 19, 20, 21, 39)])
def test_the_batch_size_of_a_part_does_not_change_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: range | tuple[int, ...]
) -> None:
    found = []
    for number, batch in enumerate((1, 50, 2**20)):
        monkeypatch.setattr(shards, "_PART_BATCH", batch)
        contents = pngs(tmp_path / "part")
        spec = ShardSpec(
            path=tmp_path / f"{number}.parquet",
            split="train",
            first=100,
            parts=(PartRows(part=tmp_path / "part", rows=np.array(rows, dtype=np.int64)),),
            labels=np.zeros(len(rows), dtype=np.int64),
            sources=tuple(map(str, rows)),
            classes=(),
        )
        write_shard(spec)
        found.append(spec.path.read_bytes())
        held = pq.read_table(spec.path).to_pylist()
        assert [row["image"]["bytes"] for row in held] == [contents[row] for row in rows]
        assert [row["source"] for row in held] == [str(row) for row in rows]
        assert held[1]["image"]["path"] == "train-00000101.png"
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("paired", [False, True])
def test_extracted_rows_are_a_part_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, paired: bool
) -> None:
    monkeypatch.setattr(shards, "_PART_BATCH", 50)
    contents = pngs(tmp_path / "whole", paired)
    rows = np.array([0, 3, 4, 19, 39], dtype=np.int64)
    extract_rows(PartRows(part=tmp_path / "whole", rows=rows), tmp_path / "own", paired=paired)
    with pa.ipc.open_file(tmp_path / "own") as part:
        held = part.read_all()
    assert held["image"].to_pylist() == [contents[row] for row in rows]
    if paired:
        assert held["condition"].to_pylist() == [contents[row][::-1] for row in rows]


def test_writing_a_shard_takes_memory_for_one_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_ROW_GROUP_BYTES", 2**20)
    rows = np.arange(400, dtype=np.int64)[np.arange(400) % 10 > 0]  # with gaps, so that pictures are copied
    with PartWriter(tmp_path / "part") as writer:
        for _ in range(400):
            writer.add(b"." * 50_000)
    spec = ShardSpec(
        path=tmp_path / "shard.parquet",
        split="train",
        first=0,
        parts=(PartRows(part=tmp_path / "part", rows=rows),),
        labels=np.zeros(len(rows), dtype=np.int64),
        sources=tuple(map(str, rows)),
        classes=(),
    )
    usual = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(counting)
    try:
        write_shard(spec)
    finally:
        pa.set_memory_pool(usual)
    assert spec.path.stat().st_size > 17 * 2**20
    assert counting.max_memory() < 4 * 2**20


def test_the_size_of_a_row_group_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = pets(tmp_path / "raw", each=20)
    settings = IngestSettings(size=(12, 10))
    ingest(raw, tmp_path / "one", settings, name="pets")
    monkeypatch.setattr(shards, "_ROW_GROUP_BYTES", 2000)
    ingest(raw, tmp_path / "many", settings, name="pets")
    shard = pq.ParquetFile(next((tmp_path / "many").glob("*.parquet")))
    assert shard.num_row_groups > 5
    for group in range(shard.num_row_groups):
        held = shard.read_row_group(group, columns=["image"]).to_pylist()
        sizes = [len(row["image"]["bytes"]) for row in held]
        assert sum(sizes) <= 2000 < sum(sizes) + 500
    one, many = PreparedDataset(tmp_path / "one"), PreparedDataset(tmp_path / "many", tmp_path / "cache")
    assert one.info == many.info
    np.testing.assert_array_equal(one.pixels(), many.pixels())
    np.testing.assert_array_equal(one.labels(), many.labels())
