"""Networks that several families of translation have: a discriminator of patches, a residual generator."""

import itertools

import torch
from torch import Tensor, nn

from gan_core.errors import SettingsError
from gan_core.families.base import ImageShape
from gan_core.nn.convolution import Conv2d, ConvTranspose2d
from gan_core.nn.instance_norm import InstanceNorm2d
from gan_core.nn.padding import ReflectionPad2d

PATCH_WIDTH_MAX = 8
"""The widest layer of a patch discriminator, in multiples of its first."""


class PatchDiscriminator(nn.Module):
    """Pictures (N, C, H, W) to a map of values (N, 1, h, w), one a patch (Isola et al. 2017, section 3.2.2).

    4x4 convolutions, of which ``halvings`` halve the size: with 3 each value is of 70x70 pixels (section 6.1.2: C64-C128-
    C256-C512), with 2 of 34x34, with 1 of 16x16. Instance norm behind all but the first and the last.
    """

    def __init__(self, channels: int, width: int, downsamplings: int, slope: float, shape: ImageShape) -> None:
        """``shape``: of the pictures; raises SettingsError where it is too small for so many halvings."""
        super().__init__()
        short = min(shape.height, shape.width)
        if short >> downsamplings < 3:  # the two layers behind the halvings each take one more pixel
            most = next((fewer for fewer in range(downsamplings, 0, -1) if short >> fewer >= 3), 0)
            raise SettingsError(
                f"model.patch_halvings: {downsamplings} leave nothing of pictures of {shape.height}x{shape.width}. "
                + (f"Set it to {most} at most." if most else "Change ingest.size: no patch is so small.")
            )
        widths = [width * min(2**power, PATCH_WIDTH_MAX) for power in range(downsamplings + 1)]
        layers: list[nn.Module] = [
            Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(slope, inplace=True),
        ]
        for level, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
            layers += [
                Conv2d(inputs, outputs, 4, stride=2 if level < downsamplings else 1, padding=1, bias=False),
                InstanceNorm2d(outputs),
                nn.LeakyReLU(slope, inplace=True),
            ]
        self.layers = nn.Sequential(*layers, Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """What is said of each patch of ``images``."""
        return self.layers(images)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance norm, added to their input."""

    def __init__(self, width: int, *, reflect: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *convolution(width, width, 3, reflect=reflect), *convolution(width, width, 3, reflect=reflect)[:-1]
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(N, width, h, w) to the same shape."""
        return maps + self.layers(maps)


def convolution(
    inputs: int, outputs: int, size: int, *, stride: int = 1, reflect: bool = False, padding: int | None = None
) -> list[nn.Module]:
    """A convolution that keeps the size or halves it, instance norm and ReLU."""
    padding = size // 2 if padding is None else padding
    border: list[nn.Module] = [ReflectionPad2d(padding)] if reflect else []
    convolve = Conv2d(inputs, outputs, size, stride=stride, padding=0 if reflect else padding, bias=False)
    return [*border, convolve, InstanceNorm2d(outputs), nn.ReLU(inplace=True)]


class ResidualGenerator(nn.Module):
    """Pictures (N, inputs, H, W) to (N, outputs, H, W) in [-1, 1]; 4 divides both sides (Johnson et al. 2016's layout).

    A 7x7 convolution, two that halve the size, residual blocks, two that double it, a 7x7 convolution and tanh.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, blocks: int, *, kernel: int, reflect: bool, bias: bool
    ) -> None:
        """Build it.

        Args:
            inputs: channels.
            outputs: channels.
            width: maps at full size; twice and four times as many further in.
            blocks: how many residual blocks.
            kernel: of the convolutions that halve and double the size: 3 or 4.
            reflect: whether borders are reflections where the size stays, or zeros.
            bias: whether the last convolution has one.
        """
        super().__init__()
        self.encode = nn.Sequential(
            *convolution(inputs, width, 7, reflect=reflect),
            *convolution(width, 2 * width, kernel, stride=2, padding=1),
            *convolution(2 * width, 4 * width, kernel, stride=2, padding=1),
        )
        self.blocks = nn.Sequential(*(ResidualBlock(4 * width, reflect=reflect) for _ in range(blocks)))
        self.decode = nn.Sequential(
            *_doubling(4 * width, 2 * width, kernel),
            *_doubling(2 * width, width, kernel),
            *([ReflectionPad2d(3)] if reflect else []),
            Conv2d(width, outputs, 7, padding=0 if reflect else 3, bias=bias),
            nn.Tanh(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Pictures for ``images``."""
        return self.decode(self.blocks(self.encode(images)))


def _doubling(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    convolve = ConvTranspose2d(inputs, outputs, kernel, stride=2, padding=1, output_padding=kernel % 2, bias=False)
    return [convolve, InstanceNorm2d(outputs), nn.ReLU(inplace=True)]


def one_hot(labels: Tensor, domains: int) -> Tensor:
    """Domains (N,) as float32 (N, ``domains``); attributes (N, k) stay."""
    if labels.dim() == 2:
        return labels.float()
    # torch's own checks the range on the host and would wait for the GPU.
    return (labels[:, None] == torch.arange(domains, device=labels.device)).float()
