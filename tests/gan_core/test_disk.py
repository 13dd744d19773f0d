"""Disk errors are recognised from any library, and described with path, free space and remedy."""

import errno
import os
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest

from gan_core import disk
from gan_core.disk import describe_os_error
from gan_core.errors import DataError
from gan_core.files import atomic_write, explain_os_errors
from tests.small_disk import run_on_small_disk

_WRITERS = {
    "safetensors": "from safetensors.numpy import save_file; save_file({'a': data}, path)",
    "arrow": "import pyarrow as pa; pa.OSFile(str(path), 'wb').write(data.tobytes())",
    "parquet": "import pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.table({'a': data}), path)",
    "sqlite": "import sqlite3; c = sqlite3.connect(path); c.execute('create table t (x)'); "
    "c.execute('insert into t values (?)', (data.tobytes(),)); c.commit()",
    "pillow": "from PIL import Image; Image.fromarray(data.reshape(512, -1)).save(path, format='PNG')",
    "numpy": "np.savez(open(path, 'wb'), data)",
    "torch": "import torch; torch.save(torch.from_numpy(data), open(path, 'wb'))",
    "copy": "import shutil; source = '{tmp}/data'; data.tofile(source); shutil.copyfile(source, path)",
    "folder": "import shutil, os; os.mkdir('{tmp}/f'); data.tofile('{tmp}/f/x'); shutil.copytree('{tmp}/f', path)",
    "map": "from gan_core.disk import create_npy; create_npy(path, (1 << 18,), np.uint8)[:] = data",
}


@pytest.mark.parametrize("writer", _WRITERS)
def test_a_full_disk_is_one_line_with_path_and_free_space_and_leaves_nothing(tmp_path: Path, writer: str) -> None:
    program = f"""
import sys
import numpy as np
from gan_core.disk import describe_os_error
from gan_core.files import atomic_write
data = np.random.default_rng(0).integers(0, 255, 1 << 18, dtype=np.uint8)
try:
    with atomic_write("{tmp_path}/disk/result") as path:
        {_WRITERS[writer].replace("{tmp}", str(tmp_path))}
except OSError as error:
    sys.exit(describe_os_error(error))
"""
    ended = run_on_small_disk([sys.executable, "-c", program], tmp_path / "disk", size="128k")
    told = ended.output.strip()
    assert told.startswith(f"{tmp_path}/disk/result: no space left on device ("), told
    assert f" of 128.0 KiB free on {tmp_path}/disk, " in told
    assert told.endswith("Free some space there, or choose another folder.")
    assert ("128.0 KiB more are needed" in told) == (writer == "map")
    assert (ended.status, ended.left) == (1, ())


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "ask for a larger quota"),
        (errno.EFBIG, "Raise the limit"),
        (errno.EROFS, "Make it writable"),
    ],
)
def test_each_disk_error_has_a_remedy_and_names_the_written_file(tmp_path: Path, number: int, remedy: str) -> None:
    path = tmp_path / "new"
    for error in (
        OSError(number, os.strerror(number)),
        OSError(number, f"Error writing bytes to file. Detail: [errno {number}] {os.strerror(number)}"),
        RuntimeError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})"),
    ):
        with pytest.raises(OSError) as caught, atomic_write(path):  # noqa: PT011  the next lines look at it
            raise error
        told = disk.describe_os_error(caught.value)
        assert told.startswith(f"{path}: {os.strerror(number).lower()}")
        assert remedy in told


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    for error in (
        sqlite3.OperationalError("database is locked"),
        ValueError("28"),
        DataError("no space left on device"),
    ):
        with pytest.raises(type(error)) as caught, explain_os_errors(tmp_path):
            raise error
        assert caught.value is error
    assert disk.find_disk_error(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None


@pytest.mark.parametrize("name", ["/data/a b/it's.png", "/data/x.npy"])
def test_a_disk_error_passed_as_text_keeps_its_file_name(name: str) -> None:
    text = f"ray::work() (pid=1)\n  write(x)\n{OSError(errno.ENOSPC, 'No space left on device', name)!s}\nSee the log."
    found = disk.find_disk_error(RuntimeError(text))
    assert found is not None
    assert (found.errno, found.filename) == (errno.ENOSPC, name)


def test_a_handled_disk_error_is_not_the_cause() -> None:
    error = ValueError("another matter")
    error.__context__ = OSError(errno.ENOSPC, "full")
    assert disk.find_disk_error(error) is error.__context__
    error.__suppress_context__ = True  # as "from None" does
    assert disk.find_disk_error(error) is None


def test_an_array_on_disk_starts_as_zeros(tmp_path: Path) -> None:
    disk.create_npy(tmp_path / "a.npy", (2, 3), np.float32)[1] = 1
    assert np.load(tmp_path / "a.npy").tolist() == [[0, 0, 0], [1, 1, 1]]
    assert disk.create_npy(tmp_path / "b.npy", (0, 3), np.float32).shape == (0, 3)


def test_bytes_are_formatted_in_the_largest_unit() -> None:
    sizes = (0, 1023, 1536, 3 << 20, 5 << 30, 7 << 40)
    assert [disk.format_bytes(size) for size in sizes] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "3.0 MiB",
        "5.0 GiB",
        "7.0 TiB",
    ]


@pytest.mark.parametrize(
    "words",
    [
        "413 Client Error: File too large for url: http://host/api",
        "HTTP Error 413: File too large",
        "API request to endpoint /api/2.0/mlflow/x failed with error code 413 != 200. Response body: 'file too large'",
        "HTTP 507: no space left on device",
    ],
)
def test_a_server_error_is_not_a_disk_error_of_this_machine(words: str) -> None:
    assert disk.find_disk_error(RuntimeError(words)) is None
    local = disk.find_disk_error(RuntimeError("http://host was read\nwrite failed: File too large"))
    assert local is not None
    assert local.errno == errno.EFBIG


def test_a_path_within_a_reason_keeps_its_case() -> None:
    error = OSError(0, "[Errno 13] Permission denied: '/data/Faces/A.png'", "/out")
    assert describe_os_error(error) == "/out: [Errno 13] Permission denied: '/data/Faces/A.png'."
    assert (
        describe_os_error(FileNotFoundError(2, "No such file or directory", "/A")) == "/A: no such file or directory."
    )


def test_an_error_in_the_cache_names_the_variable_that_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANTRY_CACHE_DIR", str(tmp_path))
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "decoded" / "a.npy"))
    assert describe_os_error(full).endswith("Free some space there, or set GANTRY_CACHE_DIR to another folder.")
    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "weights"))
    assert describe_os_error(denied).endswith("Change its permissions, or set GANTRY_CACHE_DIR to another folder.")
    elsewhere = PermissionError(errno.EACCES, "Permission denied", str(tmp_path.parent / "other"))
    assert describe_os_error(elsewhere).endswith("Change its permissions, or choose another folder.")
