"""The batch of a training step: real images, labels and conditions, shared by the updates of both sides."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from gan_core import randomness

Augmentation = Callable[[Tensor, "Batch", str], Tensor]
"""Augments images (N, C, H, W) at random; the text identifies the draw among those of a batch."""

Schedule = Callable[[int, float], float]
"""A number that changes during a run: a function of the number of the step and of the progress of the burn-in, 0 to 1."""


def _now(schedule: Schedule, step: int, progress: float) -> float | Tensor:
    return schedule(step, progress)


_value: Callable[[Schedule, int, float], float | Tensor] = _now


@contextlib.contextmanager
def scheduled_by(value: Callable[[Schedule, int, float], float | Tensor]) -> Iterator[None]:
    """Within the block, :meth:`Batch.scheduled` returns what ``value`` makes of a schedule, a step and a progress."""
    global _value
    before, _value = _value, value
    try:
        yield
    finally:
        _value = before


def no_augmentation(images: Tensor, batch: "Batch", draw: str) -> Tensor:
    """Return the images unchanged."""
    return images


@dataclass(kw_only=True)
class Batch:
    """One worker's rows of a step, shared by the updates of the discriminator and of the generator."""

    real: Tensor
    """Real images, float32 in [-1, 1], (N, C, H, W)."""
    labels: Tensor | None
    """Class indices, int64 (N,), or attributes of 0 and 1, float (N, attributes), or None."""
    condition: Tensor | None = None
    """Source images of a translation, float32 in [-1, 1], (N, C', H, W). Paired data: the condition of each row of ``real``.
    Unpaired data: images of domain A, sampled independently of ``real``, which is domain B. None for other kinds."""
    key: tuple[int | str, ...]
    """Identifies the step and the micro-batch. Random numbers are functions of it."""
    part: randomness.WorkerSlice
    """This worker's rows of the whole batch."""
    progress: float = 1.0
    """Progress of the burn-in, 0 to 1; see :meth:`scheduled`. Settings with a schedule have their final value at 1."""
    keep: bool = True
    """Whether to cache results that both updates need. Off to save memory, when gradients are accumulated."""
    augmentation: Augmentation = no_augmentation
    """Augmentation of the discriminator's images, real and generated; see :meth:`augment`."""
    _cache: dict[str, Any] = field(default_factory=dict)

    def augment(self, images: Tensor, draw: str) -> Tensor:
        """Augment ``images`` (N, C, H, W) for the discriminator. Different values of ``draw`` give different random numbers."""
        return self.augmentation(images, self, draw)

    def scheduled(self, schedule: Schedule, step: int = 0) -> float | Tensor:
        """Return the value of ``schedule`` in this step, a number or (in steps that are captured) a scalar on the device.

        A loss must take every number from here that is not the same in all steps, because a captured step repeats any other.
        """
        return _value(schedule, step, self.progress)

    def cached(self, name: str, make: Callable[[], Any], *, light: bool = False) -> Any:
        """Return ``make()``, computed once per batch. Without :attr:`keep` it is computed each time, unless it is ``light``.

        Args:
            name: key of the result in the cache.
            make: computes the result.
            light: whether the result takes so little memory that it is always cached.
        """
        if not (self.keep or light):
            return make()
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    def detach(self) -> None:
        """Cut what is cached off from its graph, after the last backward pass."""
        self._cache = tree_map(lambda found: found.detach() if isinstance(found, Tensor) else found, self._cache)
