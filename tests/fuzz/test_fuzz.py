"""Every fuzzed input is read or refused. Faults that fuzzing found have tests of their own.

Reading 11,500 inputs takes about 45 s of one core; ``make fuzz INPUTS=100000`` reads more.
"""

import base64
import io
import os
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_core.errors import DataError, PictureError
from pipelines.data import archives, readers
from pipelines.data.readers.base import Entry, SourceNote
from pipelines.data.readers.tabular import read_rows
from tests.fuzz import seeds
from tests.fuzz.targets import TARGETS
from tests.pipelines.data.samples import write

ROOT = Path(__file__).parents[2]


def test_the_inputs_are_many_and_always_the_same() -> None:
    assert sum(target.inputs for target in TARGETS.values()) >= 10_000
    for kind, target in TARGETS.items():
        made = [[target.make(Random(f"{kind} 0 {number}")).content for number in range(50)] for _ in range(2)]
        assert made[0] == made[1]
        assert len(set(made[0])) > 40


@pytest.mark.parametrize("kind", TARGETS)
def test_every_input_is_read_or_refused(kind: str) -> None:
    """Runs in a separate process, so that a crash is reported, too."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--kind", kind],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


# -- faults found ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [("GNU.sparse.size", "x"), ("GNU.sparse.size", "../x"), ("size", "9" * 30)])
def test_a_tar_with_an_invalid_number_in_its_header_is_refused(name: str, value: str, tmp_path: Path) -> None:
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


def test_pictures_in_a_damaged_part_of_a_parquet_file_are_rejected(tmp_path: Path) -> None:
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
    with pytest.raises(DataError, match=r"data\.parquet is damaged \(.*\)\. Download it again\."):
        readers.list_pictures(tmp_path, SourceNote(format="parquet"))


def test_times_that_python_cannot_represent_are_not_labels(tmp_path: Path) -> None:
    parquet(tmp_path, label=pa.array([2**62] * 3, pa.timestamp("us")))
    with pytest.raises(DataError, match=r"the column 'label' does not hold labels \(date value out of range\)"):
        readers.list_pictures(tmp_path, SourceNote(format="parquet"))


def test_two_columns_with_the_same_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([b"x"]), pa.array([0])], ["image", "image"])
    pq.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(DataError, match="several columns named 'image'"):
        readers.list_pictures(tmp_path, SourceNote(format="parquet"))


# A file that the fuzzer made: Parquet (zlib, base64) with a wrong number of levels in the statistics of a column.
_WRONG_LEVELS = (
    "eNrtVg1YU9cZPvfm5ockBJJwQwJpDQgBLDAIAkoZchMIPwUCQRqhdiVhKVD5k6BQJ6u1zoqzq4AU5kRU2gqUaRWtrv7wY4WCuik/UnEoEqQ4cCACglCz"
    "e8OPc/p06/bs2Z7NL+fe7+T7vvOe8z3nfO+5kZjSHUXQnXy8haEUFHAAsIMByIuMCDKlW9EBAKYhwQFKQuMPkwaDTbje9ysAoMGQAGxlzh6oB1r0CEw2"
    "nC20ujveNkwuLfMaSm1SiuyoW5cX0FhmvJ2X+VQnxstJt3qbaZCVdTmVJbbPtR4yFap2mK6HokxWnyqa+MRvPJkzaXPqIyhpi8yffgRBW+5J8tLvWFNO"
    "u/aKrDrrbCxKNvUffkg69fo53zUvQNxsfunhMwlhMLPrtXhnK6f+xRf0N/z6fmaX0WFfLNJ/ePtAaXZbPlRBbh63S575WA5XRx8LF8eAqtijlYEDLTJB"
    "gu2XUWcGa2JcOqp8Pm+0OXZw4/m9rm4A0a7XVfXz8gXB3Q/a2mmF17HlO4qcN7lunPAIWdU1mqwfh5rKGvoewSxDkAd6pby+Q0Lux6wOr9Z/Jrw+IDZf"
    "ub0mnOLm1k0G7awOxq4XYOaj7sa+1/UDv5EWQR5mOdP7P1w3GVO80a8jwlvjTe5ruiPqpHx2eQPY2rTmU/bF0pGiCGEty/n+oSnSy6nTicM/fz/bBZxr"
    "DXk0WntDMWpJgoYPfBsPdn0eeV12srm+klagEablDU8v8W2KWNxjYlN2QvfOxd3De5lg2nMqrfq3gYskEwfbaydPldVJd1S1fm3fY7aTWRpd9Uppvfb0"
    "6rFEL5gak+tg5pLfFYy9Br9hnvt77gNhCvWCPsF8Jhf2ryxnPqzepkLLYmaW9Jx3n2iuxvcehARGBBySxm8eAt9zTojAPX9MIuOqZu6cVACVAbra22p2"
    "6SeXRdc6oUtLoVjhLXUOY0BoGmnd0ArtnqgwPLCiu1MHGxUaxKE4ftjJsoFBrWbcqIUP5PQMf1dxYuvZ3iNwK+TsGOo11VbjQuPelLyHvDi5c0z2h65N"
    "AxdOwybQG8Bm2TXrq/b7SKtK6YjE4ADPMBw46rP6P49BefwSRqNz/M0UzVvkaZixTS9b6450tpGq4CK4TmWC9DfNuGZFby6wDI8PzS4J2q1/Il+8Lgzf"
    "GHqAeag8RA4gCK8B/AcM14EMmJrQGXSaKYPOYLFMzbgilMvhcB2EL1qKXJ3c3VydXJw9fEL9PLzk3s4u/ipMHhahjFZK/OLUcZHxoVFKBQECsVgsLpsr"
    "RlGxwtPFU/GUBCm+Xwx1gE0DTGBKgmwBzIZIbMjwFViEr5MMGQXMCQSTEDKFSsMXjQccNwcwRCLBCIlMRhDcm4v7AcImc2zcMQo3Sk21XWsheTd/P22x"
    "9Eg9qrwyYuehydxsQudZ8gVW9mIHR6clSz29vJct95EFBMqDgkNCo1fGvKpaFRuX8FPtm4lJyW/pstatz855e8N7W36x9f1tedsLCncVfVRc8uvdB8o/"
    "/uTTgxWVVUdrjh3/4sTJ333ZcO6r841NXze3tLa1d1zt/OZa161efd/t/m8H7vzp3uj9sfGJB5NTD4m8IECC5uUZefkfZ+N5wQhCQqhEXhCcTQSwEbKN"
    "O4WDRVHVa7m2kndpFtL8/UfqTRZ7KEdQTeYVOs9u6S37e0Rqxsz+scQ2/1OZLST2OK8uwCRB+OaR2GAFiL7dwunepY1dfayguE5jvWfvTW+HHyvO2ppf"
    "WpNXMPqS58kYW8kHoz0JixwHKNRlfjcqK7qXcm1WSu/Gu5JG6YWOU3Kate6+rnDvZG/l4IYzjXtSX112t59z/vTUFQo9M6jFh1Va1a7yyNye6zn19grR"
    "B35vlh9NH6sd/G7NO4ZrKEAtUAtn/FYwxx+K0As4DpH/swWgeF4AP6AAwPMC+JcKgD8E/T/db2w2/ge/4wAFPyR2AP8stEVtw3BFfBQSiWZlqpPTEKKj"
    "1WXh7MBBOU+wA9kYwEcI91+BQSQEBxGhonmsWRlZMdeJ/FsoPm3O4z/fG1nBgx2fYV2YhUSCSDCKCMI8AZ+iS0jSpqpRCkCZ9hQ+OTlVnagl+jCfrMtI"
    "Sc6yB2FCfAxKJywpao02BfAoAqHAVwyEKFPgCSjmgrlhKO7hHXLEm/gkX0z77+PA8Occ+JwD/7c4cMu/kQOD/j4HCpwJmkJhgL/MceXLm7QUUARiQMHj"
    "nmAII5kYGaIEwpt4zFH8heMziPBpROETgPR5QCMXGQEvQngTb18ibnH6YXT41FxO+EwwQdq8gpd4FDENV0Ag5DMxpVKh8pmlSv4++EeELMcIicJm5RUM"
    "y8akiZgcwxIxWaLRJpViWDjRkWFYiNHwWGOzLqkb0VMsQMnSCWhjSI7RmPA43ihy4qUJkifHqYzz4XixhJ6VxIDY+fFSpdES+6zxCR5SnXoVMV9ACBEf"
    "iGExxLpxnGAiD+NiFgYFBgYaQYz2wMdQMYQxQ6OSp8VFLQwx+gFflKHOXLtOm+WSkJHhos7MTM8Wrddm6pLT00QST1c3V3eBL36rzDbwS3xvIzGl+18A"
    "o8/pWQ=="
)


def test_a_parquet_file_that_crashes_the_reader_of_its_columns_is_refused(tmp_path: Path) -> None:
    """Reading the sizes of its columns makes pyarrow end the process."""
    write(tmp_path / "data.parquet", zlib.decompress(base64.b64decode(_WRONG_LEVELS)))
    with pytest.raises(DataError, match=r"data\.parquet is damaged: its columns cannot be read"):
        readers.list_pictures(tmp_path, SourceNote(format="parquet"))
    with pytest.raises(DataError, match=r"data\.parquet is damaged: its columns cannot be read"):
        read_rows(tmp_path / "data.parquet", ["label"])
