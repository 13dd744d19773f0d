"""StarGAN v2: Choi, Uh, Yoo & Ha 2020, "StarGAN v2: Diverse Image Synthesis for Multiple Domains".

A picture is translated to a domain with a style, which a mapping network generates from noise or a style encoder extracts from
a reference picture. The losses: the encoder should recover the style of a translation (style reconstruction), different styles
should give different pictures (diversity), and a picture translated back with its own style should be the original (cycle).
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gan_core import randomness
from gan_core.batch import Batch
from gan_core.config import check_at_least, check_below_one
from gan_core.data import DatasetInfo
from gan_core.errors import SettingsError
from gan_core.families.base import DiversityPair, ImageShape, Losses, Phase
from gan_core.families.noise import latents_from_uniform
from gan_core.families.stargan2_layers import Generator, MappingNetwork, Trunk, select_domains
from gan_core.families.translation import ReferenceGuidedFamily, discriminator_accuracy, grid_rows, labels_of
from gan_core.nn import collectives
from gan_core.nn.initialise import init_he
from gan_core.nn.losses import logistic_discriminator, non_saturating_generator
from gan_core.nn.padding import crop_borders, pad_to_multiple
from gan_core.nn.penalties import zero_centred_penalty


@dataclass(frozen=True, kw_only=True)
class StarGan2Config:
    """Settings of StarGAN v2. The defaults are the paper's for 256 pixels."""

    width: int = 64
    """Feature maps at the picture's resolution; doubled at each halving up to ``width_max``."""
    width_max: int = 512
    """Largest number of feature maps."""
    downs: int = 0
    """Number of generator blocks that halve the resolution; 0: down to 16 pixels, at least one."""
    latent: int = 16
    """Dimension of the latent z, N(0, 1)."""
    hidden: int = 512
    """Width of the mapping network."""
    style: int = 64
    """Dimension of a style."""
    slope: float = 0.2
    """Negative slope of all leaky ReLUs."""
    r1: float = 1.0
    """gamma of R1, which the loss halves; 0: no R1."""
    r1_every: int = 1
    """Steps between updates by R1; 1: it is part of each update of the discriminator."""
    style_reconstruction: float = 1.0
    """Weight of the style-reconstruction loss (equation 2)."""
    diversity: float = 1.0
    """Initial weight of the diversity loss (equation 3)."""
    diversity_steps: int = 100_000
    """Steps over which the weight of the diversity loss falls linearly to 0."""
    cycle: float = 1.0
    """Weight of the cycle-consistency loss (equation 4)."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "width", "width_max", "latent", "hidden", "style", "diversity_steps", "r1_every")
        check_at_least(self, 0, "downs", "r1", "style_reconstruction", "diversity", "cycle")
        check_below_one(self, "slope")


@contextlib.contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Freeze the parameters of ``network`` within the block. Its inputs still get a gradient."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


class _Generated(NamedTuple):
    """The output of the generator for a batch, in styles of the target domains."""

    pictures: Tensor
    """Pictures (m N, C, H, W): N with styles from noise, N with styles of other pictures and optionally N with other styles
    from noise."""
    styles: Tensor
    """Their styles (m N, style)."""


class StarGan2(ReferenceGuidedFamily):
    """StarGAN v2: translation between k domains, with many styles for each."""

    name = "stargan2"
    Config = StarGan2Config
    kinds = frozenset({"domains", "labelled"})
    generators = ("generator", "mapping", "style")

    def __init__(self, config: StarGan2Config, shape: ImageShape) -> None:
        super().__init__(config, shape)
        if shape.classes < 2:
            raise SettingsError(
                f"model.family: stargan2 translates between domains, but this dataset has {shape.classes}. Add the data again "
                "with a folder for each domain, or choose stargan for attributes."
            )
        size = (shape.height, shape.width)
        if min(size) < 8:
            raise SettingsError(
                f"stargan2 needs pictures of at least 8 pixels per side, not {size[0]}x{size[1]}. Change ingest.size."
            )
        downs = config.downs or max(min(size).bit_length() - 5, 1)
        self.side_multiple = 2**downs
        self.min_side = max(16, 2 * self.side_multiple)
        widths, k = (config.width, config.width_max), shape.classes
        self.networks = {
            "generator": Generator(shape.channels, *widths, downs, config.style, config.slope),
            "mapping": MappingNetwork(config.latent, config.hidden, config.style, k),
            "style": Trunk(shape.channels, size, *widths, k, config.style, config.slope),
            "discriminator": Trunk(shape.channels, size, *widths, k, 1, config.slope),
        }
        for network in self.networks.values():
            init_he(network, 0.0)

    @classmethod
    def check_data(cls, info: DatasetInfo, config: Any) -> None:
        """See :meth:`Family.check_data`."""
        super().check_data(info, config)
        if len(info.classes) < 2:
            raise SettingsError(
                f"model.family: stargan2 translates between domains, but {info.name} has {len(info.classes)}. "
                "For attributes choose stargan."
            )

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """From each domain to each other."""
        domains = range(self.shape.classes)
        return tuple((of, to) for of in domains for to in domains if of != to)

    # -- training --

    def order(self, batch: Batch) -> Tensor:
        """A permutation: the index, among all workers' pictures, whose style and domain each picture is translated to, (N,)."""
        count = len(batch.real) * collectives.world_size()
        numbers = randomness.uniform((count,), randomness.WorkerSlice(), batch.real.device, *batch.key, "order")
        return numbers.argsort(stable=True)[batch.part.rows(len(batch.real))]

    def target_labels(self, batch: Batch) -> Tensor:
        """Target domains, (N,)."""
        return batch.cached("wanted", lambda: collectives.all_gather_rows(labels_of(batch))[self.order(batch)])

    def own_styles(self, batch: Batch) -> Tensor:
        """Styles that the encoder extracts from the batch's pictures, (N, style)."""
        return batch.cached("own", lambda: select_domains(self.network("style")(batch.real).float(), labels_of(batch)))

    def generated(self, batch: Batch, *, twice: bool) -> _Generated:
        """Translate with styles from noise, with styles of other pictures and, with ``twice``, with other styles from noise."""
        wanted, draws = self.target_labels(batch), ("latents", "other latents")[: 1 + twice]
        shape, device = (len(batch.real), self.config.latent), batch.real.device
        latents = [randomness.normal(shape, batch.part, device, *batch.key, draw) for draw in draws]
        drawn = select_domains(self.network("mapping")(torch.cat(latents)), wanted.repeat(len(latents))).split(
            len(wanted)
        )
        # Styles of other pictures are detached: their pictures may be on other workers.
        reference = collectives.all_gather_rows(self.own_styles(batch))[self.order(batch)]
        styles = torch.cat([drawn[0], reference, *drawn[1:]])
        return _Generated(self.call_padded(self.network("generator"), batch.real, styles), styles)

    def _kept(self, batch: Batch) -> _Generated:
        return batch.cached("made", lambda: self.generated(batch, twice=self.config.diversity > 0))

    def fakes(self, batch: Batch) -> Tensor:
        """Translate the batch's pictures with styles from noise."""
        return self._played(batch)[: len(batch.real)]

    def _played(self, batch: Batch) -> Tensor:
        """Translations for the discriminator, (2 N, C, H, W)."""
        made = self._kept(batch) if batch.keep else self.generated(batch, twice=False)
        return made.pictures[: 2 * len(batch.real)]

    def _augmented(self, pictures: Tensor, batch: Batch, draw: str) -> Tensor:
        """Augment pictures (2 N, C, H, W), each half with its own draws, which do not depend on the number of workers."""
        halves = (batch.augment(half, f"{draw} {index}") for index, half in enumerate(pictures.chunk(2)))
        return torch.cat(list(halves))

    def diversity_pairs(self, batch: Batch) -> tuple[DiversityPair, ...]:
        """See :meth:`Family.diversity_pairs`; domain by domain."""
        wanted, labels = self.target_labels(batch), labels_of(batch)
        return (DiversityPair(fakes=self.fakes(batch), reals=batch.real, fake_labels=wanted, real_labels=labels),)

    def penalties(self) -> tuple[Phase, ...]:
        """See :meth:`Family.penalties`: R1 of the discriminator."""
        if not self.config.r1:
            return ()
        every = self.config.r1_every
        return (Phase(name="r1", side="discriminator", every=every, loss=self.penalty_loss),)

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """Cross-entropy of real and translated pictures, in one pass (equation 1)."""
        labels, wanted = labels_of(batch), self.target_labels(batch)
        with torch.set_grad_enabled(batch.keep and torch.is_grad_enabled()):
            made = self._played(batch).detach().float()
        real, fake = batch.augment(batch.real, "real"), self._augmented(made, batch, "fake")
        outputs = self.network("discriminator")(torch.cat([real, fake])).float()
        judged = select_domains(outputs, torch.cat([labels, wanted, wanted]))[:, 0]
        judged_real, judged_fake = judged[: len(real)], judged[len(real) :]
        total = logistic_discriminator(judged_real, judged_fake)
        terms = discriminator_accuracy(judged_real, judged_fake)
        return Losses(total, {"loss/discriminator": total.detach(), **terms})

    def penalty_loss(self, batch: Batch, step: int) -> Losses:
        """R1 at real pictures."""
        images, labels = batch.augment(batch.real, "real"), labels_of(batch)
        (penalty,) = self.differentiated(self._zero_centred, "discriminator", images, labels)
        return Losses(0.5 * self.config.r1 * penalty, {"penalty/r1": penalty.detach()})

    def _zero_centred(self, discriminator: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return (zero_centred_penalty(lambda x: select_domains(discriminator(x).float(), labels), images),)

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """Adversarial, style-reconstruction, diversity and cycle-consistency loss (equation 5)."""
        config, rows = self.config, len(batch.real)
        wanted, made = self.target_labels(batch), self._kept(batch)
        played = made.pictures[: 2 * rows]
        outputs = self.network("discriminator")(self._augmented(played, batch, "fake again")).float()
        # For styles of other pictures the encoder is frozen: if it learnt to recover styles that it extracted itself, nothing
        # would bound them, and they would grow without limit.
        with _frozen(self.networks["style"]):
            reference = self.network("style")(played[rows:])
        seen = torch.cat(
            [select_domains(out.float(), wanted) for out in (self.network("style")(played[:rows]), reference)]
        )
        own = self.own_styles(batch)
        returned = self.call_padded(self.network("generator"), played, torch.cat([own, own.detach()]))
        terms = {
            "loss/adversarial": non_saturating_generator(select_domains(outputs, wanted.repeat(2))),
            "loss/style": (seen - made.styles[: 2 * rows]).abs().mean(),
            "loss/cycle": (returned.float() - batch.real.repeat(2, 1, 1, 1)).abs().mean(),
        }
        total = (
            terms["loss/adversarial"]
            + config.style_reconstruction * terms["loss/style"]
            + config.cycle * terms["loss/cycle"]
        )
        if config.diversity:
            difference = (made.pictures[:rows] - made.pictures[2 * rows :]).float().abs().mean()
            total = total - batch.scheduled(self._diversity, step) * difference
            terms["loss/diversity"] = difference
        return Losses(total, {name: term.detach() for name, term in {"loss/generator": total, **terms}.items()})

    def _diversity(self, step: int, progress: float) -> float:
        """Weight of the diversity loss."""
        return self.config.diversity * max(1 - step / self.config.diversity_steps, 0.0)

    # -- use --

    def translate_aligned(
        self, images: Tensor, target: int | Tensor | None, networks: Mapping[str, nn.Module], noise: Tensor | None
    ) -> Tensor:
        """See :meth:`TranslationFamily.translate_aligned`; in the style that the noise z, (N, latent), gives."""
        styles = networks["mapping"](noise)
        chosen = select_domains(styles, target) if isinstance(target, Tensor) else styles[:, target]
        return networks["generator"](images, chosen).clamp(-1, 1)

    def translation_noise(self, n: int, height: int, width: int, seed: int, first: int) -> Tensor:
        """See :meth:`TranslationFamily.translation_noise`: z, N(0, 1), (n, latent)."""
        return latents_from_uniform(randomness.sampling_uniform(first, n, self.config.latent, seed), "normal", None)

    def translate_like(
        self, images: Tensor, references: Tensor, target: int, *, networks: Mapping[str, nn.Module] | None = None
    ) -> Tensor:
        """See :meth:`ReferenceGuidedFamily.translate_like`."""
        networks, shape = networks or self.networks, self.shape
        self.check_target(target)
        if references.shape != (len(images), shape.channels, shape.height, shape.width):
            raise SettingsError(
                f"references: expected {len(images)} pictures with {shape.channels} channels and {shape.height}x{shape.width} "
                f"pixels, one for each picture to translate, got {tuple(references.shape)}. Resize them."
            )
        images, borders = pad_to_multiple(images, self.side_multiple, self.min_side)
        styles = networks["style"](references)[:, target]
        return crop_borders(networks["generator"](images, styles).clamp(-1, 1), borders)

    def preview(self, reals: Batch, networks: Mapping[str, nn.Module]) -> tuple[Tensor, int]:
        """Rows of a picture and its translations to every domain, with styles from noise."""
        domains = range(self.shape.classes)
        return grid_rows(reals.real, *(self.translate(reals.real, to, networks=networks) for to in domains))
