"""The interface of a GAN family, used by everything that trains, samples or exports one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gan_core.batch import Batch
from gan_core.data import DatasetInfo
from gan_core.errors import SettingsError
from gan_core.nn.traced import Loss, TracedLoss


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """The shape and the classes of the pictures that a family generates."""

    channels: int
    height: int
    width: int
    classes: int = 0
    """Number of classes or domains; 0 without labels."""
    attributes: int = 0
    """Number of attributes, of which a picture may have several; 0 for data with classes."""
    condition_channels: int = 0
    """Channels of the source picture of paired data; 0 for other data."""
    derived: str = ""
    """How the source picture is derived from the target, such as greyscale; empty if it is not."""

    @classmethod
    def of(cls, info: DatasetInfo) -> "ImageShape":
        """Return the shape of a prepared dataset's pictures."""
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
        """Return how many times a picture must be halved until its shorter side is 4 to 7 pixels.

        Args:
            family: name of the family, for messages.
            largest: largest side that the family supports, in pixels.

        Raises:
            SettingsError: a side is below 16 or above ``largest`` pixels or cannot be halved so often, or there are more than 4
                channels.
        """
        sides = (self.height, self.width)
        count = min(sides).bit_length() - 3
        if not (min(sides) >= 16 and max(sides) <= largest):
            raise SettingsError(
                f"{family} generates pictures of 16 to {largest} pixels per side, not {self.height}x{self.width}. Change "
                "ingest.size."
            )
        if any(side % 2**count for side in sides):
            # If the shorter side is rounded up to a power of two, one more halving is needed: round to multiples of that step.
            step = 2 ** (count + 1) if round(min(sides) / 2**count) == 8 else 2**count
            near = [round(side / step) * step for side in sides]
            raise SettingsError(
                f"{family} needs sides that are multiples of {2**count}, not {self.height}x{self.width}. Change ingest.size, "
                f"for example to {near}."
            )
        if not 1 <= self.channels <= 4:
            raise SettingsError(f"{family} generates 1 to 4 channels, not {self.channels}. Change ingest.channels.")
        return count


@dataclass(frozen=True)
class Losses:
    """The loss of an update, and scalars for the log."""

    total: Tensor
    """The loss to minimise, a scalar with a graph."""
    scalars: dict[str, Tensor]
    """Detached scalars for the log, such as ``loss/discriminator`` and ``health/real_right``. They stay on the device."""


@dataclass(frozen=True, kw_only=True)
class DiversityPair:
    """Generated images, and real images whose diversity they should reach."""

    fakes: Tensor
    """Generated images (N, C, H, W)."""
    reals: Tensor
    """Real images (N, C, H, W)."""
    fake_labels: Tensor | None = None
    """Class or domain of each generated image, int64 (N,), or None."""
    real_labels: Tensor | None = None
    """Class or domain of each real image, int64 (N,), or None."""


Side = Literal["discriminator", "generator"]

_ADVERSARIAL: dict[Side, str] = {"discriminator": "discriminator_loss", "generator": "generator_loss"}
"""The method that computes each side's adversarial loss, in the order of a step."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A loss of a step, or of every k-th step, with its backward pass."""

    name: str
    side: Side
    """The side whose parameters are updated. The other side has no gradient."""
    loss: Callable[[Batch, int], Losses]
    """Computes the loss from the batch and the number of the step. What changes with that comes from ``Batch.scheduled``."""
    every: int = 1
    """Interval in steps: it runs at multiples of this number."""
    accumulates: bool = False
    """Whether its gradients are added to those of the phase before it, of the same side and at the same steps, for a joint
    update. Losses that are differentiated one at a time need only the memory of the largest."""
    full_precision: bool = False
    """Whether to compute in fp32, whatever the precision of the run."""


class Family(ABC):
    """A GAN family: networks by name, the losses of both sides, and methods to use the generators.

    The base class states the capability: a NoiseFamily generates images from noise, and a StyleBasedFamily also mixes styles
    and projects pictures; a TranslationFamily translates images, and a ReferenceGuidedFamily also in the style of another
    image. Other code asks with :meth:`can`, or casts with :func:`gan_core.families.require`.

    A subclass sets :attr:`name` and :attr:`Config` (a frozen dataclass), builds :attr:`networks` in its constructor, names
    the generators and discriminators among them, and implements the abstract methods. It never steps an optimiser. The settings
    that ``auto`` chooses for it are in :mod:`gan_core.presets.recipes`.
    """

    name: ClassVar[str]
    """Name of the family in settings, in files and in the table of families."""
    Config: ClassVar[type]
    """Configuration dataclass with the family's settings."""
    ability: ClassVar[str]
    """What the family can do, set by the abstract subclasses. It completes the sentence "FAMILY cannot ...", such as
    ``translate images``."""
    kinds: ClassVar[frozenset[str]] = frozenset({"unlabelled", "labelled", "paired", "unpaired", "domains"})
    """Kinds of data that the family learns from."""
    class_conditional: ClassVar[Literal["never", "optional", "always"]] = "never"
    """Whether the generator is class-conditional; ``optional`` if the setting ``conditional`` decides."""
    augmentable: ClassVar[bool] = True
    """Whether the discriminator's images may be augmented (``train.augment``)."""
    generators: tuple[str, ...] = ("generator",)
    """Names of the networks that the generator's updates train."""
    discriminators: tuple[str, ...] = ("discriminator",)
    """Names of the networks that the discriminator's updates train."""
    equalised: ClassVar[bool] = False
    """Whether layers divide their weights by the square root of their number of inputs (equalised learning rates)."""
    grows: ClassVar[bool] = False
    """Whether networks for larger pictures have the layers of those for smaller ones, so that a run can start from a run on
    pictures of another size. Families whose networks take pictures of any size need no such layers."""
    edge_layers: ClassVar[tuple[str, ...]] = ()
    """If the family :attr:`grows`: layers nearest the picture, as ``NETWORK.LAYER.``. They are new if their shape differs."""

    def __init__(self, config: Any, shape: ImageShape) -> None:
        self.config = config
        self.shape = shape
        self.networks: dict[str, nn.Module] = {}
        self.buffers: dict[str, Tensor] = {}
        """State of the losses besides the networks, kept from step to step; part of every checkpoint."""
        self.incomplete = False
        """Whether a generator is missing, after :meth:`keep_generators`. Such a family translates, and cannot be trained."""
        self._compiled: dict[str, Callable[..., Tensor]] = {}
        self._traced: dict[tuple[str, str], TracedLoss] = {}
        self._options: dict[str, Any] | None = None

    @classmethod
    def can(cls, capability: "type[Family]") -> bool:
        """Whether the family has a capability: NoiseFamily, StyleBasedFamily, TranslationFamily or ReferenceGuidedFamily."""
        return issubclass(cls, capability)

    @classmethod
    def is_conditional(cls, config: Any) -> bool:
        """Whether the generator is class-conditional with the family's settings ``config``."""
        return cls.class_conditional == "always" or (cls.class_conditional == "optional" and config.conditional)

    @property
    def conditional(self) -> bool:
        """Whether the generator is class-conditional."""
        return self.is_conditional(self.config)

    @classmethod
    def check_data(cls, info: DatasetInfo, config: Any) -> None:
        """Raise SettingsError if the family, with its settings ``config``, cannot learn from data of this kind."""
        if info.kind not in cls.kinds:
            raise SettingsError(
                f"model.family: {cls.name} learns from {' or '.join(sorted(cls.kinds))} data, but {info.name} is "
                f"{info.kind}. Correct ingest.kind if it is wrong, or choose another family (gantry recommend)."
            )

    @classmethod
    def older_settings(cls, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return settings of networks from versions of Gantry without these settings, if today's defaults differ.

        They apply to settings missing in ``saved``, the family's settings in an exported generator or a checkpoint.
        """
        return {}

    @classmethod
    def smaller_name(cls, network: str, name: str, levels: int) -> str:
        """Name of the tensor ``name`` of ``network`` in networks for pictures 2^``levels`` times smaller; empty if new."""
        return name

    def keep_generators(self, names: tuple[str, ...]) -> None:
        """Drop the generators that are not in ``names``: those of an imported generator with fewer directions.

        Raises:
            SettingsError: the family has no such generators, or needs all of its own.
        """
        if names != self.generators:
            raise SettingsError(
                f"generators: {self.name} has {', '.join(self.generators)} and needs all of them, got "
                f"{', '.join(names) or 'none'}."
            )

    def discriminator_layers(self, name: str) -> list[list[nn.Parameter]]:
        """Parameters of each layer of the discriminator ``name``, from the picture to the output.

        A residual block is one layer, and a norm belongs to the layer before it.
        """
        return layers_in_order(self.networks[name].children())

    def network(self, name: str) -> Callable[..., Tensor]:
        """Return the network ``name`` for use in a loss, compiled if :meth:`compile` was called.

        A loss with a double backward pass goes through :meth:`differentiated` instead.
        """
        return self._compiled.get(name, self.networks[name])

    def differentiated(self, loss: Loss, network: str, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """Return ``loss`` of the network with the name ``network`` and of ``inputs``, for a loss with a double backward pass.

        If :meth:`compile` was called, loss and gradients are compiled together. So ``loss`` must be a method that is a pure
        function of the network and of ``inputs`` (:data:`gan_core.nn.traced.Loss`).
        """
        if self._options is None:
            return loss(self.networks[network], *inputs)
        traced = self._traced.get((loss.__name__, network))
        if traced is None:
            name = f"The penalty of {self.name}'s {network} ({loss.__name__.strip('_')})"
            traced = self._traced[loss.__name__, network] = TracedLoss(
                name, self.networks[network], loss, **self._options
            )
        return traced(*inputs)

    def compile(self, **options: Any) -> None:
        """Compile the calls of all networks, and losses with a double backward pass (torch.compile with ``options``).

        Weights and their names do not change.
        """
        self._options, self._traced = options, {}
        self._compiled = {name: torch.compile(network, **options) for name, network in self.networks.items()}

    def penalties(self) -> tuple[Phase, ...]:
        """Return the penalties of both sides. :meth:`phases` sets their ``accumulates``."""
        return ()

    def phases(self) -> tuple[Phase, ...]:
        """Return the phases of a step in their order: for each side, the adversarial loss, then its penalties.

        Penalties of every step are part of the update of their side. Those of every k-th step are separate updates after it,
        with k times the weight; penalties with equal intervals share an update (lazy regularisation; Karras et al. 2020,
        appendix B).
        """
        found: list[Phase] = []
        for side, method in _ADVERSARIAL.items():
            found.append(Phase(name=side, side=side, loss=getattr(self, method)))
            own = sorted((phase for phase in self.penalties() if phase.side == side), key=lambda phase: phase.every)
            for before, phase in zip([found[-1], *own], own, strict=False):
                loss = phase.loss if phase.every == 1 else _weighed(phase)
                found.append(replace(phase, accumulates=before.every == phase.every, loss=loss))
        return tuple(found)

    def updates(self) -> list[tuple[Phase, ...]]:
        """Return the phases of a step grouped by update: a phase, and those that accumulate onto it."""
        updates: list[tuple[Phase, ...]] = []
        for phase in self.phases():
            if phase.accumulates:
                updates[-1] += (phase,)
            else:
                updates.append((phase,))
        return updates

    @abstractmethod
    def fakes(self, batch: Batch) -> Tensor:
        """Generate images for ``batch``, (N, C, H, W). Both sides' updates use the same images."""

    def detached_fakes(self, batch: Batch) -> Tensor:
        """Return :meth:`fakes` without a graph, for discriminators; computed once per batch."""

        def make() -> Tensor:
            with torch.set_grad_enabled(batch.keep and torch.is_grad_enabled()):
                return self.fakes(batch).detach()

        return batch.cached("detached fakes", make, light=True)

    def diversity_pairs(self, batch: Batch) -> tuple[DiversityPair, ...]:
        """Return the images by which a mode collapse is detected. Each pair is checked separately.

        They are those of the updates: a call of a network in training may change its statistics, and how often a run reports
        must not change its results.
        """
        return (DiversityPair(fakes=self.detached_fakes(batch), reals=batch.real),)

    def update_statistics(self, networks: Mapping[str, nn.Module], *, batches: int = 16) -> None:
        """Prepare averaged generators for sampling: recompute the statistics that training tracks besides weights.

        By default there are none, and the networks are only set to evaluation mode. ``batches`` limits the cost.
        """
        for network in networks.values():
            network.eval()

    @abstractmethod
    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """Compute the discriminators' adversarial loss. It must not give the generators a gradient."""

    @abstractmethod
    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """Compute the generators' adversarial loss. The discriminators' parameters are frozen meanwhile."""

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """Translation directions, as pairs (from domain, to domain); None for domains without a number."""
        return ()

    @abstractmethod
    def preview(self, reals: Batch, networks: Mapping[str, nn.Module]) -> tuple[Tensor, int]:
        """Generate pictures for a grid that shows the progress of training.

        Args:
            reals: a few real pictures, always the same ones.
            networks: generators by name.

        Returns:
            Pictures, float in about [-1, 1], (N, C, H, W), and the number of pictures per row.
        """

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.channels_last) -> "Family":
        """Move all networks, in ``memory_format``, and :attr:`buffers` to ``device``, and return self."""
        for network in self.networks.values():
            network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        self.buffers = {name: tensor.to(device) for name, tensor in self.buffers.items()}
        return self


def renumber(name: str, lists: tuple[str, ...], levels: int) -> str:
    """Name of a tensor in a list of layers that begins ``levels`` layers later; empty if it comes before the beginning."""
    first, _, rest = name.partition(".")
    if first not in lists:
        return name
    index, _, rest = rest.partition(".")
    return f"{first}.{int(index) - levels}.{rest}" if int(index) >= levels else ""


def layers_in_order(modules: Iterable[nn.Module]) -> list[list[nn.Parameter]]:
    """Parameters of each layer among ``modules``, in their order. The modules of a sequence or list count one by one."""
    layers: list[list[nn.Parameter]] = []
    for module in modules:
        if isinstance(module, nn.Sequential | nn.ModuleList):
            layers += layers_in_order(module)
        elif parameters := list(module.parameters()):
            if layers and isinstance(module, nn.modules.batchnorm._NormBase):
                layers[-1] += parameters
            else:
                layers.append(parameters)
    return layers


def _weighed(phase: Phase) -> Callable[[Batch, int], Losses]:
    """Return the loss of ``phase`` multiplied by its interval."""

    def loss(batch: Batch, step: int) -> Losses:
        losses = phase.loss(batch, step)
        return Losses(losses.total * phase.every, losses.scalars)

    return loss
