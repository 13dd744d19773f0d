"""Folders of small pictures for the tests of this package."""

import io
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
