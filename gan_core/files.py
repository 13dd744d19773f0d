"""Write files atomically, explain errors of the system, and compute digests of files."""

import errno
import functools
import glob
import hashlib
import json
import logging
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from gan_core.disk import disk_error_at, find_disk_error
from gan_core.errors import DamagedFileError
from gan_core.locks import lock, try_lock

_LONGEST_NAME = 100
"""Longest name in bytes that is part of its temporary folder's name; a digest replaces longer ones. Some file systems allow
only 143 bytes (eCryptfs)."""
_STALE_SECONDS = 60.0
_SQLITE_SIDES = ("journal", "wal", "shm")
"""Suffixes of the files NAME-SUFFIX that SQLite keeps beside a database while it writes."""
_CURRENT_FOLDER, _RENAME_EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux (man 2 rename)."""
_LOG = logging.getLogger(__name__)


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Write a file or a folder atomically: a reader sees the old content or the new one, never a part.

    Yields a temporary path beside ``path``, at which the block creates a file or a folder. It is renamed to ``path`` at the end
    of the block, or removed if the block raises. An existing folder at ``path`` is replaced only by a folder; where the system
    cannot exchange two folders (macOS, NFS), there is none for an instant, and one of a container's image, which cannot be
    moved, is removed first. Temporary folders of killed processes for the same path are removed.

    A pipe or a device, such as ``/dev/stdout``, is not replaced: the file is written into it at the end of the block.

    Raises:
        OSError: nothing can be written beside ``path``. A disk error, such as a full disk, names ``path``.
        IsADirectoryError: ``path`` is a folder and the block did not create a folder; ``path`` does not change.
    """
    path = Path(path)
    if _is_stream(path):
        with _written_into(path) as temporary:
            yield temporary
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=_holder_prefix(path), dir=path.parent))
    except OSError as error:  # name the path that the caller knows, not the temporary one
        raise OSError(error.errno, error.strerror, str(path)) from None
    temporary = holder / path.name
    held_open = os.open(holder, os.O_RDONLY)
    with suppress(OSError):  # without locks, nothing is considered stale either
        lock(held_open)
    try:
        with explain_os_errors(path):
            yield temporary
        if path.is_dir() and not path.is_symlink():
            if not temporary.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a file cannot replace a folder", str(path))
            _replace_folder(temporary, path, holder / "previous")
        else:
            os.replace(temporary, path)
        remove_stale(path)
    except OSError as error:  # as above, name the path that the caller knows
        if isinstance(error.filename, str) and error.filename.startswith(str(temporary)):
            error.filename = str(path) + error.filename.removeprefix(str(temporary))
        raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        os.close(held_open)


def _is_stream(path: Path) -> bool:
    """Whether ``path`` is a pipe or a device, or a name of the system for one, such as ``/dev/stdout`` and ``/dev/fd/63``.

    The system's names are links, which lead to a regular file if the output is redirected to one.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    if stat.S_ISDIR(mode):
        return False
    return not stat.S_ISREG(mode) or (path.is_symlink() and os.path.abspath(path).startswith(("/dev/", "/proc/")))


@contextmanager
def _written_into(stream: Path) -> Iterator[Path]:
    """Yield a path in the temporary folder, and write the file that the block creates there into a pipe or a device."""
    with tempfile.TemporaryDirectory(prefix="gantry-stream-") as folder:
        temporary = Path(folder) / stream.name
        yield temporary
        if temporary.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a folder cannot replace a pipe or a device", str(stream))
        with explain_os_errors(stream), open(temporary, "rb") as source, _open_stream(stream) as target:
            shutil.copyfileobj(source, target)


def _open_stream(stream: Path) -> BinaryIO:
    """Open a pipe or a device for writing; what this process prints to it, before and after, stays in order and whole.

    Output that is redirected to a file has one position, which another opening of the file would not share.
    """
    for output in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or not a file
            output.flush()
            if os.path.samestat(os.stat(stream), os.fstat(output.fileno())):
                return open(os.dup(output.fileno()), "wb")
    return open(stream, "ab")


def _replace_folder(new: Path, path: Path, previous: Path) -> None:
    """Move the folder ``new`` to ``path``, where there is a folder, which may be moved to ``previous``. On error, it stays."""
    if _exchange(new, path):
        return
    try:
        os.replace(path, previous)
        os.replace(new, path)
    except BaseException as error:
        if not os.path.lexists(path):
            os.replace(previous, path)
        if not isinstance(error, OSError) or error.errno != errno.EXDEV:
            raise
        # In a container, path is a folder of the image: it can be removed, but not moved (overlayfs without redirect_dir).
        shutil.rmtree(path)
        os.replace(new, path)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step. Returns False, and changes nothing, if the system or the file system cannot."""
    import ctypes  # here, because few commands replace a folder

    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    return renameat2 is not None and not renameat2(
        _CURRENT_FOLDER, os.fsencode(one), _CURRENT_FOLDER, os.fsencode(other), _RENAME_EXCHANGE
    )


def _holder_prefix(path: Path) -> str:
    """Prefix of the names of temporary folders for ``path``."""
    name = os.fsencode(path.name)
    return f".{path.name if len(name) <= _LONGEST_NAME else hashlib.sha256(name).hexdigest()[:32]}.gantry-"


@contextmanager
def explain_os_errors(path: Path | str) -> Iterator[None]:
    """Re-raise a disk error in the block, such as a full disk, as an OSError that names ``path``.

    The error of a write does not name its file, and libraries that write files raise errors of their own.
    """
    try:
        yield
    except shutil.Error as error:  # of copytree: the files that could not be copied, with reasons
        _, target, why = error.args[0][0]
        if (refused := find_disk_error(error)) is not None:  # its text names the source, not the file on the full disk
            raise OSError(refused.errno, refused.strerror, str(path)) from error
        raise OSError(0, why, target) from error
    except Exception as error:
        if (refused := disk_error_at(error, path)) is None or refused is error:
            raise
        raise refused from error


@functools.lru_cache(maxsize=256)
def _holders_at_first(folder: Path) -> tuple[str, ...]:
    """Names of the temporary folders in ``folder``, listed once per process because listing it at each write would be slow."""
    return tuple(sorted(path.name for path in folder.glob(".*.gantry-*")))


def remove_stale(path: Path) -> None:
    """Remove the temporary folders of killed processes for ``path``, which may be as large as ``path`` itself."""
    prefix = _holder_prefix(path)
    if path.is_dir():
        holders = [*path.parent.glob(f"{glob.escape(prefix)}*")]
    else:
        holders = [path.with_name(name) for name in _holders_at_first(path.parent) if name.startswith(prefix)]
    for holder in holders:
        with suppress(OSError):  # another process is removing it
            # The process of a recent one may not have locked it yet.
            young = time.time() - holder.stat().st_mtime < _STALE_SECONDS
            ours = {path.name, "previous", *(f"{path.name}-{side}" for side in _SQLITE_SIDES)}
            if young or {entry.name for entry in holder.iterdir()} - ours:
                continue
            descriptor = os.open(holder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if try_lock(descriptor):
                    shutil.rmtree(holder)
            finally:
                os.close(descriptor)


def link_or_copy(source: Path | str, target: Path | str) -> None:
    """Hard-link ``source`` to ``target``, or copy it if the file system cannot link."""
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:  # another file system, or one without hard links
        _LOG.debug("Copying %s: it cannot be hard-linked (%s).", source, error)
        shutil.copy2(source, target)


def flush_folder(folder: Path) -> None:
    """Wait until the files below ``folder``, and their names, are on the disk."""
    for parent, _, files in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in files)):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def find_obstacle(path: Path, *, folder: bool = False) -> str | None:
    """Return why a file, or with ``folder`` a folder, cannot be written at ``path``; None if it can.

    The reason is the end of a sentence, such as ``there is a folder of that name``.
    """
    if not folder and path.is_dir():
        return "there is a folder of that name"
    if folder and not path.is_dir() and os.path.lexists(path):
        return "there is a file of that name"
    above = next((parent for parent in path.parents if os.path.lexists(parent)), None)
    return f"{above} is not a folder" if above is not None and not above.is_dir() else None


def same_file(one: Path, other: Path) -> bool:
    """Whether both paths refer to the same existing file, links resolved."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def apply_umask(path: Path) -> None:
    """Set a file's mode according to the umask: safetensors makes its files readable for the owner only."""
    # Python cannot read the umask without setting it for all threads. The mode of a new file shows it.
    probe = path.with_name(f".{path.name}.mode")
    probe.touch()
    path.chmod(probe.stat().st_mode & 0o777)
    probe.unlink()


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` in UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file (UTF-8).

    Raises:
        DamagedFileError: it is not valid JSON. This is also a ValueError.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        why = "it nests too deeply" if isinstance(error, RecursionError) else error
        damaged = DamagedFileError(f"{path} is damaged: it is not valid JSON ({why}). Restore it, or remove it.")
        damaged.reason = f"it is not valid JSON: {why}"
        raise damaged from None


def sha256_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in hexadecimal. It does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
