"""Means of losses over the steps between two rows of metrics, and the duration of these steps."""

import contextlib
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from gan_core.families import Losses


class MetricsWindow:
    """Sums up metrics on their device until they are read, because reading a number makes a step wait for the GPU."""

    def __init__(self) -> None:
        # They stay where they are from window to window, because captured steps add to them.
        self._sums: dict[str, Tensor] = {}
        self._times: dict[str, float] = {}
        """How often each name was added in this window; 0 for a gauge."""
        self.start()

    def start(self) -> None:
        """Start a new window."""
        self.steps = 0
        """Steps since the start; counted by the caller."""
        self._started = time.perf_counter()
        self._times = {}
        if self._sums:
            torch._foreach_zero_(list(self._sums.values()))

    @torch.no_grad()
    def add(self, losses: Losses, pieces: int = 1) -> None:
        """Add the scalars of one of the ``pieces`` (micro-batches) of an update."""
        for name, value in losses.scalars.items():
            share = value / pieces
            if name in self._sums:
                self._sums[name].add_(share)
            else:
                self._sums[name] = share
            self._times[name] = self._times.get(name, 0.0) + 1 / pieces

    @torch.no_grad()
    def gauge(self, name: str, value: Tensor) -> None:
        """Set a scalar that is reported with its last value instead of a mean."""
        if name in self._sums:
            self._sums[name].copy_(value)
        else:
            self._sums[name] = value.detach().clone()
        self._times[name] = 0.0

    @contextlib.contextmanager
    def counted_apart(self) -> Iterator[dict[str, float]]:
        """Give how often each name is added within the block, which does not count: a step that is captured is not run."""
        before, self._times = self._times, {}
        try:
            yield self._times
        finally:
            self._times = before

    def count(self, times: Mapping[str, float]) -> None:
        """Count what a replayed step has added (of :meth:`counted_apart`)."""
        for name, of in times.items():
            self._times[name] = self._times.get(name, 0.0) + of

    def means(self) -> tuple[list[str], Tensor]:
        """Sorted names, and the mean of each over its updates: float32 (names,) on the device."""
        names = sorted(self._times)
        return names, torch.stack([self._sums[name].float() / (self._times[name] or 1.0) for name in names])

    def seconds(self) -> float:
        """Seconds since the start, without :meth:`paused` blocks."""
        return time.perf_counter() - self._started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of a block that is not training."""
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began
