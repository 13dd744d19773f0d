"""A family of two small dense networks without batch norm. Its settings can inject NaN and mode collapse."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan_core import randomness
from gan_core.families import Batch, ImageShape, Losses
from gan_core.families.noise import NoiseFamily
from gan_core.nn.losses import logistic_discriminator, non_saturating_generator

LATENT = 8


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """Settings of the toy family. Faults are injected until there have been ``cured_after`` rollbacks."""

    latents_from_data: bool = False
    """Take the latents from the real images, so that they do not depend on the split into micro-batches."""
    nan_at: int = -1
    """Step at which the loss is NaN."""
    collapse_from: int = 10**9
    """Step from which all generated images are equal."""
    cured_after: int = 10**9


class Toy(NoiseFamily):
    """Dense generator, dense discriminator, cross-entropy."""

    name = "toy"
    Config = ToyConfig

    def __init__(self, config: ToyConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        pixels = shape.channels * shape.height * shape.width
        self.networks = {
            "generator": nn.Sequential(nn.Linear(LATENT, 32), nn.ReLU(), nn.Linear(32, pixels), nn.Tanh()),
            "discriminator": nn.Sequential(nn.Flatten(), nn.Linear(pixels, 32), nn.Tanh(), nn.Linear(32, 1)),
        }

    def _images(self, latents: Tensor, generator: Callable[..., Tensor]) -> Tensor:
        return generator(latents).view(-1, self.shape.channels, self.shape.height, self.shape.width)

    def fakes(self, batch: Batch) -> Tensor:
        """Images of this batch's latents, all equal where a collapse was ordered."""

        def make() -> Tensor:
            if self.config.latents_from_data:
                latents = batch.real.flatten(1)[:, 100 : 100 + LATENT]
            else:
                key = (*batch.key, "latents")
                latents = randomness.normal((len(batch.real), LATENT), batch.part, batch.real.device, *key)
            images = self._images(latents, self.network("generator"))
            ill = batch.key[1] < self.config.cured_after
            return images * 0 if ill and batch.key[2] >= self.config.collapse_from else images

        return batch.cached("fakes", make)

    def latent_weights(self) -> Tensor:
        """Those of the first layer."""
        return self.networks["generator"].get_parameter("0.weight")

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """Cross-entropy, or NaN where ordered."""
        judge = self.network("discriminator")
        total = logistic_discriminator(judge(batch.real), judge(self.fakes(batch).detach()))
        if step == self.config.nan_at and batch.key[1] < self.config.cured_after:
            total = total * math.nan
        return Losses(total, {"loss/discriminator": total.detach()})

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """Non-saturating."""
        total = non_saturating_generator(self.network("discriminator")(self.fakes(batch)))
        return Losses(total, {"loss/generator": total.detach()})

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
        """Images of latents uniform in [-1, 1]."""
        latents = randomness.sampling_uniform(first, n, LATENT, seed).float() * 2 - 1
        return self._images(latents, (networks or self.networks)["generator"])


def weights(networks: Mapping[str, nn.Module]) -> Tensor:
    """All parameters as one vector."""
    return torch.cat([p.detach().flatten() for name in sorted(networks) for p in networks[name].parameters()]).clone()
