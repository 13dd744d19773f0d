"""An exported generator: a folder with ``generator.json`` and ``generator.safetensors``, without any pickle."""

import itertools
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from gan_core import checkpoint as checkpoints
from gan_core.config import as_dict, build
from gan_core.errors import CheckpointError, DamagedFileError, SettingsError
from gan_core.families import FAMILIES, Batch, Family, ImageShape, build_family, family_config, require, sketch_family
from gan_core.families.noise import NoiseFamily, StyleBasedFamily
from gan_core.families.translation import ReferenceGuidedFamily, TranslationFamily
from gan_core.files import open_to_others, read_json, replacing, sha256_file, sha256_json, write_json
from gan_core.images.tensors import from_uint8, to_uint8
from gan_core.inference.projection import Projection, project

DESCRIPTION, WEIGHTS = "generator.json", "generator.safetensors"
_AGAIN = "export or download the generator again"
SAMPLE_BATCH = 64
"""Pictures made at once; the trainer makes as many, so that its FID is the exported generator's."""
_LARGEST_DESCRIPTION = 64 << 20
_MOST_TENSORS = 10_000
"""Parameters of a family's networks; the largest has hundreds."""
_PIXELS = 2**20
"""Pixels translated at once: 64 pictures of 128x128, or one of 1024x1024."""


class Generator:
    """A generator ready to be used, in evaluation mode."""

    def __init__(self, family: Family, info: dict[str, Any], digest: str) -> None:
        self._family = family
        self.info = info
        """family, config, channels, height, width, classes, dataset (digest), step and what else was saved with it."""
        self.digest = digest
        """SHA-256 of the weights, the family, its settings, the shape and the shares of the classes: names this generator in
        protocols."""

    @property
    def conditional(self) -> bool:
        """Whether it takes a class."""
        return self._family.conditional

    @property
    def translates(self) -> bool:
        """Whether it makes pictures from pictures; from noise otherwise."""
        return self._family.can(TranslationFamily)

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """What it translates: (from domain, to domain) each; None where a domain has no number. Empty: from noise."""
        return self._family.directions

    @property
    def takes_styles(self) -> bool:
        """Whether it translates in the style of a picture, :meth:`translate_like`."""
        return self._family.can(ReferenceGuidedFamily)

    @torch.inference_mode()
    def translate(self, images: Tensor, target: int | None = None, seed: int = 0, *, first: int = 0) -> Tensor:
        """Pictures uint8 (N, C', H, W), of any height and width, translated: uint8 (N, C, H, W) on the CPU.

        Equal for equal arguments, whatever else is in the batch up to rounding.

        Args:
            images: what is to be translated, of the channels that were trained on (lightness for colourisation).
            target: domain to translate to, or attribute to switch, where there are several; see :attr:`directions`.
            seed: names the random numbers, where there are some.
            first: number of the first picture among those of the seed.

        Raises:
            SettingsError: it makes pictures from noise, the target does not exist or is missing, the seed is negative, or the
                pictures have another number of channels.
        """
        family = require(self._family, TranslationFamily)
        if seed < 0:
            raise SettingsError(f"seed: must be 0 or more, got {seed}.")
        self._check_target(family, target)
        size = _together(images)
        parts = []
        for start in range(0, len(images), size):
            part = self._given(images[start : start + size])
            parts.append(to_uint8(family.translate(part, target, seed, first=first + start)).cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def translate_like(self, images: Tensor, references: Tensor, target: int) -> Tensor:
        """Pictures translated to the domain ``target``, each in the style of its reference: uint8 (N, C, H, W) on the CPU.

        Args:
            images: uint8 (N, C, H, W), of any height and width.
            references: uint8 (N, C, h, w) of that domain, of the size that was trained on.
            target: the domain.

        Raises:
            SettingsError: the family does not take the style of a reference picture (stargan2 does), or any of these does not
                fit.
        """
        family = require(self._family, ReferenceGuidedFamily)
        self._check_target(family, target)
        if len(references) != len(images):
            raise SettingsError(f"references: {len(references)} for {len(images)} pictures; give one for each.")
        size = _together(images)
        parts = []
        for start in range(0, len(images), size):
            part, styles = (self._given(pictures[start : start + size]) for pictures in (images, references))
            parts.append(to_uint8(family.translate_like(part, styles, target)).cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def preview(self, reals: Batch) -> tuple[Tensor, int]:
        """What it makes of the pictures ``reals``, beside them: uint8 (n, C, H, W) on the CPU, and how many make a row."""
        pictures, columns = self._family.preview(reals, self._family.networks)
        return to_uint8(pictures).cpu(), columns

    @torch.inference_mode()
    def sample(
        self, n: int, seed: int, label: int | None = None, truncation: float | None = None, *, first: int = 0
    ) -> Tensor:
        """Pictures ``first`` to ``first + n`` of ``seed``: uint8 (n, C, H, W) on the CPU, equal for equal arguments.

        Raises:
            SettingsError: a count below 1, a negative seed, or a label or truncation that the family does not take.
        """
        if n < 1:
            raise SettingsError(f"n: asked for {n} pictures; ask for 1 or more.")
        if seed < 0:
            raise SettingsError(f"seed: must be 0 or more, got {seed}.")
        if truncation is not None and not math.isfinite(truncation):
            raise SettingsError(f"truncation: must be a finite number, got {truncation}.")
        family, parts = require(self._family, NoiseFamily), []
        for start in range(0, n, SAMPLE_BATCH):
            count = min(SAMPLE_BATCH, n - start)
            parts.append(to_uint8(family.sample(count, seed, label, truncation, first=first + start)).cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def walk(
        self, n: int, seed: int, label: int | None = None, truncation: float | None = None, *, frames: int
    ) -> Tensor:
        """A closed walk through ``n`` pictures of ``seed``: uint8 (n * frames, C, H, W) on the CPU.

        Raises:
            SettingsError: the family has no latent space to walk through, or takes no such label or truncation.
        """
        family = require(self._family, NoiseFamily)
        return torch.cat([to_uint8(part).cpu() for part in family.walk(n, seed, label, truncation, frames=frames)])

    @torch.inference_mode()
    def mix(self, n: int, seed: int, label: int | None = None, *, crossover: int | None = None) -> Tensor:
        """A table of mixed styles, uint8 ((n + 1)^2, C, H, W), row by row.

        The first row and the first column are ``n`` pictures of ``seed`` each, their corner is black. The others have the
        column's style up to layer ``crossover`` (a third of the layers when left out) and the row's from there on.

        Raises:
            SettingsError: the family has no styles, or not so many layers.
        """
        family = require(self._family, StyleBasedFamily)
        device = next(family.networks["generator"].parameters()).device
        latents, labels = family.draw(2 * n, seed, label, device=device)
        styles = family.to_styles(latents, labels)
        layers = styles.shape[1]
        crossover = max(layers // 3, 1) if crossover is None else crossover
        if not 0 < crossover < layers:
            raise SettingsError(f"crossover: must be 1 to {layers - 1} for {layers} layers, got {crossover}.")
        columns, rows = styles[:n], styles[n:]
        shape = self.info["shape"]
        corner = torch.full((1, shape["channels"], shape["height"], shape["width"]), -1.0, device=device)
        table = [corner, family.from_styles(columns)]
        for row in rows:
            mixed = torch.cat([columns[:, :crossover], row[None, crossover:].expand(n, -1, -1)], dim=1)
            table += [family.from_styles(row[None]), family.from_styles(mixed)]
        return to_uint8(torch.cat(table)).cpu()

    def project(self, picture: Tensor, *, steps: int, label: int | None = None) -> Projection:
        """The style whose picture is nearest to ``picture``, uint8 (C, H, W).

        See :func:`gan_core.inference.projection.project`.

        Raises:
            SettingsError: the family has no styles, makes pictures of another shape, or needs a ``label``.
        """
        family = require(self._family, StyleBasedFamily)
        if self.conditional and label is None:
            names = ", ".join(f"{name} ({index})" for index, name in enumerate(self.info.get("classes") or ()))
            raise SettingsError(
                f"label: {self.info['family']} is class-conditional. Name the class of this picture: {names}."
            )
        return project(family, picture, steps=steps, label=label)

    def check_takes_styles(self) -> None:
        """Raise SettingsError where it does not translate in the style of a picture; names the families that do."""
        require(self._family, ReferenceGuidedFamily)

    def _check_target(self, family: TranslationFamily, target: int | None) -> None:
        """Raise SettingsError for a domain that is not there, with the names of those that are."""
        if family.target_domains and target is not None and target not in family.target_domains:
            names = self.info.get("attributes") or self.info.get("classes") or ()
            known = (
                ", ".join(f"{name} ({index})" for index, name in enumerate(names))
                or f"0 to {family.target_domains[-1]}"
            )
            raise SettingsError(f"target: there is no domain {target}; the generator knows {known}.")

    def _given(self, pictures: Tensor) -> Tensor:
        """Pictures, uint8, as the family's networks want them."""
        return from_uint8(pictures.to(next(self._family.networks[self._family.generators[0]].parameters()).device))


def _together(images: Tensor) -> int:
    """How many of ``images`` (N, C, H, W) are translated at once."""
    return max(_PIXELS // (images.shape[2] * images.shape[3]), 1)


def describe(family: Family, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """What rebuilds a family's networks, and what else is to be known of them: dataset digest, class names, step."""
    config, shape = as_dict(family.config), asdict(family.shape)
    shares = list(require(family, NoiseFamily).class_shares) if family.conditional else []
    described = {"format": 1, "family": family.name, "config": config, "shape": shape}
    return {**described, **({"class_shares": shares} if shares else {}), **(extra or {})}


def save_generator(
    directory: Path | str,
    *,
    family: Family,
    networks: dict[str, nn.Module] | None = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """Export ``networks`` (an EMA copy, or the family's own generators) to ``directory``, whole or not at all.

    Args:
        directory: the folder to make; an existing one is replaced.
        family: gives configuration and shape.
        networks: generators by name.
        extra: plain values to keep beside them: dataset digest, class names, step.
    """
    networks = networks or {name: family.networks[name] for name in family.generators}
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    info = describe(family, extra)
    with replacing(directory) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / WEIGHTS)
        open_to_others(temporary / WEIGHTS)
        write_json(temporary / DESCRIPTION, {**info, "weights_sha256": sha256_file(temporary / WEIGHTS)})


def load_generator(directory: Path | str, device: str | torch.device = "cpu") -> Generator:
    """Load an exported generator, or the averaged one of a checkpoint or of the newest checkpoint in a folder.

    Of a folder of checkpoints the newest is taken that holds a generator; those passed over are named in the log.

    Raises:
        CheckpointError: the folder is none of these, or its weights are not whole, not finite, or not what the description
            says.
        SettingsError: the description has settings that this edition's family does not know.
    """
    directory = Path(directory)
    if (directory / DESCRIPTION).is_file():
        return _exported(directory, torch.device(device))
    if (directory / checkpoints.STATE).is_file():
        return _averaged(checkpoints.load_checkpoint(directory), torch.device(device))
    reason = "no whole checkpoint"
    for found in checkpoints.whole_checkpoints([directory]):
        try:
            return _averaged(found, torch.device(device))
        except CheckpointError as error:
            checkpoints.log_passed_over(found.path, str(error).rstrip("."))
            reason = "no checkpoint that holds a generator"
    raise CheckpointError(f"{directory} holds no exported generator ({DESCRIPTION} is missing) and {reason}.")


def _averaged(found: checkpoints.Checkpoint, device: torch.device) -> Generator:
    """The averaged generator of a checkpoint; raises CheckpointError where it holds none."""
    described = found.state.get("generator")
    where = found.path / checkpoints.STATE
    if not isinstance(described, dict):
        raise CheckpointError(f"{where} describes no generator.")
    info = {**described, "step": found.step}
    prefix = "averaged."
    tensors = {name.removeprefix(prefix): t for name, t in found.tensors.items() if name.startswith(prefix)}
    family = _rebuilt(info, tensors, where).to(device)
    # A checkpoint holds averaged weights as training left them.
    family.update_statistics(family.networks)
    return Generator(family, info, _digest(info, sha256_file(found.path / checkpoints.TENSORS)))


def generator_digest(directory: Path | str) -> str:
    """The :attr:`Generator.digest` of an exported generator, without building it.

    Raises:
        CheckpointError: the folder holds none, or its weights are not what the description says.
    """
    info, weights = _described(Path(directory))
    return _digest(info, weights)


def _exported(directory: Path, device: torch.device) -> Generator:
    info, digest = _described(directory)
    weights = directory / WEIGHTS
    try:
        tensors = checkpoints.read_tensors(weights)
    except CheckpointError as error:
        raise CheckpointError(f"{weights}: {error}; {_AGAIN}.") from error
    family = _rebuilt(info, tensors, directory / DESCRIPTION).to(device)
    return Generator(family, info, _digest(info, digest))


def _described(directory: Path) -> tuple[dict[str, Any], str]:
    """The description of an exported generator, and the SHA-256 of its weights, which the description has too."""
    described, weights = directory / DESCRIPTION, directory / WEIGHTS
    try:
        if described.stat().st_size > _LARGEST_DESCRIPTION:
            raise ValueError(f"it is larger than {_LARGEST_DESCRIPTION >> 20} MiB")
        info = read_json(described)
    except ValueError as error:
        reason = error.reason if isinstance(error, DamagedFileError) else error
        raise CheckpointError(f"{described} is damaged ({reason}); {_AGAIN}.") from error
    if not isinstance(info, dict):
        raise CheckpointError(f"{described} is damaged (it holds no table); {_AGAIN}.")
    digest = sha256_file(weights) if weights.is_file() else None
    if digest is None or digest != info.get("weights_sha256"):
        raise CheckpointError(f"{weights} is missing or damaged, or {DESCRIPTION} belongs to others; {_AGAIN}.")
    return info, digest


def _digest(info: dict[str, Any], weights: str) -> str:
    made_by = {key: info[key] for key in ("family", "config", "shape", "class_shares") if key in info}
    return sha256_json({**made_by, "weights_sha256": weights})


def _rebuilt(info: dict[str, Any], tensors: dict[str, Tensor], where: Path) -> Family:
    """The family that ``info`` describes with its generators alone, in evaluation mode, their weights from ``tensors``.

    Raises:
        CheckpointError: ``info``, from the file ``where``, describes no family, or another than the weights are of, or the
            weights are not finite.
        SettingsError: it names a family or a setting that this edition does not know.
    """
    wrong = _strange(info)
    if wrong:
        raise CheckpointError(f"{where} is damaged ({wrong}); {_AGAIN}.")
    try:
        try:
            shape = build(ImageShape, info["shape"], where="shape")
        except SettingsError as error:
            raise ValueError(str(error)) from error
        kind = FAMILIES.get(info["family"])
        written = {**(kind.older_settings(info["config"]) if kind else {}), **info["config"]}
        config = family_config(info["family"], written, where="config")
        # What is described is built without memory first: a few bytes can describe terabytes.
        with _few_parameters():
            _refuse_others(sketch_family(info["family"], config, shape), tensors)
        shares = [float(share) for share in info.get("class_shares", ())]
        if shares and len(shares) != shape.classes:
            raise ValueError(f"{len(shares)} class_shares for {shape.classes} classes")
        family = build_family(info["family"], config, shape, class_shares=shares)
        family.networks = {name: family.networks[name] for name in family.generators}
        for name, network in family.networks.items():
            prefix = f"{name}."
            network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
            network.eval()
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
    except Exception as error:  # what wrong values make of a family is up to its networks
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise CheckpointError(f"{where} does not describe the weights beside it ({reason}); {_AGAIN}.") from error
    broken = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if broken:
        raise CheckpointError(
            f"The weights that {where} describes hold NaN or infinity ({broken}): no picture comes of them. Training "
            f"diverged, or the file was changed; {_AGAIN}."
        )
    return family


def _strange(info: Mapping[str, Any]) -> str | None:
    """Which value of a description is of another kind than those that use it expect; None where none is."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "family": str,
        "config": dict,
        "shape": dict,
        "dataset": str,
        "step": int,
    }
    for name, kind in kinds.items():
        if name in ("family", "config", "shape") and name not in info:
            return f"it has no {name}"
        if name in info and (not isinstance(info[name], kind) or isinstance(info[name], bool)):
            return f"{name} is {_cut(info[name])}"
    for name in ("classes", "attributes", "class_shares"):
        of = (int, float) if name == "class_shares" else (str, int)
        values = info.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, of) for value in values):
            return f"{name} is {_cut(values)}, no list of {'numbers' if name == 'class_shares' else 'names'}"
    return None


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _refuse_others(family: Family, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where ``tensors`` are not those of the generators of ``family``; names the first."""
    for network in family.generators:
        own = {f"{network}.{key}": tensor for key, tensor in family.networks[network].state_dict().items()}
        for name, tensor in own.items():
            if name not in tensors:
                raise ValueError(f"{name} is missing among the weights")
            if tensors[name].shape != tensor.shape:
                raise ValueError(
                    f"{name} is {[*tensors[name].shape]} among the weights, and described as {[*tensor.shape]}"
                )
            if tensors[name].is_floating_point() != tensor.is_floating_point():
                raise ValueError(f"{name} is {tensors[name].dtype} among the weights, and described as {tensor.dtype}")


@contextmanager
def _few_parameters() -> Iterator[None]:
    """Have no more than so many parameters made in the block: a depth of a milliard would take its memory for names alone."""
    count, here = itertools.count(1), threading.get_ident()

    def counted(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if threading.get_ident() == here and next(count) > _MOST_TENSORS:
            raise ValueError(f"it describes more than {_MOST_TENSORS} tensors")

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()
