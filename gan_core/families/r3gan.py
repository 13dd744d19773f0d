"""R3GAN: Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern Baseline GAN".

A relativistic loss over pairs with R1 and R2, and two mirrored networks of plain residual blocks: inverted bottlenecks with
grouped convolutions, fix-up initialisation instead of normalisation, and bilinear resampling.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gan_core.batch import Batch
from gan_core.config import check, check_at_least, check_below_one, check_choice
from gan_core.families.base import ImageShape, Phase, layers_in_order, renumber
from gan_core.families.noise import NoiseFamily
from gan_core.nn.initialise import leaky_gain
from gan_core.nn.losses import ADVERSARIAL_LOSSES
from gan_core.nn.resampling import Downsample, Upsample
from gan_core.schedule import cosine

LARGEST = 256
_GROUP = 16
"""Feature maps per group of a 3x3 convolution."""
_EXPANSION = 2
"""Feature maps between a block's convolutions, relative to its input."""


@dataclass(frozen=True, kw_only=True)
class R3ganConfig:
    """Settings of R3GAN. The defaults are the paper's, with width and gamma for 64 pixels."""

    latent: int = 64
    """Dimension of the latent z."""
    width: int = 384
    """Feature maps at the picture's resolution, a multiple of 8; doubled at each halving up to ``width_max``."""
    width_max: int = 768
    """Largest number of feature maps, a multiple of 8."""
    blocks: int = 2
    """Residual blocks at each resolution."""
    always_project: bool = False
    """Whether every change of resolution has a 1x1 convolution, as in networks of earlier versions of Gantry. Those of the
    paper have one only if the number of maps changes."""
    slope: float = 0.2
    """Negative slope of all leaky ReLUs."""
    loss: str = "relativistic"
    """Adversarial loss."""
    conditional: bool = False
    """Whether the generator and the discriminator are class-conditional; needs labelled data."""
    gamma: float = 2.0
    """Initial gamma of R1 and R2; it follows a cosine to ``final_gamma`` at the end of the burn-in."""
    final_gamma: float = 0.2
    """Final gamma of R1 and R2, from the end of the burn-in on."""
    penalty_every: int = 1
    """Steps between updates by R1 and R2; 1: they are part of each update of the discriminator, as in the paper."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "latent", "width", "width_max", "blocks", "penalty_every")
        check_at_least(self, 0, "gamma", "final_gamma")
        check_below_one(self, "slope")
        for name in ("width", "width_max"):
            value, step = getattr(self, name), _GROUP // _EXPANSION
            check(value % step == 0, f"{name}: must be a multiple of {step}, got {value}.")
        check(self.width <= self.width_max, f"width_max: must be at least width ({self.width}), got {self.width_max}.")
        check_choice(self, tuple(ADVERSARIAL_LOSSES), "loss")

    def widths(self, downsamplings: int) -> list[int]:
        """Feature maps at each resolution, from the lowest to the picture's."""
        return [min(self.width << power, self.width_max) for power in range(downsamplings, -1, -1)]


# -- layers of both networks ---------------------------------------------------------------------------------------------


def _scaled(weight: Tensor, gain: float = 1.0) -> None:
    """Fill ``weight`` with N(0, gain^2 / fan-in) (He et al. 2015)."""
    nn.init.normal_(weight, 0.0, gain / math.sqrt(weight[0].numel()))


def _pointwise(inputs: int, outputs: int, *, bias: bool = False) -> nn.Conv2d:
    """Create a 1x1 convolution that preserves the variance."""
    layer = nn.Conv2d(inputs, outputs, 1, bias=bias)
    _scaled(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _projection(inputs: int, outputs: int, config: R3ganConfig) -> list[nn.Module]:
    """Layers that change the number of maps between two resolutions; none if it stays the same."""
    return [_pointwise(inputs, outputs)] if config.always_project or inputs != outputs else []


class Block(nn.Module):
    """Residual block of 1x1, grouped 3x3 and 1x1 convolutions, initialised as the identity.

    Args:
        width: feature maps of input and output.
        slope: negative slope.
        depth: number of residual blocks in the whole network.
    """

    def __init__(self, width: int, slope: float, depth: int) -> None:
        super().__init__()
        inner = width * _EXPANSION
        self.widen = nn.Conv2d(width, inner, 1)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // _GROUP)
        self.narrow = nn.Conv2d(inner, width, 1, bias=False)
        self.activate = nn.LeakyReLU(slope, inplace=True)
        # Fix-up (Zhang et al. 2019): depth^(-1 / (2m - 2)) for branches of m = 3 layers, the last of which is zero.
        for layer in (self.widen, self.mix):
            _scaled(layer.weight, leaky_gain(slope) * depth**-0.25)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, width, H, W) to the same shape."""
        return maps + self.narrow(self.activate(self.mix(self.activate(self.widen(maps)))))


def _blocks(width: int, config: R3ganConfig, levels: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width, config.slope, config.blocks * levels) for _ in range(config.blocks)))


class Generator(nn.Module):
    """Maps z (N, latent), and classes (N,) if conditional, to images (N, C, H, W) in about [-1, 1]."""

    def __init__(self, config: R3ganConfig, shape: ImageShape, downsamplings: int) -> None:
        super().__init__()
        widths = config.widths(downsamplings)
        self.embedding = nn.Embedding(shape.classes, config.latent) if config.conditional else None
        inputs = config.latent * (2 if config.conditional else 1)
        # Learnt 4x4 maps, each multiplied by a factor that depends on z.
        self.basis = nn.Parameter(torch.randn(widths[0], shape.height >> downsamplings, shape.width >> downsamplings))
        self.weigh = nn.Linear(inputs, widths[0], bias=False)
        _scaled(self.weigh.weight)
        self.stages = nn.ModuleList(_blocks(width, config, len(widths)) for width in widths)
        # Convolution and upsampling commute; the convolution comes first because it then has a quarter of the pixels.
        self.transitions = nn.ModuleList(
            nn.Sequential(*_projection(inputs, outputs, config), Upsample(outputs))
            for inputs, outputs in itertools.pairwise(widths)
        )
        self.picture = _pointwise(widths[-1], shape.channels)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images from ``latents``."""
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)
        maps = self.weigh(latents)[:, :, None, None] * self.basis
        maps = self.stages[0](maps.contiguous(memory_format=torch.channels_last))
        for transition, stage in zip(self.transitions, self.stages[1:], strict=True):
            maps = stage(transition(maps))
        return self.picture(maps)


class Discriminator(nn.Module):
    """Maps images (N, C, H, W) in [-1, 1], and classes (N,) if conditional, to critic values (N,); mirrors the generator."""

    def __init__(self, config: R3ganConfig, shape: ImageShape, downsamplings: int) -> None:
        super().__init__()
        widths = config.widths(downsamplings)[::-1]
        self.picture = _pointwise(shape.channels, widths[0])
        self.stages = nn.ModuleList(_blocks(width, config, len(widths)) for width in widths)
        self.transitions = nn.ModuleList(
            nn.Sequential(Downsample(inputs), *_projection(inputs, outputs, config))
            for inputs, outputs in itertools.pairwise(widths)
        )
        last = widths[-1]
        self.gather = nn.Conv2d(
            last, last, (shape.height >> downsamplings, shape.width >> downsamplings), groups=last, bias=False
        )
        _scaled(self.gather.weight)
        self.judge = nn.Linear(last, 1, bias=False)
        _scaled(self.judge.weight)
        # Miyato & Koyama 2018, "cGANs with Projection Discriminator".
        self.embedding = nn.Embedding(shape.classes, last) if config.conditional else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return critic values (N,)."""
        maps = self.stages[0](self.picture(images))
        for transition, stage in zip(self.transitions, self.stages[1:], strict=True):
            maps = stage(transition(maps))
        features = self.gather(maps).flatten(1)
        judged = self.judge(features)[:, 0]
        if self.embedding is not None:
            judged = judged + (self.embedding(labels) * features).sum(dim=1) / features.shape[1] ** 0.5
        return judged


# -- the family ----------------------------------------------------------------------------------------------------------


class R3gan(NoiseFamily):
    """R3GAN: a relativistic GAN with R1 and R2."""

    name = "r3gan"
    Config = R3ganConfig
    class_conditional = "optional"
    joint = True
    grows = True
    edge_layers = ("generator.picture.", "discriminator.picture.")

    def __init__(self, config: R3ganConfig, shape: ImageShape, *, class_shares: Sequence[float] = ()) -> None:
        super().__init__(config, shape, class_shares=class_shares)
        downsamplings = shape.downsamplings("r3gan", LARGEST)
        self.networks = {
            "generator": Generator(config, shape, downsamplings),
            "discriminator": Discriminator(config, shape, downsamplings),
        }

    @classmethod
    def older_settings(cls, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :meth:`Family.older_settings`."""
        return {"always_project": True}

    @classmethod
    def smaller_name(cls, network: str, name: str, levels: int) -> str:
        """See :meth:`Family.smaller_name`: the discriminator counts its stages from the picture's size down."""
        return renumber(name, ("stages", "transitions"), levels) if network == "discriminator" else name

    def discriminator_layers(self, name: str) -> list[list[nn.Parameter]]:
        """See :meth:`Family.discriminator_layers`."""
        network = self.networks[name]
        assert isinstance(network, Discriminator)
        pairs = zip(network.transitions, network.stages[1:], strict=True)
        last = [network.gather, network.judge, *([network.embedding] if network.embedding is not None else [])]
        return layers_in_order(
            [network.picture, network.stages[0], *(module for pair in pairs for module in pair), *last]
        )

    def latent_weights(self) -> Tensor:
        """See :meth:`NoiseFamily.latent_weights`; each row times the length of the map that it multiplies."""
        generator = self.networks["generator"]
        assert isinstance(generator, Generator)
        lengths = generator.basis.flatten(1).norm(dim=1, keepdim=True)
        return generator.weigh.weight[:, : self.config.latent] * lengths

    def penalties(self) -> tuple[Phase, ...]:
        """See :meth:`Family.penalties`: R1 and R2."""
        if not (self.config.gamma or self.config.final_gamma):
            return ()
        every = self.config.penalty_every
        return self.penalty("r1", self.gamma, every), self.penalty("r2", self.gamma, every)

    def gamma(self, batch: Batch) -> float | Tensor:
        """gamma of R1 and R2 for this batch, according to its progress in the burn-in."""
        return batch.scheduled(lambda step, progress: cosine(self.config.gamma, self.config.final_gamma, progress))

    def generate_sample(
        self, generator: nn.Module, latents: Tensor, labels: Tensor | None, truncation: float | None
    ) -> Tensor:
        """See :meth:`NoiseFamily.generate_sample`; images are clipped to [-1, 1]."""
        return super().generate_sample(generator, latents, labels, truncation).clamp(-1, 1)
