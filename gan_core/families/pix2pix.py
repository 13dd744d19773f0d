"""Pix2Pix: Isola, Zhu, Zhou & Efros 2017, "Image-to-Image Translation with Conditional Adversarial Networks".

A U-Net translates a condition to a picture. Dropout is its source of noise, in training and afterwards. The discriminator
classifies patches of 70x70 pixels of the pair. Instance norm corresponds to the paper's batch norm with a batch of one, so that
a picture does not depend on others. Greyscale conditions are colourised in CIE L*a*b*: L in, a and b out.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gan_core import randomness
from gan_core.batch import Batch
from gan_core.config import check_at_least, check_below_one
from gan_core.data import DatasetInfo
from gan_core.errors import SettingsError
from gan_core.families.base import ImageShape, Losses
from gan_core.families.translation import TranslationFamily, conditions_of, discriminator_accuracy, grid_rows
from gan_core.families.translation_layers import PatchDiscriminator
from gan_core.images.colour import lab_to_rgb, rgb_to_lab
from gan_core.nn.convolution import Conv2d, ConvTranspose2d
from gan_core.nn.initialise import init_normal
from gan_core.nn.instance_norm import InstanceNorm2d
from gan_core.nn.losses import logistic_discriminator, non_saturating_generator
from gan_core.nn.padding import crop_borders, pad_to_multiple

_WIDEST = 8
"""Feature maps of the widest layer, in multiples of the first."""
_DEEPEST = 8
_NOISY = 3
"""Number of layers with dropout, the first ones of the decoder (section 6.1.1)."""
_AB = 110.0
"""Divisor of a and b, which brings all sRGB colours into [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class Pix2PixConfig:
    """Settings of Pix2Pix. The defaults are the paper's."""

    width: int = 64
    """Feature maps of the generator's first layer; doubled at each halving, up to 8 times as many."""
    depth: int = 0
    """Number of layers of the generator that halve the resolution; 0: until the shorter side is one pixel, at most 8."""
    dropout: float = 0.5
    """Dropout probability in the first 3 layers of the decoder, in training and in translation."""
    patch_width: int = 64
    """Feature maps of the discriminator's first layer."""
    patch_halvings: int = 3
    """Number of discriminator layers that halve the resolution: 3 for patches of 70x70 pixels, 2 for 34x34, 1 for 16x16."""
    slope: float = 0.2
    """Negative slope of all leaky ReLUs."""
    l1: float = 100.0
    """Weight of the L1 distance to the target relative to the adversarial loss (equation 4)."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "width", "patch_width", "patch_halvings")
        check_at_least(self, 0, "depth", "l1")
        check_below_one(self, "slope", "dropout")


class UNet(nn.Module):
    """U-Net: maps conditions (N, C', H, W) to pictures (N, C, H, W) in [-1, 1]. Both sides must be multiples of 2^depth.

    4x4 convolutions halve the size ``depth`` times, and as many double it again, with skip connections between layers of
    equal size (section 6.1.1).
    """

    def __init__(self, inputs: int, outputs: int, config: Pix2PixConfig, depth: int) -> None:
        super().__init__()
        self.widths = [config.width * min(2**level, _WIDEST) for level in range(depth)]
        self.noisy = min(_NOISY, depth - 2)
        self.activate = nn.LeakyReLU(config.slope)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (before, after) in enumerate(itertools.pairwise([inputs, *self.widths])):
            convolve = Conv2d(before, after, 4, stride=2, padding=1, bias=False)
            # No norm after the first layer, as in the paper, nor after the last: a map of a single pixel would become 0.
            normed = 0 < level < depth - 1
            self.down.append(nn.Sequential(convolve, InstanceNorm2d(after)) if normed else convolve)
        for level in range(depth - 1, 0, -1):
            before = self.widths[level] * (1 if level == depth - 1 else 2)
            after = self.widths[level - 1]
            widen = ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
            self.up.append(nn.Sequential(widen, InstanceNorm2d(after)))
        self.picture = ConvTranspose2d(2 * self.widths[0], outputs, 4, stride=2, padding=1)

    def noise_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Shape (maps, height, width) of each layer with dropout, for conditions of ``height`` and ``width``."""
        depth = len(self.widths)
        return [(self.widths[at - 1], height >> at, width >> at) for at in range(depth - 1, depth - 1 - self.noisy, -1)]

    def forward(self, conditions: Tensor, kept: Sequence[Tensor]) -> Tensor:
        """Translate ``conditions``. ``kept``: the dropout masks, (N, maps, h, w) for each of :meth:`noise_shapes`."""
        maps, passed = conditions, []
        for level, down in enumerate(self.down):
            maps = down(self.activate(maps) if level else maps)
            passed.append(maps)
        passed.pop()
        for level, up in enumerate(self.up):
            maps = up(torch.relu(maps))
            if level < len(kept):
                maps = maps * kept[level]
            maps = torch.cat([maps, passed.pop()], dim=1)
        return torch.tanh(self.picture(torch.relu(maps)))


class Pix2Pix(TranslationFamily):
    """Pix2Pix: translation learnt from pairs."""

    name = "pix2pix"
    Config = Pix2PixConfig
    kinds = frozenset({"paired"})
    augmentable = False

    def __init__(self, config: Pix2PixConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        depth = config.depth or min(min(shape.height, shape.width).bit_length() - 1, _DEEPEST)
        deepest = min(shape.height, shape.width).bit_length() - 1
        if deepest < 3:
            raise SettingsError(
                f"pix2pix needs pictures of at least 8 pixels per side, not {shape.height}x{shape.width}. Change ingest.size."
            )
        if not 3 <= depth <= deepest:
            raise SettingsError(
                f"model.depth: must be 3 to {deepest} for pictures of {shape.height}x{shape.width} pixels, got {depth}. "
                "Leave depth out, or change ingest.size."
            )
        self.side_multiple = self.min_side = 2**depth
        self.colourises = shape.derived == "greyscale"
        if self.colourises and (shape.channels, shape.condition_channels) != (3, 1):
            raise SettingsError(
                f"ingest.channels: colourisation needs 3 channels, from a condition of 1, not {shape.channels} from "
                f"{shape.condition_channels}. Set it to 3."
            )
        outputs = 2 if self.colourises else shape.channels
        self.networks = {
            "generator": UNet(shape.condition_channels, outputs, config, depth),
            "discriminator": PatchDiscriminator(
                shape.condition_channels + outputs, config.patch_width, config.patch_halvings, config.slope, shape
            ),
        }
        for network in self.networks.values():
            init_normal(network)

    @classmethod
    def check_data(cls, info: DatasetInfo, config: Any) -> None:
        """See :meth:`Family.check_data`."""
        super().check_data(info, config)
        if not info.condition_channels:
            raise SettingsError(f"{info.name} is paired but has no conditions. Run the ingest stage again.")

    @property
    def source_channels(self) -> int:
        """Channels of the conditions."""
        return self.shape.condition_channels

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """From the condition to the picture."""
        return ((None, None),)

    # -- training --

    def generated(self, batch: Batch) -> Tensor:
        """Run the generator on the batch's conditions: pictures, or a and b in [-1, 1]."""

        def make() -> Tensor:
            conditions, borders = pad_to_multiple(conditions_of(batch), self.side_multiple, self.min_side)
            rows, share = len(conditions), self.config.dropout
            kept = [
                (
                    randomness.uniform((rows, *sizes), batch.part, conditions.device, *batch.key, "dropout", layer)
                    >= share
                )
                .to(conditions.dtype)
                .div_(1 - share)
                .contiguous(memory_format=torch.channels_last)
                for layer, sizes in enumerate(self._noise_shapes(conditions.shape[2], conditions.shape[3]))
            ]
            return crop_borders(self.network("generator")(conditions, kept), borders)

        return batch.cached("made", make)

    def targets(self, batch: Batch) -> Tensor:
        """Targets of the generator: the real pictures, or their a and b in [-1, 1]."""
        if not self.colourises:
            return batch.real
        return batch.cached("wanted", lambda: rgb_to_lab((batch.real + 1) / 2)[:, 1:] / _AB)

    def fakes(self, batch: Batch) -> Tensor:
        """Generate pictures from the batch's conditions."""
        return self.pictures(self.generated(batch), conditions_of(batch))

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """Half the cross-entropy of real and generated pairs (section 3.3), in one pass."""
        with torch.set_grad_enabled(batch.keep and torch.is_grad_enabled()):
            made = self.generated(batch).detach()
        conditions = conditions_of(batch)
        pairs = torch.cat([self._pairs(conditions, self.targets(batch)), self._pairs(conditions, made)])
        real, fake = self.network("discriminator")(pairs).float().chunk(2)
        total = 0.5 * logistic_discriminator(real, fake)
        return Losses(total, {"loss/discriminator": total.detach(), **discriminator_accuracy(real, fake)})

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """Adversarial loss of generated pairs, and their L1 distance to the targets (equation 4)."""
        made = self.generated(batch)
        judged = self.network("discriminator")(self._pairs(conditions_of(batch), made)).float()
        adversarial = non_saturating_generator(judged)
        distance = (made.float() - self.targets(batch)).abs().mean()
        total = adversarial + self.config.l1 * distance
        terms = {"loss/generator": total, "loss/adversarial": adversarial, "loss/l1": distance}
        return Losses(total, {name: term.detach() for name, term in terms.items()})

    def _pairs(self, conditions: Tensor, made: Tensor) -> Tensor:
        return torch.cat([conditions, made.to(conditions.dtype)], dim=1)

    # -- use --

    def pictures(self, made: Tensor, conditions: Tensor) -> Tensor:
        """Convert outputs of the generator to pictures in [-1, 1]: a and b, with L of the conditions, become RGB."""
        if not self.colourises:
            return made
        lab = torch.cat([(conditions.float() + 1) * 50, made.float() * _AB], dim=1)
        return lab_to_rgb(lab) * 2 - 1

    def translate_aligned(
        self, images: Tensor, target: int | Tensor | None, networks: Mapping[str, nn.Module], noise: Tensor | None
    ) -> Tensor:
        """See :meth:`TranslationFamily.translate_aligned`; the noise decides the dropout."""
        kept = []
        if noise is not None:
            shapes = self._noise_shapes(images.shape[2], images.shape[3])
            kept = [layer.to(images.dtype) for layer in dropout_masks(shapes, self.config.dropout, noise)]
        generator: Callable[..., Tensor] = networks["generator"]
        return self.pictures(generator(images, kept), images)

    def translation_noise(self, n: int, height: int, width: int, seed: int, first: int) -> Tensor | None:
        """See :meth:`TranslationFamily.translation_noise`: uniform in [0, 1), a number for each value with dropout."""
        count = sum(math.prod(shape) for shape in self._noise_shapes(height, width))
        if not count:
            return None
        rows = [np.random.default_rng([seed, index]).random(count, np.float32) for index in range(first, first + n)]
        return torch.from_numpy(np.stack(rows))

    def preview(self, reals: Batch, networks: Mapping[str, nn.Module]) -> tuple[Tensor, int]:
        """Rows of condition, translation and target."""
        conditions = conditions_of(reals)
        translated = self.translate(conditions, networks=networks)
        shown = (
            self.pictures(torch.zeros_like(conditions.expand(-1, 2, -1, -1)), conditions) if self.colourises else None
        )
        return grid_rows(conditions if shown is None else shown, translated, reals.real)

    def _noise_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        if not self.config.dropout:
            return []
        generator = self.networks["generator"]
        assert isinstance(generator, UNet)
        return generator.noise_shapes(height, width)


def dropout_masks(shapes: Sequence[tuple[int, int, int]], share: float, noise: Tensor) -> list[Tensor]:
    """Convert ``noise``, uniform in [0, 1), (N, numbers), to dropout masks for maps of ``shapes``.

    A mask is 0 with probability ``share`` and 1 / (1 - share) otherwise, which preserves the mean.

    Returns:
        float32 (N, maps, h, w) for each shape.
    """
    kept = noise.ge(share).float() / (1 - share)
    parts = kept.split([math.prod(shape) for shape in shapes], dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
