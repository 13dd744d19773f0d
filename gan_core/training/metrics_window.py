"""Means of losses over the steps between two rows of metrics, and the duration of these steps."""

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from gan_core.families import Losses


class MetricsWindow:
    """Sums up metrics on their device until they are read, because reading a number makes a step wait for the GPU."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a new window."""
        self.steps = 0
        """Steps since the start; counted by the caller."""
        self._started = time.perf_counter()
        self._sums: dict[str, Tensor] = {}
        self._times: dict[str, float] = {}

    def add(self, losses: Losses, pieces: int = 1) -> None:
        """Add the scalars of one of the ``pieces`` (micro-batches) of an update."""
        for name, value in losses.scalars.items():
            share = value / pieces
            self._sums[name] = self._sums[name] + share if name in self._sums else share
            self._times[name] = self._times.get(name, 0.0) + 1 / pieces

    def gauge(self, name: str, value: Tensor) -> None:
        """Set a scalar that is reported with its last value instead of a mean."""
        self._sums[name] = value

    def means(self) -> tuple[list[str], Tensor]:
        """Sorted names, and the mean of each over its updates: float32 (names,) on the device."""
        names = sorted(self._sums)
        return names, torch.stack([self._sums[name].float() / self._times.get(name, 1.0) for name in names])

    def seconds(self) -> float:
        """Seconds since the start, without :meth:`paused` blocks."""
        return time.perf_counter() - self._started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of a block that is not training."""
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began
