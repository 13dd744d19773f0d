"""Batches of real images from shards that are read one after the other: for data larger than a host's memory or disk."""

import functools
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gan_core import randomness
from gan_core.data import PreparedDataset, decode_prepared
from gan_core.disk import format_bytes
from gan_core.errors import DataError, SettingsError
from gan_core.shards import RowGroups, binary_column, explain_damage
from gan_core.training.config import GIB, TrainConfig
from gan_core.training.feed import LABELS, NO_DOMAIN, NO_PICTURES, Batches
from gan_core.training.windows import Key, Window, WindowedOrder

log = logging.getLogger(__name__)

_MOST_DECODERS = 8
_SHARES = 3
"""Parts of the memory limit: the window that is used, the one that is read, and the row group that is in between."""


def streaming_reason(dataset: PreparedDataset, config: TrainConfig) -> str | None:
    """Why training streams this dataset, or None if it decodes it once (:attr:`TrainConfig.feed`).

    The answer depends on the data and the settings only, so that it is the same on every host and in a resumed run.

    Raises:
        SettingsError: the settings forbid to stream data that is not on this host.
    """
    if dataset.remote:
        if config.feed == "decoded":
            raise SettingsError(
                "train.feed: decoded needs all prepared data on every host, but it is larger than storage.cache_gib. Raise "
                "storage.cache_gib, or set train.feed to auto."
            )
        return "the prepared data is larger than storage.cache_gib"
    if config.feed == "stream":
        return "train.feed is stream"
    size, limit = dataset.decoded_bytes(), int(config.decoded_gib * GIB)
    if config.feed == "auto" and size > limit:
        return (
            f"its decoded pictures would take {format_bytes(size)}, more than train.decoded_gib ({format_bytes(limit)})"
        )
    return None


@dataclass(frozen=True)
class _Picture:
    """An encoded picture of this worker, with what belongs to it."""

    pngs: tuple[bytes, ...]
    label: int | list[int] | None
    place: str
    """Path or address of its shard, for messages."""


class _Stream:
    """This worker's pictures of one order: the window in use and the next one are in memory."""

    def __init__(
        self, order: WindowedOrder, load: Callable[[Window], dict[int, _Picture]], reader: ThreadPoolExecutor
    ) -> None:
        self._order, self._load, self._reader = order, load, reader
        self._windows: dict[Key, Future[dict[int, _Picture]]] = {}

    def restart(self) -> None:
        """Forget all windows."""
        for future in self._windows.values():
            future.cancel()
        self._windows = {}

    def prepare(self, used: int, needed: int) -> None:
        """Drop windows before position ``used``; read all up to ``needed``, and the one that follows ``used``'s."""
        current, last = self._order.key_of(used), self._order.key_of(needed)
        self._windows = {key: future for key, future in self._windows.items() if key >= current}
        key = current
        while key <= max(last, self._order.after(current)):
            if key not in self._windows:
                self._windows[key] = self._reader.submit(self._read, key)
            key = self._order.after(key)

    def _read(self, key: Key) -> dict[int, _Picture]:
        return self._load(self._order.window(key))

    def find(self, first: int, count: int) -> Callable[[], list[_Picture]]:
        """The pictures at positions ``first`` to ``first + count``, once called; they are then removed from memory."""
        keys = [self._order.key_of(position) for position in range(first, first + count)]
        windows = {key: self._windows[key] for key in set(keys)}

        def take() -> list[_Picture]:
            return [windows[key].result().pop(first + index) for index, key in enumerate(keys)]

        return take


class StreamFeed(Batches):
    """Batches of real images for one worker, on its device, in [-1, 1]; the pictures are decoded for each batch.

    A thread reads the next window while the current one is used; others decode the next batches. A worker keeps the PNGs of its
    own rows of two windows in memory, not more than ``memory`` together with the row group that is read.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        groups: RowGroups,
        *,
        memory: int,
        batch: int,
        seed: int,
        device: torch.device,
        part: randomness.WorkerSlice,
        unpaired: bool = False,
        mirror: bool = False,
        jitter: float = 0.0,
    ) -> None:
        """Serve batches of ``batch`` images over all workers, from the train split.

        Args:
            dataset: the prepared dataset.
            groups: row groups of its train split.
            memory: largest number of bytes of encoded pictures in memory.
            batch: real images per batch, over all workers.
            seed: seed of the order.
            device: device of the batches.
            part: this worker's rows of a batch.
            unpaired: whether label 0 is domain A, which is returned as conditions in an independent order, and label 1
                is domain B.
            mirror: see ``TrainConfig``; applied equally to the two pictures of a pair.
            jitter: see ``TrainConfig``; applied equally to the two pictures of a pair.

        Raises:
            DataError: there are no pictures, or a domain of unpaired data has none.
            SettingsError: a row group is too large for ``memory``.
        """
        super().__init__(batch=batch, seed=seed, device=device, part=part, mirror=mirror, jitter=jitter)
        info = dataset.info
        self._dataset, self._groups = dataset, groups
        self._paired = info.condition_channels > 0
        self._columns = ["image", *(["condition"] if self._paired else [])]
        self._shapes = [
            (channels, info.height, info.width) for channels in (info.channels, info.condition_channels) if channels
        ]
        self._labelled = "attributes" if info.attributes else "label" if info.classes else None
        members = {"real": groups.members[1], "condition": groups.members[0]} if unpaired else {"real": groups.rows}
        if not len(groups.rows):
            raise DataError(NO_PICTURES)
        if not all(rows.any() for rows in members.values()):
            raise DataError(NO_DOMAIN)
        share, largest = memory // (_SHARES * len(members)), int(groups.size.max())
        if largest > share:
            raise SettingsError(
                f"train.stream_gib: a row group of this data has {format_bytes(largest)}, and {_SHARES * len(members)} times "
                f"as much must fit. Set train.stream_gib to at least {_SHARES * len(members) * largest / GIB * 1.01:.3g}."
            )
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="shards")
        # On a CPU the steps need the cores, and are so slow that one thread decodes fast enough.
        decoders = min(_MOST_DECODERS, torch.get_num_threads()) if device.type == "cuda" else 1
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._depth = decoders + 1
        self._streams = {
            name: _Stream(
                WindowedOrder(rows, groups.size, window_bytes=share, seed=self._order_seed(name)),
                functools.partial(self._load, domain=domain),
                self._reader,
            )
            for (name, rows), domain in zip(members.items(), (1, 0) if unpaired else (None,), strict=True)
        }
        self._next = 0
        self._ahead: list[Future[tuple[dict[str, Tensor], Tensor | None]]] = []
        log.info(
            "Training data is streamed: %s of PNGs in %d row groups, windows of up to %s.",
            format_bytes(int(groups.size.sum())),
            len(groups.rows),
            format_bytes(share),
        )

    def _order_seed(self, name: str) -> int:
        return self._seed if name == "real" else randomness.derive_seed(self._seed, name)

    def prepare(self, step: int) -> dict[str, Tensor]:
        """See :meth:`Batches.prepare`: pictures and labels."""
        if step != self._next or not self._ahead:
            for future in self._ahead:
                future.cancel()
            self._ahead = []
            for stream in self._streams.values():
                stream.restart()
        first, count = step * self._batch, self._batch
        for stream in self._streams.values():
            stream.prepare(first, first + (self._depth + 1) * count - 1)
        for later in range(step + len(self._ahead), step + self._depth + 1):
            mine = self._part.rows(count // self._part.world)
            found = {
                name: stream.find(later * count + mine.start, mine.stop - mine.start)
                for name, stream in self._streams.items()
            }
            self._ahead.append(self._decoders.submit(self._decode, found))
        images, labels = self._ahead.pop(0).result()
        self._next = step + 1
        prepared = images if labels is None else {**images, LABELS: labels}
        return {name: self._to_device(tensor) for name, tensor in prepared.items()}

    def _decode(self, found: dict[str, Callable[[], list[_Picture]]]) -> tuple[dict[str, Tensor], Tensor | None]:
        taken = {name: take() for name, take in found.items()}
        images = {name: self._decoded(pictures, 0) for name, pictures in taken.items()}
        if self._paired:
            images["condition"] = self._decoded(taken["real"], 1)
        if self._labelled is None or len(self._streams) > 1:
            return images, None
        return images, torch.tensor([picture.label for picture in taken["real"]], dtype=torch.int64)

    def _decoded(self, pictures: list[_Picture], column: int) -> Tensor:
        shape = self._shapes[column]
        made = torch.empty((len(pictures), *shape), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        array = made.numpy()
        for row, picture in enumerate(pictures):
            with explain_damage(picture.place):
                array[row] = decode_prepared(picture.pngs[column], shape, picture.place)
        return made

    def _load(self, window: Window, *, domain: int | None) -> dict[int, _Picture]:
        """Read this worker's pictures of ``window`` by their position in the order."""
        positions = window.first + np.arange(len(window.groups))
        rows = self._part.rows(self._batch // self._part.world)
        within = positions % self._batch
        mine = np.flatnonzero((within >= rows.start) & (within < rows.stop))
        mine = mine[np.argsort(window.groups[mine], kind="stable")]
        groups, begins = np.unique(window.groups[mine], return_index=True)
        found: dict[int, _Picture] = {}
        for group, places in zip(groups.tolist(), np.split(mine, begins[1:]), strict=True):
            pictures = self._read(group, window.members[places], domain)
            found.update(zip(positions[places].tolist(), pictures, strict=True))
        return found

    def _read(self, group: int, members: np.ndarray, domain: int | None) -> list[_Picture]:
        """Read pictures of a row group; ``members``: their numbers among those of ``domain``, or among all."""
        source, name = self._dataset.source, self._groups.names[self._groups.shard[group]]
        place = source.place(name)
        columns = [*self._columns, *([self._labelled] if self._labelled else [])]
        with explain_damage(place), source.row_group(name, int(self._groups.number[group]), columns) as table:
            if domain is not None:
                members = np.flatnonzero(table["label"].to_numpy() == domain)[members]
            pngs = [binary_column(table, column).take(members).to_pylist() for column in self._columns]
            labels = table[self._labelled].take(members).to_pylist() if self._labelled else [None] * len(members)
        self._check_labels(labels, place)
        return [_Picture(row, label, place) for row, label in zip(zip(*pngs, strict=True), labels, strict=True)]

    def _check_labels(self, labels: list[int | list[int] | None], place: str) -> None:
        """Raise DataError if a label is not one that ``dataset.json`` names."""
        info = self._dataset.info
        if self._labelled is None or not labels:
            return
        values, count = np.array(labels), 2 if info.attributes else len(info.classes)
        wrong = values[(values < 0) | (values >= count)]
        if len(wrong):
            raise DataError(
                f"{place} has the label {wrong[0]}, but labels must be 0 to {count - 1}. It is damaged. Run the ingest stage "
                "again."
            )
