"""Reading a prepared dataset: the folder that ingestion writes (Parquet shards, dataset.json), as arrays."""

import contextlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gan_core.config import build
from gan_core.disk import new_array
from gan_core.errors import DataError, SettingsError
from gan_core.files import replacing

DATASET_FILE = "dataset.json"
_PNG = b"\x89PNG\r\n\x1a\n"
FORMAT = 1
"""Of the prepared form: another number wherever a reader of the one would misread the other."""


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What ``dataset.json`` says of a prepared dataset."""

    format: int
    name: str
    kind: str
    """``unlabelled``, ``labelled``, ``paired``, ``unpaired`` (two domains) or ``domains``."""
    channels: int
    height: int
    width: int
    classes: tuple[str, ...]
    """Class or domain names in label order; empty where pictures have no label. Of unpaired data A's name, then B's."""
    attributes: tuple[str, ...] = ()
    """Names of what may hold of a picture, several at once; such data has no classes."""
    condition_channels: int = 0
    """Channels of the pictures that paired data is to be translated from; 0 for other kinds."""
    derived: str = ""
    """How the condition was made from the picture: greyscale, edges, mask or lowres; empty where it is a picture of its
    own."""
    splits: dict[str, int]
    """Pictures in each split."""
    mean: tuple[float, ...]
    """Per-channel mean of the train split, in [0, 1]."""
    std: tuple[float, ...]
    """Per-channel standard deviation of the train split, in [0, 1]."""
    digest: str
    """SHA-256 over the content of every shard: names which data this is."""
    code_version: str
    rejects: dict[str, int]
    """Pictures quarantined, by reason (``rejects.csv`` lists them)."""


class PreparedDataset:
    """A prepared dataset on disk. Opening reads only ``dataset.json``; pixels are decoded once into a cache."""

    def __init__(self, directory: Path | str, cache_dir: Path | str | None = None) -> None:
        """Open the dataset in ``directory``; raise :class:`DataError` when it is not one."""
        self.directory = Path(directory)
        path = self.directory / DATASET_FILE
        if not path.is_file():
            raise DataError(
                f"No prepared dataset in {self.directory}: {DATASET_FILE} is missing. Run the ingest stage."
            )
        try:
            values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            # First: another format may have other settings.
            if isinstance(values, Mapping) and isinstance(found := values.get("format"), int) and found != FORMAT:
                raise DataError(
                    f"{path} describes a prepared dataset of format {found}; this edition of Gantry reads format {FORMAT}. "
                    "Run the ingest stage again, or use the edition that wrote it."
                )
            self.info = build(DatasetInfo, values)
        except (ValueError, SettingsError) as error:
            why = str(error).rstrip(".")
            raise DataError(f"{path} is not a dataset description: {why}. Run the ingest stage again.") from error
        self._cache_dir = Path(cache_dir) if cache_dir else user_cache_dir() / "decoded"

    def shards(self, split: str) -> list[Path]:
        """The Parquet files of ``split`` in order."""
        if split not in self.info.splits:
            raise DataError(f"{self.directory} has no split '{split}'; it has {', '.join(sorted(self.info.splits))}.")
        return sorted(self.directory.glob(f"{split}-*-of-*.parquet"))

    def labels(self, split: str = "train") -> np.ndarray | None:
        """Labels of ``split``: int64 (N,), of attributes (N, k) of 0 and 1; None where pictures have none."""
        if self.info.attributes:
            tables = self._column(split, "attributes")
            rows = [
                np.array(table.to_pylist(), dtype=np.int64).reshape(-1, len(self.info.attributes)) for table in tables
            ]
            return self._checked(split, np.concatenate(rows), 2)
        if not self.info.classes:
            return None
        labels = np.concatenate([column.to_numpy() for column in self._column(split, "label")]).astype(np.int64)
        return self._checked(split, labels, len(self.info.classes))

    def _checked(self, split: str, labels: np.ndarray, count: int) -> np.ndarray:
        """``labels``, each of them below ``count``; a damaged shard may say anything."""
        wrong = labels[(labels < 0) | (labels >= count)]
        if len(wrong):
            raise DataError(
                f"{self.directory}: {split} has the label {wrong[0]}, and labels are 0 to {count - 1}. "
                "The shards are damaged. Run the ingest stage again."
            )
        return labels

    def class_shares(self, split: str = "train") -> tuple[float, ...]:
        """How often each class is among the pictures of ``split``; empty where there are no classes, or all equally often."""
        labels = self.labels(split)
        if labels is None or self.info.attributes:
            return ()
        counts = np.bincount(labels, minlength=len(self.info.classes))
        return tuple((counts / counts.sum()).tolist()) if np.ptp(counts) else ()

    def _column(self, split: str, name: str) -> list[pa.ChunkedArray]:
        """The column ``name`` of each shard."""
        found = []
        for shard in self.shards(split):
            with _whole(shard):
                found.append(pq.read_table(shard, columns=[name])[name])
        return found

    def pixels(self, split: str = "train") -> np.ndarray:
        """All pictures of ``split``: uint8 of shape (N, C, H, W), memory-mapped, read-only.

        Decoded once per dataset digest into the cache directory and mapped from there afterwards.

        Raises:
            DataError: a shard is damaged, or holds other pictures than ``dataset.json`` says.
        """
        return self._decoded(split, "image", self.info.channels, f"{self.info.digest[:32]}-{split}.npy")

    def conditions(self, split: str = "train") -> np.ndarray | None:
        """What the pictures of paired data are to be made from: uint8 (N, C', H, W) as :meth:`pixels`; None elsewhere."""
        channels = self.info.condition_channels
        if not channels:
            return None
        return self._decoded(split, "condition", channels, f"{self.info.digest[:32]}-{split}-condition.npy")

    def _decoded(self, split: str, column: str, channels: int, name: str) -> np.ndarray:
        """The pictures in ``column``, from the cache file ``name``."""
        info = self.info
        shape = (info.splits.get(split, 0), channels, info.height, info.width)
        path = self._cache_dir / name
        shards, held = self.shards(split), 0
        for shard in shards:  # also where the pictures are cached: labels are read from the shards each time
            with _whole(shard):
                held += pq.read_metadata(shard).num_rows
        if held != shape[0]:
            raise DataError(
                f"{self.directory}: {split} holds {held} pictures, {DATASET_FILE} says {shape[0]}. Ingest again."
            )
        if not _is_array(path, shape):
            with replacing(path) as temporary:
                array = new_array(temporary, shape, np.uint8)
                row = 0
                for shard in shards:
                    for content in _contents(shard, column):
                        with _whole(shard):
                            picture = decode_prepared(content, channels)
                        if picture.shape != shape[1:]:
                            raise DataError(
                                f"{shard}: a picture is {picture.shape[1]}x{picture.shape[2]} pixels where "
                                f"{DATASET_FILE} says {info.height}x{info.width}. Ingest again."
                            )
                        array[row] = picture
                        row += 1
                array.flush()
                del array
        return np.load(path, mmap_mode="r")


@contextlib.contextmanager
def _whole(shard: Path) -> Iterator[None]:
    """A block that reads ``shard``; raises DataError where it is damaged."""
    try:
        yield
    # Arrow and Pillow raise what comes to hand where a length or an offset in a file is wrong.
    except (pa.ArrowException, LookupError, ValueError, SyntaxError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's
            raise
        raise DataError(f"{shard} is damaged ({error}). Run the ingest stage again.") from error


def _contents(shard: Path, column: str) -> Iterator[bytes]:
    """The PNGs in a column of a shard."""
    with _whole(shard):
        # Large pictures: few at a time. The pages are mapped, not read.
        for batch in pq.ParquetFile(shard, memory_map=True).iter_batches(columns=[column], batch_size=64):
            yield from batch.column(column).field("bytes").to_pylist()


def _is_array(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether ``path`` can be mapped as uint8 of ``shape``: a cached file that is cut short is made again."""
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError, SyntaxError):
        return False
    return found.shape == shape and found.dtype == np.uint8


def decode_prepared(content: bytes, channels: int) -> np.ndarray:
    """Decode one prepared PNG into uint8 of shape (C, H, W).

    Raises:
        ValueError: a byte of it is not what was written.
        DataError: it has other channels.
    """
    _check_sums(content)
    with Image.open(io.BytesIO(content)) as picture:
        array = np.asarray(picture)
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if array.shape[0] != channels:
        raise DataError(f"A prepared picture has {array.shape[0]} channels where {channels} are expected.")
    return array


def _check_sums(png: bytes) -> None:
    """Raise ValueError unless each chunk of a PNG has its sum. Pillow passes over those of the pixels."""
    if not png.startswith(_PNG):
        raise ValueError("a picture is no PNG")
    place = len(_PNG)
    while place < len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        end = place + 8 + length
        if zlib.crc32(png[place + 4 : end]) != int.from_bytes(png[end : end + 4], "big") or end + 4 > len(png):
            raise ValueError("the sum of a picture does not fit its bytes")
        place = end + 4


def user_cache_dir() -> Path:
    """Where downloads and derived caches live: ``GANTRY_CACHE_DIR``, or ``gantry`` in the user's cache folder.

    Raises:
        SettingsError: no variable names a folder, and this user has no home directory.
    """
    if given := os.environ.get("GANTRY_CACHE_DIR"):
        return Path(given)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "gantry"
    try:
        return Path.home() / ".cache" / "gantry"
    except RuntimeError:
        raise SettingsError("This user has no home directory for a cache. Set GANTRY_CACHE_DIR to a folder.") from None
