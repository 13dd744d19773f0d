"""Batches of real images, in an endless shuffled order that is a function of seed and step."""

import logging
from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from gan_core import randomness
from gan_core.data import Pictures, PreparedDataset
from gan_core.errors import DataError
from gan_core.families import Batch
from gan_core.images.tensors import from_uint8
from gan_core.memory import available_memory
from gan_core.nn.padding import reflection_pad

log = logging.getLogger(__name__)

_PIECE = 1 << 28
"""Bytes that are copied to a device at a time."""
LABELS = "labels"
"""Name of the labels in what a feed prepares."""
NO_PICTURES = "The train split has no pictures. Add pictures, and ingest the dataset again."
NO_DOMAIN = (
    "The train split of unpaired data needs pictures of both domains, but one has none. Add pictures, and ingest the dataset "
    "again."
)


class ShuffledOrder:
    """Endless shuffled order of pictures: a new permutation for each epoch, a function of (seed, epoch)."""

    def __init__(self, members: np.ndarray, seed: int) -> None:
        """``members``: indices of pictures, int64 (n,)."""
        self._members, self._seed = torch.from_numpy(members), seed
        self._epochs: dict[int, Tensor] = {}

    def indices(self, first: int, count: int) -> Tensor:
        """Indices of the pictures at positions ``first`` to ``first + count`` of the order: int64 (count,)."""
        parts = []
        while count > 0:
            epoch, offset = divmod(first, len(self._members))
            part = self._permutation(epoch)[offset : offset + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        # The thread that reads ahead may already have replaced this epoch's permutation with the next one.
        order = self._epochs.get(epoch)
        if order is None:
            generator = torch.Generator().manual_seed(randomness.derive_seed(self._seed, "epoch", epoch))
            order = self._members[torch.randperm(len(self._members), generator=generator)]
            self._epochs = {epoch: order}
        return order


class Batches(ABC):
    """What the feeds have in common: the rows of a worker, and shifting and mirroring of images."""

    _paired = False
    """Whether the conditions are pictures of pairs."""

    def __init__(
        self,
        *,
        batch: int,
        seed: int,
        device: torch.device,
        part: randomness.WorkerSlice,
        mirror: bool = False,
        jitter: float = 0.0,
    ) -> None:
        self._batch, self._seed, self._device, self._part = batch, seed, device, part
        self._mirror, self._jitter = mirror, jitter

    def __call__(self, step: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Images (n, C, H, W) of batch number ``step``, labels, and conditions (n, C', H, W), with n = batch / workers.

        Images and conditions are float32 in [-1, 1], in channels_last. Labels are int64 (n,), attributes float32 (n, k).
        Labels and conditions are None if the data has none.
        """
        return self.finish(self.prepare(step), step)

    @abstractmethod
    def prepare(self, step: int) -> dict[str, Tensor]:
        """What the host knows or reads of batch number ``step``, by name, on the device: of the same shapes in each step."""

    def finish(self, prepared: dict[str, Tensor], step: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Make the batch on the device, of what :meth:`prepare` returned."""
        images, labels = self._pictures(prepared)
        if labels is not None and labels.dim() == 2:
            labels = labels.float()
        made = {name: self._augmented(name, from_uint8(pixels), step) for name, pixels in images.items()}
        return made["real"], labels, made.get("condition")

    def _pictures(self, prepared: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Pictures of ``real`` and, if there are any, ``condition``, uint8 (n, C, H, W), and labels."""
        return {name: pixels for name, pixels in prepared.items() if name != LABELS}, prepared.get(LABELS)

    def _augmented(self, name: str, images: Tensor, step: int) -> Tensor:
        """Shift and mirror ``images`` at random, both pictures of a pair equally."""
        of = () if name == "real" or self._paired else (name,)
        if self._jitter:
            offsets = self._uniform((len(images), 2), "jitter", *of, step)
            images = random_shift(images, self._jitter, offsets)
        if self._mirror:
            flip = self._uniform((len(images), 1, 1, 1), "mirror", *of, step) < 0.5
            images = torch.where(flip, images.flip(3), images)
        return images

    def _uniform(self, shape: tuple[int, ...], *key: int | str) -> Tensor:
        return randomness.uniform(shape, self._part, self._device, self._seed, *key)

    def _to_device(self, tensor: Tensor) -> Tensor:
        """Copy ``tensor`` to the device asynchronously, which needs pinned memory."""
        if tensor.device.type == self._device.type:
            return tensor
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(self._device, non_blocking=True)


class Feed(Batches):
    """Batches of real images for one worker, on its device, in [-1, 1].

    On a GPU, the whole dataset is kept in GPU memory as uint8 if it takes at most half of the free memory. Otherwise a
    thread reads rows ahead from the memory map and copies them through pinned memory. On a CPU, the dataset is kept in
    memory if it takes at most a quarter of the available memory, and is memory-mapped otherwise.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray | None,
        *,
        batch: int,
        seed: int,
        device: torch.device,
        part: randomness.WorkerSlice,
        conditions: np.ndarray | None = None,
        unpaired: bool = False,
        mirror: bool = False,
        jitter: float = 0.0,
    ) -> None:
        """Serve batches of ``batch`` images over all workers.

        Args:
            pixels: uint8 (N, C, H, W).
            labels: int64 (N,), or attributes, 0 and 1, (N, k).
            batch: real images per batch, over all workers.
            seed: seed of the order.
            device: device of the batches.
            part: this worker's rows of a batch.
            conditions: conditions of paired data (pictures to translate), uint8 (N, C', H, W).
            unpaired: whether label 0 is domain A, which is returned as conditions in an independent order, and label 1
                is domain B.
            mirror: see ``TrainConfig``; applied equally to the two pictures of a pair.
            jitter: see ``TrainConfig``; applied equally to the two pictures of a pair.

        Raises:
            DataError: there are no pictures, or a domain of unpaired data has none.
        """
        if len(pixels) == 0:
            raise DataError(NO_PICTURES)
        super().__init__(batch=batch, seed=seed, device=device, part=part, mirror=mirror, jitter=jitter)
        self._paired = conditions is not None
        self._sets = {"real": pixels}
        self._orders = {"real": ShuffledOrder(np.arange(len(pixels)), seed)}
        if conditions is not None:
            self._sets["condition"] = conditions
            self._orders["condition"] = self._orders["real"]
        elif unpaired:
            assert labels is not None
            domains = [np.flatnonzero(labels == domain) for domain in (0, 1)]
            if not all(map(len, domains)):
                raise DataError(NO_DOMAIN)
            self._sets["condition"] = pixels
            self._orders = {
                "real": ShuffledOrder(domains[1], seed),
                "condition": ShuffledOrder(domains[0], randomness.derive_seed(seed, "condition")),
            }
            labels = None
        self._ahead: tuple[int, Future[dict[str, Tensor]]] | None = None
        self._reader: ThreadPoolExecutor | None = None
        if device.type == "cuda":
            free, share = torch.cuda.mem_get_info(device)[0], 0.5
        else:
            free, share = available_memory(), 0.25
        arrays = {id(array): array for array in self._sets.values()}  # the two domains are one array
        size = sum(array.nbytes for array in arrays.values())
        fits = size <= free * share
        resident = {key: _copied(array, device) for key, array in arrays.items() if fits}
        self._resident = {name: resident[id(array)] for name, array in self._sets.items() if fits}
        self._labels = None if labels is None else torch.from_numpy(labels).to(device if fits else "cpu")
        if device.type == "cuda" and not fits:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="feed")
        log.info(
            "Training data is %s: %.0f MB of pixels, %.0f MB of free memory on the %s.",
            "kept in memory" if fits else "read from disk",
            size / 1e6,
            free / 1e6,
            device.type,
        )

    def prepare(self, step: int) -> dict[str, Tensor]:
        """See :meth:`Batches.prepare`: the rows of resident data, pictures and labels of other data."""
        if self._resident:
            return {name: self._to_device(order) for name, order in self._rows(step).items()}
        if self._reader is not None:
            if self._ahead is None or self._ahead[0] != step:
                self._ahead = (step, self._reader.submit(self._read, step))
            images = {name: self._to_device(read) for name, read in self._ahead[1].result().items()}
            self._ahead = (step + 1, self._reader.submit(self._read, step + 1))
        else:
            images = self._read(step)
        if self._labels is None:
            return images
        return {**images, LABELS: self._to_device(self._labels[self._rows(step)["real"]])}

    def _pictures(self, prepared: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
        if not self._resident:
            return super()._pictures(prepared)
        images = {name: self._resident[name][rows] for name, rows in prepared.items()}
        return images, None if self._labels is None else self._labels[prepared["real"]]

    def _rows(self, step: int) -> dict[str, Tensor]:
        mine = self._part.rows(self._batch // self._part.world)
        return {name: self._orders[name].indices(step * self._batch, self._batch)[mine] for name in self._sets}

    def _read(self, step: int) -> dict[str, Tensor]:
        read = {name: torch.from_numpy(self._sets[name][rows.numpy()]) for name, rows in self._rows(step).items()}
        return {name: images.pin_memory() if self._device.type == "cuda" else images for name, images in read.items()}


def _copied(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy ``array`` (N, ...) to ``device``, a piece at a time: the host may have less memory left than the device."""
    whole = torch.empty(array.shape, dtype=torch.uint8, device=device)
    rows = max(1, _PIECE * len(array) // max(array.nbytes, 1))
    for start in range(0, len(array), rows):
        whole[start : start + rows] = torch.from_numpy(np.array(array[start : start + rows]))
    return whole


def random_shift(images: Tensor, share: float, offsets: Tensor) -> Tensor:
    """Pad images (N, C, H, W) by ``share`` of their size, by reflection, and crop them at ``offsets`` (N, 2) in [0, 1).

    Replaces the random jitter of Isola et al. 2017, section 6.2, which crops 286 pixels to 256 (a share of 30/256). They
    resize large pictures to 286 pixels. Prepared pictures already have the training size, so enlarging would blur them.

    Returns:
        (N, C, H, W).
    """
    height, width = images.shape[2:]
    spare = round(height * share), round(width * share)
    halves = [part for whole in spare for part in (whole // 2, whole - whole // 2)]
    large = reflection_pad(images, (halves[0], halves[1], halves[2], halves[3]))
    down, right = ((offsets[:, side] * (whole + 1)).long() for side, whole in enumerate(spare))
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + torch.arange(width, device=images.device)
    picture = torch.arange(len(images), device=images.device)[:, None, None]
    # The result is channels_last in memory, like all images in training.
    return large.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def preview_batch(dataset: PreparedDataset, split: str, device: torch.device, count: int = 8) -> Batch:
    """The first ``count`` pictures of ``split``, for previews. For unpaired data, ``real`` is domain B, ``condition`` is A."""
    pixels, labels, conditions = dataset.pixels(split), dataset.labels(split), dataset.conditions(split)

    def taken(array: Pictures | None, rows: np.ndarray) -> Tensor | None:
        return None if array is None else from_uint8(torch.from_numpy(array[rows]).to(device))

    rows = other = np.arange(min(count, len(pixels)))
    if dataset.info.kind == "unpaired":
        assert labels is not None
        other, rows = (np.flatnonzero(labels == domain)[:count] for domain in (0, 1))
        labels, conditions = None, pixels
    known = None if labels is None else torch.from_numpy(labels[rows]).to(device)
    real = taken(pixels, rows)
    assert real is not None
    return Batch(
        real=real,
        labels=known.float() if known is not None and known.dim() == 2 else known,
        condition=taken(conditions, other),
        key=("look",),
        part=randomness.WorkerSlice(),
    )
