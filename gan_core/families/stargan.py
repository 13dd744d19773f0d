"""StarGAN: Choi et al. 2018, "StarGAN: Unified Generative Adversarial Networks for Multi-Domain Image-to-Image Translation".

One residual generator gets the domain to translate to as channels beside the picture's. The discriminator, a critic of
patches under WGAN-GP, also says which domain a picture is of. Translated back, a picture is to be itself again.
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
"""Layers that halve the size in the discriminator, and its widest one in multiples of the first (table 5)."""


@dataclass(frozen=True, kw_only=True)
class StarGanConfig:
    """StarGAN's own settings; the defaults are the paper's."""

    width: int = 64
    """Maps of the generator's first layer; four times as many in its residual blocks."""
    blocks: int = 6
    """Residual blocks of the generator."""
    critic_width: int = 64
    """Maps of the discriminator's first layer, doubled at each halving."""
    slope: float = 0.01
    """Leak slope of the discriminator's leaky ReLU."""
    classification: float = 1.0
    """Weight of the domain that pictures are said to be of (equations 5 and 6)."""
    reconstruction: float = 10.0
    """Weight of what is lost on the way to another domain and back (equation 6)."""
    gradient_penalty: float = 10.0
    """Weight of the gradient penalty (equation 8)."""
    gradient_penalty_every: int = 1
    """Steps between two updates by it; 1: it is part of each update of the discriminator."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "width", "critic_width", "gradient_penalty_every")
        check_at_least(self, 0, "blocks", "classification", "reconstruction", "gradient_penalty")
        check_below_one(self, "slope")


class Generator(ResidualGenerator):
    """Pictures (N, C, H, W) and the domains or attributes wanted (N, k) to pictures (N, C, H, W) in [-1, 1]."""

    def __init__(self, channels: int, domains: int, config: StarGanConfig) -> None:
        super().__init__(channels + domains, channels, config.width, config.blocks, kernel=4, reflect=False, bias=False)

    def forward(self, images: Tensor, wanted: Tensor) -> Tensor:  # type: ignore[override]
        """``images`` as pictures of ``wanted``."""
        planes = wanted.to(images.dtype)[:, :, None, None].expand(-1, -1, *images.shape[2:])
        return super().forward(torch.cat([images, planes], dim=1).contiguous(memory_format=torch.channels_last))


class Discriminator(nn.Module):
    """Pictures (N, C, H, W) to a map of critic values (N, 1, h, w) and logits of domains or attributes (N, k)."""

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
        """What is said of ``images``."""
        maps = self.layers(images)
        return self.judge(maps), self.classify(maps).flatten(1)


class Reader(nn.Module):
    """Pictures (N, C, H, W) of any size to logits of their attributes (N, k).

    Not of the paper, whose pictures come with their attributes: to change one of a picture, the others have to be known.
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
        """Logits; above 0 an attribute holds."""
        return self.read(self.layers(images).mean(dim=(2, 3)))


class StarGan(TranslationFamily):
    """Translation among k domains, or of attributes that hold or not."""

    name = "stargan"
    Config = StarGanConfig
    kinds = frozenset({"domains", "labelled"})
    side_multiple = 4

    def __init__(self, config: StarGanConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        domains = shape.attributes or shape.classes
        if domains < (1 if shape.attributes else 2):
            raise SettingsError(
                f"model.family: stargan translates among domains, and this dataset has {domains}. Add the data again with a "
                "folder for each domain, or with a table of attributes."
            )
        if min(shape.height, shape.width) < 8:
            raise SettingsError(
                f"stargan translates pictures of 8 pixels a side and more, not {shape.height}x{shape.width}. Change "
                "ingest.size."
            )
        self.domains = domains
        self.networks = {
            "generator": Generator(shape.channels, domains, config),
            "discriminator": Discriminator(shape.channels, domains, config, shape),
        }
        if shape.attributes:
            self.generators = ("generator", "reader")
            self.networks["reader"] = Reader(shape.channels, domains)

    @classmethod
    def check_data(cls, info: DatasetInfo, config: Any) -> None:
        """See :meth:`Family.check_data`."""
        super().check_data(info, config)
        if not info.attributes and len(info.classes) < 2:
            raise SettingsError(
                f"model.family: stargan translates among domains, and {info.name} has only {len(info.classes)}."
            )

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """From each domain to each other; of attributes, each one switched."""
        if self.shape.attributes:
            return tuple((None, attribute) for attribute in range(self.domains))
        return tuple((of, to) for of in range(self.domains) for to in range(self.domains) if of != to)

    # -- training --

    def target_labels(self, batch: Batch) -> Tensor:
        """The domains (N,), or attributes (N, k), to translate to: those of the step's pictures in another order.

        So combinations of attributes are such as exist.
        """

        def draw() -> Tensor:
            known = labels_of(batch)
            everyone = collectives.all_gather_rows(known)
            numbers = randomness.uniform((len(everyone),), randomness.WorkerSlice(), known.device, *batch.key, "wanted")
            return everyone[numbers.argsort(stable=True)][batch.part.rows(len(known))]

        return batch.cached("wanted", draw)

    def penalties(self) -> tuple[Phase, ...]:
        """See :meth:`Family.penalties`: the gradient penalty of the critic."""
        if not self.config.gradient_penalty:
            return ()
        every = self.config.gradient_penalty_every
        return (Phase(name="gp", side="discriminator", every=every, loss=self.penalty_loss),)

    def fakes(self, batch: Batch) -> Tensor:
        """The batch's pictures translated to what is wanted."""
        return batch.cached("fakes", lambda: self._translated(batch.real, self.target_labels(batch)))

    def _translated(self, images: Tensor, wanted: Tensor) -> Tensor:
        return self.call_padded(self.network("generator"), images, one_hot(wanted, self.domains))

    def diversity_pairs(self, batch: Batch) -> tuple[DiversityPair, ...]:
        """See :meth:`Family.diversity_pairs`; domain by domain."""
        made, labels = self.fakes(batch), labels_of(batch)
        if labels.dim() > 1:
            return (DiversityPair(fakes=made, reals=batch.real),)
        return (DiversityPair(fakes=made, reals=batch.real, fake_labels=self.target_labels(batch), real_labels=labels),)

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """The critic's loss of both in one pass, and the domains of real pictures (equation 5)."""
        config, labels = self.config, labels_of(batch)
        real, fake = self._augmented(batch)
        judged, said = self.network("discriminator")(torch.cat([real, fake]))
        judged_real, judged_fake = judged.float().chunk(2)
        adversarial = wasserstein_discriminator(judged_real, judged_fake)
        classified = classification_loss(said.float()[: len(real)], labels)
        # Of a critic only differences mean something: what is right is on its side of the middle.
        middle = (judged_real.detach().mean() + judged_fake.detach().mean()) / 2
        terms = {
            "loss/critic": adversarial,
            "loss/classification": classified,
            **discriminator_accuracy(judged_real - middle, judged_fake - middle),
        }
        total = adversarial + config.classification * classified
        return Losses(total, {name: term.detach() for name, term in {"loss/discriminator": total, **terms}.items()})

    def _augmented(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The real and the generated pictures that the discriminator looks at."""
        made = self.detached_fakes(batch).float()
        return batch.augment(batch.real, "real"), batch.augment(made, "fake")

    def penalty_loss(self, batch: Batch, step: int) -> Losses:
        """The gradient penalty between the two (equation 5)."""
        real, fake = self._augmented(batch)
        mix = randomness.uniform((len(real), 1, 1, 1), batch.part, real.device, *batch.key, "gp mix")
        # The sum over patches, as the weight of 10 was chosen for.
        penalty = gradient_penalty(lambda x: self.networks["discriminator"](x)[0].float(), real, fake, mix)
        return Losses(self.config.gradient_penalty * penalty, {"penalty/gp": penalty.detach()})

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """What the critic says, the domains that it sees, and what is lost there and back (equation 6)."""
        config, labels = self.config, labels_of(batch)
        made = self.fakes(batch)
        judged, said = self.network("discriminator")(batch.augment(made, "fake again"))
        returned = self._translated(made.to(batch.real.dtype), labels)
        terms = {
            "loss/adversarial": wasserstein_generator(judged.float()),
            "loss/generator_classification": classification_loss(said.float(), self.target_labels(batch)),
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
        self, images: Tensor, target: int | None, networks: Mapping[str, nn.Module], seed: int, first: int
    ) -> Tensor:
        """See :meth:`TranslationFamily.translate_aligned`: to domain ``target``, or with attribute ``target`` switched."""
        assert target is not None
        if self.shape.attributes:
            wanted = (networks["reader"](images) > 0).float()
            wanted[:, target] = 1 - wanted[:, target]
        else:
            wanted = one_hot(torch.full((len(images),), target, device=images.device), self.domains)
        generator: Any = networks["generator"]
        return generator(images, wanted)

    def preview(self, reals: Batch, networks: Mapping[str, nn.Module]) -> tuple[Tensor, int]:
        """Rows of a picture, and the same in every domain or with each attribute switched."""
        return grid_rows(reals.real, *(self.translate(reals.real, to, networks=networks) for to in range(self.domains)))


def classification_loss(said: Tensor, labels: Tensor) -> Tensor:
    """-log of the probability that logits ``said`` (N, k) give to the domains (N,), or to all attributes (N, k)."""
    if labels.dim() == 1:
        return F.cross_entropy(said, labels)
    return F.binary_cross_entropy_with_logits(said, labels, reduction="none").sum(dim=1).mean()
