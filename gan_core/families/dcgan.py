"""DCGAN: Radford, Metz & Chintala 2015, "Unsupervised Representation Learning with Deep Convolutional GANs".

Strided convolutions in the discriminator, transposed ones in the generator, batch norm except at the generator's output and
the discriminator's input, ReLU and a final tanh in the generator, leaky ReLU in the discriminator, weights N(0, 0.02).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gan_core.config import check_at_least, check_below_one, check_choice
from gan_core.families.base import ImageShape
from gan_core.families.noise import NoiseFamily
from gan_core.nn.batch_norm import BatchNorm2d
from gan_core.nn.convolution import Conv2d, ConvTranspose2d
from gan_core.nn.initialise import init_he, init_normal

LARGEST = 256


@dataclass(frozen=True, kw_only=True)
class DcganConfig:
    """Settings of DCGAN. The defaults are the paper's."""

    latent: int = 100
    """Dimension of the latent z."""
    prior: Literal["uniform", "normal"] = "uniform"
    """Distribution of z: uniform in [-1, 1] as in the paper (section 4.1, figure 1), or N(0, 1)."""
    width: int = 128
    """Feature maps at the highest resolution; doubled at each halving (figure 1: 128 to 1024 at 64 px)."""
    kernel: int = 4
    """Kernel size of all strided convolutions: 4 as in the authors' Torch networks, or 5 as in the paper's figure 1."""
    slope: float = 0.2
    """Negative slope of the discriminator's leaky ReLUs."""
    loss: Literal["non-saturating", "minimax"] = "non-saturating"
    """Generator's loss: -log D(G(z)), or log(1 - D(G(z))) (Goodfellow et al. 2014, section 3)."""
    init: Literal["normal", "he"] = "normal"
    """Weight initialisation: N(0, 0.02), or He with the gain for ``slope``, which preserves the variance."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "latent", "width")
        check_choice(self, (4, 5), "kernel")
        check_below_one(self, "slope")


def strided_conv(inputs: int, outputs: int, kernel: int, *, bias: bool = False) -> Conv2d:
    """Create a convolution that halves the size."""
    return Conv2d(inputs, outputs, kernel, stride=2, padding=(kernel - 1) // 2, bias=bias)


def transposed_conv(inputs: int, outputs: int, kernel: int, *, bias: bool = False) -> ConvTranspose2d:
    """Create a transposed convolution that doubles the size."""
    padding = (kernel - 1) // 2
    return ConvTranspose2d(inputs, outputs, kernel, stride=2, padding=padding, output_padding=kernel % 2, bias=bias)


class Generator(nn.Module):
    """Maps z (N, latent) to images (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: DcganConfig, shape: ImageShape) -> None:
        super().__init__()
        count = shape.downsamplings("dcgan", LARGEST)
        widths = [config.width * 2**power for power in reversed(range(count))]
        self.base = (widths[0], shape.height >> count, shape.width >> count)
        # The paper's "project and reshape". No bias, because the batch norm after it has one.
        self.project = nn.Linear(config.latent, self.base[0] * self.base[1] * self.base[2], bias=False)
        layers: list[nn.Module] = [BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [
                transposed_conv(inputs, outputs, config.kernel),
                BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        layers += [transposed_conv(widths[-1], shape.channels, config.kernel, bias=True), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        """Generate images from ``latents`` (N, latent)."""
        maps = self.project(latents).view(-1, *self.base)
        return self.layers(maps.contiguous(memory_format=torch.channels_last))


class Discriminator(nn.Module):
    """Maps images (N, C, H, W) in [-1, 1] to logits (N,); above 0 means real."""

    def __init__(self, config: DcganConfig, shape: ImageShape) -> None:
        super().__init__()
        count = shape.downsamplings("dcgan", LARGEST)
        widths = [config.width * 2**power for power in range(count)]
        layers: list[nn.Module] = [
            strided_conv(shape.channels, widths[0], config.kernel, bias=True),
            nn.LeakyReLU(config.slope, inplace=True),
        ]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [
                strided_conv(inputs, outputs, config.kernel),
                BatchNorm2d(outputs),
                nn.LeakyReLU(config.slope, inplace=True),
            ]
        self.layers = nn.Sequential(*layers)
        self.judge = Conv2d(widths[-1], 1, (shape.height >> count, shape.width >> count))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N,) for ``images``."""
        return self.judge(self.layers(images)).flatten()


def initialise(networks: Mapping[str, nn.Module], config: DcganConfig) -> None:
    """Initialise the weights of ``generator`` and ``discriminator`` according to ``config.init``."""
    for name, network in networks.items():
        if config.init == "he":
            init_he(network, config.slope if name == "discriminator" else 0.0)  # the generator has plain ReLUs
        else:
            init_normal(network)


class Dcgan(NoiseFamily):
    """DCGAN. It is unconditional: labels are ignored in training."""

    name = "dcgan"
    Config = DcganConfig

    def __init__(self, config: DcganConfig, shape: ImageShape, *, class_shares: Sequence[float] = ()) -> None:
        super().__init__(config, shape, class_shares=class_shares)
        self.prior = config.prior
        self.networks = {"generator": Generator(config, shape), "discriminator": Discriminator(config, shape)}
        initialise(self.networks, config)

    def latent_weights(self) -> Tensor:
        """See :meth:`NoiseFamily.latent_weights`."""
        generator = self.networks["generator"]
        assert isinstance(generator, Generator)
        return generator.project.weight
