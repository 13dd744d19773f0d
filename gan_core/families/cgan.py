"""cGAN: Mirza & Osindero 2014, "Conditional Generative Adversarial Nets", with DCGAN's networks.

Both networks are class-conditional. The generator gets a learnt embedding of the class besides z. The discriminator gets the
class as an additional channel of the picture, in the spirit of the paper, or by projection (Miyato & Koyama 2018).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from gan_core.config import check_at_least
from gan_core.errors import SettingsError
from gan_core.families import dcgan
from gan_core.families.base import ImageShape, layers_in_order
from gan_core.families.noise import NoiseFamily

# With torch's N(0, 1) the class dominates z from the first step on, and all pictures of a class are alike: on Fashion-MNIST,
# after 600 steps, their diversity was a tenth of that of real pictures; with this value, three quarters.
_EMBEDDING_STD = 0.05


@dataclass(frozen=True, kw_only=True)
class CganConfig(dcgan.DcganConfig):
    """Settings of cGAN: those of DCGAN, and those for the class."""

    loss: Literal["non-saturating", "minimax", "hinge"] = "non-saturating"  # type: ignore[assignment]  # one more choice
    """Adversarial loss: non-saturating, minimax (Goodfellow et al. 2014) or hinge (Miyato et al. 2018)."""
    embedding: int = 64
    """Length of the class embedding that the generator gets besides z."""
    condition: Literal["projection", "concatenation"] = "projection"
    """How the discriminator uses the class; projection: the inner product of an embedding with the pooled features is added to
    the logit; concatenation: an embedding as large as the picture is an additional channel."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "embedding")


class Generator(nn.Module):
    """Maps z (N, latent) and classes (N,) to images (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: CganConfig, shape: ImageShape) -> None:
        super().__init__()
        self.classes = nn.Embedding(shape.classes, config.embedding)
        nn.init.normal_(self.classes.weight, 0.0, _EMBEDDING_STD)
        self.network = dcgan.Generator(replace(config, latent=config.latent + config.embedding), shape)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Generate images of the classes ``labels`` (N,) from ``latents`` (N, latent)."""
        return self.network(torch.cat([latents, self.classes(labels)], dim=1))


class ProjectionDiscriminator(nn.Module):
    """Maps images (N, C, H, W) and classes (N,) to logits (N,): DCGAN's, plus the product of an embedding and pooled features.

    Miyato & Koyama 2018, equation 3.
    """

    def __init__(self, config: CganConfig, shape: ImageShape) -> None:
        super().__init__()
        self.network = dcgan.Discriminator(config, shape)
        self.classes = nn.Embedding(shape.classes, self.network.judge.in_channels)
        nn.init.normal_(self.classes.weight, 0.0, 0.02)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return logits (N,) for ``images`` with the classes ``labels`` (N,)."""
        maps = self.network.layers(images)
        agreement = (self.classes(labels) * maps.float().sum(dim=(2, 3))).sum(dim=1)
        return self.network.judge(maps).flatten() + agreement


class ConcatenationDiscriminator(nn.Module):
    """Maps images (N, C, H, W) and classes (N,) to logits (N,): DCGAN's, with the class as an additional channel."""

    def __init__(self, config: CganConfig, shape: ImageShape) -> None:
        super().__init__()
        self.size = (1, shape.height, shape.width)
        self.classes = nn.Embedding(shape.classes, shape.height * shape.width)
        self.network = dcgan.Discriminator(config, shape)
        self.network.layers[0] = dcgan.strided_conv(shape.channels + 1, config.width, config.kernel, bias=True)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return logits (N,) for ``images`` with the classes ``labels`` (N,)."""
        classes = self.classes(labels).view(-1, *self.size).to(images.dtype)
        return self.network(torch.cat([images, classes], dim=1).contiguous(memory_format=torch.channels_last))


class Cgan(NoiseFamily):
    """cGAN: the class-conditional DCGAN."""

    name = "cgan"
    Config = CganConfig
    class_conditional = "always"

    def __init__(self, config: CganConfig, shape: ImageShape, *, class_shares: Sequence[float] = ()) -> None:
        super().__init__(config, shape, class_shares=class_shares)
        self.prior = config.prior
        projects = config.condition == "projection"
        discriminator = ProjectionDiscriminator if projects else ConcatenationDiscriminator
        try:
            self.networks = {"generator": Generator(config, shape), "discriminator": discriminator(config, shape)}
        except SettingsError as error:
            raise SettingsError(f"cgan has the networks of dcgan, and {error}") from None
        dcgan.initialise(self.networks, config)

    def latent_weights(self) -> Tensor:
        """See :meth:`NoiseFamily.latent_weights`; without the columns of the class."""
        generator = self.networks["generator"]
        assert isinstance(generator, Generator)
        return generator.network.project.weight[:, : self.config.latent]

    def discriminator_layers(self, name: str) -> list[list[nn.Parameter]]:
        """See :meth:`Family.discriminator_layers`: those of dcgan, then the classes."""
        network = self.networks[name]
        return layers_in_order([*network.get_submodule("network").children(), network.get_submodule("classes")])
