"""Folders of small pictures for the tests of this package."""

import ctypes
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, height: int = 12, width: int = 10, mode: str = "RGB") -> Image.Image:
    """A noise picture, different for every seed."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), noise.tobytes())


def png(seed: int, **shape: int) -> bytes:
    """The PNG of :func:`picture`."""
    buffer = io.BytesIO()
    picture(seed, **shape).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, content: bytes) -> Path:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def pets(folder: Path, each: int = 5) -> Path:
    """Two classes of pictures in sub-folders: cat and dog."""
    for number, name in enumerate(("cat", "dog")):
        for index in range(each):
            write(folder / name / f"{index:03d}.png", png(1000 * number + index))
    return folder


class _Capabilities(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextmanager
def without_privileges() -> Iterator[None]:
    """Make root obey file permissions during the block, by dropping CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the call; this thread
    held = (_Capabilities * 2)()
    assert libc.capget(header, held) == 0
    before = held[0].effective
    held[0].effective &= ~0b110
    assert libc.capset(header, held) == 0
    try:
        yield
    finally:
        held[0].effective = before
        assert libc.capset(header, held) == 0
