"""Networks that several translation families share: the patch discriminator, and the residual generator."""

import itertools

import torch
from torch import Tensor, nn

from gan_core.errors import SettingsError
from gan_core.families.base import ImageShape
from gan_core.nn.convolution import Conv2d, ConvTranspose2d
from gan_core.nn.instance_norm import InstanceNorm2d
from gan_core.nn.padding import ReflectionPad2d

PATCH_WIDTH_MAX = 8
"""Feature maps of the widest layer of a patch discriminator, in multiples of its first."""


class PatchDiscriminator(nn.Module):
    """PatchGAN: maps pictures (N, C, H, W) to a map of logits (N, 1, h, w), one per patch (Isola et al. 2017, section 3.2.2).

    4x4 convolutions, ``downsamplings`` of which halve the size: with 3 a patch has 70x70 pixels (section 6.1.2: C64-C128-
    C256-C512), with 2 34x34, with 1 16x16. Instance norm after all but the first and the last.
    """

    def __init__(self, channels: int, width: int, downsamplings: int, slope: float, shape: ImageShape) -> None:
        """Create the network.

        Args:
            channels: channels of the input.
            width: feature maps of the first layer.
            downsamplings: number of layers that halve the size.
            slope: negative slope.
            shape: shape of the pictures.

        Raises:
            SettingsError: the pictures are too small for so many halvings.
        """
        super().__init__()
        short = min(shape.height, shape.width)
        if short >> downsamplings < 3:  # the two layers after the halvings each shrink the map by a pixel
            most = next((fewer for fewer in range(downsamplings, 0, -1) if short >> fewer >= 3), 0)
            raise SettingsError(
                f"model.patch_halvings: {downsamplings} is too large for pictures of {shape.height}x{shape.width} pixels. "
                + (
                    f"Set it to at most {most}."
                    if most
                    else "Change ingest.size: the pictures are too small for a patch."
                )
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
        """Return a logit for each patch of ``images``."""
        return self.layers(images)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance norm, added to their input."""

    def __init__(self, width: int, *, reflect: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *convolution(width, width, 3, reflect=reflect), *convolution(width, width, 3, reflect=reflect)[:-1]
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, width, h, w) to the same shape."""
        return maps + self.layers(maps)


def convolution(
    inputs: int, outputs: int, size: int, *, stride: int = 1, reflect: bool = False, padding: int | None = None
) -> list[nn.Module]:
    """Create a convolution that keeps or halves the size, instance norm and ReLU."""
    padding = size // 2 if padding is None else padding
    border: list[nn.Module] = [ReflectionPad2d(padding)] if reflect else []
    convolve = Conv2d(inputs, outputs, size, stride=stride, padding=0 if reflect else padding, bias=False)
    return [*border, convolve, InstanceNorm2d(outputs), nn.ReLU(inplace=True)]


class ResidualGenerator(nn.Module):
    """Maps pictures (N, inputs, H, W) to (N, outputs, H, W) in [-1, 1]. Both sides must be multiples of 4.

    A 7x7 convolution, two that halve the size, residual blocks, two that double it, a 7x7 convolution and tanh, as in
    Johnson et al. 2016.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, blocks: int, *, kernel: int, reflect: bool, bias: bool
    ) -> None:
        """Create the network.

        Args:
            inputs: input channels.
            outputs: output channels.
            width: feature maps at full size; twice and four times as many at lower resolutions.
            blocks: number of residual blocks.
            kernel: kernel size of the convolutions that halve and double the size: 3 or 4.
            reflect: whether convolutions that keep the size use reflection padding instead of zeros.
            bias: whether the last convolution has a bias.
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
        """Translate ``images``."""
        return self.decode(self.blocks(self.encode(images)))


def _doubling(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    convolve = ConvTranspose2d(inputs, outputs, kernel, stride=2, padding=1, output_padding=kernel % 2, bias=False)
    return [convolve, InstanceNorm2d(outputs), nn.ReLU(inplace=True)]


def one_hot(labels: Tensor, domains: int) -> Tensor:
    """Encode domains (N,) as float32 (N, ``domains``); attributes (N, k) are returned as float32."""
    if labels.dim() == 2:
        return labels.float()
    # torch's own one_hot checks the range on the host, and so waits for the GPU.
    return (labels[:, None] == torch.arange(domains, device=labels.device)).float()
