"""Work directories: where a stage's work in progress lives, held by one process at a time."""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from gan_core.errors import DamagedFileError, StageError
from gan_core.files import link_or_copy, read_json, replacing, sha256_json, write_json
from gan_core.locks import try_lock
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import identity, kin_to_watch, lives

LOG = logging.getLogger(__name__)

FINISHED = "finished.json"
ORPHAN_SECONDS = 20.0


@contextmanager
def work_directory(
    name: str, key: str, checkout: Checkout, *, orphan_seconds: float = ORPHAN_SECONDS
) -> Iterator[Path]:
    """Hold :meth:`Checkout.work` (made when missing) for the length of the block.

    Where another process holds it, this fails at once, except when what started that process is gone: then it is about
    to end, and is waited for.

    Args:
        name: the stage.
        key: its stage key.
        checkout: whose.
        orphan_seconds: how long to wait for an orphan.

    Raises:
        StageError: another process holds it; names its process number and what to do.
    """
    directory = checkout.work(name, key)
    lock = _lock_path(directory)
    deadline = time.monotonic() + orphan_seconds
    waiting = False
    while (held := _lock(lock)) is None:
        holder = _holder(lock)
        orphan = bool(holder) and not all(lives(kin) for kin in holder.get("kin", []))
        if (holder and not orphan) or time.monotonic() > deadline:
            raise StageError(_taken(name, key, directory, holder))
        if orphan and not waiting:
            LOG.warning("Stage '%s': process %s of a killed run is ending; waiting for it.", name, holder["process"])
            waiting = True
        time.sleep(0.2)
    try:
        # Whoever finds the lock taken reads who has it.
        holder = {"process": identity(), "kin": [identity(kin.pid) for kin in kin_to_watch() if kin.is_running()]}
        os.ftruncate(held, 0)
        os.pwrite(held, json.dumps(holder).encode(), 0)
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
    finally:
        os.close(held)


def finish(directory: Path, results: Mapping[str, Path]) -> None:
    """Note in a work directory that its results are complete.

    Args:
        directory: the work directory.
        results: for each of the stage's outs (path relative to the checkout), the file or folder in ``directory``.
    """
    noted = {
        out: {"place": result.relative_to(directory).as_posix(), "signature": _signature(result)}
        for out, result in results.items()
    }
    write_json(directory / FINISHED, {"results": noted})


def finished(directory: Path) -> dict[str, Path] | None:
    """The results noted by :func:`finish`, or None where there are none or one is no longer what it was."""
    if not (directory / FINISHED).is_file():
        return None
    noted = read_json(directory / FINISHED)["results"]
    results = {out: directory / note["place"] for out, note in noted.items()}
    changed = [str(path) for out, path in results.items() if _signature(path) != noted[out]["signature"]]
    if changed:
        LOG.warning("%s was finished, but %s has changed since: it is done again.", directory, ", ".join(changed))
        return None
    return results


def _signature(result: Path) -> str:
    """Digest of names, sizes and times of the files of a result: published files share their bytes with these."""
    files = sorted(path for path in result.rglob("*") if path.is_file()) if result.is_dir() else [result]
    notes = [(path.relative_to(result).as_posix(), path.stat()) for path in files if path.exists()]
    return sha256_json([(place, stat.st_size, stat.st_mtime_ns) for place, stat in notes])


def publish(result: Path, out: Path) -> None:
    """Put a finished file or folder at ``out``, whole or not at all; what was there is replaced.

    Files are linked rather than copied where the file system can: the work directory keeps them under its own name
    until a later key finishes, and :func:`finished` notices when somebody has written into them.
    """
    with replacing(out) as temporary:
        if result.is_dir():
            shutil.copytree(result, temporary, copy_function=link_or_copy)
        else:
            link_or_copy(result, temporary)


def prune(directory: Path) -> list[Path]:
    """Remove the finished work directories beside ``directory``; unfinished ones and those in use stay."""
    removed = []
    for other in sorted(directory.parent.iterdir()):
        if other == directory or not other.is_dir() or not (other / FINISHED).is_file():
            continue
        held = _lock(_lock_path(other))
        if held is None:
            continue
        try:
            shutil.rmtree(other)
            _lock_path(other).unlink(missing_ok=True)
            removed.append(other)
        finally:
            os.close(held)
    return removed


def _lock_path(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.lock")


def _lock(path: Path) -> int | None:
    """An open descriptor that holds the lock, or None where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not try_lock(descriptor):
                os.close(descriptor)
                return None
        except BaseException:
            os.close(descriptor)
            raise
        # Pruning may have removed the file between its opening and its locking: then this is a lock on nothing.
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def _holder(lock: Path) -> dict:
    """What the holder of ``lock`` wrote of itself; empty when it has not come to it yet."""
    try:
        return read_json(lock)
    except (FileNotFoundError, DamagedFileError):
        return {}


def _taken(name: str, key: str, directory: Path, holder: dict) -> str:
    host, pid, _ = holder.get("process", "an unknown host:unknown:").rsplit(":", 2)
    return (
        f"Stage '{name}' is being run already (key {key}) by process {pid} on {host}, which holds {directory}. "
        f"Wait for it, or end it (kill {pid}) and start again: the stage resumes where it stopped."
    )
