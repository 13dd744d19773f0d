"""The batch of a training step: real images, labels and conditions, shared by the updates of both sides."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gan_core import randomness

Augmentation = Callable[[Tensor, "Batch", str], Tensor]
"""Augments images (N, C, H, W) at random; the text identifies the draw among those of a batch."""


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
    """Progress of the burn-in, 0 to 1. Settings with a schedule have their final value at 1."""
    keep: bool = True
    """Whether to cache results that both updates need. Off to save memory, when gradients are accumulated."""
    augmentation: Augmentation = no_augmentation
    """Augmentation of the discriminator's images, real and generated; see :meth:`augment`."""
    _cache: dict[str, Any] = field(default_factory=dict)

    def augment(self, images: Tensor, draw: str) -> Tensor:
        """Augment ``images`` (N, C, H, W) for the discriminator. Different values of ``draw`` give different random numbers."""
        return self.augmentation(images, self, draw)

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
