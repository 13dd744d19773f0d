"""Shards of an enlarged dataset: unchanged bytes, in row groups of limited size."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.data import enlarge
from tests.datasets import write_prepared


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A shard of several row groups, as ingestion writes it."""
    pixels = np.random.default_rng(0).integers(0, 255, (2500, 3, 8, 8), dtype=np.uint8)
    (shard,) = write_prepared(tmp_path / "data", pixels, np.arange(2500) % 2).glob("*.parquet")
    pq.write_table(pq.read_table(shard), shard, row_group_size=1024)
    return shard


def written(shard: Path, to: Path) -> Path:
    columns = enlarge._with_provenance(pq.read_schema(shard).empty_table()).schema
    enlarge._write(to, columns, enlarge._batches(shard))
    return to


def test_a_small_shard_has_the_bytes_of_a_single_write(shard, tmp_path):
    pq.write_table(enlarge._with_provenance(pq.read_table(shard)), tmp_path / "once.parquet", write_page_checksum=True)
    assert written(shard, tmp_path / "new.parquet").read_bytes() == (tmp_path / "once.parquet").read_bytes()


def test_a_shard_without_pictures_has_the_bytes_of_a_single_write(shard, tmp_path):
    pq.write_table(pq.read_table(shard).slice(0, 0), shard)
    test_a_small_shard_has_the_bytes_of_a_single_write(shard, tmp_path)


def test_the_row_groups_of_a_large_shard_are_limited_in_size(shard, tmp_path, monkeypatch):
    monkeypatch.setattr(enlarge, "_GROUP_BYTES", 100_000)
    with pq.ParquetFile(written(shard, tmp_path / "new.parquet")) as new:
        rows = [new.metadata.row_group(number).num_rows for number in range(new.num_row_groups)]
        assert len(rows) > 1
        assert max(rows) * shard.stat().st_size / 2500 < 300_000
        assert new.read(["image", "label"]).equals(pq.read_table(shard, columns=["image", "label"]))
