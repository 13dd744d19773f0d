"""Arrays in cache files that are mapped into memory. Checksums at the end of a file show damage of any kind."""

import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gan_core.disk import create_npy
from gan_core.errors import DataError
from gan_core.files import atomic_write, remove_stale

_BLOCK = 1 << 24
"""Bytes under one checksum. Several are computed at once."""
_SUM = np.dtype("<u4")


@contextmanager
def write_array(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> Iterator[np.ndarray]:
    """Write a file for :func:`map_array`: ``.npy``, followed by a CRC-32 of each 16 MiB.

    Yields an array of zeros for the block to fill. The file appears at the end of the block, whole, or not at all.

    Raises:
        OSError: there is not enough space; the error names ``path``.
    """
    with atomic_write(path) as temporary:
        array = create_npy(temporary, shape, dtype)
        yield array
        array.flush()
        sums = _sums(array)
        del array
        with open(temporary, "ab") as file:
            file.write(sums.tobytes())
            file.flush()
            os.fsync(file.fileno())


def map_array(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """Map a file of :func:`write_array` into memory, read-only. It is read once, for its checksums.

    Raises:
        DataError: it is damaged, or holds something else.
        FileNotFoundError: there is no such file.
    """
    remove_stale(path)  # of a process that was killed after it had written the file
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} is not an array: {error}") from error
    if array.shape != shape or array.dtype != dtype:
        raise DataError(f"{path} holds {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}.")
    stored = np.fromfile(path, _SUM, offset=path.stat().st_size - _count(array) * _SUM.itemsize)
    if not np.array_equal(stored, _sums(array)):
        raise DataError(f"{path} is damaged: its checksums differ.")
    return array


def _count(array: np.ndarray) -> int:
    return -(-array.nbytes // _BLOCK)


def _sums(array: np.ndarray) -> np.ndarray:
    """The CRC-32 of each block of ``array``: uint32 (blocks,)."""
    content = array.reshape(-1).view(np.uint8).data

    def one(number: int) -> int:
        return zlib.crc32(content[number * _BLOCK : (number + 1) * _BLOCK])

    with ThreadPoolExecutor() as pool:
        return np.fromiter(pool.map(one, range(_count(array))), _SUM)
