"""BigGAN: Brock, Donahue & Simonyan 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis".

Residual networks with spectral norm, class-conditional batch norm in the generator, a projection discriminator (Miyato &
Koyama 2018), self-attention at one resolution (Zhang et al. 2019, "SAGAN"), the hinge loss, optional hierarchical latents, and
truncated sampling with standing statistics.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core import randomness
from gan_core.augment.diffaugment import UNIFORMS, diffaugment
from gan_core.batch import Batch
from gan_core.config import check, check_at_least, check_below_one, check_choice
from gan_core.errors import SettingsError
from gan_core.families.base import ImageShape, Losses, Phase, layers_in_order
from gan_core.families.biggan_layers import (
    Attention,
    DownBlock,
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLinear,
    UpBlock,
    solve_spectral_norms,
)
from gan_core.families.noise import NoiseFamily
from gan_core.nn.batch_norm import BatchNorm2d
from gan_core.nn.penalties import consistency_penalty, orthogonal_penalty
from gan_core.precision import full_precision


@dataclass(frozen=True)
class Layout:
    """Feature maps of both networks for one picture size, in multiples of ``width``."""

    generator: tuple[int, ...]
    """Maps at 4x4 and after each block. Each block doubles the resolution."""
    discriminator: tuple[int, ...]
    """Maps after each block."""
    downs: int
    """Number of blocks of the discriminator, the first ones, that halve the resolution."""


LAYOUTS = {
    16: Layout((4, 4, 4), (4, 4, 4), 1),
    32: Layout((4, 4, 4, 4), (4, 4, 4, 4), 2),
    64: Layout((16, 16, 8, 4, 2), (1, 2, 4, 8, 16), 4),
    128: Layout((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
    256: Layout((16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6),
}


@dataclass(frozen=True, kw_only=True)
class BigGanConfig:
    """Settings of BigGAN. The defaults are for CIFAR-10; :mod:`gan_core.presets.recipes` has those for larger pictures."""

    latent: int = 128
    """Dimension of the latent z, N(0, 1)."""
    width: int = 64
    """Unit of the number of feature maps ("ch" in the paper's tables)."""
    attention: int = 0
    """Resolution, in pixels, of the maps with self-attention in both networks; 0: no self-attention."""
    attention_values: int = 2
    """Divisor of the channels for the values of self-attention: 2 as in the authors' networks, or 8 as in SAGAN's text and in
    networks of earlier versions of Gantry."""
    shared_embedding: int = 0
    """Length of a class embedding that all conditional batch norms project; 0: each has its own embedding."""
    hierarchical: bool = False
    """Whether z is split into chunks, one for the first layer and one for each block, where it joins the class embedding."""
    slope: float = 0.0
    """Negative slope of the discriminator's activations; 0 is the paper's ReLU."""
    loss: Literal["hinge", "non-saturating", "minimax", "least-squares", "wasserstein", "relativistic"] = "hinge"
    """Adversarial loss."""
    orthogonal: float = 0.0
    """Weight of orthogonal regularisation of the generator (equation 3; the paper uses 1e-4)."""
    orthogonal_every: int = 1
    """Steps between updates by orthogonal regularisation; 1: it is part of each update of the generator."""
    gradient_penalty: float = 0.0
    """Weight of WGAN-GP's gradient penalty, for loss wasserstein (Gulrajani et al. 2017 use 10); 0: only spectral norm."""
    gradient_penalty_every: int = 1
    """Steps between updates by the gradient penalty; 1: it is part of each update of the discriminator."""
    consistency: float = 0.0
    """Weight of the consistency of the discriminator's outputs for images and for the same images augmented, for real and for
    generated ones each (Zhao et al. 2021 use 10)."""
    consistency_every: int = 1
    """Steps between updates by consistency; 1: it is part of each update of the discriminator."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "latent", "width", "orthogonal_every", "gradient_penalty_every", "consistency_every")
        check_at_least(self, 0, "attention", "shared_embedding", "orthogonal", "gradient_penalty", "consistency")
        check_below_one(self, "slope")
        check_choice(self, (2, 8), "attention_values")
        check(
            self.shared_embedding > 0 or not self.hierarchical,
            "hierarchical: needs a class embedding that the chunks of z can join. Set shared_embedding, for example to 128.",
        )


def layout(config: BigGanConfig, shape: ImageShape) -> Layout:
    """Return the layout for pictures of ``shape``.

    Raises:
        SettingsError: the size is not in the table, there are more than 4 channels, the networks have no maps at the resolution
            of self-attention, or latents cannot be split into equal chunks.
    """
    if shape.height != shape.width or shape.height not in LAYOUTS:
        raise SettingsError(
            f"biggan generates square pictures of 16, 32, 64, 128 or 256 pixels per side, not {shape.height}x{shape.width}. "
            "Change ingest.size."
        )
    if not 1 <= shape.channels <= 4:
        raise SettingsError(f"biggan generates 1 to 4 channels, not {shape.channels}. Change ingest.channels.")
    found = LAYOUTS[shape.height]
    passed = [shape.height >> halved for halved in range(1, found.downs + 1) if shape.height >> halved >= 8]
    if config.attention and config.attention not in passed:
        raise SettingsError(
            f"model.attention: must be 0 or one of {', '.join(map(str, passed))} for pictures of {shape.height} pixels, "
            f"not {config.attention}."
        )
    chunks = len(found.generator)
    if config.hierarchical and config.latent % chunks:
        near = max(round(config.latent / chunks), 1) * chunks
        raise SettingsError(
            f"model.latent: must be a multiple of {chunks} for hierarchical latents and pictures of {shape.height} pixels, got "
            f"{config.latent}. Set it to {near}, for example."
        )
    return found


class Generator(nn.Module):
    """Maps z (N, latent) and classes (N,) to images (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: BigGanConfig, shape: ImageShape) -> None:
        super().__init__()
        widths = [config.width * times for times in layout(config, shape).generator]
        self.hierarchical = config.hierarchical
        self.chunk = config.latent // len(widths) if config.hierarchical else config.latent
        self.base = (widths[0], 4, 4)
        self.classes: nn.Embedding | None = None
        condition = 0
        if config.shared_embedding:
            self.classes = nn.Embedding(shape.classes, config.shared_embedding)
            nn.init.orthogonal_(self.classes.weight)
            condition = config.shared_embedding + (self.chunk if config.hierarchical else 0)
        self.project = SpectralLinear(self.chunk, widths[0] * 16)
        self.blocks = nn.ModuleList(
            UpBlock(inputs, outputs, condition, shape.classes) for inputs, outputs in itertools.pairwise(widths)
        )
        self.resolution = config.attention
        self.attention: Attention | None = None
        if config.attention:
            self.attention = Attention(widths[config.attention.bit_length() - 3], config.attention_values)
        self.normalise = BatchNorm2d(widths[-1])
        self.picture = SpectralConv2d(widths[-1], shape.channels)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Generate images of the classes ``labels`` (N,) from ``latents`` (N, latent)."""
        first, *chunks = latents.split(self.chunk, dim=1)
        condition = labels if self.classes is None else self.classes(labels)
        maps = self.project(first).view(-1, *self.base).contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            maps = block(maps, torch.cat([condition, chunks[index]], dim=1) if self.hierarchical else condition)
            if self.attention is not None and maps.shape[2] == self.resolution:
                maps = self.attention(maps)
        return torch.tanh(self.picture(F.relu(self.normalise(maps), inplace=True)))

    def latent_weights(self) -> Tensor:
        """The weights of all layers that take a chunk of z, (rows, latent)."""
        chunks = [self.project.spectral(self.project.weight)]
        for block in self.blocks if self.hierarchical else ():
            layers = [module for module in block.modules() if isinstance(module, SpectralLinear)]  # gains and biases
            # A chunk follows the class embedding.
            chunks.append(torch.cat([layer.spectral(layer.weight)[:, -self.chunk :] for layer in layers]))
        return torch.block_diag(*chunks)


class Discriminator(nn.Module):
    """Maps images (N, C, H, W) in [-1, 1] and classes (N,) to logits (N,); above 0 means real."""

    def __init__(self, config: BigGanConfig, shape: ImageShape) -> None:
        super().__init__()
        found = layout(config, shape)
        widths = [shape.channels, *(config.width * times for times in found.discriminator)]
        self.slope = config.slope
        self.blocks = nn.ModuleList(
            DownBlock(widths[at], widths[at + 1], config.slope, down=at < found.downs, first=at == 0)
            for at in range(len(widths) - 1)
        )
        # Index of the block whose output has the resolution of self-attention; -1 without self-attention.
        self.attends = shape.height.bit_length() - config.attention.bit_length() - 1 if config.attention else -1
        self.attention: Attention | None = None
        if config.attention:
            self.attention = Attention(widths[self.attends + 1], config.attention_values)
        self.judge = SpectralLinear(widths[-1], 1)
        self.classes = SpectralEmbedding(shape.classes, widths[-1])

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return logits (N,), float32, for ``images`` with the classes ``labels`` (N,)."""
        maps = images
        for index, block in enumerate(self.blocks):
            maps = block(maps)
            if self.attention is not None and index == self.attends:
                maps = self.attention(maps)
        features = F.leaky_relu(maps, self.slope).float().sum(dim=(2, 3))
        with full_precision(images.device):  # bf16 has only three digits
            return self.judge(features).squeeze(1) + (self.classes(labels) * features).sum(dim=1)


class BigGan(NoiseFamily):
    """BigGAN: large class-conditional residual networks."""

    name = "biggan"
    Config = BigGanConfig
    class_conditional = "always"
    joint = True

    def __init__(self, config: BigGanConfig, shape: ImageShape, *, class_shares: Sequence[float] = ()) -> None:
        super().__init__(config, shape, class_shares=class_shares)
        self.networks = {"generator": Generator(config, shape), "discriminator": Discriminator(config, shape)}

    @classmethod
    def older_settings(cls, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :meth:`Family.older_settings`: the values of self-attention had an eighth of the channels."""
        return {"attention_values": 8} if saved.get("attention") else {}

    def penalties(self) -> tuple[Phase, ...]:
        """See :meth:`Family.penalties`: those with a weight."""
        config = self.config
        found = []
        if config.gradient_penalty:
            found.append(self.penalty("gp", lambda batch: config.gradient_penalty, config.gradient_penalty_every))
        if config.consistency:
            every = config.consistency_every
            found.append(Phase(name="consistency", side="discriminator", every=every, loss=self.consistency_loss))
        if config.orthogonal:
            every, loss = config.orthogonal_every, self.orthogonal_loss
            found.append(Phase(name="orthogonal", side="generator", every=every, full_precision=True, loss=loss))
        return tuple(found)

    def consistency_loss(self, batch: Batch, step: int) -> Losses:
        """Consistency loss: how much the discriminator's outputs change when real and generated images are augmented."""
        with torch.no_grad():
            images = torch.cat([batch.real, self.detached_fakes(batch).float()])
            # A row has the numbers for its real and for its generated image, whatever the number of workers.
            shape = (len(batch.real), 2 * len(UNIFORMS))
            draw = randomness.uniform(shape, batch.part, batch.real.device, *batch.key, "consistency")
            augmented = diffaugment(images, torch.cat(draw.chunk(2, dim=1)))
        plain, jittered = self.discriminate_both(
            images, augmented, None if batch.labels is None else batch.labels.repeat(2)
        )
        # The mean over real images and that over generated ones are added (Zhao et al. 2021, algorithm 1).
        of_real, of_fake = map(consistency_penalty, plain.chunk(2), jittered.chunk(2))
        penalty = of_real + of_fake
        return Losses(self.config.consistency * penalty, {"penalty/consistency": penalty.detach()})

    def orthogonal_loss(self, batch: Batch, step: int) -> Losses:
        """Orthogonal regularisation of the generator's weights (equation 3)."""
        penalty = orthogonal_penalty(self.networks["generator"])
        return Losses(self.config.orthogonal * penalty, {"penalty/orthogonal": penalty.detach()})

    def discriminator_layers(self, name: str) -> list[list[nn.Parameter]]:
        """See :meth:`Family.discriminator_layers`."""
        network = self.networks[name]
        assert isinstance(network, Discriminator)
        modules = [*network.blocks, network.judge, network.classes]
        if network.attention is not None:
            modules.insert(network.attends + 1, network.attention)
        return layers_in_order(modules)

    def latent_weights(self) -> Tensor:
        """See :meth:`NoiseFamily.latent_weights`: the first layer, and the norms that take chunks of z."""
        generator = self.networks["generator"]
        assert isinstance(generator, Generator)
        return generator.latent_weights()

    def update_statistics(self, networks: Mapping[str, nn.Module], *, batches: int = 16) -> None:
        """Recompute the singular values of the averaged weights, and then the statistics of batch norm.

        Neither depends on earlier calls.
        """
        for network in networks.values():
            solve_spectral_norms(network)
        super().update_statistics(networks, batches=batches)
