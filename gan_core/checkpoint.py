"""Save and load checkpoints: a safetensors file, a JSON file and, written last, a manifest with their SHA-256 sums.

A checkpoint is a folder such as ``step-00001200``. It is damaged if a file does not match the manifest, for example after an
interrupted copy, or does not have the expected content. A damaged checkpoint is skipped with a warning, and the newest valid
one is used.
"""

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from gan_core.errors import CheckpointError
from gan_core.files import atomic_write, explain_os_errors, read_json, sha256_file, write_json

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint."""

    path: Path
    step: int
    tensors: "dict[str, Tensor]"
    state: dict[str, Any]


def save_checkpoint(
    directory: Path | str, step: int, tensors: "Mapping[str, Tensor]", state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint to ``directory/step-XXXXXXXX``, replacing a folder of that name, and return its path.

    Args:
        directory: folder of the run's checkpoints.
        step: number of the step.
        tensors: tensors by name, on any device.
        state: values that JSON can store.
    """
    path = Path(directory) / f"step-{step:08d}"
    with atomic_write(path) as temporary:
        temporary.mkdir()
        write_tensors(temporary / TENSORS, tensors)
        write_json(temporary / STATE, {**state, "step": step})
        write_json(temporary / MANIFEST, {name: sha256_file(temporary / name) for name in (STATE, TENSORS)})
    return path


def find_damage(path: Path | str) -> str | None:
    """Return what is wrong with the checkpoint at ``path``, or None if it is valid."""
    path = Path(path)
    if not (path / MANIFEST).is_file():
        return f"{MANIFEST} is missing: the checkpoint was not written completely"
    try:
        sums = read_json(path / MANIFEST)
    except ValueError:
        return f"{MANIFEST} is truncated"
    if not isinstance(sums, dict):
        return f"{MANIFEST} does not contain SHA-256 sums"
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
    """Read the state of the checkpoint at ``path``; raises CheckpointError if ``state.json`` is not valid."""
    try:
        state = read_json(path / STATE)
    except ValueError as error:
        raise CheckpointError(f"{STATE} is not valid JSON ({error})") from error
    step = state.get("step") if isinstance(state, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise CheckpointError(f"{STATE} is not the state of a run: it has no step")
    return state


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of the tensors in a safetensors file, from its header only.

    Raises:
        CheckpointError: it is not a safetensors file, or its header does not match its content.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  not a mapping
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is not a valid safetensors file ({error})") from error


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Read the tensors of a safetensors file; raises CheckpointError if it is not one."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is not a valid safetensors file ({error})") from error


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write a safetensors file, not atomically.

    safetensors' own ``save_file`` ignores an error when the file is closed. On NFS and other network disks, a full disk or
    quota is reported only then: the file would be truncated without a word.

    Args:
        path: of the file.
        tensors: tensors by name, on any device. The file is built in memory.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.torch import save  # imports torch, which programs that only list checkpoints do not need

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    with explain_os_errors(path):
        path.write_bytes(content)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Load the checkpoint at ``path``; raises CheckpointError if it is damaged."""
    path = Path(path)
    wrong = find_damage(path)
    if wrong:
        raise CheckpointError(f"Checkpoint {path} is damaged: {wrong}. Use another checkpoint.")
    return _read(path)


def _read(path: Path) -> Checkpoint:
    state = read_state(path)
    return Checkpoint(path, state["step"], read_tensors(path / TENSORS), state)


def list_checkpoints(directory: Path | str) -> list[Path]:
    """Return the checkpoint folders below ``directory``, but not in hidden ones, newest step first; damaged ones included."""
    root = Path(directory)
    found = (path for path in root.glob("**/step-????????") if "/." not in f"/{path.relative_to(root).as_posix()}")
    return sorted(found, key=lambda path: path.name, reverse=True)


def valid_checkpoints(
    directories: Iterable[Path | str], accept: Callable[[Mapping[str, Any]], bool] = lambda state: True
) -> Iterator[Checkpoint]:
    """Yield the valid checkpoints below ``directories``, newest step first, and log a warning for each damaged one.

    Args:
        directories: searched at any depth.
        accept: called with the state of a checkpoint; one for which it returns False is left out.
    """
    paths = [path for directory in directories for path in list_checkpoints(directory)]
    for path in sorted(paths, key=lambda path: path.name, reverse=True):
        wrong = find_damage(path)
        if wrong is not None:
            log_skipped(path, wrong)
        elif accept(read_state(path)):
            yield _read(path)


def log_skipped(path: Path, wrong: str) -> None:
    """Log a warning that a checkpoint is skipped, with the reason."""
    log.warning("Skipping checkpoint %s: %s.", path, wrong)


def prune_checkpoints(
    directory: Path | str,
    keep: int,
    accept: Callable[[Mapping[str, Any]], bool] = lambda state: True,
    *,
    step: int,
) -> None:
    """Remove checkpoints directly in ``directory`` up to ``step``, except the ``keep`` newest and the newest accepted one.

    Also removes the temporary folders of killed processes.

    Args:
        directory: folder of the run's checkpoints.
        keep: number of checkpoints to keep.
        accept: called with the state of a checkpoint; returns whether it is accepted.
        step: that of the run. Later ones, which the run passed over when it resumed because they are damaged, neither count
            nor are removed.
    """
    known = Path(directory).glob("step-????????")
    paths = sorted((path for path in known if path.name <= f"step-{step:08d}"), reverse=True)
    spared = next((path for path in paths if _is_accepted(path, accept)), None)
    for path in paths[keep:]:
        if path != spared:
            _remove(path)
    remove_leftovers(directory)


def _remove(path: Path) -> None:
    """Remove a checkpoint. A process that is killed meanwhile leaves no part of it, only a leftover."""
    leftover = path.with_name(f".{path.name}.removed")
    shutil.rmtree(leftover, ignore_errors=True)
    path.rename(leftover)
    shutil.rmtree(leftover)


def remove_leftovers(directory: Path | str) -> None:
    """Remove the temporary folders in ``directory`` of processes that were killed while they wrote or removed a checkpoint."""
    for path in Path(directory).glob(".step-????????.*"):
        shutil.rmtree(path)


def _is_accepted(path: Path, accept: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Whether ``accept`` returns True for the state at ``path``; False if it cannot be read."""
    try:
        return (path / STATE).is_file() and accept(read_state(path))
    except CheckpointError:
        return False


def drop_checkpoints_after(directory: Path | str, step: int) -> None:
    """Remove the checkpoints directly in ``directory`` that are newer than ``step``, after a rollback."""
    for path in Path(directory).glob("step-????????"):
        if path.name > f"step-{step:08d}":
            _remove(path)


def require_same_settings(
    saved: Mapping[str, Any], current: Mapping[str, Any], where: Path, defaults: Mapping[str, Any] | None = None
) -> None:
    """Raise CheckpointError if the settings of a checkpoint and of the run that resumes it differ; it names each difference.

    Args:
        saved: settings of the checkpoint by dotted name.
        current: settings of the run by dotted name.
        where: path of the checkpoint, for the message.
        defaults: values of settings that a checkpoint of an older version does not contain.
    """
    saved = {**{key: value for key, value in (defaults or {}).items() if key in current}, **saved}
    differences = [
        f"{key}: {saved.get(key)!r} in the checkpoint, {current.get(key)!r} in this run"
        for key in sorted({*saved, *current})
        if saved.get(key) != current.get(key)
    ]
    if differences:
        raise CheckpointError(
            f"Checkpoint {where} was trained with other settings ({'; '.join(differences)}). "
            "Restore these settings, or train into an empty folder."
        )
