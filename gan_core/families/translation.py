"""Base classes of the families that translate pictures, and functions that they share."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gan_core.batch import Batch
from gan_core.errors import SettingsError
from gan_core.families.base import Family
from gan_core.nn.padding import crop_borders, pad_to_multiple


class TranslationFamily(Family):
    """A family that translates a picture to another of the same size, and to one of several domains if there are any.

    A subclass builds ``networks``, states its :attr:`directions` and the sides that its generators accept
    (:attr:`side_multiple`, :attr:`min_side`), and implements :meth:`translate_aligned`, and :meth:`translation_noise` if it
    draws random numbers.
    """

    ability = "translate images"
    side_multiple: int = 1
    """Generators accept sides that are multiples of this. Others are padded by reflection, and cropped afterwards."""
    min_side: int = 16
    """Smallest side that generators accept, in pixels. Smaller ones are padded as well."""
    separate_generators: ClassVar[bool] = False
    """Whether each target domain has a generator of its own, so that all pictures of a batch have the same target."""

    @abstractmethod
    def translate_aligned(
        self, images: Tensor, target: int | Tensor | None, networks: Mapping[str, nn.Module], noise: Tensor | None
    ) -> Tensor:
        """Translate images whose sides the generators accept.

        Args:
            images: (N, C', H, W) in [-1, 1].
            target: target domain, or one for each image, int64 (N,), unless each domain has its own generator.
            networks: generators by name.
            noise: see :meth:`translation_noise`.

        Returns:
            (N, C, H, W) in about [-1, 1].
        """

    def translation_noise(self, n: int, height: int, width: int, seed: int, first: int) -> Tensor | None:
        """Draw the random numbers of pictures ``first`` to ``first + n`` of ``seed``, float32 (n, numbers); None if the
        family draws none.

        ``height`` and ``width`` are those of the images that :meth:`translate_aligned` gets.
        """
        return None

    @property
    @abstractmethod
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """Translation directions, as pairs (from domain, to domain); None for domains without a number."""

    @property
    def source_channels(self) -> int:
        """Channels of the source pictures."""
        return self.shape.channels

    @property
    def target_domains(self) -> tuple[int, ...]:
        """Domains that a picture can be translated to; none if there is a single translation."""
        return tuple(sorted({to for _, to in self.directions if to is not None}))

    def translate(
        self,
        images: Tensor,
        target: int | None = None,
        seed: int = 0,
        *,
        first: int = 0,
        networks: Mapping[str, nn.Module] | None = None,
    ) -> Tensor:
        """Translate images (N, C', H, W) to (N, C, H, W), both in [-1, 1], of any height and width.

        Args:
            images: images to translate.
            target: target domain, for families with several.
            seed: seed of the random numbers, for families that draw some. Picture i of a seed always draws the same.
            first: index of the first image among those of the seed.
            networks: generators to use instead of the family's own, such as an EMA copy.

        Raises:
            SettingsError: the target does not exist or is missing, or the number of channels is wrong.
        """
        target = self.check_target(target)
        if images.shape[1] != self.source_channels:
            raise SettingsError(
                f"This {self.name} translates pictures of {self.source_channels} channels, not {images.shape[1]}. Convert them "
                "first."
            )
        images, borders = pad_to_multiple(images, self.side_multiple, self.min_side)
        images = images.contiguous(memory_format=torch.channels_last)
        noise = self.translation_noise(len(images), images.shape[2], images.shape[3], seed, first)
        noise = None if noise is None else noise.to(images.device)
        return crop_borders(self.translate_aligned(images, target, networks or self.networks, noise), borders)

    def check_target(self, target: int | None) -> int | None:
        """Return ``target``, or the family's default if it is None; raises SettingsError if there is no such domain."""
        if not self.target_domains:
            if target is not None:
                raise SettingsError(f"target: {self.name} has a single direction and takes no target. Leave it out.")
        elif target is None:
            raise SettingsError(
                f"target: {self.name} needs a target domain. Choose one of 0 to {self.target_domains[-1]}."
            )
        elif target not in self.target_domains:
            raise SettingsError(
                f"target: no domain {target}. Choose one of {', '.join(map(str, self.target_domains))}."
            )
        return target

    def call_padded(self, generator: Callable[..., Tensor], images: Tensor, *inputs: Any) -> Tensor:
        """Call ``generator`` on ``images`` (N, C', H, W) of any size and other ``inputs``; pads them, and crops the result."""
        images, borders = pad_to_multiple(images, self.side_multiple, self.min_side)
        return crop_borders(generator(images, *inputs), borders)


class ReferenceGuidedFamily(TranslationFamily):
    """A translation family that can also take the style of a reference picture."""

    ability = "take the style of a reference picture"

    @abstractmethod
    def translate_like(
        self, images: Tensor, references: Tensor, target: int, *, networks: Mapping[str, nn.Module] | None = None
    ) -> Tensor:
        """Translate ``images`` (N, C, H, W) to the domain ``target``, in the styles of ``references`` of that domain.

        Both are in [-1, 1]. The references (N, C, h, w) have the size of the training pictures.

        Raises:
            SettingsError: the target does not exist, or the size or number of references is wrong.
        """


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Convert ``images`` (N, C, H, W) to ``channels`` for display: grey is repeated, alpha is added (opaque) or dropped."""
    if images.shape[1] in (1, 2):
        images = images[:, :1].expand(-1, min(channels, 3), -1, -1)
    if channels == 4 and images.shape[1] == 3:
        return torch.cat([images, torch.ones_like(images[:, :1])], dim=1)
    return images[:, :channels]


def grid_rows(*columns: Tensor) -> tuple[Tensor, int]:
    """Arrange columns of pictures, (N, C, H, W) each, in a grid: the pictures row by row, and the number per row."""
    channels = max(column.shape[1] for column in columns)
    pictures = [with_channels(column.float(), channels) for column in columns]
    return torch.stack(pictures, dim=1).flatten(0, 1), len(columns)


def conditions_of(batch: Batch) -> Tensor:
    """Return the source images of the batch: conditions, or domain A."""
    if batch.condition is None:
        raise TypeError("this batch has no conditions")
    return batch.condition


def labels_of(batch: Batch) -> Tensor:
    """Return the domains, or attributes, of the batch's images."""
    if batch.labels is None:
        raise TypeError("this batch has no labels")
    return batch.labels


def discriminator_accuracy(real: Tensor, fake: Tensor, threshold: float = 0.0) -> dict[str, Tensor]:
    """Shares of real and of generated images, or patches, that the discriminator classifies correctly at ``threshold``."""
    return {
        "health/real_right": (real.detach() > threshold).float().mean(),
        "health/fake_right": (fake.detach() < threshold).float().mean(),
    }
