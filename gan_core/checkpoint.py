"""Checkpoints of plain tensors and primitives: safetensors, JSON and, written last, a manifest of SHA-256 sums.

A checkpoint is a folder ``step-00001200``. A copy that broke off, or a file cut short, does not match its manifest; nor does
a file that holds something else make a checkpoint, whatever its sum. Such a checkpoint is passed over with a message and the
newest whole one is used.
"""

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gan_core.errors import CheckpointError
from gan_core.files import open_to_others, read_json, replacing, sha256_file, write_json

log = logging.getLogger(__name__)

MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(directory: Path | str, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write ``directory/step-XXXXXXXX``; returns its path. A folder of that name is replaced."""
    path = Path(directory) / f"step-{step:08d}"
    with replacing(path) as temporary:
        temporary.mkdir()
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary / TENSORS)
        open_to_others(temporary / TENSORS)
        write_json(temporary / STATE, {**state, "step": step})
        write_json(temporary / MANIFEST, {name: sha256_file(temporary / name) for name in (STATE, TENSORS)})
    return path


def find_damage(path: Path | str) -> str | None:
    """What is wrong with the checkpoint at ``path``, or None when it is whole and holds a state and tensors."""
    path = Path(path)
    if not (path / MANIFEST).is_file():
        return f"{MANIFEST} is missing, the write did not end"
    try:
        sums = read_json(path / MANIFEST)
    except ValueError:
        return f"{MANIFEST} is cut short"
    if not isinstance(sums, dict):
        return f"{MANIFEST} is not a table of sums"
    for name in (STATE, TENSORS):
        if not (path / name).is_file():
            return f"{name} is missing"
        if sums.get(name) != sha256_file(path / name):
            return f"{name} does not match its SHA-256 sum"
    try:
        read_state(path)
        tensor_shapes(path / TENSORS)
    except CheckpointError as error:
        return str(error)
    return None


def read_state(path: Path) -> dict[str, Any]:
    """The state of the checkpoint at ``path``; raises CheckpointError where ``state.json`` holds none."""
    try:
        state = read_json(path / STATE)
    except ValueError as error:
        raise CheckpointError(f"{STATE} holds no JSON ({error})") from error
    step = state.get("step") if isinstance(state, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise CheckpointError(f"{STATE} holds no state: there is no step in it")
    return state


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, from its header: no tensor is read.

    Raises:
        CheckpointError: the file is none, or its header claims other tensors than it holds.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  no mapping
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} holds no tensors ({error})") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises CheckpointError where it is none."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} holds no tensors ({error})") from error


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read the checkpoint at ``path``; raises CheckpointError when it is not whole."""
    path = Path(path)
    wrong = find_damage(path)
    if wrong:
        raise CheckpointError(f"Checkpoint {path} cannot be used: {wrong}.")
    return _read(path)


def _read(path: Path) -> Checkpoint:
    state = read_state(path)
    return Checkpoint(path, state["step"], read_tensors(path / TENSORS), state)


def list_checkpoints(directory: Path | str) -> list[Path]:
    """Checkpoint folders anywhere under ``directory``, newest step first, whole or not."""
    return sorted(Path(directory).glob("**/step-????????"), key=lambda path: path.name, reverse=True)


def whole_checkpoints(
    directories: Iterable[Path | str], accept: Callable[[Mapping[str, Any]], bool] = lambda state: True
) -> Iterator[Checkpoint]:
    """The whole checkpoints under ``directories`` whose state ``accept`` takes, newest step first; names damaged ones."""
    paths = [path for directory in directories for path in list_checkpoints(directory)]
    for path in sorted(paths, key=lambda path: path.name, reverse=True):
        wrong = find_damage(path)
        if wrong is not None:
            log_passed_over(path, wrong)
        elif accept(read_state(path)):
            yield _read(path)


def log_passed_over(path: Path, wrong: str) -> None:
    """Say that a checkpoint is not used, and why."""
    log.warning("Passing over checkpoint %s: %s.", path, wrong)


def prune_checkpoints(
    directory: Path | str, keep: int, accept: Callable[[Mapping[str, Any]], bool] = lambda state: True
) -> None:
    """Remove checkpoints directly in ``directory``: all but the ``keep`` newest and the newest that ``accept`` takes.

    What a killed writer left there half-written goes too.
    """
    paths = sorted(Path(directory).glob("step-????????"), reverse=True)
    spared = next((path for path in paths if _is_accepted(path, accept)), None)
    leftovers = Path(directory).glob(".step-????????.*")
    for path in [*(path for path in paths[keep:] if path != spared), *leftovers]:
        shutil.rmtree(path)


def _is_accepted(path: Path, accept: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Whether ``accept`` takes the state at ``path``; one that cannot be read it does not."""
    try:
        return (path / STATE).is_file() and accept(read_state(path))
    except CheckpointError:
        return False


def drop_checkpoints_after(directory: Path | str, step: int) -> None:
    """Remove the checkpoints directly in ``directory`` that are newer than ``step``: a rollback has abandoned them."""
    for path in Path(directory).glob("step-????????"):
        if path.name > f"step-{step:08d}":
            shutil.rmtree(path)


def refuse_other_settings(
    saved: Mapping[str, Any], current: Mapping[str, Any], where: Path, defaults: Mapping[str, Any] | None = None
) -> None:
    """Raise CheckpointError naming every setting that differs between a checkpoint and the run that would resume it.

    A setting that the checkpoint does not know, because it is of an older edition, had its value in ``defaults``.
    """
    saved = {**{key: value for key, value in (defaults or {}).items() if key in current}, **saved}
    differences = [
        f"{key}: {saved.get(key)!r} there, {current.get(key)!r} here"
        for key in sorted({*saved, *current})
        if saved.get(key) != current.get(key)
    ]
    if differences:
        raise CheckpointError(
            f"Checkpoint {where} belongs to other settings ({'; '.join(differences)}). "
            "Restore them, or train into an empty directory."
        )
