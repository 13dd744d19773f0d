"""Batches of real images: an endless shuffled order that is a function of (seed, step), and where the pixels live."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import psutil
import torch
from torch import Tensor

from gan_core import randomness
from gan_core.errors import DataError

log = logging.getLogger(__name__)


class Order:
    """Endless order over ``count`` pictures: a fresh permutation each epoch, each a function of (seed, epoch)."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._epochs: dict[int, Tensor] = {}

    def indices(self, first: int, count: int) -> Tensor:
        """Picture indices at positions ``first`` to ``first + count`` of the order, int64."""
        parts = []
        while count > 0:
            epoch, offset = divmod(first, self._count)
            part = self._permutation(epoch)[offset : offset + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(randomness.derive_seed(self._seed, "epoch", epoch))
            self._epochs = {epoch: torch.randperm(self._count, generator=generator)}
        return self._epochs[epoch]


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
        part: randomness.Slice,
        mirror: bool = False,
    ) -> None:
        """Serve ``pixels`` (uint8 (N, C, H, W)), ``labels`` (int64 (N,)) in batches of ``batch`` over all workers."""
        if len(pixels) == 0:
            raise DataError("The train split holds no picture.")
        self._pixels, self._batch, self._seed = pixels, batch, seed
        self._device, self._part, self._mirror = device, part, mirror
        self._order = Order(len(pixels), seed)
        self._ahead: tuple[int, Future[tuple[Tensor, Tensor]]] | None = None
        self._reader: ThreadPoolExecutor | None = None
        if device.type == "cuda":
            free, share = torch.cuda.mem_get_info(device)[0], 0.5
        else:
            free, share = psutil.virtual_memory().available, 0.25
        fits = pixels.nbytes <= free * share
        self._resident = torch.from_numpy(np.array(pixels)).to(device) if fits else None
        self._labels = None if labels is None else torch.from_numpy(labels).to(device if fits else "cpu")
        if device.type == "cuda" and not fits:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="feed")
        log.info(
            "Data %s: %.0f MB of pixels, %.0f MB free on the %s.",
            "in memory near the device" if fits else "mapped from disk and read ahead",
            pixels.nbytes / 1e6,
            free / 1e6,
            device.type,
        )

    def __call__(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Images float32 (batch / workers, C, H, W), channels last, and labels int64 or None, for ``step``."""
        if self._resident is not None:
            rows = self._sent(self._rows(step))
            images = self._resident[rows]
        elif self._reader is not None:
            if self._ahead is None or self._ahead[0] != step:
                self._ahead = (step, self._reader.submit(self._read, step))
            images, rows = self._ahead[1].result()
            self._ahead = (step + 1, self._reader.submit(self._read, step + 1))
            images = self._sent(images)
        else:
            images, rows = self._read(step)
        labels = None if self._labels is None else self._sent(self._labels[rows])
        images = images.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
        if self._mirror:
            key = (self._seed, "mirror", step)
            flip = randomness.uniform((len(images), 1, 1, 1), self._part, self._device, *key) < 0.5
            images = torch.where(flip, images.flip(3), images)
        return images, labels

    def _sent(self, tensor: Tensor) -> Tensor:
        """``tensor`` on the device, without waiting for it: a copy from memory that is not pinned would wait."""
        if tensor.device.type == self._device.type:
            return tensor
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(self._device, non_blocking=True)

    def _rows(self, step: int) -> Tensor:
        return self._order.indices(step * self._batch, self._batch)[self._part.rows(self._batch // self._part.world)]

    def _read(self, step: int) -> tuple[Tensor, Tensor]:
        rows = self._rows(step)
        images = torch.from_numpy(self._pixels[rows.numpy()])
        return (images.pin_memory() if self._device.type == "cuda" else images), rows
