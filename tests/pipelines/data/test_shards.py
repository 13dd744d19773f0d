"""Parts and shards: bounded in memory and in what Arrow can read of a row group, and the same bytes either way."""

import resource
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gan_core.data import PreparedDataset
from gan_core.images import bounded
from pipelines.data import convert, shards
from pipelines.data.convert import Converted, RunSpec
from pipelines.data.ingest import ingest
from pipelines.data.readers.base import Entry, SourceNote
from pipelines.data.shards import PartWriter, Piece, ShardSpec, write_shard
from pipelines.settings.ingest import IngestSettings
from tests.pipelines.data.samples import pets, picture


def convert_with(spare: int, batch: int, spec: RunSpec) -> Converted:
    """In a worker that may allocate ``spare`` bytes more than it has, convert with parts of ``batch`` bytes a batch."""
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
    """PNGs of different lengths, from 1 to 20 bytes; what is in them does not matter here."""
    contents = [bytes([number]) * (1 + number % 20) for number in range(40)]
    with PartWriter(part, paired=paired) as writer:
        for content in contents:
            writer.add(*[content, content[::-1]][: 1 + paired])
    return contents


def test_a_run_of_pictures_that_do_not_fit_into_memory_together_is_converted(tmp_path: Path) -> None:
    picture(0, 512, 512).save(tmp_path / "a.bmp")
    spec = RunSpec(
        raw=tmp_path,
        note=SourceNote(format="folder"),
        entries=(Entry("a.bmp"),) * 200,  # 150 MiB as PNG, which noise does not make smaller
        part=tmp_path / "part.arrow",
        size=(512, 512),
        channels=3,
        fit="crop",
        digest_contents=False,
        max_failures=0,
    )
    result = bounded.call(convert_with, 100 * 2**20, 4 * 2**20, spec)
    assert result.rejects == ()
    assert len(result.positions) == 200
    assert spec.part.stat().st_size > 150 * 2**20


@pytest.mark.parametrize("rows", [range(40), range(5, 31), (0, 3, 4, 19, 20, 21, 39)])
def test_how_a_part_is_written_does_not_change_the_shard(
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
            pieces=(Piece(part=tmp_path / "part", rows=np.array(rows, dtype=np.int64)),),
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


def test_a_row_group_has_fewer_bytes_of_each_column_than_arrow_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shards._ROW_GROUP_BYTES < 2**31
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
