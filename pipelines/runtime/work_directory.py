"""Work directories: each holds a stage's work in progress, locked by one process at a time."""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from gan_core.errors import DamagedFileError, StageError
from gan_core.files import atomic_write, link_or_copy, read_json, remove_stale, sha256_json, write_json
from gan_core.locks import try_lock
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import ancestors_to_watch, is_process_alive, process_identity

LOG = logging.getLogger(__name__)

FINISHED = "finished.json"
ORPHAN_SECONDS = 20.0


@contextmanager
def work_directory(
    name: str, key: str, checkout: Checkout, *, orphan_seconds: float = ORPHAN_SECONDS
) -> Iterator[Path]:
    """Make and lock the work directory of a stage (:meth:`Checkout.work`) for the length of the block; yields its path.

    If another process holds the lock, this fails at once. But if the parent of that process is gone, the process is about to
    end, and this waits for it.

    Args:
        name: the stage.
        key: its stage key.
        checkout: the checkout of the stage.
        orphan_seconds: how long to wait for a process whose parent is gone.

    Raises:
        StageError: another process holds the lock. The message has its process id and a remedy.
    """
    directory = checkout.work(name, key)
    lock = _lock_path(directory)
    deadline = time.monotonic() + orphan_seconds
    waiting = False
    while (held := _lock(lock)) is None:
        holder = _holder(lock)
        orphan = bool(holder) and not all(is_process_alive(parent) for parent in holder.get("kin", []))
        if (holder and not orphan) or time.monotonic() > deadline:
            raise StageError(_in_use(name, key, directory, holder))
        if orphan and not waiting:
            LOG.warning("Stage '%s': waiting for process %s of a killed run to end.", name, holder["process"])
            waiting = True
        time.sleep(0.2)
    try:
        # A process that finds the lock taken reads here who holds it.
        holder = {
            "process": process_identity(),
            "kin": [process_identity(process.pid) for process in ancestors_to_watch() if process.is_running()],
        }
        os.ftruncate(held, 0)
        os.pwrite(held, json.dumps(holder).encode(), 0)
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
    finally:
        os.close(held)


def mark_finished(directory: Path, results: Mapping[str, Path]) -> None:
    """Record in a work directory that its results are complete.

    Args:
        directory: the work directory.
        results: the file or folder in ``directory`` for each of the stage's outs (paths relative to the checkout).
    """
    noted = {
        out: {"place": result.relative_to(directory).as_posix(), "signature": _signature(result)}
        for out, result in results.items()
    }
    write_json(directory / FINISHED, {"results": noted})


def finished_results(directory: Path) -> dict[str, Path] | None:
    """The results that :func:`mark_finished` recorded; None if there are none or one has changed since."""
    record = directory / FINISHED
    if not record.is_file():
        return None
    remove_stale(record)  # of a process that was stopped after it had written the record
    noted = read_json(record)["results"]
    results = {out: directory / note["place"] for out, note in noted.items()}
    changed = [str(path) for out, path in results.items() if _signature(path) != noted[out]["signature"]]
    if changed:
        LOG.warning("%s was finished, but %s has changed since: the stage runs again.", directory, ", ".join(changed))
        return None
    return results


def _signature(result: Path) -> str:
    """Digest of the names, sizes and modification times of a result's files. Published files may be hard links to them."""
    files = sorted(path for path in result.rglob("*") if path.is_file()) if result.is_dir() else [result]
    notes = [(path.relative_to(result).as_posix(), path.stat()) for path in files if path.exists()]
    return sha256_json([(place, stat.st_size, stat.st_mtime_ns) for place, stat in notes])


def publish(result: Path, out: Path) -> None:
    """Put a finished file or folder at ``out`` atomically, replacing what was there.

    Files are hard-linked if the file system allows it, else copied. The work directory keeps them too, until the stage finishes
    with another key; :func:`finished_results` notices if somebody has written to them.
    """
    with atomic_write(out) as temporary:
        if result.is_dir():
            shutil.copytree(result, temporary, copy_function=link_or_copy)
        else:
            link_or_copy(result, temporary)


def prune_finished(directory: Path) -> list[Path]:
    """Remove the finished work directories beside ``directory``; keep unfinished ones and those in use. Returns the removed."""
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
    """An open file descriptor that holds the lock, or None if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not try_lock(descriptor):
                os.close(descriptor)
                return None
        except BaseException:
            os.close(descriptor)
            raise
        # Pruning may have removed the file between open and lock: then this lock is on a deleted file.
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def _holder(lock: Path) -> dict:
    """What the holder of ``lock`` wrote about itself; empty if it has not written it yet."""
    try:
        return read_json(lock)
    except (FileNotFoundError, DamagedFileError):
        return {}


def _in_use(name: str, key: str, directory: Path, holder: dict) -> str:
    host, pid, _ = holder.get("process", "an unknown host:unknown:").rsplit(":", 2)
    return (
        f"Stage '{name}' is already running (key {key}): process {pid} on {host} uses {directory}. Wait for it, or end it "
        f"(kill {pid}) and start again: the stage resumes where it stopped."
    )
