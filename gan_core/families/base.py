"""The contract between a family (an adversarial game) and everything that trains, samples or exports one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gan_core.batch import Batch
from gan_core.data import DatasetInfo
from gan_core.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """What a family has to make: the shape and the classes of the data."""

    channels: int
    height: int
    width: int
    classes: int = 0
    """Number of classes, or of domains; 0 when unlabelled."""
    attributes: int = 0
    """Number of attributes, of which several may hold of one picture; there are no classes then."""
    condition_channels: int = 0
    """Channels of the picture that it is made from; 0 where there is none."""
    derived: str = ""
    """How that picture was derived from the one to make, such as greyscale; empty where it was not."""

    @classmethod
    def of(cls, info: DatasetInfo) -> "ImageShape":
        """The shape of a prepared dataset's pictures."""
        return cls(
            channels=info.channels,
            height=info.height,
            width=info.width,
            classes=len(info.classes),
            attributes=len(info.attributes),
            condition_channels=info.condition_channels,
            derived=info.derived,
        )

    def downsamplings(self, family: str, largest: int) -> int:
        """How many times ``family`` halves the picture until its shorter side is 4 to 7 pixels.

        Raises:
            SettingsError: a side under 16 or over ``largest`` pixels, one that cannot be halved so often, or more than 4
                channels.
        """
        sides = (self.height, self.width)
        count = min(sides).bit_length() - 3
        if not (min(sides) >= 16 and max(sides) <= largest):
            raise SettingsError(
                f"{family} makes pictures of 16 to {largest} pixels a side, not {self.height}x{self.width}. Change "
                "ingest.size."
            )
        if any(side % 2**count for side in sides):
            # Rounding the shorter side up to a power of two asks for one more halving: round with that step instead.
            step = 2 ** (count + 1) if round(min(sides) / 2**count) == 8 else 2**count
            near = [round(side / step) * step for side in sides]
            raise SettingsError(
                f"{family} needs sides that divide by {2**count}, not {self.height}x{self.width}. Change ingest.size, to "
                f"{near} for instance."
            )
        if not 1 <= self.channels <= 4:
            raise SettingsError(f"{family} makes 1 to 4 channels, not {self.channels}. Change ingest.channels.")
        return count


@dataclass(frozen=True)
class Losses:
    """What one update minimises, and what it has to say about itself."""

    total: Tensor
    scalars: dict[str, Tensor]
    """Detached scalars for the log, such as ``loss/discriminator``, ``health/real_right``; they stay on the device."""


@dataclass(frozen=True, kw_only=True)
class DiversityPair:
    """Generated images beside real ones that they should be as diverse as."""

    fakes: Tensor
    """(N, C, H, W)."""
    reals: Tensor
    """(N, C, H, W)."""
    fake_labels: Tensor | None = None
    """Class or domain of each of ``fakes``, int64 (N,), where there are some."""
    real_labels: Tensor | None = None
    """Class or domain of each of ``reals``."""


Side = Literal["discriminator", "generator"]

_GAMES: dict[Side, str] = {"discriminator": "discriminator_loss", "generator": "generator_loss"}
"""The method that gives each side's half of the game, in the order of a step."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One update in a step, or in every k-th one."""

    name: str
    side: Side
    """Whose parameters are updated; the other side's take no gradient."""
    loss: Callable[[Batch, int], Losses]
    every: int = 1
    """Runs at steps that this divides."""
    accumulates: bool = False
    """Whether it is part of the update before it, of the same side and at the same steps: its gradients are added to that
    one's. Losses that are differentiated one after the other take the memory of the largest, not of all together."""
    full_precision: bool = False
    """Whether it computes in fp32 whatever the run does."""


class Family(ABC):
    """An adversarial game: networks by name, two losses, and a way to use the result.

    What a family can do is what it inherits from: NoiseFamily makes images from noise, and StyleBasedFamily has styles to
    mix and project into; TranslationFamily translates images, and ReferenceGuidedFamily in the style of another image.
    Everybody else asks with :meth:`can`, or takes the family with :func:`gan_core.families.require`.

    A subclass sets :attr:`name` and :attr:`Config` (a frozen dataclass), builds :attr:`networks` in its constructor, names
    which of them are generators, and implements the abstract methods. It never steps an optimiser. What ``auto`` chooses for
    it is in :mod:`gan_core.presets.recipes`.
    """

    name: ClassVar[str]
    """Its name in settings, in files and in the table of families."""
    Config: ClassVar[type]
    does: ClassVar[str]
    """Set by the abstract subclasses; completes the sentence "FAMILY cannot ...", such as ``translate images``."""
    kinds: ClassVar[frozenset[str]] = frozenset({"unlabelled", "labelled", "paired", "unpaired", "domains"})
    """Kinds of data that it learns from."""
    class_conditional: ClassVar[Literal["never", "optional", "always"]] = "never"
    """Whether its generator makes images of a given class; ``optional``: where its setting ``conditional`` is true."""
    augmentable: ClassVar[bool] = True
    """Whether the discriminator's images may be augmented (``train.augment``)."""
    generators: tuple[str, ...] = ("generator",)
    discriminators: tuple[str, ...] = ("discriminator",)

    def __init__(self, config: Any, shape: ImageShape) -> None:
        self.config = config
        self.shape = shape
        self.networks: dict[str, nn.Module] = {}
        self.buffers: dict[str, Tensor] = {}
        """What the losses remember from step to step beside the networks; part of every checkpoint."""
        self._compiled: dict[str, Callable[..., Tensor]] = {}

    @classmethod
    def can(cls, capability: "type[Family]") -> bool:
        """Whether it has a capability: NoiseFamily, StyleBasedFamily, TranslationFamily or ReferenceGuidedFamily."""
        return issubclass(cls, capability)

    @classmethod
    def is_conditional(cls, config: Any) -> bool:
        """Whether the generator is class-conditional with these settings of the family."""
        return cls.class_conditional == "always" or (cls.class_conditional == "optional" and config.conditional)

    @property
    def conditional(self) -> bool:
        """Whether the generator is class-conditional."""
        return self.is_conditional(self.config)

    @classmethod
    def check_data(cls, info: DatasetInfo, config: Any) -> None:
        """Raise SettingsError when the family, with its settings ``config``, does not learn from data of this kind."""
        if info.kind not in cls.kinds:
            raise SettingsError(
                f"model.family: {cls.name} learns from {' or '.join(sorted(cls.kinds))} data, and {info.name} is "
                f"{info.kind}. Change ingest.kind to what the pictures are, or choose another family (gantry recommend)."
            )

    @classmethod
    def older_settings(cls, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """Settings that describe the networks of an edition that did not know them, where today's default is another.

        They hold for what ``saved``, the family's settings in an exported generator or a checkpoint, leaves out.
        """
        return {}

    def network(self, name: str) -> Callable[..., Tensor]:
        """The network ``name`` to be called in a loss, compiled where that was asked for.

        A gradient that is differentiated once more goes through ``networks[name]`` itself.
        """
        return self._compiled.get(name, self.networks[name])

    def compile(self, **options: Any) -> None:
        """Compile every network's calls (torch.compile with ``options``); weights and their names stay as they are."""
        self._compiled = {name: torch.compile(network, **options) for name, network in self.networks.items()}

    def penalties(self) -> tuple[Phase, ...]:
        """What each side pays beside its half of the game; ``accumulates`` is set by :meth:`phases`."""
        return ()

    def phases(self) -> tuple[Phase, ...]:
        """The updates of one step in their order, with those that join one behind it.

        Penalties of every step join the update of their side. Those of every k-th step are updates of their own behind it, in
        which they weigh k times as much; those of equal intervals share one (Karras et al. 2020, appendix B).
        """
        found: list[Phase] = []
        for side, game in _GAMES.items():
            found.append(Phase(name=side, side=side, loss=getattr(self, game)))
            own = sorted((phase for phase in self.penalties() if phase.side == side), key=lambda phase: phase.every)
            for before, phase in zip([found[-1], *own], own, strict=False):
                loss = phase.loss if phase.every == 1 else _weighed(phase)
                found.append(replace(phase, accumulates=before.every == phase.every, loss=loss))
        return tuple(found)

    def updates(self) -> list[tuple[Phase, ...]]:
        """The phases of each update of a step: one, and those that join it."""
        updates: list[tuple[Phase, ...]] = []
        for phase in self.phases():
            if phase.accumulates:
                updates[-1] += (phase,)
            else:
                updates.append((phase,))
        return updates

    @abstractmethod
    def fakes(self, batch: Batch) -> Tensor:
        """Images generated for ``batch``, (N, C, H, W); both updates play against the same ones."""

    def detached_fakes(self, batch: Batch) -> Tensor:
        """:meth:`fakes` as discriminators are shown them, without a graph; made once a batch."""

        def make() -> Tensor:
            with torch.set_grad_enabled(batch.keep and torch.is_grad_enabled()):
                return self.fakes(batch).detach()

        return batch.cached("detached fakes", make, light=True)

    def diversity_pairs(self, batch: Batch) -> tuple[DiversityPair, ...]:
        """What is looked at for a collapse, each by itself."""
        return (DiversityPair(fakes=self.fakes(batch), reals=batch.real),)

    def update_statistics(self, networks: Mapping[str, nn.Module], *, batches: int = 16) -> None:
        """Make averaged generators ready to be sampled: what training tracks beside weights is measured anew.

        By default nothing is tracked, and the networks are put into evaluation mode. ``batches`` bounds what it costs.
        """
        for network in networks.values():
            network.eval()

    @abstractmethod
    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """The discriminators' loss; must leave generators without gradient."""

    @abstractmethod
    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """The generators' loss; runs while the discriminators' parameters are frozen."""

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """What it translates, image to image: (from domain, to domain) each; None where domains have no number."""
        return ()

    @abstractmethod
    def preview(self, reals: Batch, networks: Mapping[str, nn.Module]) -> tuple[Tensor, int]:
        """What the generators ``networks`` can do, to be watched over time, and how many pictures make a row.

        Float in about [-1, 1], (N, C, H, W). ``reals`` holds a few real pictures, always the same ones.
        """

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.channels_last) -> "Family":
        """Move every network, in ``memory_format``, and :attr:`buffers` to ``device``; returns self."""
        for network in self.networks.values():
            network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        self.buffers = {name: tensor.to(device) for name, tensor in self.buffers.items()}
        return self


def _weighed(phase: Phase) -> Callable[[Batch, int], Losses]:
    """The loss of ``phase``, weighed by its interval."""

    def loss(batch: Batch, step: int) -> Losses:
        losses = phase.loss(batch, step)
        return Losses(losses.total * phase.every, losses.scalars)

    return loss
