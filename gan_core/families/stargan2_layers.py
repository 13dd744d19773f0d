"""Networks of StarGAN v2 (Choi et al. 2020, "StarGAN v2: Diverse Image Synthesis for Multiple Domains", appendix E)."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.nn.instance_norm import InstanceNorm2d, normalised
from gan_core.precision import full_precision

_HALF = 0.5**0.5
_RATE = 0.01
"""Learning rate of the mapping network relative to the others' (appendix B: 1e-6 and 1e-4)."""
_SHARED, _OWN = 4, 4
"""Layers of the mapping network that all domains share, and those that each has of its own (table 7)."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each behind a leaky ReLU and, if asked for, instance norm; halves the size if asked for."""

    def __init__(self, inputs: int, outputs: int, slope: float, *, norm: bool = False, halve: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(InstanceNorm2d(inputs) for _ in range(2)) if norm else None
        self.first, self.second = nn.Conv2d(inputs, inputs, 3, padding=1), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()
        self.activate, self.halves = nn.LeakyReLU(slope), halve

    def forward(self, maps: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W) or half of that."""
        inner = self.first(self.activate(maps if self.norms is None else self.norms[0](maps)))
        if self.halves:
            # A 1x1 convolution of means is the mean of 1x1 convolutions, at a quarter of the work.
            maps, inner = F.avg_pool2d(maps, 2), F.avg_pool2d(inner, 2)
        inner = self.second(self.activate(inner if self.norms is None else self.norms[1](inner)))
        return (self.skip(maps) + inner) * _HALF


class StyledNorm(nn.Module):
    """Instance norm with a scale and a shift that are made from a style (Huang & Belongie 2017, AdaIN)."""

    def __init__(self, maps: int, style: int) -> None:
        super().__init__()
        self.affine = nn.Linear(style, 2 * maps)

    def forward(self, maps: Tensor, styles: Tensor) -> Tensor:
        """``maps`` (N, C, H, W) by ``styles`` (N, style)."""
        scale, shift = self.affine(styles).to(maps.dtype)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, normalised(maps), 1 + scale)


class StyledBlock(nn.Module):
    """As :class:`ResidualBlock` with :class:`StyledNorm`; doubles the size if asked for."""

    def __init__(self, inputs: int, outputs: int, style: int, slope: float, *, double: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(StyledNorm(maps, style) for maps in (inputs, outputs))
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()
        self.activate, self.doubles = nn.LeakyReLU(slope), double

    def forward(self, maps: Tensor, styles: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W) or twice that."""
        inner, skipped = self.activate(self.norms[0](maps, styles)), self.skip(maps)
        if self.doubles:
            inner, skipped = (F.interpolate(x, scale_factor=2, mode="nearest") for x in (inner, skipped))
        inner = self.second(self.activate(self.norms[1](self.first(inner), styles)))
        return (skipped + inner) * _HALF


class Generator(nn.Module):
    """Pictures (N, C, H, W) and styles (m N, style) to pictures (m N, C, H, W), about in [-1, 1].

    Each picture is encoded once, whatever m: the encoder sees no style. 2^downs divides both sides.
    """

    def __init__(self, channels: int, width: int, width_max: int, downs: int, style: int, slope: float) -> None:
        super().__init__()
        widths = [min(width * 2**level, width_max) for level in range(downs + 1)]
        deep = widths[-1]
        pairs = list(itertools.pairwise(widths))
        self.from_picture = nn.Conv2d(channels, width, 3, padding=1)
        self.encode = nn.Sequential(
            *(ResidualBlock(*pair, slope, norm=True, halve=True) for pair in pairs),
            *(ResidualBlock(deep, deep, slope, norm=True) for _ in range(2)),
        )
        self.decode = nn.ModuleList(
            [
                *(StyledBlock(deep, deep, style, slope) for _ in range(2)),
                *(StyledBlock(outer, inner, style, slope, double=True) for inner, outer in reversed(pairs)),
            ]
        )
        self.to_picture = nn.Sequential(InstanceNorm2d(width), nn.LeakyReLU(slope), nn.Conv2d(width, channels, 1))

    def forward(self, images: Tensor, styles: Tensor) -> Tensor:
        """The first N are ``images`` in the first N styles, and so on."""
        maps = self.encode(self.from_picture(images))
        maps = maps.repeat(len(styles) // len(images), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        for block in self.decode:
            maps = block(maps, styles)
        return self.to_picture(maps)


class Trunk(nn.Module):
    """Pictures (N, C, H, W) of one size to (N, domains, outputs): the style encoder and the discriminator (table 8)."""

    def __init__(
        self, channels: int, size: tuple[int, int], width: int, width_max: int, domains: int, outputs: int, slope: float
    ) -> None:
        """``size``: height and width of the pictures; halved until the shorter side is 4 to 7 pixels."""
        super().__init__()
        downsamplings = min(size).bit_length() - 3
        widths = [min(width * 2**level, width_max) for level in range(downsamplings + 1)]
        pairs = itertools.pairwise(widths)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            *(ResidualBlock(*pair, slope, halve=True) for pair in pairs),
            nn.LeakyReLU(slope),
            nn.Conv2d(widths[-1], widths[-1], (size[0] >> downsamplings, size[1] >> downsamplings)),
            nn.LeakyReLU(slope),
        )
        self.heads = nn.Linear(widths[-1], domains * outputs)
        self.shape = (domains, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """What is said of ``images`` as pictures of each domain."""
        return self.heads(self.layers(images).flatten(1)).unflatten(1, self.shape)


class _Slow(nn.Module):
    """Linear layers of ``copies`` networks side by side, that learn at a hundredth of the rate."""

    def __init__(self, copies: int, inputs: int, outputs: int) -> None:
        super().__init__()
        # Stored a hundred times as large and used so much smaller: one step of Adam is as large for every weight.
        self.weight = nn.Parameter(torch.empty(copies, outputs, inputs))
        nn.init.normal_(self.weight, 0.0, math.sqrt(2 / inputs) / _RATE)
        self.bias = nn.Parameter(torch.zeros(copies, 1, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """(copies or 1, N, inputs) to (copies, N, outputs)."""
        return features @ (self.weight * _RATE).transpose(1, 2) + self.bias * _RATE


class MappingNetwork(nn.Module):
    """Latents (N, latent) to a style for each domain (N, domains, style); in full precision (table 7)."""

    def __init__(self, latent: int, hidden: int, style: int, domains: int) -> None:
        super().__init__()
        shared = [latent, *[hidden] * _SHARED]
        own = [hidden] * _OWN
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(shared):
            layers += [_Slow(1, inputs, outputs), nn.ReLU()]
        for inputs, outputs in itertools.pairwise(own):
            layers += [_Slow(domains, inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, _Slow(domains, own[-1], style))

    def forward(self, latents: Tensor) -> Tensor:
        """Styles."""
        with full_precision(latents.device):
            return self.layers(latents[None]).transpose(0, 1)


def select_domains(said: Tensor, labels: Tensor) -> Tensor:
    """Of what is said for each domain (N, domains, ...) that of ``labels`` (N,): (N, ...)."""
    return said[torch.arange(len(said), device=said.device), labels]
