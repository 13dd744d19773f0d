"""Recognise errors of a disk (full, over quota, read-only), and describe them with the path, the free space and a remedy."""

import errno
import math
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.cache import user_cache_dir
from gan_core.errors import GantryError, SettingsError

if TYPE_CHECKING:
    import numpy as np

_REMEDIES = {
    errno.ENOSPC: "Free some space there, or choose another folder.",
    errno.EDQUOT: "Remove some of your files there, ask for a larger quota, or choose another folder.",
    errno.EFBIG: "Raise the limit (ulimit -f) or use a file system that allows larger files, or choose another folder.",
    errno.EROFS: "Make it writable, or choose another folder.",
}
"""The errors of a disk, with a remedy for each."""
# The wording of safetensors; of Arrow, and of errors that Ray passes as text from another process; of SQLite and libc.
_NUMBERED = re.compile(
    r"\(os error (?P<rust>\d+)\)|\[errno (?P<errno>\d+)\](?: [^:\n]*: (?P<quote>['\"])(?P<name>[^\n]+?)(?P=quote))?",
    re.IGNORECASE,
)
_WORDED = {
    "database or disk is full": errno.ENOSPC,
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
    "read-only file system": errno.EROFS,
    "attempt to write a readonly database": errno.EROFS,
}

_SERVER_RESPONSE = re.compile(r"\b413\b|\b507\b|\bhttp\b|https?://|\bresponse\b")
"""Matches lines that quote a server's response: the error is then one of the server's disk or limits, not of this machine."""


class NotEnoughSpaceError(OSError):
    """A file system has not enough free space for something of known size."""

    def __init__(self, path: Path | str, missing: int) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.missing = missing
        """Missing space in bytes."""


def require_free_space(path: Path | str, size: int) -> None:
    """Raise NotEnoughSpaceError unless the file system of ``path`` has ``size`` bytes free. ``path`` need not exist."""
    free = shutil.disk_usage(_mount(path)).free
    if size > free:
        raise NotEnoughSpaceError(path, size - free)


def find_disk_error(error: BaseException | None) -> OSError | None:
    """Return the disk error (full, over quota, file too large, read-only) that ``error`` is or was caused by, or None.

    Searches the chain of causes, and the text of each: safetensors, Arrow and SQLite do not raise an OSError with an errno. An
    error that is found in a text is returned as an OSError, with a filename if the text has one.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _REMEDIES:
            if error.filename2:  # a copy or a link has two names, and writes the second one
                error.filename, error.filename2 = error.filename2, None
            return error
        if (found := _worded(str(error))) is not None:
            return found
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _worded(text: str) -> OSError | None:
    for match in reversed([*_NUMBERED.finditer(text)]):
        if (number := int(match["rust"] or match["errno"])) in _REMEDIES:
            return OSError(number, os.strerror(number), match["name"])
    for line in text.lower().splitlines():
        number = next((number for words, number in _WORDED.items() if words in line), 0)
        if number and not _SERVER_RESPONSE.search(line):
            return OSError(number, os.strerror(number))
    return None


def disk_error_at(error: BaseException, path: Path | str) -> OSError | None:
    """Like :func:`find_disk_error`, but sets the filename to ``path`` if the error has none.

    Returns None for a :class:`GantryError`, whose message already says what is wrong.
    """
    if isinstance(error, GantryError) or (found := find_disk_error(error)) is None:
        return None
    if found.filename is None:
        found.filename = str(path)
    return found


def describe_os_error(error: OSError) -> str:
    """Describe an error of the system for a user: the file, the reason and, for a disk error, the free space and a remedy."""
    if error.errno in _REMEDIES:  # not error.strerror, because Arrow has its own wording
        text = f"{error.filename}: {os.strerror(error.errno).lower()}"
        if error.errno == errno.ENOSPC and error.filename:
            more = "which is too little"
            if isinstance(error, NotEnoughSpaceError):
                more = f"{format_bytes(error.missing)} more are needed"
            text += f" ({free_space(error.filename)}, {more})"
        return f"{text}. {_name_variable(_REMEDIES[error.errno], error.filename)}"
    why = error.strerror or str(error)  # it may name a path, whose case matters
    text = f"{error.filename}: {why[:1].lower()}{why[1:]}."
    if not isinstance(error, PermissionError):
        return text
    return f"{text} {_name_variable('Change its permissions, or choose another folder.', error.filename)}"


def _name_variable(remedy: str, path: Any) -> str:
    """``remedy``, with the variable by which to choose another folder for ``path``, if the user did not choose this one."""
    place, variable = os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes) else "", ""
    if place.startswith(os.path.join(tempfile.gettempdir(), "gantry-")):
        variable = "TMPDIR"
    with suppress(SettingsError):  # this user has no cache
        if Path(place).is_relative_to(user_cache_dir().absolute()):
            variable = "GANTRY_CACHE_DIR"
    return remedy.replace("choose another folder", f"set {variable} to another folder") if variable else remedy


def create_npy(path: Path | str, shape: tuple[int, ...], dtype: "type[np.generic]") -> "np.memmap":
    """Create a ``.npy`` file of zeros, and map it into memory for writing.

    Its space is allocated at once: if the disk filled up later, a bus error would end the process.

    Raises:
        OSError: there is not enough space; the error names ``path``.
    """
    import numpy as np  # imported here because every command imports this module, and numpy takes half the time of --help

    require_free_space(path, math.prod(shape) * np.dtype(dtype).itemsize)
    array: Any = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate") and array.size:  # macOS has no such call
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            except OSError as error:
                if (refused := disk_error_at(error, path)) is not None:
                    raise refused from None
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system without this call
                    raise
    return array


def free_space(path: Path | str) -> str:
    """Describe the free space on the file system of ``path``, which need not exist: ``1.5 MiB of 2.0 GiB free on /data``."""
    mount = _mount(path)
    try:
        usage, table = shutil.disk_usage(mount), os.statvfs(mount)
    except OSError:
        return f"on {mount}"
    text = f"{format_bytes(usage.free)} of {format_bytes(usage.total)} free on {mount}"
    return f"{text}, but no inode for another file" if table.f_files and not table.f_favail else text


def _mount(path: Path | str) -> Path:
    """Return the mount point of the file system of ``path``."""
    place = Path(os.path.realpath(path))
    return next(folder for folder in (place, *place.parents) if os.path.ismount(folder))


def format_bytes(size: float) -> str:
    """Format a number of bytes in the largest unit that gives 1 or more: ``12 bytes``, ``1.5 KiB``, ``3.0 GiB``."""
    if size < 1024:
        return f"{size:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"
