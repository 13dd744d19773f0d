"""Start a run from an earlier one: what a later run needs is saved with a run's generator, and loaded as its first state.

A *start folder* has ``start.json``, which describes the run and lists the SHA-256 sums of the other files,
``weights.safetensors`` (networks, averaged networks, strength of the augmentation, buffers of the losses) and, if they were
kept, ``optimisers.safetensors`` (moments of both optimisers). Its digest is the SHA-256 sum of ``start.json``.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_core import checkpoint as checkpoints
from gan_core.augment.augmenter import Augmenter
from gan_core.config import as_dict, build
from gan_core.errors import CheckpointError, SettingsError
from gan_core.families import Family, ImageShape
from gan_core.files import atomic_write, read_json, sha256_file, write_json
from gan_core.inference.generator import describe_generator
from gan_core.training.adapt import Adapted, Networks, adapt_networks
from gan_core.training.state import State

log = logging.getLogger(__name__)

DESCRIPTION, WEIGHTS, OPTIMISERS = "start.json", "weights.safetensors", "optimisers.safetensors"
_NETWORKS = ("network.", "averaged.")
_MOMENTS = "optimiser."


@dataclass(frozen=True, kw_only=True)
class Start:
    """The run that another run starts from."""

    name: str
    """Name for messages and records, such as ``faces/3`` or a folder."""
    digest: str
    """SHA-256 of its description, which holds those of its files."""
    images_seen: int
    """Real images that its discriminator has seen, including those of the runs that it started from in turn."""
    folder: Path | None = None
    """Start folder or checkpoint. None if it is not here: then a run can only be resumed."""

    @property
    def record(self) -> dict[str, Any]:
        """What is recorded about it in a run that starts from it."""
        return {"name": self.name, "digest": self.digest, "images_seen": self.images_seen}


def save_start(directory: Path | str, state: State, description: Mapping[str, Any], *, keep: str) -> None:
    """Write a start folder atomically.

    Args:
        directory: the folder to write; an existing one is replaced.
        state: the state of the run.
        description: values for ``start.json``, from :func:`describe_generator`, with ``augment`` and ``total_images``.
        keep: ``full``; ``weights``: without the moments of the optimisers; or ``none``: only the description.
    """
    moments: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, tensor in state.tensors().items():
        (moments if name.startswith(_MOMENTS) else weights)[name] = tensor.detach().cpu().contiguous()
    files = {"full": {WEIGHTS: weights, OPTIMISERS: moments}, "weights": {WEIGHTS: weights}}.get(keep, {})
    _write(directory, files, {**description, "keep": keep})


def save_imported_start(directory: Path | str, family: Family, extra: Mapping[str, Any]) -> None:
    """Write a start folder with networks that no run of ours has trained, atomically.

    The averaged generators are the generators. There are no moments, and no images are counted.

    Args:
        directory: the folder to write; an existing one is replaced.
        family: with the weights of all its networks.
        extra: other values of the description, as of :func:`describe_generator`.
    """
    weights = {name: tensor.detach().cpu().clone() for name, tensor in _tensors_of(family).items()}
    description = {**describe_generator(family, dict(extra)), "augment": {}, "total_images": 0, "keep": "weights"}
    _write(directory, {WEIGHTS: weights}, description)


def _tensors_of(family: Family) -> dict[str, Tensor]:
    """The tensors of the networks, and the same ones as those of the averaged generators."""
    return {
        f"{kind}.{name}.{key}": tensor
        for kind, names in (("network", family.networks), ("averaged", family.generators))
        for name in names
        for key, tensor in family.networks[name].state_dict().items()
    }


def _write(directory: Path | str, files: Mapping[str, dict[str, Tensor]], description: Mapping[str, Any]) -> None:
    with atomic_write(directory) as temporary:
        temporary.mkdir()
        for name, tensors in files.items():
            checkpoints.write_tensors(temporary / name, tensors)
        sums = {name: sha256_file(temporary / name) for name in files}
        write_json(temporary / DESCRIPTION, {**description, "files": sums})


def open_start(folder: Path | str, name: str = "") -> Start:
    """Read the description of a start folder, or of the newest valid checkpoint in ``folder``.

    Args:
        folder: a start folder, a folder with a subfolder ``start``, a checkpoint, or a folder of checkpoints at any depth.
        name: see :attr:`Start.name`; by default the path.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    folder = Path(folder)
    name = name or str(folder)
    for place in (folder, folder / "start"):
        if (place / DESCRIPTION).is_file():
            described = _read_description(place, name)
            return Start(
                name=name,
                digest=sha256_file(place / DESCRIPTION),
                images_seen=int(described["total_images"]),
                folder=place,
            )
    if (folder / checkpoints.STATE).is_file():
        if damage := checkpoints.find_damage(folder):
            raise CheckpointError(f"{name}: checkpoint {folder} is damaged: {damage}. Start from another one.")
        newest: Path | None = folder
    else:
        newest = next(
            (path for path in checkpoints.list_checkpoints(folder) if checkpoints.find_damage(path) is None), None
        )
    if newest is None:
        generator_only = any((place / "generator.json").is_file() for place in (folder, folder / "generator"))
        why = (
            "it has a generator, but not the discriminator that was trained with it"
            if generator_only
            else "it has neither"
        )
        raise CheckpointError(
            f"train.start_from: nothing to start from in {name}: {why} ({DESCRIPTION}, or a checkpoint). Name a run that was "
            "trained with train.save_start: weights or full, or set train.start_from to null."
        )
    described = _read_checkpoint(newest, name)
    return Start(
        name=name,
        digest=sha256_file(newest / checkpoints.MANIFEST),
        images_seen=int(described["total_images"]),
        folder=newest,
    )


def check_files(start: Start, needed: tuple[str, ...] = (WEIGHTS,)) -> None:
    """Check the files of a start folder against its description.

    Raises:
        CheckpointError: a file that is ``needed`` was not kept, or a file is missing or damaged.
    """
    assert start.folder is not None
    described = _read_description(start.folder, start.name)
    _require_kept(start, described, needed)
    for name, expected in described["files"].items():
        path = start.folder / name
        if not path.is_file():
            raise _incomplete(start, path)
        if sha256_file(path) != expected:
            raise CheckpointError(
                f"train.start_from: {start.name} is damaged: {path} does not match its SHA-256 sum in {DESCRIPTION}. {_AGAIN}"
            )


def _require_kept(start: Start, described: Mapping[str, Any], needed: tuple[str, ...]) -> None:
    """Raise CheckpointError if a file that is ``needed`` was not kept."""
    for name in needed:
        if name not in described["files"]:
            what = "its optimisers" if name == OPTIMISERS else "its networks"
            remedy = "Set train.start_optimisers to false" if name == OPTIMISERS else "Start from another run"
            raise CheckpointError(
                f"train.start_from: {start.name} does not have {what}: it was trained with train.save_start: "
                f"{described.get('keep')}. {remedy}, or train it again with train.save_start: full."
            )


def _incomplete(start: Start, path: Path) -> CheckpointError:
    return CheckpointError(f"train.start_from: {start.name} is incomplete: {path} is missing. {_AGAIN}")


_AGAIN = "Restore it (for an output of DVC: dvc checkout), or start from another run."


def first_state(
    start: Start,
    state: State,
    family: Family,
    augmenter: Augmenter,
    *,
    classes: tuple[str, ...],
    optimisers: bool,
    freeze: int = 0,
) -> dict[str, Tensor]:
    """The first state of a run that starts from ``start``, for :meth:`State.load`.

    Args:
        start: with its folder.
        state: the state of the run, newly initialised. It does not change.
        family: the family of the run.
        augmenter: of the run.
        classes: names of the classes of the run's data.
        optimisers: whether to take the moments of the optimisers as well.
        freeze: layers of each discriminator that keep the weights of that run.

    Raises:
        SettingsError: the run cannot start from it: another family, networks that cannot be adapted, or new layers to freeze.
        CheckpointError: a file is missing, damaged, or was not kept.
    """
    described, tensors = _read(start, optimisers)
    own = state.tensors()
    networks = {name: tensor for name, tensor in own.items() if name.startswith(_NETWORKS)}
    adapted = _adapt(start, described, tensors, networks, family, classes, optimisers)
    _check_frozen(start, adapted, family, freeze)
    for line in adapted.changes:
        log.info("Starting from %s: %s.", start.name, line)
    first = {**own, **adapted.tensors}
    if augmenter.adaptive and _is_adaptive(described.get("augment", {})):
        first |= {name: tensors[name] for name in own if name.startswith("augment.") and name in tensors}
    memory = [name for name in own if name.startswith("memory.")]
    # All or nothing: with a model.pool of another size, the count of the pictures in the pool is not that of this one.
    if not adapted.changes and all(name in tensors and tensors[name].shape == own[name].shape for name in memory):
        first |= {name: tensors[name] for name in memory}
    if optimisers:
        first |= {name: tensor for name, tensor in tensors.items() if name.startswith(_MOMENTS)}
    if wrong := state.mismatch(first):
        raise CheckpointError(f"train.start_from: {start.name} is damaged: {wrong}. Start from another run.")
    return first


def check_start(start: Start, family: Family, *, classes: tuple[str, ...], optimisers: bool, freeze: int) -> None:
    """Check that a run can start from ``start``, by the shapes of its tensors: nothing is allocated, and no sums are checked.

    Args:
        start: with its folder.
        family: the family of the run, as from :func:`gan_core.families.sketch_family`.
        classes: names of the classes of the run's data.
        optimisers: whether to take the moments of the optimisers as well.
        freeze: layers of each discriminator that keep the weights of that run.

    Raises:
        SettingsError: the run cannot start from it: another family, networks that cannot be adapted, no layer to train, or new
            layers to freeze.
        CheckpointError: a file is missing, damaged, or was not kept.
    """
    described, file = _describe(start), _file_of(start)
    if not file.is_file():
        _require_kept(start, described, (WEIGHTS,))
        raise _incomplete(start, file)
    shapes = checkpoints.tensor_shapes(file).items()
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes if name.startswith(_NETWORKS)}
    adapted = _adapt(start, described, tensors, _tensors_of(family), family, classes, optimisers)
    if optimisers and file.name == WEIGHTS:
        _require_kept(start, described, (OPTIMISERS,))
    frozen_parameters(family, freeze)
    _check_frozen(start, adapted, family, freeze)


def frozen_parameters(family: Family, count: int) -> list[nn.Parameter]:
    """The parameters of the first ``count`` layers of each discriminator, from the picture (``train.freeze_discriminator``).

    Raises:
        SettingsError: a discriminator has no more layers, so that none would be trained.
    """
    frozen: list[nn.Parameter] = []
    for name in family.discriminators if count else ():
        layers = family.discriminator_layers(name)
        if count >= len(layers):
            raise SettingsError(
                f"train.freeze_discriminator: the discriminator of {family.name} has {len(layers)} layers, and the last one "
                f"must be trained, got {count}. Set it to at most {len(layers) - 1}."
            )
        frozen += [parameter for layer in layers[:count] for parameter in layer]
    return frozen


def _check_frozen(start: Start, adapted: Adapted, family: Family, count: int) -> None:
    """Raise SettingsError if one of the first ``count`` layers of a discriminator is new: it would keep its random weights."""
    for name in family.discriminators if count else ():
        new = {
            id(parameter)
            for key, parameter in family.networks[name].named_parameters()
            if f"network.{name}.{key}" in adapted.new
        }
        for place, layer in enumerate(family.discriminator_layers(name)[:count]):
            if any(id(parameter) in new for parameter in layer):
                raise SettingsError(
                    f"train.freeze_discriminator: layer {place + 1} of the discriminator, counted from the picture, is new for "
                    f"these pictures and has no weights of {start.name} to keep, so {count} layers cannot be frozen. Set it to "
                    f"{f'at most {place}' if place else '0'}."
                )


def _adapt(
    start: Start,
    described: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    family: Family,
    classes: tuple[str, ...],
    optimisers: bool,
) -> Adapted:
    """The networks of ``start`` as those of the run; raises SettingsError as :func:`first_state`."""
    if described["family"] != family.name:
        raise SettingsError(
            f"train.start_from: {start.name} is a {described['family']}, and this run trains a {family.name} (model.family). "
            f"Set model.family to {described['family']}, or train.start_from to null."
        )
    earlier = Networks(
        name=start.name,
        tensors={name: tensor for name, tensor in tensors.items() if name.startswith(_NETWORKS)},
        config=described["config"],
        shape=build(ImageShape, described["shape"], where=f"{start.name}: shape"),
        classes=tuple(described.get("classes", ())),
    )
    adapted = adapt_networks(earlier, own, family, classes)
    if optimisers and adapted.changes:
        raise SettingsError(
            f"train.start_optimisers: the networks of {start.name} had to be adapted ({adapted.changes[0]}), so its "
            "optimisers do not fit. Set train.start_optimisers to false."
        )
    return adapted


def _is_adaptive(augment: Mapping[str, Any]) -> bool:
    return augment.get("kind") == "ada" and augment.get("strength") is None


def _read(start: Start, optimisers: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of ``start``."""
    described = _describe(start)
    assert start.folder is not None
    if _file_of(start).name == WEIGHTS:
        check_files(start, (WEIGHTS, OPTIMISERS) if optimisers else (WEIGHTS,))
        tensors = checkpoints.read_tensors(start.folder / WEIGHTS)
        if optimisers:
            tensors |= checkpoints.read_tensors(start.folder / OPTIMISERS)
        return described, tensors
    return described, checkpoints.load_checkpoint(start.folder).tensors


def _describe(start: Start) -> dict[str, Any]:
    """Description of ``start``, a start folder or a checkpoint."""
    if start.folder is None:
        raise CheckpointError(
            f"train.start_from: the files of {start.name} (digest {start.digest[:12]}) are not here. Restore them, or train "
            "into an empty folder."
        )
    read = _read_description if (start.folder / DESCRIPTION).is_file() else _read_checkpoint
    return read(start.folder, start.name)


def _file_of(start: Start) -> Path:
    """The file with the networks of ``start``."""
    assert start.folder is not None
    return start.folder / (WEIGHTS if (start.folder / DESCRIPTION).is_file() else checkpoints.TENSORS)


def _read_description(folder: Path, name: str) -> dict[str, Any]:
    try:
        described = read_json(folder / DESCRIPTION)
    except ValueError as error:
        raise CheckpointError(f"train.start_from: {name} is damaged: {error}") from error
    kinds = {"family": str, "config": dict, "shape": dict, "files": dict, "total_images": int}
    for field, kind in kinds.items():
        if not isinstance(described, dict) or not isinstance(described.get(field), kind):
            raise CheckpointError(
                f"train.start_from: {name} is damaged: {folder / DESCRIPTION} has no {field}. {_AGAIN}"
            )
    return described


def _read_checkpoint(path: Path, name: str) -> dict[str, Any]:
    """The description of a checkpoint's run, in the form of ``start.json``."""
    state = checkpoints.read_state(path)
    generator, settings = state.get("generator"), state.get("settings", {})
    if not isinstance(generator, dict) or "family" not in generator:
        raise CheckpointError(f"train.start_from: {name}: checkpoint {path} does not describe its networks.")
    parent = generator.get("parent") or {}
    total = int(generator.get("images_seen", 0)) + int(parent.get("images_seen", 0))
    return {**generator, "augment": settings.get("train.augment", {}), "total_images": total}


def describe_start(
    generator: Mapping[str, Any], augmenter: Augmenter, *, step: int, total_images: int
) -> dict[str, Any]:
    """Description of a run's state for :func:`save_start`; ``generator`` comes from :func:`describe_generator`."""
    return {**generator, "augment": as_dict(augmenter.config), "step": step, "total_images": total_images}
