"""Save and load exported generators: folders with ``generator.json`` and ``generator.safetensors``, without pickle."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_core import checkpoint as checkpoints
from gan_core.config import as_dict
from gan_core.errors import CheckpointError, SettingsError
from gan_core.families import Batch, Family, require
from gan_core.families.noise import NoiseFamily, StyleBasedFamily
from gan_core.families.translation import ReferenceGuidedFamily, TranslationFamily
from gan_core.files import atomic_write, sha256_file, write_json
from gan_core.images.tensors import finished_pictures, from_uint8
from gan_core.inference.description import AGAIN, DESCRIPTION, WEIGHTS, identity, read_description
from gan_core.inference.path import Space, path_step
from gan_core.inference.projection import Each, LatentProjection, Projection, project, project_latent
from gan_core.inference.rebuild import rebuild

_PIXELS = 2**20
"""Number of pixels to translate at once: 64 pictures of 128x128, or one of 1024x1024."""


class Generator:
    """A loaded generator in evaluation mode."""

    def __init__(self, family: Family, info: dict[str, Any], digest: str) -> None:
        self.family = family
        """The family, with its generators in evaluation mode."""
        self.info = info
        """Description of the generator: family, config, shape, classes, dataset (digest), step, and additional values."""
        self.digest = digest
        """SHA-256 of the weights, family, settings, shape and class shares: identifies this generator in protocols."""

    @property
    def conditional(self) -> bool:
        """Whether it is class-conditional."""
        return self.family.conditional

    @property
    def translates(self) -> bool:
        """Whether it translates pictures; False if it generates them from noise."""
        return self.family.can(TranslationFamily)

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """(source, target) domains of each direction; None for a domain without a number. Empty for generators from noise."""
        return self.family.directions

    @property
    def takes_styles(self) -> bool:
        """Whether it can translate in the style of a reference picture (:meth:`translate_like`)."""
        return self.family.can(ReferenceGuidedFamily)

    @torch.inference_mode()
    def translate(self, images: Tensor, target: int | None = None, seed: int = 0, *, first: int = 0) -> Tensor:
        """Translate pictures. Deterministic; other pictures in the batch affect a result by rounding only.

        Args:
            images: uint8 (N, C', H, W) of any height and width, with the channels of the training data (lightness for
                colourisation).
            target: domain to translate to, or attribute to switch, if there are several; see :attr:`directions`.
            seed: seed of random numbers, for families that use them.
            first: index of the first picture among those of the seed.

        Returns:
            uint8 (N, C, H, W) on the CPU.

        Raises:
            SettingsError: the generator does not translate, the target is unknown or missing, the seed is negative, or the
                number of channels is wrong.
        """
        family = require(self.family, TranslationFamily)
        if seed < 0:
            raise SettingsError(f"seed: must be 0 or more, got {seed}.")
        self._check_target(family, target)
        size = _together(images)
        parts = []
        for start in range(0, len(images), size):
            part = self._given(images[start : start + size])
            parts.append(finished_pictures(family.translate(part, target, seed, first=first + start)))
        return torch.cat(parts)

    @torch.inference_mode()
    def translate_like(self, images: Tensor, references: Tensor, target: int) -> Tensor:
        """Translate pictures to the domain ``target``, each in the style of its reference picture.

        Args:
            images: uint8 (N, C, H, W) of any height and width.
            references: uint8 (N, C, h, w), pictures of that domain at the training size.
            target: the domain.

        Returns:
            uint8 (N, C, H, W) on the CPU.

        Raises:
            SettingsError: the family does not take styles from pictures (stargan2 does), the target is unknown, or the
                pictures do not fit.
        """
        family = require(self.family, ReferenceGuidedFamily)
        self._check_target(family, target)
        if len(references) != len(images):
            raise SettingsError(
                f"references: got {len(references)} for {len(images)} pictures. Give one for each picture."
            )
        size = _together(images)
        parts = []
        for start in range(0, len(images), size):
            part, styles = (self._given(pictures[start : start + size]) for pictures in (images, references))
            parts.append(finished_pictures(family.translate_like(part, styles, target)))
        return torch.cat(parts)

    @torch.inference_mode()
    def preview(self, reals: Batch) -> tuple[Tensor, int]:
        """A grid of ``reals`` and the generator's output: uint8 (n, C, H, W) on the CPU, and its number of columns."""
        pictures, columns = self.family.preview(reals, self.family.networks)
        return finished_pictures(pictures), columns

    @torch.inference_mode()
    def sample(
        self, n: int, seed: int, label: int | None = None, truncation: float | None = None, *, first: int = 0
    ) -> Tensor:
        """Generate pictures ``first`` to ``first + n`` of ``seed``: uint8 (n, C, H, W) on the CPU; deterministic.

        Raises:
            SettingsError: ``n`` is below 1, the seed is negative, or the family does not support the label or truncation.
        """
        self.check_sample(n, seed, truncation)
        family, parts = require(self.family, NoiseFamily), []
        # As in training, so that an FID during training equals the exported generator's.
        size = family.pictures_at_once(next(family.networks["generator"].parameters()).device)
        for start in range(0, n, size):
            count = min(size, n - start)
            parts.append(finished_pictures(family.sample(count, seed, label, truncation, first=first + start)))
        return torch.cat(parts)

    def labels(self, n: int, seed: int) -> Tensor | None:
        """Classes of the pictures that ``sample(n, seed)`` makes, int64 (n,); None if it is not class-conditional.

        Raises:
            SettingsError: the family does not generate from noise.
        """
        return require(self.family, NoiseFamily).draw(n, seed)[1]

    def check_sample(self, n: int, seed: int, truncation: float | None) -> None:
        """Raise SettingsError if ``n`` is below 1, the seed is negative, or the truncation is not finite."""
        if n < 1:
            raise SettingsError(f"n: must be 1 or more, got {n}.")
        if seed < 0:
            raise SettingsError(f"seed: must be 0 or more, got {seed}.")
        if truncation is not None and not math.isfinite(truncation):
            raise SettingsError(f"truncation: must be a finite number, got {truncation}.")

    @torch.inference_mode()
    def walk(
        self, n: int, seed: int, label: int | None = None, truncation: float | None = None, *, frames: int
    ) -> Tensor:
        """Interpolate in the latent space from each of ``n`` pictures of ``seed`` to the next, and back to the first.

        Args:
            n: number of pictures.
            seed: seed of the pictures.
            label: class of the pictures.
            truncation: see :meth:`sample`.
            frames: number of frames from one picture to the next.

        Returns:
            uint8 (n * frames, C, H, W) on the CPU.

        Raises:
            SettingsError: the family does not generate from noise, or does not support the label or truncation.
        """
        family = require(self.family, NoiseFamily)
        return torch.cat([finished_pictures(part) for part in family.walk(n, seed, label, truncation, frames=frames)])

    @torch.inference_mode()
    def mix(self, n: int, seed: int, label: int | None = None, *, crossover: int | None = None) -> Tensor:
        """A table of mixed styles, uint8 ((n + 1)^2, C, H, W), row by row.

        The first row and the first column show ``n`` pictures of ``seed`` each, with a black corner. Every other picture
        takes the style of its column in the layers below ``crossover`` (by default a third of the layers), and that of its
        row in the other layers.

        Raises:
            SettingsError: the family has no styles, or ``crossover`` is not below its number of layers.
        """
        family = require(self.family, StyleBasedFamily)
        device = next(family.networks["generator"].parameters()).device
        latents, labels = family.draw(2 * n, seed, label, device=device)
        styles = family.to_styles(latents, labels)
        layers = styles.shape[1]
        crossover = max(layers // 3, 1) if crossover is None else crossover
        if not 0 < crossover < layers:
            raise SettingsError(f"crossover: must be 1 to {layers - 1} for {layers} layers, got {crossover}.")
        columns, rows = styles[:n], styles[n:]
        size = family.pictures_at_once(device)

        def make(mixed: Tensor) -> Tensor:
            return torch.cat([finished_pictures(family.from_styles(part)) for part in mixed.split(size)])

        shape = self.info["shape"]
        corner = torch.zeros((1, shape["channels"], shape["height"], shape["width"]), dtype=torch.uint8)
        table = [corner, make(columns)]
        for row in rows:
            mixed = torch.cat([columns[:, :crossover], row[None, crossover:].expand(n, -1, -1)], dim=1)
            table += [make(row[None]), make(mixed)]
        return torch.cat(table)

    @property
    def takes_mixed_styles(self) -> bool:
        """Whether it generates from styles (a space w), which can be mixed."""
        return self.family.can(StyleBasedFamily)

    @torch.inference_mode()
    def path_step(self, n: int, seed: int, *, space: Space, epsilon: float, first: int = 0) -> tuple[Tensor, Tensor]:
        """Pairs of pictures a small step apart in the latent space. See :func:`gan_core.inference.path.path_step`."""
        return path_step(self.family, n, seed, space=space, epsilon=epsilon, first=first)

    def project(self, picture: Tensor, *, steps: int, label: int | None = None, each: Each | None = None) -> Projection:
        """Find the style whose picture is closest to ``picture``, uint8 (C, H, W).

        See :func:`gan_core.inference.projection.project`.

        Raises:
            SettingsError: the family has no styles, the picture has a different shape, or a ``label`` is missing.
        """
        family = require(self.family, StyleBasedFamily)
        self._check_labelled(label)
        return project(family, picture, steps=steps, label=label, each=each)

    def project_latent(
        self, picture: Tensor, *, steps: int, label: int | None = None, each: Each | None = None
    ) -> LatentProjection:
        """Find the z whose picture is closest to ``picture``, uint8 (C, H, W).

        See :func:`gan_core.inference.projection.project_latent`.

        Raises:
            SettingsError: the family does not generate from noise, the picture has a different shape, or a ``label`` is
                missing.
        """
        family = require(self.family, NoiseFamily)
        self._check_labelled(label)
        return project_latent(family, picture, steps=steps, label=label, each=each)

    def _check_labelled(self, label: int | None) -> None:
        """Raise SettingsError if the generator is class-conditional and ``label`` is None."""
        if self.conditional and label is None:
            names = ", ".join(f"{name} ({index})" for index, name in enumerate(self.info.get("classes") or ()))
            raise SettingsError(
                f"label: {self.info['family']} is class-conditional. Name the class of this picture: {names}."
            )

    def check_takes_styles(self) -> None:
        """Raise SettingsError if the generator does not take styles from pictures."""
        require(self.family, ReferenceGuidedFamily)

    def _check_target(self, family: TranslationFamily, target: int | None) -> None:
        """Raise SettingsError for an unknown domain."""
        if family.target_domains and target is not None and target not in family.target_domains:
            names = self.info.get("attributes") or self.info.get("classes") or ()
            known = ", ".join(
                f"{names[index]} ({index})" if index < len(names) else str(index) for index in family.target_domains
            )
            raise SettingsError(f"target: unknown domain {target}. Choose one of {known}.")

    def _given(self, pictures: Tensor) -> Tensor:
        """Convert uint8 pictures to the input of the family's networks, on their device."""
        return from_uint8(pictures.to(next(self.family.networks[self.family.generators[0]].parameters()).device))


def _together(images: Tensor) -> int:
    """Number of pictures of ``images`` (N, C, H, W) to translate at once."""
    return max(_PIXELS // (images.shape[2] * images.shape[3]), 1)


def describe_generator(family: Family, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """Describe a family so that its networks can be rebuilt. ``extra``: other values, such as dataset, classes and step."""
    config, shape = as_dict(family.config), asdict(family.shape)
    shares = list(require(family, NoiseFamily).class_shares) if family.conditional else []
    described = {"format": 1, "family": family.name, "config": config, "shape": shape}
    if family.incomplete:
        described["generators"] = list(family.generators)
    return {**described, **({"class_shares": shares} if shares else {}), **(extra or {})}


def save_generator(
    directory: Path | str,
    *,
    family: Family,
    networks: dict[str, nn.Module] | None = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """Export a generator to ``directory`` atomically.

    Args:
        directory: the folder to write; an existing one is replaced.
        family: the family, for its settings and shape.
        networks: generators by name, such as an averaged copy; None uses the family's own.
        extra: additional values for the description, such as dataset digest, class names and step.
    """
    networks = networks or {name: family.networks[name] for name in family.generators}
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    info = describe_generator(family, extra)
    with atomic_write(directory) as temporary:
        temporary.mkdir()
        checkpoints.write_tensors(temporary / WEIGHTS, tensors)
        write_json(temporary / DESCRIPTION, {**info, "weights_sha256": sha256_file(temporary / WEIGHTS)})


def load_generator(directory: Path | str, device: str | torch.device = "cpu") -> Generator:
    """Load an exported generator, or the averaged generator of a checkpoint.

    Args:
        directory: an exported generator, a checkpoint, or a folder of checkpoints: the newest one that has a generator is
            loaded, and those that are skipped are logged.
        device: a device, or its name in torch.

    Raises:
        CheckpointError: the folder is none of these, or its weights are incomplete, not finite, or do not match the
            description.
        SettingsError: the description has settings that this version of the family does not know.
    """
    directory = Path(directory)
    if (directory / DESCRIPTION).is_file():
        return _exported(directory, torch.device(device))
    if (directory / checkpoints.STATE).is_file():
        return _averaged(checkpoints.load_checkpoint(directory), torch.device(device))
    reason = "no complete checkpoint"
    for found in checkpoints.valid_checkpoints([directory]):
        try:
            return _averaged(found, torch.device(device))
        except CheckpointError as error:
            checkpoints.log_skipped(found.path, str(error).rstrip("."))
            reason = "no checkpoint that has a generator"
    raise CheckpointError(f"{directory} contains no exported generator ({DESCRIPTION} is missing) and {reason}.")


def _averaged(found: checkpoints.Checkpoint, device: torch.device) -> Generator:
    """The averaged generator of a checkpoint; raises CheckpointError if it has none."""
    described = found.state.get("generator")
    where = found.path / checkpoints.STATE
    if not isinstance(described, dict):
        raise CheckpointError(f"{where} does not describe a generator. Use a different checkpoint.")
    info = {**described, "step": found.step}
    prefix = "averaged."
    tensors = {name.removeprefix(prefix): t for name, t in found.tensors.items() if name.startswith(prefix)}
    family = rebuild(info, tensors, where).to(device)
    # Checkpoints have no batch-norm statistics for the averaged weights.
    family.update_statistics(family.networks)
    return Generator(family, info, identity(info, sha256_file(found.path / checkpoints.TENSORS)))


def _exported(directory: Path, device: torch.device) -> Generator:
    info, digest = read_description(directory)
    weights = directory / WEIGHTS
    try:
        tensors = checkpoints.read_tensors(weights)
    except CheckpointError as error:
        raise CheckpointError(f"{weights}: {error}; {AGAIN}.") from error
    family = rebuild(info, tensors, directory / DESCRIPTION).to(device)
    return Generator(family, info, identity(info, digest))
