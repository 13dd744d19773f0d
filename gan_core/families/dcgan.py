"""DCGAN: Radford, Metz & Chintala 2015, "Unsupervised Representation Learning with Deep Convolutional GANs".

Strided convolutions down, fractionally strided ones up, batch norm in both networks except at the generator's output
and the discriminator's input, ReLU in the generator with tanh at its end, leaky ReLU in the discriminator, weights
N(0, 0.02).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gan_core import randomness
from gan_core.config import check, check_least
from gan_core.errors import SettingsError
from gan_core.families.base import Batch, Family, ImageShape, Losses
from gan_core.initialise import he_weights, normal_weights
from gan_core.losses import ADVERSARIAL_LOSSES


@dataclass(frozen=True, kw_only=True)
class DcganConfig:
    """DCGAN's own settings; the defaults are the paper's."""

    latent: int = 100
    """Coordinates of z."""
    prior: Literal["uniform", "normal"] = "uniform"
    """Distribution of z: uniform in [-1, 1] as in the paper (section 4.1, figure 1), or N(0, 1)."""
    width: int = 128
    """Feature maps nearest the picture; doubled at each halving of the resolution (figure 1: 128 to 1024 at 64 px)."""
    slope: float = 0.2
    """Leak slope of every leaky ReLU in the discriminator."""
    loss: Literal["non-saturating", "minimax"] = "non-saturating"
    init: Literal["normal", "he"] = "normal"
    """normal: N(0, 0.02); he: variance-preserving with the gain that follows ``slope``."""

    def __post_init__(self) -> None:
        check_least(self, 1, "latent", "width")
        check(0 <= self.slope < 1, f"slope: must lie in [0, 1), got {self.slope}.")


def halvings(shape: ImageShape) -> int:
    """How many times the picture is halved until its shorter side is 4 to 7 pixels.

    Raises:
        SettingsError: a side under 16 or over 128 pixels, one that cannot be halved so often, or more than 4 channels.
    """
    count = min(shape.height, shape.width).bit_length() - 3
    step = 2**count
    if not (min(shape.height, shape.width) >= 16 and max(shape.height, shape.width) <= 128):
        raise SettingsError(
            f"dcgan makes pictures of 16 to 128 pixels a side, not {shape.height}x{shape.width}. Change ingest.size."
        )
    if shape.height % step or shape.width % step:
        # Rounding the shorter side up to a power of two asks for one more halving: round with that step instead.
        if round(min(shape.height, shape.width) / step) == 8:
            step *= 2
        near = [round(side / step) * step for side in (shape.height, shape.width)]
        raise SettingsError(
            f"dcgan needs sides that divide by {2**count}, not {shape.height}x{shape.width}. Change ingest.size, to "
            f"{near} for instance."
        )
    if not 1 <= shape.channels <= 4:
        raise SettingsError(f"dcgan makes 1 to 4 channels, not {shape.channels}. Change ingest.channels.")
    return count


class Generator(nn.Module):
    """z (N, latent) to images (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: DcganConfig, shape: ImageShape) -> None:
        super().__init__()
        count = halvings(shape)
        widths = [config.width * 2**power for power in reversed(range(count))]
        self.base = (widths[0], shape.height >> count, shape.width >> count)
        # The paper's "project and reshape"; no bias, the batch norm behind it has one.
        self.project = nn.Linear(config.latent, self.base[0] * self.base[1] * self.base[2], bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(widths[-1], shape.channels, 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        """Images for ``latents`` (N, latent)."""
        maps = self.project(latents).view(-1, *self.base)
        return self.layers(maps.contiguous(memory_format=torch.channels_last))


class Discriminator(nn.Module):
    """Images (N, C, H, W) in [-1, 1] to logits (N,): above 0 means judged real."""

    def __init__(self, config: DcganConfig, shape: ImageShape) -> None:
        super().__init__()
        count = halvings(shape)
        widths = [config.width * 2**power for power in range(count)]
        layers: list[nn.Module] = [
            nn.Conv2d(shape.channels, widths[0], 4, stride=2, padding=1),
            nn.LeakyReLU(config.slope, inplace=True),
        ]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(config.slope, inplace=True),
            ]
        self.layers = nn.Sequential(*layers)
        self.judge = nn.Conv2d(widths[-1], 1, (shape.height >> count, shape.width >> count))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N,) for ``images``."""
        return self.judge(self.layers(images)).flatten()


class Dcgan(Family):
    """The deep convolutional GAN; unconditional, so labels are ignored in training."""

    Config = DcganConfig

    def __init__(self, config: DcganConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        self.networks = {"generator": Generator(config, shape), "discriminator": Discriminator(config, shape)}
        for name, network in self.networks.items():
            if config.init == "he":
                he_weights(
                    network, config.slope if name == "discriminator" else 0.0
                )  # the generator's ReLU leaks nothing
            else:
                normal_weights(network)
        self.loss = ADVERSARIAL_LOSSES[config.loss]

    def _fakes(self, batch: Batch) -> Tensor:
        """Generated images for this batch; both updates play against the same ones."""

        def make() -> Tensor:
            draw = randomness.uniform if self.config.prior == "uniform" else randomness.normal
            latents = draw((len(batch.real), self.config.latent), batch.part, batch.real.device, *batch.key, "latents")
            if self.config.prior == "uniform":
                latents = latents * 2 - 1
            return self.networks["generator"](latents)

        return batch.once("fakes", make)

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """Binary cross-entropy over real and generated images, judged apart: batch norm must not mix the two."""
        with torch.set_grad_enabled(batch.keep):
            fake_images = self._fakes(batch)
        discriminator = self.networks["discriminator"]
        real, fake = discriminator(batch.real).float(), discriminator(fake_images.detach()).float()
        total = self.loss.discriminator(real, fake)
        return Losses(
            total,
            {
                "loss/discriminator": total.detach(),
                "health/real_right": (real.detach() > 0).float().mean(),
                "health/fake_right": (fake.detach() < 0).float().mean(),
            },
        )

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """The generator's half of the game (``loss``: non-saturating or minimax)."""
        total = self.loss.generator(self.networks["discriminator"](self._fakes(batch)).float())
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
        """See :meth:`Family.sample`; every coordinate of z is drawn from the prior given ``abs(z) <= truncation``."""
        if label is not None:
            raise SettingsError("label: dcgan is unconditional and takes no label. Leave it out.")
        if truncation is not None and not truncation > 0:
            raise SettingsError(f"truncation: must be above 0, got {truncation}.")
        generator = (networks or self.networks)["generator"]
        device = next(generator.parameters()).device
        latents = latents_from_uniform(
            randomness.sampling_uniform(first, n, self.config.latent, seed), self.config.prior, truncation
        )
        return generator(latents.to(device))


def latents_from_uniform(uniform: Tensor, prior: str, truncation: float | None) -> Tensor:
    """Latents of ``prior`` by the inverse distribution function, bounded by ``truncation``; float32."""
    if prior == "uniform":
        return ((uniform * 2 - 1) * min(truncation or 1.0, 1.0)).float()
    bound = torch.special.ndtr(torch.tensor(-truncation if truncation else -torch.inf, dtype=torch.float64))
    return torch.special.ndtri(bound + uniform * (1 - 2 * bound)).float()
