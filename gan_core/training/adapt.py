"""Adapt the weights of an earlier run to networks for other classes, channels or sizes of pictures.

Which axis of a tensor counts classes or channels is not written down for each family: the networks for one class or one channel
more are sketched without memory, and the axes whose lengths differ are those.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gan_core.config import as_dict
from gan_core.errors import SettingsError
from gan_core.families import Family, ImageShape, sketch_family
from gan_core.families.noise import NoiseFamily

_Axes = dict[str, int]
"""The axis, by name of the tensor, that counts classes or channels."""


@dataclass(frozen=True)
class Adapted:
    """Weights that fit the run."""

    tensors: dict[str, Tensor]
    changes: list[str]
    """What was adapted, for people; empty if all weights are as they were."""
    new: frozenset[str]
    """Names of the tensors that the earlier run does not have."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks of an earlier run."""

    name: str
    """Of the run, for messages."""
    tensors: Mapping[str, Tensor]
    """``network.NAME.KEY`` and ``averaged.NAME.KEY``."""
    config: Mapping[str, Any]
    """Settings of the family."""
    shape: ImageShape
    classes: tuple[str, ...]
    """Names of the classes of its data."""


def adapt_networks(earlier: Networks, own: Mapping[str, Tensor], family: Family, classes: tuple[str, ...]) -> Adapted:
    """Adapt the networks of an earlier run to those of ``family``.

    Rows of classes are found by the names of the classes; a new class begins as the mean of the known ones. Grey becomes
    colour, and colour grey, so that grey pictures look the same and are judged as before; with spectral norm they look alike
    only, and the changes say so. Layers that only larger pictures have keep their own initialisation.

    Args:
        earlier: networks of the earlier run, of the same family.
        own: networks of the new run, newly initialised, by the same kind of names.
        family: the family of the new run.
        classes: names of the classes of the new run's data.

    Raises:
        SettingsError: the networks differ in a way that cannot be adapted; the message names the setting or the tensor.
    """
    job = _Adaptation(earlier, own, family)
    job.check()
    job.resize()
    job.take_classes(classes)
    job.recolour()
    return Adapted(job.finish(), job.changes, frozenset(job.new))


class _Adaptation:
    """One call of :func:`adapt_networks`: each step turns the tensors into those for one more property of the new pictures."""

    def __init__(self, earlier: Networks, own: Mapping[str, Tensor], family: Family) -> None:
        self.earlier, self.own, self.family = earlier, own, family
        self.tensors, self.shape = dict(earlier.tensors), earlier.shape
        self.changes: list[str] = []
        self.new: set[str] = set()
        """Tensors that keep their own initialisation."""
        now = as_dict(family.config)
        self._differing = [
            f"model.{key} ({earlier.config[key]!r} there, {value!r} here)"
            for key, value in now.items()
            if key in earlier.config and earlier.config[key] != value
        ]

    def check(self) -> None:
        """Check that the weights are those that the family has with the settings of the new run."""
        here = self.family.shape
        for name in ("attributes", "condition_channels", "derived"):
            if getattr(self.shape, name) != getattr(here, name):
                raise self._refusal(
                    f"its data has {name} {getattr(self.shape, name)}, and this data {getattr(here, name)}"
                )
        if self.family.conditional and not self.shape.classes:
            raise self._refusal("its data has no classes, and the networks of this run are class-conditional")
        for key, size in self._sketch(self.shape).items():
            if key not in self.tensors:
                raise self._refusal(f"it has no {key}")
            if (there := tuple(self.tensors[key].shape)) != size:
                raise self._refusal(f"{key} has shape {[*there]} there, and {[*size]} with the settings of this run")

    def resize(self) -> None:
        """Take the layers that both sizes of pictures have."""
        before, after = (self.shape.height, self.shape.width), (self.family.shape.height, self.family.shape.width)
        if before == after:
            return
        self.shape = replace(self.shape, height=after[0], width=after[1])
        what = f"pictures of {before[0]}x{before[1]} pixels become {after[0]}x{after[1]}"
        levels = _doublings(before[0], after[0])
        if levels is None or levels != _doublings(before[1], after[1]):
            raise self._refusal(f"{what}, which is no factor of two, four or eight")
        found = {}
        for key, size in self._sketch(self.shape).items():
            kind, network, inner = key.split(".", 2)
            source = self.tensors.get(f"{kind}.{network}.{self.family.smaller_name(network, inner, levels)}")
            fits = source is not None and tuple(source.shape) == size
            edge = f"{network}.{inner}".startswith(self.family.edge_layers)
            if fits:
                found[key] = source
            elif self.family.grows and (source is None or edge):
                self.new.add(key)
            else:
                raise self._refusal(
                    f"{what}, and {self.family.name} has other layers for that ({key}){self._width(levels)}"
                )
        self.tensors = {key: tensor for key, tensor in found.items() if tensor is not None}
        new = f", with {len(self.new)} new tensors" if self.new else ""
        self.changes.append(f"{what}{new}")

    def take_classes(self, after: tuple[str, ...]) -> None:
        """Take the rows of the classes by their names."""
        before = self.earlier.classes or tuple(map(str, range(self.shape.classes)))
        if before == after or self.shape.classes == 0 == len(after):
            return
        axes = self._axes(replace(self.shape, classes=self.shape.classes + 1))
        self.shape = replace(self.shape, classes=self.family.shape.classes)
        if not axes:
            return  # these networks know no classes
        rows = [before.index(label) if label in before else None for label in after]

        def by_name(tensor: Tensor, axis: int, _: str) -> Tensor:
            mean = tensor.mean(dim=axis, keepdim=True)
            return torch.cat([mean if row is None else tensor.narrow(axis, row, 1) for row in rows], dim=axis)

        self._apply(axes, len(before), by_name, "the classes of its data are others")
        added = ", ".join(label for label in after if label not in before)
        gone = ", ".join(label for label in before if label not in after)
        told = "; ".join([*([f"new: {added}"] if added else []), *([f"gone: {gone}"] if gone else [])])
        self.changes.append(f"classes are taken by their names ({told or 'in another order'})")

    def recolour(self) -> None:
        """Adapt the channels of the pictures."""
        before, after = self.shape.channels, self.family.shape.channels
        if before == after:
            return
        what = f"pictures of {before} channel(s) become pictures of {after}"
        if {before, after} != {1, 3} or not self.family.can(NoiseFamily):
            raise self._refusal(f"{what}; {self.family.name} cannot adapt that")
        axes = self._axes(replace(self.shape, channels=before - 1 or 2))

        def convert(tensor: Tensor, axis: int, network: str) -> Tensor:
            # A grey picture stays the same: the generator's channels are repeated or averaged, and the weights of the
            # discriminator's are shared out or added up.
            generates, grows = network in self.family.generators, after > before
            share = 1.0 if generates == grows else 1 / max(before, after)
            if self.family.equalised and not generates:
                share *= math.sqrt(after / before)
            whole = tensor.sum(dim=axis, keepdim=True) * share
            return whole.repeat_interleave(after, dim=axis)

        self._apply(axes, before, convert, what)
        self.shape = replace(self.shape, channels=after)
        # Layers divided by their largest singular value cannot take up the factor that the number of channels brings.
        spectral = any(key.endswith(".spectral.left") for key in self.tensors)
        self.changes.append(f"{what}, with other contrast and judgements (spectral norm)" if spectral else what)

    def finish(self) -> dict[str, Tensor]:
        """All tensors of the new run's networks."""
        for key, tensor in self.own.items():
            if key in self.new:
                self.tensors[key] = tensor
            elif key not in self.tensors or self.tensors[key].shape != tensor.shape:
                there = [*self.tensors[key].shape] if key in self.tensors else "none"
                raise self._refusal(f"{key} has shape {there} there, and {[*tensor.shape]} here")
        return {key: self.tensors[key] for key in self.own}

    def _apply(self, axes: _Axes, count: int, convert: Callable[[Tensor, int, str], Tensor], what: str) -> None:
        """Convert each tensor along its axis, which must have ``count`` entries."""
        parameters = {
            f"{network}.{key}"
            for network, module in self.family.networks.items()
            for key, _ in module.named_parameters()
        }
        for key, axis in axes.items():
            if key in self.new:
                continue
            _, _, name = key.partition(".")
            if self.tensors[key].shape[axis] != count:
                if name in parameters:
                    raise self._refusal(f"{what}, and {self.family.name} cannot adapt {key}")
                self.new.add(key)  # a statistic, which is measured again
                continue
            self.tensors[key] = convert(self.tensors[key], axis, name.partition(".")[0])

    def _axes(self, other: ImageShape) -> _Axes:
        """The axis of each tensor whose length differs between networks for the pictures reached so far and for ``other``."""
        before, after = self._sketch(self.shape), self._sketch(other)
        if before.keys() != after.keys():
            strange = min(before.keys() ^ after.keys())
            raise self._refusal(
                f"{self.family.name} has other layers for each number of classes or channels ({strange})"
            )
        axes = {}
        for key, size in before.items():
            differing = [axis for axis, (one, two) in enumerate(zip(size, after[key], strict=True)) if one != two]
            if len(differing) > 1:
                raise self._refusal(f"{self.family.name} cannot adapt {key}")
            if differing:
                axes[key] = differing[0]
        return axes

    def _sketch(self, shape: ImageShape) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors of the networks, and of the averaged ones, for pictures of ``shape``."""
        try:
            networks = sketch_family(self.family.name, self.family.config, shape).networks
        except SettingsError as error:
            raise self._refusal(str(error).rstrip(".")) from None
        found = {
            f"network.{name}.{key}": tuple(tensor.shape)
            for name, network in networks.items()
            for key, tensor in network.state_dict().items()
        }
        averaged = {key.replace("network.", "averaged.", 1): size for key, size in found.items()}
        return found | {key: size for key, size in averaged.items() if key.split(".")[1] in self.family.generators}

    def _width(self, levels: int) -> str:
        width = getattr(self.family.config, "width", None)
        if not self.family.grows or self._differing or width is None or levels < 1 or width % (1 << levels):
            return ""
        return f". With model.width {width >> levels}, the layers of the smaller pictures would be the same"

    def _refusal(self, why: str) -> SettingsError:
        differing = f" Settings that differ: {', '.join(self._differing)}." if self._differing else ""
        return SettingsError(
            f"train.start_from: this run cannot start from {self.earlier.name}: {why}.{differing} Use the settings and the "
            "kind of pictures of that run, or set train.start_from to null."
        )


def _doublings(before: int, after: int) -> int | None:
    """How many doublings lead from ``before`` to ``after``, negative for halvings; None if it is another factor."""
    for count in range(-8, 9):
        if before * 2.0**count == after:
            return count
    return None
