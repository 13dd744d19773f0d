"""Batches of real images: an endless shuffled order that is a function of (seed, step), and where the pixels live."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import psutil
import torch
from torch import Tensor

from gan_core import randomness
from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.families import Batch
from gan_core.images.tensors import from_uint8
from gan_core.nn.padding import reflected

log = logging.getLogger(__name__)


class Order:
    """Endless order over the pictures ``members``: a fresh permutation each epoch, each a function of (seed, epoch)."""

    def __init__(self, members: np.ndarray, seed: int) -> None:
        """``members``: indices of pictures, int64 (n,)."""
        self._members, self._seed = torch.from_numpy(members), seed
        self._epochs: dict[int, Tensor] = {}

    def indices(self, first: int, count: int) -> Tensor:
        """Picture indices at positions ``first`` to ``first + count`` of the order, int64."""
        parts = []
        while count > 0:
            epoch, offset = divmod(first, len(self._members))
            part = self._permutation(epoch)[offset : offset + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        # The thread that reads ahead may be an epoch further: what it keeps is no longer this one.
        order = self._epochs.get(epoch)
        if order is None:
            generator = torch.Generator().manual_seed(randomness.derive_seed(self._seed, "epoch", epoch))
            order = self._members[torch.randperm(len(self._members), generator=generator)]
            self._epochs = {epoch: order}
        return order


class Feed:
    """Real images of a step for one worker, on its device, in [-1, 1].

    The whole set lives on the GPU as uint8 when it takes at most half of the free memory; otherwise rows are read from
    the memory map ahead of time in a thread and copied from pinned memory. On the CPU the set is in memory when it
    takes at most a quarter of it, mapped from disk otherwise.
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
            batch: real images in a step.
            seed: names the order.
            device: where the batches go.
            part: this worker's rows.
            conditions: what the pictures are to be made from, uint8 (N, C', H, W), of paired data.
            unpaired: label 0 is domain A, which is served as conditions in an order of its own; label 1 is B.
            mirror, jitter: see ``TrainConfig``; the two pictures of a pair go through the same.
        """
        if len(pixels) == 0:
            raise DataError("The train split holds no picture.")
        self._batch, self._seed, self._device, self._part = batch, seed, device, part
        self._mirror, self._jitter = mirror, jitter
        self._paired = conditions is not None
        self._sets = {"real": pixels}
        self._orders = {"real": Order(np.arange(len(pixels)), seed)}
        if conditions is not None:
            self._sets["condition"] = conditions
            self._orders["condition"] = self._orders["real"]
        elif unpaired:
            assert labels is not None
            domains = [np.flatnonzero(labels == domain) for domain in (0, 1)]
            if not all(map(len, domains)):
                raise DataError("The train split of unpaired data needs pictures of both domains; one has none.")
            self._sets["condition"] = pixels
            self._orders = {
                "real": Order(domains[1], seed),
                "condition": Order(domains[0], randomness.derive_seed(seed, "condition")),
            }
            labels = None
        self._ahead: tuple[int, Future[dict[str, Tensor]]] | None = None
        self._reader: ThreadPoolExecutor | None = None
        if device.type == "cuda":
            free, share = torch.cuda.mem_get_info(device)[0], 0.5
        else:
            free, share = psutil.virtual_memory().available, 0.25
        arrays = {id(array): array for array in self._sets.values()}  # the two domains are one array
        size = sum(array.nbytes for array in arrays.values())
        fits = size <= free * share
        resident = {key: torch.from_numpy(np.array(array)).to(device) for key, array in arrays.items() if fits}
        self._resident = {name: resident[id(array)] for name, array in self._sets.items() if fits}
        self._labels = None if labels is None else torch.from_numpy(labels).to(device if fits else "cpu")
        if device.type == "cuda" and not fits:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="feed")
        log.info(
            "Data %s: %.0f MB of pixels, %.0f MB free on the %s.",
            "in memory near the device" if fits else "mapped from disk and read ahead",
            size / 1e6,
            free / 1e6,
            device.type,
        )

    def __call__(self, step: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Images of ``step`` (batch / workers, C, H, W), labels, and conditions (batch / workers, C', H, W).

        Images and conditions are float32 in [-1, 1], channels last. Labels are int64 (n,), attributes float32 (n, k).
        Labels and conditions are None where the data has none.
        """
        if self._resident:
            rows = {name: self._sent(order) for name, order in self._rows(step).items()}
            images = {name: self._resident[name][rows[name]] for name in rows}
        elif self._reader is not None:
            if self._ahead is None or self._ahead[0] != step:
                self._ahead = (step, self._reader.submit(self._read, step))
            images = {name: self._sent(read) for name, read in self._ahead[1].result().items()}
            self._ahead = (step + 1, self._reader.submit(self._read, step + 1))
            rows = self._rows(step)
        else:
            images, rows = self._read(step), self._rows(step)
        labels = None if self._labels is None else self._sent(self._labels[rows["real"]])
        if labels is not None and labels.dim() == 2:
            labels = labels.float()
        made = {name: self._changed(name, from_uint8(pixels), step) for name, pixels in images.items()}
        return made["real"], labels, made.get("condition")

    def _changed(self, name: str, images: Tensor, step: int) -> Tensor:
        """``images`` moved, and mirrored, at random; both pictures of a pair alike."""
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

    def _sent(self, tensor: Tensor) -> Tensor:
        """``tensor`` on the device, without waiting for it: a copy from memory that is not pinned would wait."""
        if tensor.device.type == self._device.type:
            return tensor
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(self._device, non_blocking=True)

    def _rows(self, step: int) -> dict[str, Tensor]:
        mine = self._part.rows(self._batch // self._part.world)
        return {name: self._orders[name].indices(step * self._batch, self._batch)[mine] for name in self._sets}

    def _read(self, step: int) -> dict[str, Tensor]:
        read = {name: torch.from_numpy(self._sets[name][rows.numpy()]) for name, rows in self._rows(step).items()}
        return {name: images.pin_memory() if self._device.type == "cuda" else images for name, images in read.items()}


def random_shift(images: Tensor, share: float, offsets: Tensor) -> Tensor:
    """Images (N, C, H, W) continued by ``share`` of their size and cut back to (H, W) at ``offsets`` (N, 2) in [0, 1).

    In place of the random jitter of Isola et al. 2017, section 6.2 (286 pixels cut to 256: a share of 30/256), which enlarges
    pictures: theirs come large. Prepared pictures have the size that is trained on, and enlarged they would be blurred, as
    none in use is. The borders are continued by reflection.
    """
    height, width = images.shape[2:]
    spare = round(height * share), round(width * share)
    halves = [part for whole in spare for part in (whole // 2, whole - whole // 2)]
    large = reflected(images, (halves[0], halves[1], halves[2], halves[3]))
    down, right = ((offsets[:, side] * (whole + 1)).long() for side, whole in enumerate(spare))
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + torch.arange(width, device=images.device)
    picture = torch.arange(len(images), device=images.device)[:, None, None]
    # The channels come last, as every image in training has them in memory.
    return large.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def preview_batch(dataset: PreparedDataset, split: str, device: torch.device, count: int = 8) -> Batch:
    """The first pictures of ``split``, to be watched: of unpaired data of each domain, B as ``real``, A as ``condition``."""
    pixels, labels, conditions = dataset.pixels(split), dataset.labels(split), dataset.conditions(split)

    def taken(array: np.ndarray | None, rows: np.ndarray) -> Tensor | None:
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
