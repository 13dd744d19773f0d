"""Arrays in cache files that are mapped into memory. Checksums at the end of a file show damage of any kind."""

import math
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
    with open(path, "rb") as file:  # opened once, because another process may replace it
        try:
            version = np.lib.format.read_magic(file)
            found = np.lib.format.read_array_header_1_0(file)
        except Exception as error:  # numpy's parser of the header raises nearly anything
            raise DataError(f"{path} is not an array: {error}") from error
        if version != (1, 0) or found != (shape, False, dtype):
            raise DataError(f"{path} holds {found[2]} {found[0]}, expected {np.dtype(dtype)} {shape}.")
        start, size = file.tell(), math.prod(shape) * np.dtype(dtype).itemsize
        file.seek(start + size)
        stored = file.read()
        if len(stored) != -(-size // _BLOCK) * _SUM.itemsize:
            raise DataError(f"{path} is damaged: it has another length.")
        array = np.memmap(file, dtype, "r", start, shape)
    if stored != _sums(array).tobytes():
        raise DataError(f"{path} is damaged: its checksums differ.")
    return array


def _sums(array: np.ndarray) -> np.ndarray:
    """The CRC-32 of each block of ``array``: uint32 (blocks,)."""
    content = array.reshape(-1).view(np.uint8).data

    def one(number: int) -> int:
        return zlib.crc32(content[number * _BLOCK : (number + 1) * _BLOCK])

    with ThreadPoolExecutor() as pool:
        return np.fromiter(pool.map(one, range(-(-array.nbytes // _BLOCK))), _SUM)
