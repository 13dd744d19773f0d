"""Where the pictures of a comparison come from: a split of a prepared dataset, a folder or zip of files, a generator."""

import hashlib
import logging
import os
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.pictures import decode
from gan_core.randomness import derive_seed

log = logging.getLogger(__name__)

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in ("avif", "bmp", "gif", "jp2", "jpeg", "jpg", "pgm", "png", "ppm", "tga", "tif", "tiff", "webp")
)
SAMPLE_CHUNK = 1024
"""Pictures asked of a generator at a time. Fixed, so that the pictures do not depend on any batch size."""

Prepare = Callable[[Tensor], Tensor]
"""uint8 (N, C, H, W) to the extractor's input."""
Sample = Callable[[int, int], Tensor]
"""(n, seed) to uint8 (n, C, H, W), equal for equal arguments."""


class Source(Protocol):
    """Pictures to take features of."""

    name: str
    """For messages and progress."""
    split: str
    """Name of the split; empty when there is none."""

    def available(self) -> int | None:
        """How many pictures there are; None when as many as asked for."""

    def digest(self, count: int) -> str:
        """Names the content of the first ``count`` pictures taken."""

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """The extractor's input for ``count`` pictures, in batches."""


class DatasetSplit:
    """A split of a prepared dataset."""

    def __init__(self, dataset: PreparedDataset, split: str) -> None:
        self.dataset = dataset
        self.split = split
        self.name = f"{dataset.info.name} {split}"

    def available(self) -> int:
        """Pictures in the split; raises DataError when there is no such split."""
        self.dataset.shards(self.split)
        return self.dataset.info.splits[self.split]

    def digest(self, count: int) -> str:
        """The dataset's own digest."""
        return self.dataset.info.digest

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """See :class:`Source`."""
        pixels = self.dataset.pixels(self.split)
        chosen = subset(len(pixels), count)
        for start in range(0, count, batch_size):
            yield prepare(torch.from_numpy(pixels[chosen[start : start + batch_size]]))


class PictureFiles:
    """All pictures in a folder and the folders in it, or in a zip, of any sizes. Hidden files are left aside."""

    split = ""

    def __init__(self, path: Path) -> None:
        """Raises DataError when there is nothing of the kind at ``path``, or no picture in it."""
        self.path = path
        self.name = path.name
        self._zip: zipfile.ZipFile | None = None
        if path.is_dir():
            names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        elif zipfile.is_zipfile(path):
            try:
                self._zip = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as error:
                raise DataError(f"{path} is a broken zip file ({error}). Pack it again, or give a folder.") from error
            names = [entry.filename for entry in self._zip.infolist() if not entry.is_dir()]
        else:
            raise DataError(f"{path} is neither a folder nor a zip file of pictures.")
        self._names = sorted(name for name in names if _is_picture(name))
        if not self._names:
            raise DataError(f"{path} holds no pictures ({' '.join(sorted(SUFFIXES))}).")

    def available(self) -> int:
        """Pictures found."""
        return len(self._names)

    def digest(self, count: int) -> str:
        """SHA-256 over the content of the chosen files in the order of their names; raises DataError as batches does."""
        whole = hashlib.sha256()
        for index in subset(len(self._names), count):
            whole.update(hashlib.sha256(self._read(self._names[index])).digest())
        return whole.hexdigest()

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """See :class:`Source`; raises DataError that names the file which cannot be read."""

        def one(index: int) -> Tensor:
            name = self._names[index]
            content = self._read(name)
            try:
                return prepare(torch.from_numpy(decode(content, 3))[None])
            except DataError as error:
                raise self._unreadable(name, error) from error

        # Decoding beside the network: it is what a GPU would wait for.
        with ThreadPoolExecutor(os.cpu_count()) as pool, ExitStack() as stack:
            waiting: deque[Future[Tensor]] = deque()
            stack.callback(lambda: [future.cancel() for future in waiting])
            batch: list[Tensor] = []
            for index in subset(len(self._names), count):
                waiting.append(pool.submit(one, int(index)))
                if len(waiting) > 2 * batch_size:
                    batch.append(waiting.popleft().result())
                if len(batch) == batch_size:
                    yield torch.cat(batch)
                    batch = []
            batch += [waiting.popleft().result() for _ in range(len(waiting))]
            for start in range(0, len(batch), batch_size):
                yield torch.cat(batch[start : start + batch_size])

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(name) if self._zip else (self.path / name).read_bytes()
        # A zip's member may be cut short, of another checksum, encrypted (RuntimeError) or packed in an unknown way.
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError) as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> DataError:
        return DataError(f"{self.path}: {name} cannot be read: {str(error).rstrip('.')}. Remove it and run again.")


class Samples:
    """What a generator draws from a seed."""

    split = ""

    def __init__(self, sample: Sample, *, seed: int, digest: str, name: str = "generator") -> None:
        """``digest`` names the generator."""
        self.name = name
        self.seed = seed
        self._sample = sample
        self._digest = digest

    def available(self) -> None:
        """As many as asked for."""
        return

    def digest(self, count: int) -> str:
        """The generator's digest."""
        return self._digest

    def batches(self, count: int, batch_size: int, prepare: Prepare) -> Iterator[Tensor]:
        """See :class:`Source`. The first chunk is what ``sample`` gives for the seed itself."""
        for chunk, start in enumerate(range(0, count, SAMPLE_CHUNK)):
            # 31 bits: what every random generator takes.
            seed = derive_seed(self.seed, "chunk", chunk) % 2**31 if chunk else self.seed
            pictures = self._sample(min(SAMPLE_CHUNK, count - start), seed)
            for part in pictures.split(batch_size):
                yield prepare(part)


def subset(total: int, count: int) -> np.ndarray:
    """``count`` of the indices below ``total``, in order: always the same, and a fair draw (files come sorted by class)."""
    if count == total:
        return np.arange(total)
    # RandomState's stream is frozen for all versions of numpy; default_rng's is not.
    return np.sort(np.random.RandomState(0).permutation(total)[:count])


def _is_picture(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and Path(name).suffix.lower() in SUFFIXES
