"""StarGAN: Choi et al. 2018, "StarGAN: Unified Generative Adversarial Networks for Multi-Domain Image-to-Image Translation".

A single residual generator gets the target domain as additional channels of the picture. The discriminator, a patch critic
trained with WGAN-GP, also classifies the domain of a picture. A picture translated back should be the original.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core import randomness
from gan_core.batch import Batch
from gan_core.config import check_at_least, check_below_one
from gan_core.data import DatasetInfo
from gan_core.errors import SettingsError
from gan_core.families.base import DiversityPair, ImageShape, Losses, Phase
from gan_core.families.translation import TranslationFamily, discriminator_accuracy, grid_rows, labels_of
from gan_core.families.translation_layers import ResidualGenerator, one_hot
from gan_core.nn import collectives
from gan_core.nn.convolution import Conv2d
from gan_core.nn.losses import wasserstein_discriminator, wasserstein_generator
from gan_core.nn.penalties import gradient_penalty

_DEEPEST, _WIDEST = 6, 32
"""Limits on the discriminator: layers that halve the size, and width of the widest layer relative to the first (table 5)."""


@dataclass(frozen=True, kw_only=True)
class StarGanConfig:
    """Settings of StarGAN. The defaults are the paper's."""

    width: int = 64
    """Feature maps of the generator's first layer; its residual blocks have four times as many."""
    blocks: int = 6
    """Residual blocks of the generator."""
    critic_width: int = 64
    """Feature maps of the discriminator's first layer, doubled at each halving."""
    slope: float = 0.01
    """Negative slope of the discriminator's leaky ReLUs."""
    classification: float = 1.0
    """Weight of the domain classification loss (equations 5 and 6)."""
    reconstruction: float = 10.0
    """Weight of the reconstruction loss of a picture translated to another domain and back (equation 6)."""
    gradient_penalty: float = 10.0
    """Weight of the gradient penalty (equation 8)."""
    gradient_penalty_every: int = 1
    """Steps between updates by the gradient penalty; 1: it is part of each update of the discriminator."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "width", "critic_width", "gradient_penalty_every")
        check_at_least(self, 0, "blocks", "classification", "reconstruction", "gradient_penalty")
        check_below_one(self, "slope")


class Generator(ResidualGenerator):
    """Maps pictures (N, C, H, W) and target domains or attributes (N, k) to pictures (N, C, H, W) in [-1, 1]."""

    def __init__(self, channels: int, domains: int, config: StarGanConfig) -> None:
        super().__init__(channels + domains, channels, config.width, config.blocks, kernel=4, reflect=False, bias=False)

    def forward(self, images: Tensor, wanted: Tensor) -> Tensor:  # type: ignore[override]
        """Translate ``images`` to the domains or attributes ``wanted``."""
        planes = wanted.to(images.dtype)[:, :, None, None].expand(-1, -1, *images.shape[2:])
        return super().forward(torch.cat([images, planes], dim=1).contiguous(memory_format=torch.channels_last))


class Discriminator(nn.Module):
    """Maps pictures (N, C, H, W) to critic values (N, 1, h, w) and logits of domains or attributes (N, k)."""

    def __init__(self, channels: int, domains: int, config: StarGanConfig, shape: ImageShape) -> None:
        super().__init__()
        downsamplings = min(min(shape.height, shape.width).bit_length() - 2, _DEEPEST)
        layers: list[nn.Module] = []
        for level in range(downsamplings):
            outputs = config.critic_width * min(2**level, _WIDEST)
            layers += [Conv2d(channels, outputs, 4, stride=2, padding=1), nn.LeakyReLU(config.slope, inplace=True)]
            channels = outputs
        self.layers = nn.Sequential(*layers)
        self.judge = Conv2d(channels, 1, 3, padding=1, bias=False)
        self.classify = Conv2d(
            channels, domains, (shape.height >> downsamplings, shape.width >> downsamplings), bias=False
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return critic values and logits for ``images``."""
        maps = self.layers(images)
        return self.judge(maps), self.classify(maps).flatten(1)


class AttributeClassifier(nn.Module):
    """Maps pictures (N, C, H, W) of any size to logits of their attributes (N, k).

    To switch one attribute of a picture, its other attributes must be known. The paper takes them from the data; this network
    predicts them for any picture.
    """

    def __init__(self, channels: int, attributes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for outputs in (32, 64, 128):
            layers += [Conv2d(channels, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.1, inplace=True)]
            channels = outputs
        self.layers = nn.Sequential(*layers)
        self.read = nn.Linear(channels, attributes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits; above 0 the picture has the attribute."""
        return self.read(self.layers(images).mean(dim=(2, 3)))


class StarGan(TranslationFamily):
    """StarGAN: translation between k domains, or switching of attributes."""

    name = "stargan"
    Config = StarGanConfig
    kinds = frozenset({"domains", "labelled"})
    side_multiple = 4

    def __init__(self, config: StarGanConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        domains = shape.attributes or shape.classes
        if domains < (1 if shape.attributes else 2):
            raise SettingsError(
                f"model.family: stargan translates between domains, but this dataset has {domains}. Add the data again with a "
                "folder for each domain, or with a table of attributes."
            )
        if min(shape.height, shape.width) < 8:
            raise SettingsError(
                f"stargan needs pictures of at least 8 pixels per side, not {shape.height}x{shape.width}. Change "
                "ingest.size."
            )
        self.domains = domains
        self.networks = {
            "generator": Generator(shape.channels, domains, config),
            "discriminator": Discriminator(shape.channels, domains, config, shape),
        }
        if shape.attributes:
            self.generators = ("generator", "reader")
            self.networks["reader"] = AttributeClassifier(shape.channels, domains)

    @classmethod
    def check_data(cls, info: DatasetInfo, config: Any) -> None:
        """See :meth:`Family.check_data`."""
        super().check_data(info, config)
        if not info.attributes and len(info.classes) < 2:
            raise SettingsError(
                f"model.family: stargan translates between domains, but {info.name} has only {len(info.classes)}. Choose "
                "another family (gantry recommend)."
            )

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """From each domain to each other; for attributes, one entry for switching each."""
        if self.shape.attributes:
            return tuple((None, attribute) for attribute in range(self.domains))
        return tuple((of, to) for of in range(self.domains) for to in range(self.domains) if of != to)

    # -- training --

    def target_labels(self, batch: Batch) -> Tensor:
        """Target domains (N,), or attributes (N, k): those of all workers' pictures, shuffled.

        Target combinations of attributes therefore exist in the data.
        """

        def draw() -> Tensor:
            labels = labels_of(batch)
            gathered = collectives.all_gather_rows(labels)
            numbers = randomness.uniform(
                (len(gathered),), randomness.WorkerSlice(), labels.device, *batch.key, "wanted"
            )
            return gathered[numbers.argsort(stable=True)][batch.part.rows(len(labels))]

        return batch.cached("wanted", draw)

    def penalties(self) -> tuple[Phase, ...]:
        """See :meth:`Family.penalties`: the gradient penalty of the critic."""
        if not self.config.gradient_penalty:
            return ()
        every = self.config.gradient_penalty_every
        return (Phase(name="gp", side="discriminator", every=every, loss=self.penalty_loss),)

    def fakes(self, batch: Batch) -> Tensor:
        """Translate the batch's pictures to their target domains or attributes."""
        return batch.cached("fakes", lambda: self._translated(batch.real, self.target_labels(batch)))

    def _translated(self, images: Tensor, wanted: Tensor) -> Tensor:
        return self.call_padded(self.network("generator"), images, one_hot(wanted, self.domains))

    def diversity_pairs(self, batch: Batch) -> tuple[DiversityPair, ...]:
        """See :meth:`Family.diversity_pairs`; domain by domain."""
        fakes, labels = self.detached_fakes(batch), labels_of(batch)
        if labels.dim() > 1:
            return (DiversityPair(fakes=fakes, reals=batch.real),)
        return (
            DiversityPair(fakes=fakes, reals=batch.real, fake_labels=self.target_labels(batch), real_labels=labels),
        )

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """Critic loss of real and generated pictures in one pass, and classification loss of real ones (equation 5)."""
        config, labels = self.config, labels_of(batch)
        real, fake = self._augmented(batch)
        judged, logits = self.network("discriminator")(torch.cat([real, fake]))
        judged_real, judged_fake = judged.float().chunk(2)
        adversarial = wasserstein_discriminator(judged_real, judged_fake)
        classified = classification_loss(logits.float()[: len(real)], labels)
        # Only differences of critic values have a meaning: the threshold of being right is their mean.
        middle = (judged_real.detach().mean() + judged_fake.detach().mean()) / 2
        terms = {
            "loss/critic": adversarial,
            "loss/classification": classified,
            **discriminator_accuracy(judged_real - middle, judged_fake - middle),
        }
        total = adversarial + config.classification * classified
        return Losses(total, {name: term.detach() for name, term in {"loss/discriminator": total, **terms}.items()})

    def _augmented(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The real and the generated pictures, augmented for the discriminator."""
        fakes = self.detached_fakes(batch).float()
        return batch.augment(batch.real, "real"), batch.augment(fakes, "fake")

    def penalty_loss(self, batch: Batch, step: int) -> Losses:
        """Gradient penalty between real and generated pictures (equation 5)."""
        real, fake = self._augmented(batch)
        mix = randomness.uniform((len(real), 1, 1, 1), batch.part, real.device, *batch.key, "gp mix")
        (penalty,) = self.differentiated(self._between, "discriminator", real, fake, mix)
        return Losses(self.config.gradient_penalty * penalty, {"penalty/gp": penalty.detach()})

    def _between(self, discriminator: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> tuple[Tensor, ...]:
        # Summed over patches, for which the weight of 10 was chosen.
        return (gradient_penalty(lambda x: discriminator(x)[0].float(), real, fake, mix),)

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """Adversarial, classification and reconstruction loss (equation 6)."""
        config, labels = self.config, labels_of(batch)
        fakes = self.fakes(batch)
        judged, logits = self.network("discriminator")(batch.augment(fakes, "fake again"))
        returned = self._translated(fakes.to(batch.real.dtype), labels)
        terms = {
            "loss/adversarial": wasserstein_generator(judged.float()),
            "loss/generator_classification": classification_loss(logits.float(), self.target_labels(batch)),
            "loss/reconstruction": (returned.float() - batch.real).abs().mean(),
        }
        total = (
            terms["loss/adversarial"]
            + config.classification * terms["loss/generator_classification"]
            + config.reconstruction * terms["loss/reconstruction"]
        )
        terms["loss/generator"] = total
        if self.shape.attributes:
            terms["loss/reader"] = F.binary_cross_entropy_with_logits(
                self.network("reader")(batch.real).float(), labels
            )
            total = total + terms["loss/reader"]
        return Losses(total, {name: term.detach() for name, term in terms.items()})

    # -- use --

    def translate_aligned(
        self, images: Tensor, target: int | Tensor | None, networks: Mapping[str, nn.Module], noise: Tensor | None
    ) -> Tensor:
        """See :meth:`TranslationFamily.translate_aligned`: to domain ``target``, or with attribute ``target`` switched."""
        assert target is not None
        targets = target if isinstance(target, Tensor) else torch.full((len(images),), target, device=images.device)
        wanted = one_hot(targets, self.domains)
        if self.shape.attributes:
            wanted = ((networks["reader"](images) > 0).float() - wanted).abs()
        generator: Any = networks["generator"]
        return generator(images, wanted)

    def preview(self, reals: Batch, networks: Mapping[str, nn.Module]) -> tuple[Tensor, int]:
        """Rows of a picture and its translations to every domain, or with each attribute switched."""
        return grid_rows(reals.real, *(self.translate(reals.real, to, networks=networks) for to in range(self.domains)))


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of ``logits`` (N, k) with domains (N,), or summed binary cross-entropy with attributes (N, k)."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(dim=1).mean()
