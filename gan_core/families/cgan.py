"""cGAN: Mirza & Osindero 2014, "Conditional Generative Adversarial Nets", with DCGAN's networks.

Both networks are class-conditional. The generator gets a learnt embedding of it beside z. The discriminator gets it as one
more channel of the picture, in the paper's spirit, or by projection (Miyato & Koyama 2018).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from gan_core.config import check_at_least
from gan_core.errors import SettingsError
from gan_core.families import dcgan
from gan_core.families.base import ImageShape
from gan_core.families.noise import NoiseFamily

# With torch's N(0, 1) the class drowned z from the first step on, and all pictures of a class came out alike: on Fashion-MNIST,
# after 600 steps, they differed by a tenth of what real ones do; from this start, by three quarters.
_EMBEDDING_STD = 0.05


@dataclass(frozen=True, kw_only=True)
class CganConfig(dcgan.DcganConfig):
    """DCGAN's settings, and what is done with the class."""

    loss: Literal["non-saturating", "minimax", "hinge"] = "non-saturating"  # type: ignore[assignment]  # one more
    """The adversarial game: that of DCGAN, Goodfellow's own, or Miyato's."""
    embedding: int = 64
    """Length of the class embedding that the generator gets beside z."""
    condition: Literal["projection", "concatenation"] = "projection"
    """How the discriminator is conditioned on the class: the inner product of an embedding with its pooled features joins the
    logit, or an embedding as large as the picture joins the channels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "embedding")


class Generator(nn.Module):
    """z (N, latent) and classes (N,) to images (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: CganConfig, shape: ImageShape) -> None:
        super().__init__()
        self.classes = nn.Embedding(shape.classes, config.embedding)
        nn.init.normal_(self.classes.weight, 0.0, _EMBEDDING_STD)
        self.network = dcgan.Generator(replace(config, latent=config.latent + config.embedding), shape)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images of the classes ``labels`` (N,) for ``latents`` (N, latent)."""
        return self.network(torch.cat([latents, self.classes(labels)], dim=1))


class Projecting(nn.Module):
    """Images (N, C, H, W) and classes (N,) to logits (N,): DCGAN's, plus an embedding's product with pooled features.

    Miyato & Koyama 2018, equation 3.
    """

    def __init__(self, config: CganConfig, shape: ImageShape) -> None:
        super().__init__()
        self.network = dcgan.Discriminator(config, shape)
        self.classes = nn.Embedding(shape.classes, self.network.judge.in_channels)
        nn.init.normal_(self.classes.weight, 0.0, 0.02)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Logits (N,) for ``images`` said to be of the classes ``labels`` (N,)."""
        maps = self.network.layers(images)
        agreement = (self.classes(labels) * maps.float().sum(dim=(2, 3))).sum(dim=1)
        return self.network.judge(maps).flatten() + agreement


class Concatenating(nn.Module):
    """Images (N, C, H, W) and classes (N,) to logits (N,): DCGAN's, of pictures with their class as one more channel."""

    def __init__(self, config: CganConfig, shape: ImageShape) -> None:
        super().__init__()
        self.size = (1, shape.height, shape.width)
        self.classes = nn.Embedding(shape.classes, shape.height * shape.width)
        self.network = dcgan.Discriminator(config, shape)
        self.network.layers[0] = dcgan.strided_conv(shape.channels + 1, config.width, config.kernel, bias=True)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Logits (N,) for ``images`` said to be of the classes ``labels`` (N,)."""
        classes = self.classes(labels).view(-1, *self.size).to(images.dtype)
        return self.network(torch.cat([images, classes], dim=1).contiguous(memory_format=torch.channels_last))


class Cgan(NoiseFamily):
    """The class-conditional GAN."""

    name = "cgan"
    Config = CganConfig
    class_conditional = "always"

    def __init__(self, config: CganConfig, shape: ImageShape, *, class_shares: Sequence[float] = ()) -> None:
        super().__init__(config, shape, class_shares=class_shares)
        self.prior = config.prior
        discriminator = Projecting if config.condition == "projection" else Concatenating
        try:
            self.networks = {"generator": Generator(config, shape), "discriminator": discriminator(config, shape)}
        except SettingsError as error:
            raise SettingsError(f"cgan has dcgan's networks, and {error}") from None
        dcgan.initialise(self.networks, config)
