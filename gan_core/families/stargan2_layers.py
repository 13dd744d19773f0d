"""Networks of StarGAN v2 (Choi et al. 2020, "StarGAN v2: Diverse Image Synthesis for Multiple Domains", appendix E)."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.nn.instance_norm import InstanceNorm2d, instance_norm
from gan_core.precision import full_precision

_HALF = 0.5**0.5
_RATE = 0.01
"""Learning rate of the mapping network relative to the other networks (appendix B: 1e-6 and 1e-4)."""
_SHARED, _OWN = 4, 4
"""Number of layers of the mapping network that all domains share, and of those that each domain has (table 7)."""


class ResidualBlock(nn.Module):
    """Pre-activation residual block of two 3x3 convolutions, with optional instance norm and halving of the size."""

    def __init__(self, inputs: int, outputs: int, slope: float, *, norm: bool = False, halve: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(InstanceNorm2d(inputs) for _ in range(2)) if norm else None
        self.first, self.second = nn.Conv2d(inputs, inputs, 3, padding=1), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()
        self.activate, self.halves = nn.LeakyReLU(slope), halve

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W), or to half of H and W."""
        inner = self.first(self.activate(maps if self.norms is None else self.norms[0](maps)))
        if self.halves:
            # Average pooling and a 1x1 convolution commute; pooling first takes a quarter of the work.
            maps, inner = F.avg_pool2d(maps, 2), F.avg_pool2d(inner, 2)
        inner = self.second(self.activate(inner if self.norms is None else self.norms[1](inner)))
        return (self.skip(maps) + inner) * _HALF


class StyledNorm(nn.Module):
    """AdaIN: instance norm whose scale and shift depend on a style (Huang & Belongie 2017)."""

    def __init__(self, maps: int, style: int) -> None:
        super().__init__()
        self.affine = nn.Linear(style, 2 * maps)

    def forward(self, maps: Tensor, styles: Tensor) -> Tensor:
        """Normalise ``maps`` (N, C, H, W) with ``styles`` (N, style)."""
        scale, shift = self.affine(styles).to(maps.dtype)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, instance_norm(maps), 1 + scale)


class StyledBlock(nn.Module):
    """Like :class:`ResidualBlock`, with :class:`StyledNorm` and optional doubling of the size."""

    def __init__(self, inputs: int, outputs: int, style: int, slope: float, *, double: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(StyledNorm(maps, style) for maps in (inputs, outputs))
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()
        self.activate, self.doubles = nn.LeakyReLU(slope), double

    def forward(self, maps: Tensor, styles: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W), or to twice H and W."""
        inner, skipped = self.activate(self.norms[0](maps, styles)), self.skip(maps)
        if self.doubles:
            inner, skipped = (F.interpolate(x, scale_factor=2, mode="nearest") for x in (inner, skipped))
        inner = self.second(self.activate(self.norms[1](self.first(inner), styles)))
        return (skipped + inner) * _HALF


class Generator(nn.Module):
    """Maps pictures (N, C, H, W) and styles (m N, style) to pictures (m N, C, H, W) in about [-1, 1].

    Each picture is encoded once, whatever m, because the encoder does not depend on the style. Both sides must be multiples of
    2^downs.
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
        """Translate ``images``: the first N outputs have the first N styles, and so on."""
        maps = self.encode(self.from_picture(images))
        if styles.shape[0] != images.shape[0]:
            maps = maps.repeat(styles.shape[0] // images.shape[0], 1, 1, 1).contiguous(
                memory_format=torch.channels_last
            )
        for block in self.decode:
            maps = block(maps, styles)
        return self.to_picture(maps)


class Trunk(nn.Module):
    """Maps pictures (N, C, H, W) of fixed size to (N, domains, outputs): the style encoder and the discriminator (table 8)."""

    def __init__(
        self, channels: int, size: tuple[int, int], width: int, width_max: int, domains: int, outputs: int, slope: float
    ) -> None:
        """Create the network.

        Args:
            channels: channels of the pictures.
            size: height and width of the pictures, halved until the shorter side is 4 to 7 pixels.
            width: feature maps of the first layer, doubled at each halving.
            width_max: largest number of feature maps.
            domains: number of domains.
            outputs: outputs per domain.
            slope: negative slope.
        """
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
        """Return the outputs for each domain."""
        return self.heads(self.layers(images).flatten(1)).unflatten(1, self.shape)


class _Slow(nn.Module):
    """Linear layers of ``copies`` networks side by side, with a hundredth of the learning rate."""

    def __init__(self, copies: int, inputs: int, outputs: int) -> None:
        super().__init__()
        # Stored a hundred times larger and scaled down in use, because the size of Adam's steps does not depend on the scale.
        self.weight = nn.Parameter(torch.empty(copies, outputs, inputs))
        nn.init.normal_(self.weight, 0.0, math.sqrt(2 / inputs) / _RATE)
        self.bias = nn.Parameter(torch.zeros(copies, 1, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Map (copies or 1, N, inputs) to (copies, N, outputs)."""
        return features @ (self.weight * _RATE).transpose(1, 2) + self.bias * _RATE


class MappingNetwork(nn.Module):
    """Maps latents (N, latent) to a style for each domain (N, domains, style), in full precision (table 7)."""

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
        """Return the styles."""
        with full_precision(latents.device):
            return self.layers(latents[None]).transpose(0, 1)


def select_domains(outputs: Tensor, labels: Tensor) -> Tensor:
    """Select from outputs for each domain (N, domains, ...) those of the domains ``labels`` (N,): (N, ...)."""
    return outputs[torch.arange(outputs.shape[0], device=outputs.device), labels]
