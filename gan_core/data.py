"""Read a prepared dataset, the folder that ingestion writes (Parquet shards and dataset.json), as arrays."""

import copy
import io
import json
import logging
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from gan_core.array_file import map_array, write_array
from gan_core.cache import user_cache_dir
from gan_core.config import build
from gan_core.errors import DataError, SettingsError
from gan_core.shards import (
    FolderShards,
    RowGroups,
    ShardSource,
    binary_column,
    explain_damage,
    list_row_groups,
)

_LOG = logging.getLogger(__name__)

DATASET_FILE = "dataset.json"
_PNG = b"\x89PNG\r\n\x1a\n"
FORMAT = 1
"""Version of the format of prepared data. It changes whenever older code would misread newer data, or vice versa."""


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The description of a prepared dataset, ``dataset.json``."""

    format: int
    name: str
    kind: str
    """``unlabelled``, ``labelled``, ``paired``, ``unpaired`` (two domains) or ``domains``."""
    channels: int
    height: int
    width: int
    classes: tuple[str, ...]
    """Class or domain names in label order; empty for pictures without labels. For unpaired data the names of A and B."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes. A picture may have several of them; data with attributes has no classes."""
    condition_channels: int = 0
    """Channels of the source pictures of paired data; 0 for other kinds."""
    derived: str = ""
    """How paired data derives the condition from the picture: greyscale, edges, mask or lowres; empty if it is a separate
    picture."""
    splits: dict[str, int]
    """Number of pictures by split."""
    mean: tuple[float, ...]
    """Per-channel mean of the train split, in [0, 1]."""
    std: tuple[float, ...]
    """Per-channel standard deviation of the train split, in [0, 1]."""
    digest: str
    """SHA-256 over the content of all shards, which identifies the data."""
    code_version: str
    rejects: dict[str, int]
    """Number of rejected pictures by reason (``rejects.csv`` lists them)."""


class PreparedDataset:
    """A prepared dataset on disk. Opening it reads only ``dataset.json``; pixels are decoded once into a cache.

    A dataset that is streamed has no such cache: its pictures are decoded whenever they are asked for.
    """

    def __init__(
        self, directory: Path | str, cache_dir: Path | str | None = None, *, shards: ShardSource | None = None
    ) -> None:
        """Open the dataset in ``directory``.

        Args:
            directory: folder with ``dataset.json``.
            cache_dir: folder for decoded pixels; by default in :func:`user_cache_dir`.
            shards: where the shards are if not in ``directory``. The dataset is then streamed.

        Raises:
            DataError: there is no prepared dataset, its description is damaged, or it has another format.
        """
        self.directory = Path(directory)
        # Before the description is read: if both are replaced in between, the shards are refused.
        self.source: ShardSource = shards or FolderShards(self.directory)
        """Where the shards are read from."""
        path = self.directory / DATASET_FILE
        if not path.is_file():
            raise DataError(
                f"No prepared dataset in {self.directory}: {DATASET_FILE} is missing. Run the ingest stage."
            )
        try:
            values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            # Checked first, because another format may have other fields.
            if isinstance(values, Mapping) and isinstance(found := values.get("format"), int) and found != FORMAT:
                raise DataError(
                    f"{path} describes a prepared dataset of format {found}; this version of Gantry reads format {FORMAT}. "
                    "Run the ingest stage again, or use the version that wrote it."
                )
            self.info = build(DatasetInfo, values)
        except (ValueError, SettingsError) as error:
            why = str(error).rstrip(".")
            raise DataError(f"{path} is not a dataset description: {why}. Run the ingest stage again.") from error
        self._cache_dir = Path(cache_dir) if cache_dir else user_cache_dir() / "decoded"
        self.remote = shards is not None
        """Whether the shards are not in :attr:`directory`."""
        self.streamed = self.remote
        """Whether pictures are decoded whenever they are asked for, and not once into the cache."""

    def streaming(self) -> "PreparedDataset":
        """Return the same dataset, streamed."""
        streamed = copy.copy(self)
        streamed.streamed = True
        return streamed

    def streamed_above(self, gib: float) -> "PreparedDataset":
        """Return the same dataset, streamed if the decoded pictures of its largest split take more than ``gib`` GiB."""
        largest = max(map(self.decoded_bytes, self.info.splits), default=0)
        return self.streaming() if largest > gib * 2**30 else self

    def decoded_bytes(self, split: str = "train") -> int:
        """Bytes of all decoded pictures of ``split``, with their conditions."""
        info = self.info
        return info.splits.get(split, 0) * (info.channels + info.condition_channels) * info.height * info.width

    def row_groups(self, split: str = "train") -> RowGroups:
        """List the row groups of ``split``; of unpaired data with the number of pictures of each domain.

        Raises:
            DataError: a shard is damaged, or the shards do not hold the number of pictures that ``dataset.json`` states.
        """
        self.shards(split)
        groups = list_row_groups(self.source, split, domains=2 if self.info.kind == "unpaired" else 0)
        self._check_count(split, int(groups.rows.sum()))
        return groups

    def shards(self, split: str) -> list[Path]:
        """Return the Parquet files of ``split``, in order; raises DataError for an unknown split.

        They exist only if the dataset is not :attr:`remote`.
        """
        if split not in self.info.splits:
            raise DataError(f"{self.directory} has no split '{split}'; it has {', '.join(sorted(self.info.splits))}.")
        return [self.directory / name for name in self.source.names(split)]

    def labels(self, split: str = "train") -> np.ndarray | None:
        """Return the labels of ``split``: class indices, int64 (N,), or attributes of 0 and 1, int64 (N, k), or None.

        Raises:
            DataError: a shard is damaged.
        """
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
        """Return ``labels``, or raise DataError if one is not in 0..count-1, as may happen in a damaged shard."""
        wrong = labels[(labels < 0) | (labels >= count)]
        if len(wrong):
            raise DataError(
                f"{self.directory}: split {split} has the label {wrong[0]}, but labels must be 0 to {count - 1}. "
                "The shards are damaged. Run the ingest stage again."
            )
        return labels

    def class_shares(self, split: str = "train") -> tuple[float, ...]:
        """Return the share of each class in ``split``; empty if there are no classes, or all are equally frequent."""
        if self.info.attributes or not self.info.classes:
            return ()
        counts = np.zeros(len(self.info.classes), dtype=np.int64)
        for column in self._column(split, "label"):  # one shard at a time, because there may be many labels
            counts += np.bincount(self._checked(split, column.to_numpy(), len(counts)), minlength=len(counts))
        return tuple((counts / counts.sum()).tolist()) if np.ptp(counts) else ()

    def _column(self, split: str, name: str) -> Iterator[pa.ChunkedArray]:
        """Yield the column ``name`` of each shard."""
        self.shards(split)
        for shard in self.source.names(split):
            with explain_damage(self.source.place(shard)), self.source.open(shard) as file:
                column = file.read(columns=[name])[name]
            yield column

    def pixels(self, split: str = "train") -> "Pictures":
        """Return all pictures of ``split``: uint8 (N, C, H, W), memory-mapped, read-only.

        They are decoded once into the cache folder, under the dataset's digest, and mapped from there afterwards. If the
        dataset is streamed, they are decoded whenever rows are taken.

        Raises:
            DataError: a shard is damaged or was replaced, or its pictures do not match ``dataset.json``.
        """
        return self._decoded(split, "image", self.info.channels, f"{self.info.digest[:32]}-{split}.npy")

    def conditions(self, split: str = "train") -> "Pictures | None":
        """Return the source pictures of paired data like :meth:`pixels`, uint8 (N, C', H, W); None for other kinds."""
        channels = self.info.condition_channels
        if not channels:
            return None
        return self._decoded(split, "condition", channels, f"{self.info.digest[:32]}-{split}-condition.npy")

    def _decoded(self, split: str, column: str, channels: int, name: str) -> "Pictures":
        """Return the pictures in ``column`` from the cache file ``name``, which is written if needed."""
        info = self.info
        shape = (info.splits.get(split, 0), channels, info.height, info.width)
        if self.streamed:
            return StreamedPictures(self.source, self.row_groups(split), column, shape)
        path = self._cache_dir / name
        self.shards(split)
        names, held = self.source.names(split), 0
        for shard in names:  # checked even if the pictures are cached, because labels are always read from the shards
            with explain_damage(self.source.place(shard)), self.source.open(shard) as file:
                held += file.metadata.num_rows
        self._check_count(split, held)
        try:
            return map_array(path, shape, np.uint8)
        except FileNotFoundError:
            pass
        except DataError as error:
            _LOG.warning("Decoding the pictures again, because their cache cannot be used: %s", error)
        with write_array(path, shape, np.uint8) as array:
            row = 0
            for shard in names:
                place = self.source.place(shard)
                for content in _contents(self.source, shard, column):
                    with explain_damage(place):
                        array[row] = decode_prepared(content, shape[1:], place)
                    row += 1
        return map_array(path, shape, np.uint8)

    def _check_count(self, split: str, held: int) -> None:
        """Raise DataError unless ``dataset.json`` states that ``split`` holds this number of pictures."""
        stated = self.info.splits.get(split, 0)
        if held != stated:
            raise DataError(
                f"{self.directory}: split {split} has {held} pictures, but {DATASET_FILE} states {stated}. Run the ingest "
                "stage again."
            )


class StreamedPictures:
    """The pictures of a split like an array uint8 (N, C, H, W) that is decoded row by row when it is indexed.

    It keeps one row group in memory, so it is fast for rows in ascending order only.
    """

    def __init__(self, source: ShardSource, groups: RowGroups, column: str, shape: tuple[int, ...]) -> None:
        self._source, self._groups, self._column = source, groups, column
        self.shape = shape
        """(N, C, H, W)."""
        self._ends = np.cumsum(groups.rows)
        self._held: tuple[int, pa.Array] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all pictures, decoded."""
        return math.prod(self.shape)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Decode the pictures at ``rows``, indices of any order: uint8 (n, C, H, W)."""
        chosen = np.arange(len(self))[rows]
        pictures = np.empty((len(chosen), *self.shape[1:]), dtype=np.uint8)
        for place, row in enumerate(chosen.tolist()):
            group = int(np.searchsorted(self._ends, row, side="right"))
            name = self._source.place(self._groups.names[self._groups.shard[group]])
            content = self._contents(group)[row - int(self._ends[group] - self._groups.rows[group])].as_py()
            with explain_damage(name):
                pictures[place] = decode_prepared(content, self.shape[1:], name)
        return pictures

    def _contents(self, group: int) -> pa.Array:
        if self._held is None or self._held[0] != group:
            self._held = None  # never two in memory
            groups = self._groups
            name, number = groups.names[groups.shard[group]], int(groups.number[group])
            with (
                explain_damage(self._source.place(name)),
                self._source.row_group(name, number, [self._column]) as table,
            ):
                # A copy, because the table may be mapped from a file that is removed.
                self._held = group, binary_column(table, self._column).take(pa.array(range(len(table))))
        return self._held[1]


Pictures = np.ndarray | StreamedPictures
"""Pictures of a split, uint8 (N, C, H, W), in memory, mapped from a file or streamed."""


def _contents(source: ShardSource, shard: str, column: str) -> Iterator[bytes]:
    """Yield the PNGs in a column of a shard."""
    with explain_damage(source.place(shard)), source.open(shard) as file:
        # Few at a time, because pictures may be large. The pages are mapped, not read.
        for batch in file.iter_batches(columns=[column], batch_size=64):
            yield from batch.column(column).field("bytes").to_pylist()


def decode_prepared(content: bytes, shape: tuple[int, ...], shard: Path | str) -> np.ndarray:
    """Decode a prepared PNG to uint8 of ``shape`` (C, H, W).

    Raises:
        ValueError: the PNG is damaged.
        DataError: it has another shape; the message names the ``shard``.
    """
    _check_sums(content)
    with Image.open(io.BytesIO(content)) as picture:
        array = np.asarray(picture)
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if array.shape[0] != shape[0]:
        raise DataError(
            f"{shard}: a prepared picture has {array.shape[0]} channels, expected {shape[0]}. Run the ingest stage again."
        )
    if array.shape != shape:
        raise DataError(
            f"{shard}: a picture has {array.shape[1]}x{array.shape[2]} pixels, but {DATASET_FILE} states "
            f"{shape[1]}x{shape[2]}. Run the ingest stage again."
        )
    return array


def _check_sums(png: bytes) -> None:
    """Raise ValueError unless the checksum of each chunk of a PNG is correct. Pillow does not check those of the pixels."""
    if not png.startswith(_PNG):
        raise ValueError("a picture is not a PNG")
    place = len(_PNG)
    while place < len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        end = place + 8 + length
        if zlib.crc32(png[place + 4 : end]) != int.from_bytes(png[end : end + 4], "big") or end + 4 > len(png):
            raise ValueError("the checksum of a picture is wrong")
        place = end + 4
