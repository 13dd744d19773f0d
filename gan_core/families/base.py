"""The contract between a family (an adversarial game) and everything that trains, samples or exports one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gan_core import randomness
from gan_core.data import DatasetInfo
from gan_core.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """What a family has to make: the shape and the classes of the data."""

    channels: int
    height: int
    width: int
    classes: int = 0
    """Number of classes; 0 when unlabelled."""

    @classmethod
    def of(cls, info: DatasetInfo) -> "ImageShape":
        """The shape of a prepared dataset's pictures."""
        return cls(channels=info.channels, height=info.height, width=info.width, classes=len(info.classes))


@dataclass(kw_only=True)
class Batch:
    """One worker's rows of one step, shared by the discriminator's and the generator's update."""

    real: Tensor
    """Real images, float32 in [-1, 1], (N, C, H, W)."""
    labels: Tensor | None
    """Class indices, int64 (N,), or None."""
    key: tuple[int | str, ...]
    """Names the step (and micro-batch): random numbers are functions of it."""
    part: randomness.Slice
    keep: bool = True
    """Whether work that both updates need may be kept between them; off when memory is what matters (accumulation)."""
    _kept: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of ``make``, made once a batch where memory allows, made again otherwise."""
        if not self.keep:
            return make()
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]


@dataclass(frozen=True)
class Losses:
    """What one update minimises, and what it has to say about itself."""

    total: Tensor
    terms: dict[str, Tensor]
    """Detached scalars for the log, such as ``loss/discriminator``, ``health/real_right``; they stay on the device."""


class Family:
    """An adversarial game: networks by name, two losses, and a way to use the result.

    A subclass sets :attr:`Config` (a frozen dataclass), builds :attr:`networks` in its constructor, names which of them
    are generators, and implements the losses and :meth:`sample` or :meth:`translate`. It never steps an optimiser.
    """

    Config: ClassVar[type]
    generators: ClassVar[tuple[str, ...]] = ("generator",)
    discriminators: ClassVar[tuple[str, ...]] = ("discriminator",)

    def __init__(self, config: Any, shape: ImageShape) -> None:
        self.config = config
        self.shape = shape
        self.networks: dict[str, nn.Module] = {}

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """The discriminators' loss; must leave generators without gradient."""
        raise TypeError(f"{type(self).__name__} has no discriminator loss")

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """The generators' loss; runs while the discriminators' parameters are frozen."""
        raise TypeError(f"{type(self).__name__} has no generator loss")

    def sample(
        self,
        n: int,
        seed: int,
        label: int | None = None,
        truncation: float | None = None,
        *,
        first: int = 0,
        networks: Mapping[str, nn.Module] | None = None,
    ) -> Tensor:
        """Noise to image: pictures ``first`` to ``first + n`` of ``seed``, float in [-1, 1], (n, C, H, W).

        Args:
            n: how many.
            seed: names the sequence of pictures; picture i of a seed is the same whatever the batch.
            label: class index for families that take one.
            truncation: bound on each latent coordinate, for families that take one; None for the full prior.
            first: index of the first picture in the seed's sequence.
            networks: use these generators (an EMA copy) in place of the family's own.
        """
        raise SettingsError(f"{type(self).__name__.lower()} makes no images from noise.")

    def translate(self, images: Tensor, target: int | None = None, seed: int = 0) -> Tensor:
        """Image to image: (N, C, H, W) in [-1, 1] to the same shape."""
        raise SettingsError(f"{type(self).__name__.lower()} translates no images.")

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.channels_last) -> "Family":
        """Move every network to ``device`` in ``memory_format``; returns self."""
        for network in self.networks.values():
            network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        return self
