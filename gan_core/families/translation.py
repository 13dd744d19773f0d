"""What all families share that turn one picture into another."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gan_core.batch import Batch
from gan_core.errors import SettingsError
from gan_core.families.base import Family
from gan_core.nn.padding import cropped, padded


class TranslationFamily(Family):
    """Generators that turn a picture, and a domain where there are several, into another of the same size.

    A subclass builds ``networks``, says what :attr:`directions` there are, how one picture is translated
    (:meth:`translate_aligned`), and of which sides its generators take pictures (:attr:`side_multiple`, :attr:`min_side`).
    """

    does = "translate images"
    side_multiple: int = 1
    """Generators take sides that this divides; others are continued by reflection and cropped back ..."""
    min_side: int = 16
    """... and sides of this at least."""

    @abstractmethod
    def translate_aligned(
        self, images: Tensor, target: int | None, networks: Mapping[str, nn.Module], seed: int, first: int
    ) -> Tensor:
        """``images`` (N, C', H, W), of sides that the generators ``networks`` take, translated: (N, C, H, W)."""

    @property
    @abstractmethod
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """What it translates: (from domain, to domain) each; None where domains have no number."""

    @property
    def source_channels(self) -> int:
        """Channels of the pictures that are translated."""
        return self.shape.channels

    @property
    def target_domains(self) -> tuple[int, ...]:
        """Domains that a picture can be translated to; none where there is but one answer."""
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
        """Image to image: (N, C', H, W) to (N, C, H, W), both in [-1, 1], of any height and width.

        Args:
            images: what is to be translated.
            target: domain to translate to, for families that know several.
            seed: names the random numbers, for families that draw some; picture i of a seed draws the same ones.
            first: number of the first of the images among those of the seed.
            networks: use these generators (an EMA copy) in place of the family's own.

        Raises:
            SettingsError: a target that does not exist, or none where one is needed, or a wrong number of channels.
        """
        target = self.check_target(target)
        if images.shape[1] != self.source_channels:
            raise SettingsError(
                f"{self.name} has learnt to translate pictures of {self.source_channels} channels, not "
                f"{images.shape[1]}. Convert them first."
            )
        images, borders = padded(images, self.side_multiple, self.min_side)
        images = images.contiguous(memory_format=torch.channels_last)
        return cropped(self.translate_aligned(images, target, networks or self.networks, seed, first), borders)

    def check_target(self, target: int | None) -> int | None:
        """The domain to translate to, where ``target`` is left out the family's own; raises SettingsError."""
        if not self.target_domains:
            if target is not None:
                raise SettingsError(f"target: {self.name} translates in one way and takes no target. Leave it out.")
        elif target is None:
            raise SettingsError(f"target: {self.name} needs a domain to translate to, 0 to {self.target_domains[-1]}.")
        elif target not in self.target_domains:
            raise SettingsError(f"target: there is no domain {target}; the domains are 0 to {self.target_domains[-1]}.")
        return target

    def call_padded(self, generator: Callable[..., Tensor], images: Tensor, *inputs: Any) -> Tensor:
        """``generator`` of ``images`` (N, C', H, W) of any size, and of further ``inputs``."""
        images, borders = padded(images, self.side_multiple, self.min_side)
        return cropped(generator(images, *inputs), borders)


class ReferenceGuidedFamily(TranslationFamily):
    """Images are also translated in the style of a reference picture."""

    does = "take the style of a reference picture"

    @abstractmethod
    def translate_like(
        self, images: Tensor, references: Tensor, target: int, *, networks: Mapping[str, nn.Module] | None = None
    ) -> Tensor:
        """``images`` (N, C, H, W) translated to the domain ``target``, in the styles of ``references`` of that domain.

        Both in [-1, 1]. The references (N, C, h, w) have the size that was trained on.

        Raises:
            SettingsError: a target that does not exist, or references of another size or number.
        """


def with_channels(images: Tensor, channels: int) -> Tensor:
    """``images`` (N, C, H, W) to be shown beside others of ``channels``: grey repeated, alpha opaque or left out."""
    if images.shape[1] in (1, 2):
        images = images[:, :1].expand(-1, min(channels, 3), -1, -1)
    if channels == 4 and images.shape[1] == 3:
        return torch.cat([images, torch.ones_like(images[:, :1])], dim=1)
    return images[:, :channels]


def grid_rows(*columns: Tensor) -> tuple[Tensor, int]:
    """A grid of ``columns`` (N, C, H, W) each: its pictures row by row, of as many channels each, and the row's length."""
    channels = max(column.shape[1] for column in columns)
    pictures = [with_channels(column.float(), channels) for column in columns]
    return torch.stack(pictures, dim=1).flatten(0, 1), len(columns)


def conditions_of(batch: Batch) -> Tensor:
    """What the batch's images are to be made from, or domain A."""
    if batch.condition is None:
        raise TypeError("this batch has no conditions")
    return batch.condition


def labels_of(batch: Batch) -> Tensor:
    """The domains, or attributes, of the batch's images."""
    if batch.labels is None:
        raise TypeError("this batch has no labels")
    return batch.labels


def discriminator_accuracy(real: Tensor, fake: Tensor, border: float = 0.0) -> dict[str, Tensor]:
    """The shares of real and of generated images, or patches, that are judged on their side of ``border``."""
    return {
        "health/real_right": (real.detach() > border).float().mean(),
        "health/fake_right": (fake.detach() < border).float().mean(),
    }
