"""Generate a picture and edit it: mix the styles of two pictures, move it along directions, start from a projection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gan_core.errors import SettingsError
from gan_core.families import require
from gan_core.families.noise import NoiseFamily, StyleBasedFamily
from gan_core.images.tensors import finished_pictures
from gan_core.inference.directions import Directions, Part, find_directions, layers_of_part
from gan_core.inference.generator import Generator


@dataclass(frozen=True, kw_only=True)
class Edit:
    """How to make a picture."""

    seed: int = 0
    """The picture is the first one of this seed, unless there is a ``start``."""
    label: int | None = None
    truncation: float | None = None
    """See :meth:`gan_core.inference.generator.Generator.sample`."""
    start: Tensor | None = None
    """z (latent,), or styles (layers, W), of a projection."""
    mix_seed: int | None = None
    """Take the styles of layers ``crossover`` and later from the first picture of this seed."""
    crossover: int | None = None
    """By default a third of the layers."""
    moves: Mapping[Part, Sequence[float]] = field(default_factory=dict)
    """For each part of the layers, how far to move along each direction, in units of :class:`Directions`."""


class Editor:
    """Makes the pictures of edits. Directions are computed when they are first used.

    Raises:
        SettingsError: the generator does not generate from noise.
    """

    def __init__(self, generator: Generator, count: int) -> None:
        """``count``: number of directions, at most the dimension of z or of the styles."""
        self.generator = generator
        self.family = require(generator.family, NoiseFamily)
        self.styled = require(generator.family, StyleBasedFamily) if generator.takes_mixed_styles else None
        self.device = next(self.family.networks["generator"].parameters()).device
        self._count = count
        self._found: dict[Part, Directions] = {}

    @property
    def count(self) -> int:
        """Number of directions of each part."""
        return min(self._count, self.family.config.style if self.styled else self.family.config.latent)

    @property
    def layers(self) -> int:
        """Number of layers with a style; 0 if the family has no styles."""
        return len(self.styled.mean_styles(0)) if self.styled else 0

    def directions(self, part: Part) -> Directions:
        """The directions of ``part``."""
        if part not in self._found:
            self._found[part] = find_directions(self.family, self.count, part)
        return self._found[part]

    @torch.inference_mode()
    def render(self, edit: Edit) -> Tensor:
        """Make the picture of ``edit``: uint8 (C, H, W) on the CPU; deterministic.

        Without a start, mixing or moves, it is the picture of :meth:`Generator.sample` with one picture.

        Raises:
            SettingsError: a value is out of range, or the family does not support it.
        """
        self.generator.check_sample(1, edit.seed, edit.truncation)
        latents, labels = self.family.draw(1, edit.seed, edit.label, edit.truncation, device=self.device)
        if self.styled:
            return self._from_styles(self.styled, edit, latents, labels)
        if edit.mix_seed is not None:
            require(self.family, StyleBasedFamily)
        if edit.start is not None:
            latents = edit.start[None].to(self.device)
        for part, amounts in edit.moves.items():
            latents = latents + self._step(part, amounts)
        generator = self.family.networks["generator"]
        return finished_pictures(self.family.generate_sample(generator, latents, labels, edit.truncation))[0]

    def _from_styles(self, family: StyleBasedFamily, edit: Edit, latents: Tensor, labels: Tensor | None) -> Tensor:
        def truncated(styles: Tensor, classes: Tensor | None) -> Tensor:
            return styles if edit.truncation is None else family.truncate_styles(styles, classes, edit.truncation)

        styles = family.to_styles(latents, labels) if edit.start is None else edit.start[None].to(self.device)
        styles = truncated(styles, labels)
        layers = styles.shape[1]
        if edit.mix_seed is not None:
            self.generator.check_sample(1, edit.mix_seed, None)
            crossover = max(layers // 3, 1) if edit.crossover is None else edit.crossover
            if not 0 < crossover < layers:
                raise SettingsError(f"crossover: must be 1 to {layers - 1} for {layers} layers, got {crossover}.")
            others, other_labels = family.draw(1, edit.mix_seed, edit.label, device=self.device)
            mixed = truncated(family.to_styles(others, other_labels), other_labels)
            styles = torch.cat([styles[:, :crossover], mixed[:, crossover:]], dim=1)
        for part, amounts in edit.moves.items():
            moved = torch.zeros_like(styles)
            moved[:, layers_of_part(layers, part)] = self._step(part, amounts)
            styles = styles + moved
        return finished_pictures(family.from_styles(styles))[0]

    def _step(self, part: Part, amounts: Sequence[float]) -> Tensor:
        """The sum of the steps along the directions of ``part``, (dimension,)."""
        if len(amounts) > self.count:
            raise SettingsError(f"moves: {len(amounts)} values, but there are {self.count} directions.")
        found = self.directions(part)
        steps = torch.tensor(amounts, dtype=torch.float32) @ found.vectors[: len(amounts)] * found.unit
        return steps.to(self.device)
