"""The steps that a row of metrics is about: means of the terms that losses gave, and how long the steps took."""

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from gan_core.families import Losses


class MetricsWindow:
    """Sums up terms on their device until they are read: to read a number back makes a step wait for the GPU."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew, with nothing counted."""
        self.steps = 0
        """Steps since the start; who takes them counts them."""
        self._started = time.perf_counter()
        self._sums: dict[str, Tensor] = {}
        self._times: dict[str, float] = {}

    def add(self, losses: Losses, pieces: int = 1) -> None:
        """Take in the terms of one of the ``pieces`` that an update is made of."""
        for name, value in losses.scalars.items():
            share = value / pieces
            self._sums[name] = self._sums[name] + share if name in self._sums else share
            self._times[name] = self._times.get(name, 0.0) + 1 / pieces

    def gauge(self, name: str, value: Tensor) -> None:
        """Take in what is not a mean over the steps but what it is at their end; a scalar."""
        self._sums[name] = value

    def means(self) -> tuple[list[str], Tensor]:
        """Names in their order, and the mean of each over its updates, float32 (names,), on the device."""
        names = sorted(self._sums)
        return names, torch.stack([self._sums[name].float() / self._times.get(name, 1.0) for name in names])

    def seconds(self) -> float:
        """Time since the start, without what was :meth:`off_the_clock`."""
        return time.perf_counter() - self._started

    @contextlib.contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """A block that is not training: its time does not count."""
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began
