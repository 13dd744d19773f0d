"""One step's rows: real images, labels and conditions, shared by both updates."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gan_core import randomness

Augmentation = Callable[[Tensor, "Batch", str], Tensor]
"""Changes images (N, C, H, W) at random; the text tells apart the draws that one batch needs."""


def no_augmentation(images: Tensor, batch: "Batch", draw: str) -> Tensor:
    """The images as they are."""
    return images


@dataclass(kw_only=True)
class Batch:
    """One worker's rows of one step, shared by the discriminator's and the generator's update."""

    real: Tensor
    """Real images, float32 in [-1, 1], (N, C, H, W)."""
    labels: Tensor | None
    """Class indices, int64 (N,), or what holds of each picture, float (N, attributes), or None."""
    condition: Tensor | None = None
    """What the real images are to be made from, float32 in [-1, 1], (N, C', H, W): row by row theirs for paired data,
    images of domain A, drawn apart, for unpaired data, whose ``real`` is domain B. None for other kinds."""
    key: tuple[int | str, ...]
    """Names the step (and micro-batch): random numbers are functions of it."""
    part: randomness.WorkerSlice
    progress: float = 1.0
    """How far the run is through its burn-in, 0 to 1; settings with a schedule have arrived at their end at 1."""
    keep: bool = True
    """Whether work that both updates need may be kept between them; off when memory is what matters (accumulation)."""
    augmentation: Augmentation = no_augmentation
    """What the discriminator's images go through, real and generated alike; see :meth:`augment`."""
    _cache: dict[str, Any] = field(default_factory=dict)

    def augment(self, images: Tensor, draw: str) -> Tensor:
        """``images`` (N, C, H, W) as the discriminator sees them; ``draw`` tells apart the draws that the batch needs."""
        return self.augmentation(images, self, draw)

    def cached(self, name: str, make: Callable[[], Any], *, light: bool = False) -> Any:
        """The result of ``make``, made once a batch where memory allows or it is ``light``, made again otherwise."""
        if not (self.keep or light):
            return make()
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]
