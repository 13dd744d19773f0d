"""StarGAN v2: Choi, Uh, Yoo & Ha 2020, "StarGAN v2: Diverse Image Synthesis for Multiple Domains".

A picture is translated to a domain in a style: one that a mapping network makes of noise, or one that a style encoder sees
in another picture. Styles are to be seen again in what they made, different ones to make a difference, and a picture in its
own style is to be itself again.
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
from gan_core.nn.initialise import he_weights
from gan_core.nn.losses import logistic_discriminator, non_saturating_generator
from gan_core.nn.padding import cropped, padded
from gan_core.nn.penalties import zero_centred_penalty


@dataclass(frozen=True, kw_only=True)
class StarGan2Config:
    """StarGAN v2's own settings; the defaults are the paper's for 256 pixels."""

    width: int = 64
    """Maps at full size; doubled at each halving ..."""
    width_max: int = 512
    """... up to so many."""
    downs: int = 0
    """How often the generator halves its picture; 0: to 16 pixels, once at least."""
    latent: int = 16
    """Coordinates of z, N(0, 1)."""
    hidden: int = 512
    """Width of the mapping network."""
    style: int = 64
    """Coordinates of a style."""
    slope: float = 0.2
    """Leak slope of every leaky ReLU."""
    r1: float = 1.0
    """gamma of R1, of which the loss takes half; 0 for none."""
    r1_every: int = 1
    """Steps between two updates by R1; 1: it is part of each update of the discriminator."""
    style_reconstruction: float = 1.0
    """Weight of styles that are not seen again (equation 2)."""
    diversity: float = 1.0
    """Weight of the difference that two styles make (equation 3) ..."""
    diversity_steps: int = 100_000
    """... which falls linearly to 0 over so many steps."""
    cycle: float = 1.0
    """Weight of what is lost on the way to another domain and back (equation 4)."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "width", "width_max", "latent", "hidden", "style", "diversity_steps", "r1_every")
        check_at_least(self, 0, "downs", "r1", "style_reconstruction", "diversity", "cycle")
        check_below_one(self, "slope")


@contextlib.contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """What ``network`` is called with meanwhile takes a gradient through it, and its parameters none."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


class _Generated(NamedTuple):
    """What the generator makes of a batch, in styles of the domains wanted."""

    pictures: Tensor
    """(m N, C, H, W): N each in styles from noise, in styles of other pictures and, if asked for, in others from noise."""
    styles: Tensor
    """(m N, style)."""


class StarGan2(ReferenceGuidedFamily):
    """Translation among k domains, in many styles each."""

    name = "stargan2"
    Config = StarGan2Config
    kinds = frozenset({"domains", "labelled"})
    generators = ("generator", "mapping", "style")

    def __init__(self, config: StarGan2Config, shape: ImageShape) -> None:
        super().__init__(config, shape)
        if shape.classes < 2:
            raise SettingsError(
                f"model.family: stargan2 translates among domains, and this dataset has {shape.classes}. Add the data again "
                "with a folder for each domain; of attributes stargan knows."
            )
        size = (shape.height, shape.width)
        if min(size) < 8:
            raise SettingsError(
                f"stargan2 translates pictures of 8 pixels a side and more, not {size[0]}x{size[1]}. Change ingest.size."
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
            he_weights(network, 0.0)

    @classmethod
    def check_data(cls, info: DatasetInfo, config: Any) -> None:
        """See :meth:`Family.check_data`."""
        super().check_data(info, config)
        if len(info.classes) < 2:
            raise SettingsError(
                f"model.family: stargan2 translates among domains, and {info.name} has {len(info.classes)}. "
                "For attributes choose stargan."
            )

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """From each domain to each other."""
        domains = range(self.shape.classes)
        return tuple((of, to) for of in domains for to in domains if of != to)

    # -- training --

    def order(self, batch: Batch) -> Tensor:
        """Whose style and domain each picture of the step is to get: numbers among all workers' pictures."""
        count = len(batch.real) * collectives.world_size()
        numbers = randomness.uniform((count,), randomness.WorkerSlice(), batch.real.device, *batch.key, "order")
        return numbers.argsort(stable=True)[batch.part.rows(len(batch.real))]

    def target_labels(self, batch: Batch) -> Tensor:
        """The domains to translate to, (N,)."""
        return batch.cached("wanted", lambda: collectives.all_gather_rows(labels_of(batch))[self.order(batch)])

    def own_styles(self, batch: Batch) -> Tensor:
        """What the style encoder sees in the batch's pictures, (N, style)."""
        return batch.cached("own", lambda: select_domains(self.network("style")(batch.real).float(), labels_of(batch)))

    def generated(self, batch: Batch, *, twice: bool) -> _Generated:
        """Translations in styles from noise and of other pictures and, with ``twice``, in further styles from noise."""
        wanted, draws = self.target_labels(batch), ("latents", "other latents")[: 1 + twice]
        shape, device = (len(batch.real), self.config.latent), batch.real.device
        latents = [randomness.normal(shape, batch.part, device, *batch.key, draw) for draw in draws]
        drawn = select_domains(self.network("mapping")(torch.cat(latents)), wanted.repeat(len(latents))).split(
            len(wanted)
        )
        # A style that is lent is not changed by what is made of it: its own picture's worker would not know.
        lent = collectives.all_gather_rows(self.own_styles(batch))[self.order(batch)]
        styles = torch.cat([drawn[0], lent, *drawn[1:]])
        return _Generated(self.call_padded(self.network("generator"), batch.real, styles), styles)

    def _kept(self, batch: Batch) -> _Generated:
        return batch.cached("made", lambda: self.generated(batch, twice=self.config.diversity > 0))

    def fakes(self, batch: Batch) -> Tensor:
        """The batch's pictures translated in styles from noise."""
        return self._played(batch)[: len(batch.real)]

    def _played(self, batch: Batch) -> Tensor:
        """The translations that the discriminator is shown, (2 N, C, H, W)."""
        made = self._kept(batch) if batch.keep else self.generated(batch, twice=False)
        return made.pictures[: 2 * len(batch.real)]

    def _augmented(self, pictures: Tensor, batch: Batch, draw: str) -> Tensor:
        """Pictures (2 N, C, H, W) augmented; each half by draws of its own, that do not depend on the number of workers."""
        halves = (batch.augment(half, f"{draw} {index}") for index, half in enumerate(pictures.chunk(2)))
        return torch.cat(list(halves))

    def diversity_pairs(self, batch: Batch) -> tuple[DiversityPair, ...]:
        """See :meth:`Family.diversity_pairs`; domain by domain."""
        wanted, labels = self.target_labels(batch), labels_of(batch)
        return (DiversityPair(fakes=self.fakes(batch), reals=batch.real, fake_labels=wanted, real_labels=labels),)

    def penalties(self) -> tuple[Phase, ...]:
        """See :meth:`Family.penalties`: the R1 of the discriminator."""
        if not self.config.r1:
            return ()
        every = self.config.r1_every
        return (Phase(name="r1", side="discriminator", every=every, loss=self.penalty_loss),)

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """Cross-entropy of real and translated pictures in one pass (equation 1)."""
        labels, wanted = labels_of(batch), self.target_labels(batch)
        with torch.set_grad_enabled(batch.keep and torch.is_grad_enabled()):
            made = self._played(batch).detach().float()
        real, fake = batch.augment(batch.real, "real"), self._augmented(made, batch, "fake")
        said = self.network("discriminator")(torch.cat([real, fake])).float()
        judged = select_domains(said, torch.cat([labels, wanted, wanted]))[:, 0]
        judged_real, judged_fake = judged[: len(real)], judged[len(real) :]
        total = logistic_discriminator(judged_real, judged_fake)
        terms = discriminator_accuracy(judged_real, judged_fake)
        return Losses(total, {"loss/discriminator": total.detach(), **terms})

    def penalty_loss(self, batch: Batch, step: int) -> Losses:
        """R1."""
        judge, labels = self.networks["discriminator"], labels_of(batch)
        penalty = zero_centred_penalty(
            lambda x: select_domains(judge(x).float(), labels), batch.augment(batch.real, "real")
        )
        return Losses(0.5 * self.config.r1 * penalty, {"penalty/r1": penalty.detach()})

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """What the discriminator says, styles seen again, the difference they make, and the way back (equation 5)."""
        config, rows = self.config, len(batch.real)
        wanted, made = self.target_labels(batch), self._kept(batch)
        played = made.pictures[: 2 * rows]
        said = self.network("discriminator")(self._augmented(played, batch, "fake again")).float()
        # Of lent styles only the generator learns: an encoder that was to find again what it has given itself would have
        # nothing to hold on to, and its styles grow without end.
        with _frozen(self.networks["style"]):
            lent = self.network("style")(played[rows:])
        seen = torch.cat(
            [select_domains(said_of.float(), wanted) for said_of in (self.network("style")(played[:rows]), lent)]
        )
        own = self.own_styles(batch)
        returned = self.call_padded(self.network("generator"), played, torch.cat([own, own.detach()]))
        terms = {
            "loss/adversarial": non_saturating_generator(select_domains(said, wanted.repeat(2))),
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
            left = max(1 - step / config.diversity_steps, 0.0)
            total = total - config.diversity * left * difference
            terms["loss/diversity"] = difference
        return Losses(total, {name: term.detach() for name, term in {"loss/generator": total, **terms}.items()})

    # -- use --

    def translate_aligned(
        self, images: Tensor, target: int | None, networks: Mapping[str, nn.Module], seed: int, first: int
    ) -> Tensor:
        """See :meth:`TranslationFamily.translate_aligned`; picture i of a seed has always the style of the same noise."""
        table = randomness.sampling_uniform(first, len(images), self.config.latent, seed)
        latents = latents_from_uniform(table, "normal", None).to(images.device)
        return networks["generator"](images, networks["mapping"](latents)[:, target]).clamp(-1, 1)

    def translate_like(
        self, images: Tensor, references: Tensor, target: int, *, networks: Mapping[str, nn.Module] | None = None
    ) -> Tensor:
        """See :meth:`ReferenceGuidedFamily.translate_like`."""
        networks, shape = networks or self.networks, self.shape
        self.check_target(target)
        if references.shape != (len(images), shape.channels, shape.height, shape.width):
            raise SettingsError(
                f"references: {len(images)} pictures of {shape.channels} channels and {shape.height}x{shape.width} pixels are "
                f"needed, one for each picture to translate, not {tuple(references.shape)}. Resize them."
            )
        images, borders = padded(images, self.side_multiple, self.min_side)
        styles = networks["style"](references)[:, target]
        return cropped(networks["generator"](images, styles).clamp(-1, 1), borders)

    def preview(self, reals: Batch, networks: Mapping[str, nn.Module]) -> tuple[Tensor, int]:
        """Rows of a picture, and the same in every domain in a style from noise."""
        domains = range(self.shape.classes)
        return grid_rows(reals.real, *(self.translate(reals.real, to, networks=networks) for to in domains))
