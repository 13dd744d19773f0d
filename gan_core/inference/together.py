"""Generate the pictures of several requests in common batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gan_core.families import require
from gan_core.families.noise import NoiseFamily
from gan_core.images.tensors import finished_pictures
from gan_core.inference.generator import Generator


@dataclass(frozen=True)
class Draw:
    """The inputs of the pictures of a request: the arguments of :meth:`Generator.sample`, drawn."""

    latents: Tensor
    """z, (n, latent), on the generator's device."""
    labels: Tensor | None
    """Classes (n,), or None."""
    truncation: float | None


def draw(generator: Generator, n: int, seed: int, label: int | None = None, truncation: float | None = None) -> Draw:
    """Draw the inputs of pictures 0 to ``n`` of ``seed``.

    Raises:
        SettingsError: ``n`` is below 1, the seed is negative, or the family does not support the label or truncation.
    """
    generator.check_sample(n, seed, truncation)
    family = require(generator.family, NoiseFamily)
    device = next(family.networks["generator"].parameters()).device
    return Draw(*family.draw(n, seed, label, truncation, device=device), truncation)


@torch.inference_mode()
def sample_together(generator: Generator, draws: Sequence[Draw]) -> list[Tensor]:
    """Generate the pictures of all ``draws``: uint8 (n, C, H, W) on the CPU for each.

    They equal those of :meth:`Generator.sample` up to rounding, which depends on the other pictures in a batch. Draws of equal
    truncation share batches.
    """
    family = require(generator.family, NoiseFamily)
    network = family.networks["generator"]
    made: list[Tensor | None] = [None] * len(draws)
    for truncation in dict.fromkeys(one.truncation for one in draws):
        places = [at for at, one in enumerate(draws) if one.truncation == truncation]
        latents = torch.cat([draws[at].latents for at in places])
        labels = [one for at in places if (one := draws[at].labels) is not None]
        classes = torch.cat(labels) if labels else None
        made_in_parts = family.generate_in_parts(network, latents, classes, truncation)
        parts = [finished_pictures(part) for part in made_in_parts]
        for at, pictures in zip(places, torch.cat(parts).split([len(draws[at].latents) for at in places]), strict=True):
            made[at] = pictures
    return [pictures for pictures in made if pictures is not None]
