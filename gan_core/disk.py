"""What a disk refuses: which errors mean that, and how to say it with the place, the room that is left and the remedy."""

import errno
import math
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.errors import GantryError

if TYPE_CHECKING:
    import numpy as np

_REFUSALS = {
    errno.ENOSPC: "Make room there, or name another place.",
    errno.EDQUOT: "Remove files of yours there, have the quota raised, or name another place.",
    errno.EFBIG: "Raise the limit (ulimit -f) or use a file system that takes larger files, or name another place.",
    errno.EROFS: "Make it writable, or name another place.",
}
"""Remedy by errno."""
# How it is worded by safetensors; by Arrow, and by what Ray brings from another process as text; by SQLite and libc.
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

_ANSWER = re.compile(r"\b413\b|\b507\b|\bhttp\b|https?://|\bresponse\b")
"""What shows that a server gave these words as its answer: its disk or its limits refused, and none here."""


class NoRoomError(OSError):
    """There is too little room for something of a known size."""

    def __init__(self, path: Path | str, missing: int) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.missing = missing
        """Bytes."""


def require_room(path: Path | str, size: int) -> None:
    """Raise NoRoomError unless ``size`` more bytes fit onto the file system of ``path``, which need not exist."""
    free = shutil.disk_usage(_mount(path)).free
    if size > free:
        raise NoRoomError(path, size - free)


def refusal(error: BaseException | None) -> OSError | None:
    """The refusal of a disk (full, over quota, file too large, read-only) that ``error`` is or comes from; None for others.

    Looks through the causes and at the words: safetensors, Arrow and SQLite raise no OSError with an errno. What is found in
    words alone becomes an OSError, with a filename where the words have it.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            if error.filename2:  # of a copy or a link, the second name is the one that was written
                error.filename, error.filename2 = error.filename2, None
            return error
        if (found := _worded(str(error))) is not None:
            return found
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _worded(text: str) -> OSError | None:
    for match in reversed([*_NUMBERED.finditer(text)]):
        if (number := int(match["rust"] or match["errno"])) in _REFUSALS:
            return OSError(number, os.strerror(number), match["name"])
    for line in text.lower().splitlines():
        number = next((number for words, number in _WORDED.items() if words in line), 0)
        if number and not _ANSWER.search(line):
            return OSError(number, os.strerror(number))
    return None


def with_place(error: BaseException, path: Path | str) -> OSError | None:
    """The refusal of a disk that ``error`` comes from, naming ``path`` where it names nothing; None for other errors.

    A :class:`GantryError` has said already what is wrong.
    """
    if isinstance(error, GantryError) or (found := refusal(error)) is None:
        return None
    if found.filename is None:
        found.filename = str(path)
    return found


def what_failed(error: OSError) -> str:
    """In words what the system refused: the file, the reason and, where there is one, the remedy."""
    if error.errno in _REFUSALS:  # Arrow words it in its own way
        told = f"{error.filename}: {os.strerror(error.errno).lower()}"
        if error.errno == errno.ENOSPC and error.filename:
            more = (
                f"{amount(error.missing)} more are needed" if isinstance(error, NoRoomError) else "which is too little"
            )
            told += f" ({free_space(error.filename)}, {more})"
        remedy = _REFUSALS[error.errno]
        if str(error.filename).startswith(os.path.join(tempfile.gettempdir(), "gantry-")):  # the user has not named it
            remedy = remedy.replace("name another place", "have TMPDIR name another folder")
        return f"{told}. {remedy}"
    told = f"{error.filename}: {(error.strerror or str(error)).lower()}."
    return f"{told} Change its permissions, or name another place." if isinstance(error, PermissionError) else told


def new_array(path: Path | str, shape: tuple[int, ...], dtype: "type[np.generic]") -> "np.memmap":
    """A new ``.npy`` file of zeros, mapped into memory for writing.

    Its room is taken at once: a disk that filled up later would end the process with a bus error.

    Raises:
        OSError: there is not enough room; names ``path``.
    """
    import numpy as np  # here: every command imports this module, and numpy takes as long as all else together

    require_room(path, math.prod(shape) * np.dtype(dtype).itemsize)
    array: Any = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate") and array.size:  # macOS has no such call
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            except OSError as error:
                if (refused := with_place(error, path)) is not None:
                    raise refused from None
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that does not know it
                    raise
    return array


def free_space(path: Path | str) -> str:
    """In words the room on the file system of ``path``, which need not exist: ``1.5 MiB of 2.0 GiB free on /data``."""
    mount = _mount(path)
    try:
        usage, table = shutil.disk_usage(mount), os.statvfs(mount)
    except OSError:
        return f"on {mount}"
    told = f"{amount(usage.free)} of {amount(usage.total)} free on {mount}"
    return f"{told}, but no further file may be made" if table.f_files and not table.f_favail else told


def _mount(path: Path | str) -> Path:
    """Where the file system that holds ``path`` is mounted."""
    place = Path(os.path.realpath(path))
    return next(folder for folder in (place, *place.parents) if os.path.ismount(folder))


def amount(size: float) -> str:
    """Bytes in the largest unit of which there is one at least: ``12 bytes``, ``1.5 KiB``, ``3.0 GiB``."""
    if size < 1024:
        return f"{size:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"
