"""Files that are either whole or absent, and digests of their content."""

import errno
import functools
import glob
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gan_core.disk import refusal, with_place
from gan_core.errors import DamagedFileError
from gan_core.locks import lock, try_lock

_LONGEST_NAME = 100
"""Bytes of a name, beyond which its temporary folder is named by a digest: some file systems end at 143 (eCryptfs)."""
_STALE_SECONDS = 60.0
_SQLITE_SIDES = ("journal", "wal", "shm")
"""What SQLite keeps beside a database while it writes, each in a file named NAME-SIDE."""
_LOG = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` when the block ends well, remove it otherwise.

    The temporary may become a file or a directory. An existing directory at ``path`` is replaced by a directory only. What
    killed processes left of earlier attempts at the same path is removed.

    Raises:
        OSError: nothing can be written beside ``path``; one of the disk (no room, say) names ``path``.
        IsADirectoryError: the block made a file, or nothing, and ``path`` is a directory, which stays as it is.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=_holder_prefix(path), dir=path.parent))
    except OSError as error:  # of the name that was asked for: nobody knows the temporary one
        raise OSError(error.errno, error.strerror, str(path)) from None
    temporary = holder / path.name
    held_open = os.open(holder, os.O_RDONLY)
    with suppress(OSError):  # where nothing can be locked, nothing is taken for stale either
        lock(held_open)
    try:
        with explain_os_errors(path):
            yield temporary
        if path.is_dir() and not path.is_symlink():
            if not temporary.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a file cannot take the place of a folder", str(path))
            os.replace(path, holder / "previous")
        os.replace(temporary, path)
        remove_stale(path)
    except OSError as error:  # of the name that was asked for here, too: the temporary one is about to go
        if isinstance(error.filename, str) and error.filename.startswith(str(temporary)):
            error.filename = str(path) + error.filename.removeprefix(str(temporary))
        raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        os.close(held_open)


def _holder_prefix(path: Path) -> str:
    """How the names of the temporary folders for ``path`` begin."""
    name = os.fsencode(path.name)
    return f".{path.name if len(name) <= _LONGEST_NAME else hashlib.sha256(name).hexdigest()[:32]}.gantry-"


@contextmanager
def explain_os_errors(path: Path | str) -> Iterator[None]:
    """Have an error of the disk in the block, such as that it is full, be an OSError that names ``path``.

    A write knows no name, and libraries that write files themselves raise errors of their own.
    """
    try:
        yield
    except shutil.Error as error:  # of copytree: a list of what could not be copied, and why in words
        _, target, why = error.args[0][0]
        if (refused := refusal(error)) is not None:  # its words name the file that was read, not the full disk's
            raise OSError(refused.errno, refused.strerror, str(path)) from error
        raise OSError(0, why, target) from error
    except Exception as error:
        if (refused := with_place(error, path)) is None or refused is error:
            raise
        raise refused from error


@functools.lru_cache(maxsize=256)
def _holders_at_first(folder: Path) -> tuple[str, ...]:
    """Names of the temporary folders in ``folder`` when this process first asked: to list it at every write would take long."""
    return tuple(sorted(path.name for path in folder.glob(".*.gantry-*")))


def remove_stale(path: Path) -> None:
    """Remove what killed processes left beside ``path``: of a folder it may hold as much as the folder itself."""
    prefix = _holder_prefix(path)
    if path.is_dir():
        holders = [*path.parent.glob(f"{glob.escape(prefix)}*")]
    else:
        holders = [path.with_name(name) for name in _holders_at_first(path.parent) if name.startswith(prefix)]
    for holder in holders:
        with suppress(OSError):  # another process is about it
            # The process of a young one may not have come to lock it yet.
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
    """Have ``target`` be the file ``source`` too, or a copy of it where the file system cannot link."""
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:  # another file system, or one without hard links
        _LOG.info("Copying %s: it cannot be hard-linked (%s).", source, error)
        shutil.copy2(source, target)


def obstacle(path: Path, *, folder: bool = False) -> str | None:
    """What keeps a file, or with ``folder`` a folder, from being written at ``path``; None where nothing does.

    In words that end a sentence, such as ``there is a folder of that name``.
    """
    if not folder and path.is_dir():
        return "there is a folder of that name"
    if folder and not path.is_dir() and os.path.lexists(path):
        return "there is a file of that name"
    above = next((parent for parent in path.parents if os.path.lexists(parent)), None)
    return f"{above} is no folder" if above is not None and not above.is_dir() else None


def same_file(one: Path, other: Path) -> bool:
    """Whether both paths lead to one file that exists, by whatever links and spellings."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def open_to_others(path: Path) -> None:
    """Give a file the mode that the umask gives every other: safetensors lets nobody but the owner read what it writes."""
    # Python cannot ask for the umask without setting it, for all threads at once. A file made for the purpose knows it.
    probe = path.with_name(f".{path.name}.mode")
    probe.touch()
    path.chmod(probe.stat().st_mode & 0o777)
    probe.unlink()


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` (UTF-8) so that a reader sees the old file or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file (UTF-8).

    Raises:
        DamagedFileError: it holds something else; a ValueError too.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        why = "it nests too deeply" if isinstance(error, RecursionError) else error
        damaged = DamagedFileError(f"{path} is damaged, it is no JSON ({why}). Restore it, or remove it.")
        damaged.reason = f"it is no JSON: {why}"
        raise damaged from None


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value in one canonical spelling."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
