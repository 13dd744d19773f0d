"""A generator as one graph with inputs that need no knowledge of its family: latent, label, truncation, picture, target, noise.

Exported files (:mod:`gan_core.inference.export`) contain these graphs. Pictures are float32 from 0 to 1, (N, C, H, W).
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan_core.errors import SettingsError
from gan_core.families import require
from gan_core.families.noise import NoiseFamily, StyleBasedFamily
from gan_core.families.translation import TranslationFamily
from gan_core.inference.conditions import domain_names, target_index
from gan_core.inference.generator import Generator
from gan_core.nn.padding import crop_borders, pad_to_multiple

OUTPUT = "image"
_PICTURE = "float32 (N, {channels}, {height}, {width}) from 0 to 1: the values of a picture file, divided by 255"


@dataclass(frozen=True)
class Input:
    """An input of a graph."""

    name: str
    description: str
    """Type, shape and meaning, in one sentence."""
    batched: bool = True
    """Whether the first dimension is the number of pictures."""


class Graph(nn.Module):
    """A generator with explicit inputs. It has no state besides its weights, and draws no random numbers."""

    inputs: tuple[Input, ...]

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(generator.family.networks)  # so that torch finds the weights
        shape = generator.info["shape"]
        sizes = {name: shape[name] for name in ("channels", "height", "width")}
        self.output = f"{_PICTURE.format(**sizes)}, after rounding to whole numbers"

    @abstractmethod
    def example(self, n: int, seed: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Inputs of pictures 0 to ``n`` of ``seed``, and the pictures that the family makes: float32 (n, C, H, W), 0 to 1."""


class NoiseGraph(Graph):
    """A generator from noise: ``latent``, ``label`` if it is class-conditional, ``truncation`` if it acts on styles."""

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator)
        self.family = require(generator.family, NoiseFamily)
        self.styles = require(generator.family, StyleBasedFamily) if generator.family.can(StyleBasedFamily) else None
        prior = "uniform from -1 to 1" if self.family.prior == "uniform" else "N(0, 1)"
        bounded = "" if self.styles else "; to truncate, draw values with a smaller bound"
        inputs = [Input("latent", f"float32 (N, {self.family.config.latent}), {prior}{bounded}")]
        if self.family.conditional:
            inputs.append(Input("label", f"int64 (N,), the class: {_numbered(generator.info.get('classes') or ())}"))
        if self.styles:
            inputs.append(Input("truncation", "float32 (), psi; 1 does not truncate, 0 gives the mean", batched=False))
        self.inputs = tuple(inputs)

    def forward(self, latent: Tensor, *others: Tensor) -> Tensor:
        """Generate the pictures of ``latent``; ``others``: label and truncation, if they are inputs."""
        given = dict(zip((one.name for one in self.inputs[1:]), others, strict=True))
        label = given.get("label")
        if self.styles is None:
            images = self.family.generate_sample(self.networks["generator"], latent, label, None)
        else:
            styles = self.styles.truncate_styles(self.styles.to_styles(latent, label), label, given["truncation"])
            images = self.styles.from_styles(styles)
        return _to_unit(images)

    @torch.no_grad()
    def example(self, n: int, seed: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """See :meth:`Graph.example`."""
        psi = 0.7 if self.styles else None
        latents, labels = self.family.draw(n, seed)
        made = self.family.generate_sample(self.networks["generator"], latents, labels, psi)
        others = [labels] if labels is not None else []
        return (latents, *others, *([torch.tensor(psi)] if psi else [])), _to_unit(made)


class TranslationGraph(Graph):
    """A generator from pictures: ``picture``, ``target`` if there are several, and ``noise`` if it draws random numbers.

    Pictures have the size of the training pictures.
    """

    def __init__(self, generator: Generator, target: str | None) -> None:
        super().__init__(generator)
        self.family = require(generator.family, TranslationFamily)
        shape, names = generator.family.shape, domain_names(generator)
        self.size = (shape.height, shape.width)
        self.fixed: int | None = None
        inputs = [
            Input(
                "picture",
                _PICTURE.format(channels=self.family.source_channels, height=shape.height, width=shape.width)
                + (
                    "; it is the lightness L* of a colour picture, divided by 100"
                    if shape.derived == "greyscale"
                    else ""
                ),
            )
        ]
        self.chooses = bool(self.family.target_domains) and not self.family.separate_generators
        if self.family.separate_generators:
            self.fixed = self.family.check_target(target_index(generator, target))
        elif target is not None:
            raise SettingsError(
                f"--target {target}: the target is an input of the exported file. Leave it out."
                if self.chooses
                else f"--target {target}: {self.family.name} has only one direction. Leave it out."
            )
        if self.chooses:
            what = "attribute to switch" if shape.attributes else "domain"
            inputs.append(Input("target", f"int64 (N,), the {what}: {_numbered(names)}"))
        noise = self._noise(1, 0)
        if noise is not None:
            meaning = "N(0, 1); it decides the style" if self.chooses else "uniform from 0 to 1; it decides the dropout"
            inputs.append(Input("noise", f"float32 (N, {noise.shape[1]}), {meaning}"))
        self.inputs = tuple(inputs)

    def forward(self, picture: Tensor, *others: Tensor) -> Tensor:
        """Translate ``picture``; ``others``: target and noise, if they are inputs."""
        given = dict(zip((one.name for one in self.inputs[1:]), others, strict=True))
        images, borders = pad_to_multiple(picture * 2 - 1, self.family.side_multiple, self.family.min_side)
        target = given.get("target", self.fixed)
        made = self.family.translate_aligned(images, target, dict(self.networks.items()), given.get("noise"))
        return _to_unit(crop_borders(made, borders))

    @torch.no_grad()
    def example(self, n: int, seed: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """See :meth:`Graph.example`; the pictures are noise."""
        channels = self.family.source_channels
        pixels = torch.randint(0, 256, (n, channels, *self.size), generator=torch.Generator().manual_seed(seed))
        pictures = pixels.float() / 255
        targets = self.family.target_domains if self.chooses else (self.fixed,)
        chosen = [targets[index % len(targets)] for index in range(n)]
        made = [
            self.family.translate(pictures[at : at + 1] * 2 - 1, to, seed, first=at) for at, to in enumerate(chosen)
        ]
        noise = self._noise(n, seed)
        others = [torch.tensor(chosen)] if self.chooses else []
        return (pictures, *others, *([] if noise is None else [noise])), _to_unit(torch.cat(made))

    def _noise(self, n: int, seed: int) -> Tensor | None:
        """The noise of pictures 0 to ``n`` of ``seed``."""
        blank, _ = pad_to_multiple(torch.zeros(1, 1, *self.size), self.family.side_multiple, self.family.min_side)
        return self.family.translation_noise(n, blank.shape[2], blank.shape[3], seed, 0)


def graph_of(generator: Generator, target: str | None = None) -> Graph:
    """The graph of a generator on the CPU, in evaluation mode.

    Args:
        generator: the generator.
        target: the direction, for a generator that has a network for each (cyclegan); by default its second domain.

    Raises:
        SettingsError: the target is unknown, or not a matter of the export.
    """
    if generator.translates:
        return TranslationGraph(generator, target).eval()
    if target is not None:
        raise SettingsError(f"--target {target}: {generator.info['family']} generates from noise. Leave it out.")
    return NoiseGraph(generator).eval()


def _to_unit(images: Tensor) -> Tensor:
    """Convert images from [-1, 1] to 0 to 1, clipped."""
    return ((images.float() + 1) / 2).clamp(0, 1)


def _numbered(names: object) -> str:
    return ", ".join(
        f"{index} is {name}" for index, name in enumerate(names if isinstance(names, list | tuple) else ())
    )
