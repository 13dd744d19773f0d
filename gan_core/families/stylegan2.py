"""StyleGAN2: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN".

A mapping network maps z to a style w, which scales the input maps of every convolution of the synthesis network. The generator
sums an image over all resolutions (skip connections), the discriminator is residual. R1 and path length regularisation run
every few steps. Settings for small datasets follow Karras et al. 2020, "Training GANs with Limited Data" (ADA).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan_core import randomness
from gan_core.batch import Batch
from gan_core.config import check, check_at_least, check_below_one, check_choice
from gan_core.families.base import ImageShape, Losses, Phase, renumber
from gan_core.families.noise import StyleBasedFamily, latents_from_uniform
from gan_core.families.stylegan2_layers import (
    GROUP,
    Conv2d,
    Linear,
    ModulatedConv2d,
    activation_gain,
    append_minibatch_deviation,
)
from gan_core.nn import collectives
from gan_core.nn.convolution import FastDoubleBackward
from gan_core.nn.losses import ADVERSARIAL_LOSSES
from gan_core.nn.penalties import path_lengths
from gan_core.nn.resampling import Upsample
from gan_core.precision import full_precision

LARGEST = 1024
_STYLES_PER_BATCH = 256
"""Styles per batch of :meth:`StyleGan2.update_statistics`."""


@dataclass(frozen=True, kw_only=True)
class StyleGan2Config:
    """Settings of StyleGAN2. The defaults are the paper's configuration F, at half its width (ADA's default)."""

    latent: int = 512
    """Dimension of the latent z."""
    style: int = 512
    """Dimension of the style w."""
    mapping_layers: int = 8
    """Layers of the mapping network; 2 are enough for small datasets (ADA)."""
    channel_base: int = 16384
    """Feature maps times resolution: channel_base / r maps at resolution r, but at most ``channel_max``."""
    channel_max: int = 512
    """Largest number of feature maps."""
    slope: float = 0.2
    """Negative slope of all leaky ReLUs."""
    loss: str = "non-saturating"
    """Adversarial loss."""
    conditional: bool = False
    """Whether the generator and the discriminator are class-conditional; needs labelled data."""
    mixing: float = 0.9
    """Probability of style mixing in training: later layers get the style of another z."""
    r1: float = 10.0
    """gamma of R1; 0: no R1. A good first value is 0.0002 * pixels / batch (ADA, appendix C)."""
    r1_every: int = 16
    """Steps between updates by R1."""
    path_length: float = 2.0
    """Weight of path length regularisation; 0: none."""
    path_every: int = 4
    """Steps between updates by path length regularisation."""

    def __post_init__(self) -> None:
        check_at_least(
            self, 1, "latent", "style", "mapping_layers", "channel_base", "channel_max", "r1_every", "path_every"
        )
        check_at_least(self, 0, "r1", "path_length")
        check_below_one(self, "slope")
        check(0 <= self.mixing <= 1, f"mixing: must lie in [0, 1], got {self.mixing}.")
        check_choice(self, tuple(ADVERSARIAL_LOSSES), "loss")

    def widths(self, downsamplings: int) -> list[int]:
        """Feature maps at each resolution, from the lowest to the picture's."""
        top = 4 << downsamplings
        check(
            self.channel_base >= top,
            f"model.channel_base: {self.channel_base} gives no feature maps at {top} pixels. Set it to at least {16 * top}.",
        )
        return [min(self.channel_base // (4 << level), self.channel_max) for level in range(downsamplings + 1)]


# -- the generator -------------------------------------------------------------------------------------------------------


def _unit_length(latents: Tensor) -> Tensor:
    """Scale each row to a mean square of 1."""
    return latents * (latents.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class MappingNetwork(nn.Module):
    """Maps z (N, latent), and classes (N,) if conditional, to w (N, style), in full precision."""

    def __init__(self, config: StyleGan2Config, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, config.latent) if config.conditional else None
        layers: list[nn.Module] = []
        inputs = config.latent * (2 if config.conditional else 1)
        for _ in range(config.mapping_layers):
            # A hundredth of the learning rate: at the rate of the other layers it is unstable (StyleGAN, section 3).
            layers.append(Linear(inputs, config.style, rate=0.01, gain=activation_gain(config.slope)))
            layers.append(nn.LeakyReLU(config.slope))
            inputs = config.style
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the styles."""
        with full_precision(latents.device):
            features = _unit_length(latents)
            if self.embedding is not None:
                features = torch.cat([features, _unit_length(self.embedding(labels))], dim=1)
            return self.layers(features)


class StyledLayer(nn.Module):
    """A modulated 3x3 convolution, noise with a learnt strength, bias, and leaky ReLU."""

    def __init__(
        self, inputs: int, outputs: int, size: tuple[int, int], config: StyleGan2Config, *, double: bool = False
    ) -> None:
        super().__init__()
        self.gain = activation_gain(config.slope)
        self.convolve = ModulatedConv2d(inputs, outputs, 3, config.style, double=double, gain=self.gain)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.activate = nn.LeakyReLU(config.slope, inplace=True)
        self.noise: Tensor
        self.register_buffer("noise", torch.randn(1, 1, *size))

    def forward(self, maps: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """Map (N, inputs, h, w) to (N, outputs, H, W), with ``noise`` (N, 1, H, W) or by default the layer's fixed noise."""
        noise = (self.noise if noise is None else noise) * (self.strength * self.gain)
        maps = self.convolve(maps, style)
        maps = maps + noise.to(maps.dtype) + (self.bias * self.gain).to(maps.dtype)[:, None, None]
        return self.activate(maps)


class ToImage(nn.Module):
    """A modulated 1x1 convolution to the image's channels, in full precision at the output."""

    def __init__(self, inputs: int, channels: int, config: StyleGan2Config) -> None:
        super().__init__()
        self.convolve = ModulatedConv2d(inputs, channels, 1, config.style, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, channels, H, W)."""
        images = self.convolve(maps, style)
        return images.to(self.bias.dtype) + self.bias[:, None, None]


class Synthesis(nn.Module):
    """Maps styles (N, layers, style) to images (N, C, H, W) in about [-1, 1]."""

    def __init__(self, config: StyleGan2Config, shape: ImageShape, downsamplings: int) -> None:
        super().__init__()
        widths = config.widths(downsamplings)
        base = (shape.height >> downsamplings, shape.width >> downsamplings)
        self.start = nn.Parameter(torch.randn(1, widths[0], *base))
        self.first, self.second, self.to_image = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            size = (base[0] << level, base[1] << level)
            if level:
                self.first.append(StyledLayer(widths[level - 1], width, size, config, double=True))
            self.second.append(StyledLayer(width, width, size, config))
            self.to_image.append(ToImage(width, shape.channels, config))
        self.upsample = Upsample(shape.channels)
        self.layers = 2 * len(widths)
        """Number of styles of an image: one for each 3x3 layer, and one for the last image layer."""

    def noise_sizes(self) -> list[tuple[int, int]]:
        """Height and width of the noise of each 3x3 layer, in order."""
        return [(layer.noise.shape[2], layer.noise.shape[3]) for layer in self._styled()]

    def forward(self, styles: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Generate images. ``noise``: (N, 1, H, W) for each of :meth:`noise_sizes`; by default the layers' fixed noise."""
        given = [None] * (self.layers - 1) if noise is None else list(noise)
        maps = self.start.expand(styles.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        maps = self.second[0](maps, styles[:, 0], given[0])
        images = self.to_image[0](maps, styles[:, 1])
        for level in range(1, len(self.second)):
            at = 2 * level
            maps = self.first[level - 1](maps, styles[:, at - 1], given[at - 1])
            maps = self.second[level](maps, styles[:, at], given[at])
            with full_precision(images.device):
                images = self.upsample(images)
            images = images + self.to_image[level](maps, styles[:, at + 1])
        return images

    def style_weights(self) -> list[Tensor]:
        """For each style, the weights of the affine layers that take it, (rows, style)."""
        taking: list[list[Tensor]] = [[] for _ in range(self.layers)]
        images = [(2 * level + 1, layer) for level, layer in enumerate(self.to_image)]
        for at, layer in [*enumerate(self._styled()), *images]:
            affine = layer.get_submodule("convolve.affine")
            assert isinstance(affine, Linear)
            taking[at].append(affine.weight * affine.scale)
        return [torch.cat(weights) for weights in taking]

    def _styled(self) -> list[StyledLayer]:
        pairs = zip(self.first, self.second[1:], strict=True)
        layers = [self.second[0], *(layer for pair in pairs for layer in pair)]
        return [layer for layer in layers if isinstance(layer, StyledLayer)]


class Generator(nn.Module):
    """Maps z (N, latent), and classes (N,) if conditional, to images (N, C, H, W) in about [-1, 1]."""

    def __init__(self, config: StyleGan2Config, shape: ImageShape, downsamplings: int) -> None:
        super().__init__()
        self.mapping = MappingNetwork(config, shape.classes)
        self.synthesis = Synthesis(config, shape, downsamplings)
        self.layers = self.synthesis.layers
        """Number of styles of an image."""
        self.mean_style: Tensor
        # One per class if conditional: a mean over classes would belong to none.
        self.register_buffer("mean_style", torch.zeros(shape.classes if config.conditional else 1, config.style))

    def forward(
        self,
        latents: Tensor,
        labels: Tensor | None = None,
        noise: Sequence[Tensor] | None = None,
        others: Tensor | None = None,
        crossover: Tensor | None = None,
    ) -> Tensor:
        """Generate images from ``latents``.

        Args:
            latents: z, (N, latent).
            labels: classes (N,) if conditional.
            noise: see :meth:`Synthesis.forward`.
            others: additional latents (N, latent) for style mixing: their styles are used from layer ``crossover`` on.
            crossover: index of a layer for each image, (N,).
        """
        styles = self.broadcast_style(self.mapping(latents, labels))
        if others is not None and crossover is not None:
            layers = torch.arange(self.layers, device=latents.device)
            later = (layers >= crossover[:, None])[:, :, None]
            styles = torch.where(later, self.broadcast_style(self.mapping(others, labels)), styles)
        return self.synthesis(styles, noise)

    def broadcast_style(self, styles: Tensor) -> Tensor:
        """Repeat a style (N, style) for all layers: (N, layers, style)."""
        return styles[:, None].expand(-1, self.layers, -1)

    def truncate(self, styles: Tensor, labels: Tensor | None, psi: float) -> Tensor:
        """Truncate styles (N, style) towards the mean of their class: mean + psi (w - mean)."""
        mean = self.mean_style if labels is None or len(self.mean_style) == 1 else self.mean_style[labels]
        return mean + psi * (styles - mean)


# -- the discriminator ---------------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Residual block of two 3x3 convolutions, the second of which halves the size; divided by sqrt(2)."""

    def __init__(self, inputs: int, outputs: int, slope: float) -> None:
        super().__init__()
        gain, half = activation_gain(slope), 0.5**0.5
        self.first = Conv2d(inputs, inputs, 3, gain=gain)
        self.second = Conv2d(inputs, outputs, 3, gain=gain * half, halve=True)
        self.skip = Conv2d(inputs, outputs, 1, bias=False, gain=half, halve=True)
        self.activate = nn.LeakyReLU(slope, inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/2, W/2)."""
        return self.skip(maps) + self.activate(self.second(self.activate(self.first(maps))))


class Discriminator(nn.Module):
    """Maps images (N, C, H, W) in [-1, 1], and classes (N,) if conditional, to logits (N,); above 0 means real."""

    def __init__(self, config: StyleGan2Config, shape: ImageShape, downsamplings: int) -> None:
        super().__init__()
        widths, gain = config.widths(downsamplings), activation_gain(config.slope)
        last = widths[0]
        self.from_image = Conv2d(shape.channels, widths[-1], 1, gain=gain)
        self.blocks = nn.Sequential(
            *(ResidualBlock(widths[level], widths[level - 1], config.slope) for level in range(downsamplings, 0, -1))
        )
        self.last = Conv2d(last + 1, last, 3, gain=gain)
        pixels = (shape.height >> downsamplings) * (shape.width >> downsamplings)
        self.features = Linear(last * pixels, last, gain=gain)
        self.judge = Linear(last, 1)
        # Miyato & Koyama 2018, "cGANs with Projection Discriminator".
        self.embedding = nn.Embedding(shape.classes, last) if config.conditional else None
        self.activate = nn.LeakyReLU(config.slope, inplace=True)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits (N,)."""
        maps = self.blocks(self.activate(self.from_image(images)))
        maps = self.activate(self.last(append_minibatch_deviation(maps)))
        features = self.activate(self.features(maps.flatten(1)))
        judged = self.judge(features)[:, 0]
        if self.embedding is not None:
            judged = judged + (self.embedding(labels) * features).sum(dim=1) / features.shape[1] ** 0.5
        return judged


# -- the family ----------------------------------------------------------------------------------------------------------


class StyleGan2(StyleBasedFamily):
    """StyleGAN2. ``truncation`` is psi, the factor of the distance of w from its mean."""

    name = "stylegan2"
    Config = StyleGan2Config
    class_conditional = "optional"
    equalised = True
    grows = True
    joint = True
    edge_layers = ("discriminator.from_image.",)

    def __init__(self, config: StyleGan2Config, shape: ImageShape, *, class_shares: Sequence[float] = ()) -> None:
        super().__init__(config, shape, class_shares=class_shares)
        downsamplings = shape.downsamplings("stylegan2", LARGEST)
        self.networks = {
            "generator": Generator(config, shape, downsamplings),
            "discriminator": Discriminator(config, shape, downsamplings),
        }
        self.buffers = {"path_length_mean": torch.zeros(())}

    @classmethod
    def smaller_name(cls, network: str, name: str, levels: int) -> str:
        """See :meth:`Family.smaller_name`: the discriminator counts its blocks from the picture's size down."""
        return renumber(name, ("blocks",), levels) if network == "discriminator" else name

    # -- training --

    def penalties(self) -> tuple[Phase, ...]:
        """See :meth:`Family.penalties`: R1, and path length regularisation of the generator."""
        config = self.config
        r1 = self.penalty("r1", lambda batch: config.r1, config.r1_every)
        every = config.path_every
        path = Phase(name="path_length", side="generator", every=every, full_precision=True, loss=self.path_loss)
        return (*([r1] if config.r1 else []), *([path] if config.path_length else []))

    def generate(
        self, generator: Callable[..., Tensor], latents: Tensor, labels: Tensor | None, batch: Batch
    ) -> Tensor:
        """See :meth:`NoiseFamily.generate`; with new noise and style mixing."""
        noise = self.noise(len(latents), batch)
        others = crossover = None
        if self.config.mixing:
            layers = self._generator().layers
            others = self.latents(batch, "mixing latents")
            chance, place = randomness.uniform((len(latents), 2), batch.part, latents.device, *batch.key, "mixing").T
            crossover = torch.where(chance < self.config.mixing, 1 + (place * (layers - 1)).long(), layers)
        return generator(latents, labels if self.conditional else None, noise, others, crossover)

    def judges_together(self, real: Tensor) -> bool:
        """See :meth:`NoiseFamily.judges_together`. Each group of the minibatch deviation is real or generated.

        In fp32 on a CPU little is gained, and the gradients keep the bytes that they had before.
        """
        exact = real.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        return self.joint and len(real) % GROUP == 0 and not exact

    def noise(self, n: int, batch: Batch, draw: str = "noise") -> list[Tensor]:
        """Draw noise for each 3x3 layer, (n, 1, H, W)."""
        sizes = self._generator().synthesis.noise_sizes()
        key, device = (*batch.key, draw), batch.real.device
        return [randomness.normal((n, 1, *size), batch.part, device, *key, layer) for layer, size in enumerate(sizes)]

    def path_loss(self, batch: Batch, step: int) -> Losses:
        """Path length regularisation: squared distance of path lengths to their running mean, over half a batch (section 3.2,
        appendix B)."""
        device, memory = batch.real.device, self.buffers["path_length_mean"]
        # Every second row, so that the classes do not depend on the number of workers.
        labels = batch.labels[::2] if self.conditional and batch.labels is not None else None
        n = (len(batch.real) + 1) // 2
        latents = randomness.normal((n, self.config.latent), batch.part, device, *batch.key, "path latents")
        shape = (n, self.shape.channels, self.shape.height, self.shape.width)
        direction = randomness.normal(shape, batch.part, device, *batch.key, "path direction")
        noise = self.noise(n, batch, "path noise")
        penalty, mean = self.differentiated(
            self._path_length, "generator", latents, labels, direction, memory.to(device), *noise
        )
        memory.copy_(mean)  # in place, so that a captured step finds it again
        return Losses(penalty * self.config.path_length, {"penalty/path_length": penalty.detach()})

    def _path_length(
        self,
        generator: nn.Module,
        latents: Tensor,
        labels: Tensor | None,
        direction: Tensor,
        before: Tensor,
        *noise: Tensor,
    ) -> tuple[Tensor, ...]:
        """Penalty of the lengths in ``direction``, and their running mean, which was ``before``."""
        assert isinstance(generator, Generator)
        styles = generator.broadcast_style(generator.mapping(latents, labels))
        with FastDoubleBackward():
            images = generator.synthesis(styles, list(noise))
        lengths = path_lengths(images, styles, direction)
        mean = torch.lerp(before, collectives.mean_over_workers(lengths.detach().mean()), 0.01)
        return (lengths - mean).square().mean(), mean

    # -- use --

    def sampling_latents(self, uniform: Tensor, truncation: float | None) -> Tensor:
        """Convert uniform numbers to z without truncation, which applies to w instead."""
        return latents_from_uniform(uniform, self.prior, None)

    def generate_sample(
        self, generator: nn.Module, latents: Tensor, labels: Tensor | None, truncation: float | None
    ) -> Tensor:
        """See :meth:`NoiseFamily.generate_sample`; with the layers' fixed noise, clipped to [-1, 1].

        Truncation computes the mean style if that was never done.
        """
        assert isinstance(generator, Generator)
        styles = generator.mapping(latents, labels)
        if truncation is not None:
            self._ensure_mean(generator)
            styles = generator.truncate(styles, labels, truncation)
        return generator.synthesis(generator.broadcast_style(styles)).clamp(-1, 1)

    def to_styles(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """See :meth:`StyleBasedFamily.to_styles`."""
        generator = self._generator()
        return generator.broadcast_style(generator.mapping(latents, labels))

    def from_styles(self, styles: Tensor) -> Tensor:
        """See :meth:`StyleBasedFamily.from_styles`; with the layers' fixed noise."""
        return self._generator().synthesis(styles)

    def truncate_styles(self, styles: Tensor, labels: Tensor | None, psi: float | Tensor) -> Tensor:
        """See :meth:`StyleBasedFamily.truncate_styles`; a ``psi`` for each image has the shape (N, 1, 1)."""
        generator = self._generator()
        self._ensure_mean(generator)
        means = generator.mean_style
        mean = means if labels is None or len(means) == 1 else means[labels]
        return mean[:, None] + psi * (styles - mean[:, None])

    def mean_styles(self, label: int | None) -> Tensor:
        """See :meth:`StyleBasedFamily.mean_styles`; of class 0 if conditional and no class is given."""
        generator = self._generator()
        return generator.broadcast_style(generator.mean_style[label or 0][None])[0]

    def latent_weights(self) -> Tensor:
        """See :meth:`NoiseFamily.latent_weights`: the first layer of the mapping network."""
        first = self._generator().mapping.layers[0]
        assert isinstance(first, Linear)
        return first.weight[:, : self.config.latent] * first.scale

    def style_weights(self) -> list[Tensor]:
        """See :meth:`StyleBasedFamily.style_weights`: those of the affine layers."""
        return self._generator().synthesis.style_weights()

    def update_statistics(self, networks: Mapping[str, nn.Module], *, batches: int = 16) -> None:
        """Recompute the mean style, towards which truncation moves, over 256 latents per batch."""
        generator = networks["generator"].eval()
        assert isinstance(generator, Generator)
        self._measure_mean(generator, batches * _STYLES_PER_BATCH)

    def _ensure_mean(self, generator: Generator) -> None:
        """Compute the mean style if that was never done. A traced graph keeps the value that it has."""
        if not torch.compiler.is_compiling() and not generator.mean_style.any():
            self._measure_mean(generator, 16 * _STYLES_PER_BATCH)

    @torch.no_grad()
    def _measure_mean(self, generator: Generator, count: int) -> None:
        """Compute the mean style over ``count`` latents; if conditional, over an equal share per class, at least 64."""
        means = generator.mean_style
        count = count if len(means) == 1 else max(count // len(means), 64)
        table = randomness.sampling_uniform(0, count, self.config.latent, randomness.derive_seed("mean style"))
        latents = self.sampling_latents(table, None).to(means.device)
        for index in range(len(means)):
            labels = torch.full((count,), index, device=means.device) if self.conditional else None
            means[index] = generator.mapping(latents, labels).mean(dim=0)

    def _generator(self) -> Generator:
        generator = self.networks["generator"]
        assert isinstance(generator, Generator)
        return generator
