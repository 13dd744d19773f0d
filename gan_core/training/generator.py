"""The averaged generator of a run in training: what is drawn and measured."""

import copy

import torch
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.families import Family, require
from gan_core.families.noise import NoiseFamily, StyleBasedFamily
from gan_core.families.translation import TranslationFamily
from gan_core.images.tensors import from_uint8, to_uint8
from gan_core.inference.path import Space, path_step
from gan_core.training.ema import AveragedNetworks
from gan_core.training.feed import preview_batch


class AveragedGenerator:
    """Makes pictures with the averaged generators of a run as they are now. Call :meth:`update_statistics` first.

    It is a :class:`~gan_core.metrics.measurement.Subject`, so it can be measured like an exported generator.
    """

    def __init__(
        self, family: Family, averaged: AveragedNetworks, dataset: PreparedDataset, device: torch.device
    ) -> None:
        self._family, self._device = family, device
        self.networks = averaged.networks
        """The averaged networks by name."""
        # Preview and measure translations on pictures that are not trained on, if there are any.
        self.split = "test" if self.translates and dataset.info.splits.get("test") else "train"
        """Split of the real pictures that the pictures are compared with."""
        self._reals = preview_batch(dataset, self.split, device)

    @property
    def translates(self) -> bool:
        """Whether the family translates pictures; False if it generates them from noise."""
        return self._family.can(TranslationFamily)

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """(source, target) domains of each direction; empty for families that generate from noise."""
        return self._family.directions

    @torch.inference_mode()
    def sample(self, n: int, seed: int, *, first: int = 0) -> Tensor:
        """Generate pictures ``first`` to ``first + n`` of a seed: uint8 (n, C, H, W)."""
        family, parts = require(self._family, NoiseFamily), []
        size = family.pictures_at_once(self._device)
        for start in range(0, n, size):
            count = min(size, n - start)
            parts.append(to_uint8(family.sample(count, seed, first=first + start, networks=self.networks)))
        return torch.cat(parts)

    @property
    def conditional(self) -> bool:
        """Whether it is class-conditional."""
        return self._family.conditional

    def labels(self, n: int, seed: int) -> Tensor | None:
        """Classes of the pictures that ``sample(n, seed)`` makes, int64 (n,); None if it is not class-conditional."""
        return require(self._family, NoiseFamily).draw(n, seed)[1]

    @property
    def takes_mixed_styles(self) -> bool:
        """Whether it generates from styles (a space w)."""
        return self._family.can(StyleBasedFamily)

    @torch.inference_mode()
    def path_step(self, n: int, seed: int, *, space: Space, epsilon: float, first: int = 0) -> tuple[Tensor, Tensor]:
        """Pairs of pictures a small step apart in the latent space. See :func:`gan_core.inference.path.path_step`."""
        family = copy.copy(self._family)
        family.networks = {**family.networks, **self.networks}
        return path_step(family, n, seed, space=space, epsilon=epsilon, first=first)

    @torch.inference_mode()
    def translate(self, images: Tensor, target: int | None = None, seed: int = 0, *, first: int = 0) -> Tensor:
        """Translate pictures uint8 (N, C', H, W): uint8 (N, C, H, W)."""
        family = require(self._family, TranslationFamily)
        given = from_uint8(images.to(self._device))
        return to_uint8(family.translate(given, target, seed, first=first, networks=self.networks))

    @torch.inference_mode()
    def preview(self) -> tuple[Tensor, int]:
        """A grid of pictures, uint8 (n, C, H, W), and its number of columns."""
        pictures, columns = self._family.preview(self._reals, self.networks)
        return to_uint8(pictures), columns

    def update_statistics(self, batches: int = 16) -> None:
        """Measure batch-norm statistics of the averaged generators, as sampling needs (:meth:`Family.update_statistics`)."""
        self._family.update_statistics(self.networks, batches=batches)
