"""Every input of the corpus is read or refused; what was found once stays found.

About 45 s of one core for 11,500 inputs; ``make fuzz INPUTS=100000`` reads more.
"""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_core.errors import DataError, PictureError
from pipelines.data import archives, readers
from pipelines.data.readers.base import Entry, SourceNote
from tests.fuzz import seeds
from tests.fuzz.targets import TARGETS
from tests.pipelines.data.samples import write

ROOT = Path(__file__).parents[2]


def test_the_corpus_is_large_and_the_same_each_time() -> None:
    assert sum(target.inputs for target in TARGETS.values()) >= 10_000
    for kind, target in TARGETS.items():
        made = [[target.make(Random(f"{kind} 0 {number}")).content for number in range(50)] for _ in range(2)]
        assert made[0] == made[1]
        assert len(set(made[0])) > 40


@pytest.mark.parametrize("kind", TARGETS)
def test_every_input_is_read_or_refused(kind: str) -> None:
    """In a process of its own: what ends it is told too, with the number of the input."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--kind", kind],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


# -- what it found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [("GNU.sparse.size", "x"), ("GNU.sparse.size", "../x"), ("size", "9" * 30)])
def test_a_tar_whose_header_has_a_number_that_is_none_is_refused(name: str, value: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {name: value}
        tar.addfile(info)
    archive = write(tmp_path / "a.tar", buffer.getvalue())
    assert archives.is_archive(archive)
    with pytest.raises(DataError, match=r"a\.tar"):
        archives.unpack(archive, tmp_path / "target", "test")


def parquet(folder: Path, **columns: object) -> Path:
    picture = seeds.pictures()["PNG RGB 0"]
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": [picture] * 3, **columns}), folder / "data.parquet", compression="none")
    return folder / "data.parquet"


def test_pictures_in_a_damaged_part_of_a_parquet_file_are_put_aside(tmp_path: Path) -> None:
    file = parquet(tmp_path)
    content = bytearray(file.read_bytes())
    content[4:24] = b"\xff" * 20  # the header of the first page
    file.write_bytes(content)
    note = SourceNote(format="parquet")
    with pytest.raises(PictureError, match="corrupt: row group 0 of the file is damaged"):
        readers.open_reader(tmp_path, note).read(Entry("data.parquet", 0))


def test_labels_in_a_damaged_part_of_a_parquet_file_are_refused(tmp_path: Path) -> None:
    file = parquet(tmp_path, label=["a cat", "a dog", "a cat"])
    content = file.read_bytes()
    at = pq.ParquetFile(file).metadata.row_group(0).column(1).dictionary_page_offset
    file.write_bytes(content[:at] + b"\xff" * 20 + content[at + 20 :])
    with pytest.raises(DataError, match=r"data\.parquet is damaged \(.*\)\. Get it again\."):
        readers.list_pictures(tmp_path, SourceNote(format="parquet"))


def test_times_that_python_does_not_know_are_no_labels(tmp_path: Path) -> None:
    parquet(tmp_path, label=pa.array([2**62] * 3, pa.timestamp("us")))
    with pytest.raises(DataError, match=r"the column 'label' holds no labels \(date value out of range\)"):
        readers.list_pictures(tmp_path, SourceNote(format="parquet"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([b"x"]), pa.array([0])], ["image", "image"])
    pq.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(DataError, match="several columns called 'image'"):
        readers.list_pictures(tmp_path, SourceNote(format="parquet"))


def test_a_parquet_file_that_ends_the_process_that_reads_its_sizes_is_refused(tmp_path: Path) -> None:
    """Of a wrong number of levels in a column's statistics pyarrow ends the process; see ``_check_sizes``."""
    number = 2513
    given = TARGETS["parquet"].make(Random(f"parquet 0 {number}"))
    (tmp_path / "data.parquet").write_bytes(given.content)
    with pytest.raises(DataError, match=r"data\.parquet is damaged: what it says of its columns cannot be read"):
        readers.list_pictures(tmp_path, SourceNote(format="parquet"))
