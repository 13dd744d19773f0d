"""Caches on each node, shared by the processes of the node and limited in size: of whole folders, and of pieces of data.

:class:`NodeCache` holds folders, each named by the digest of its content. A process that uses one holds a shared lock on it; an
entry that nobody uses may be evicted, the least recently used first. :class:`PieceCache` holds many small files, which may be
evicted at any time.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gan_core.disk import format_bytes
from gan_core.files import atomic_write, flush_folder
from gan_core.locks import file_lock, lock, share, try_lock
from pipelines.storage.objects import StorageError

_LOCK, _REMOVED = ".lock", ".removed"
_LOG = logging.getLogger(__name__)


class NodeCache:
    """The folders in ``root``, of at most ``limit`` bytes together except for those in use."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root, self.limit = root, limit

    @contextmanager
    def hold(self, name: str, fetch: Callable[[Path], None], size: int | None = None) -> Iterator[Path]:
        """Yield the folder ``name``; it is fetched if it is not here, and not evicted before the block ends.

        Args:
            name: digest of the content.
            fetch: writes the folder to the path it is given. Of several processes of this node that ask at the same time, one
                calls it and the others wait. The entry appears when its files are on the disk: a power failure leaves none with
                holes, which would be trusted.
            size: bytes of the folder, if known: room is made before it is fetched.

        Raises:
            StorageError: ``size`` is over the limit.
        """
        if size is not None and size > self.limit:
            raise StorageError(
                f"The node cache {self.root} holds at most {format_bytes(self.limit)}, and {name} needs {format_bytes(size)}. "
                "Raise storage.cache_gib."
            )
        self.root.mkdir(parents=True, exist_ok=True)
        folder = self.root / name
        descriptor = self._open(name)
        try:
            while True:
                share(descriptor)
                if folder.is_dir():
                    break
                lock(descriptor)  # between this lock and the shared one another process may evict or fetch
                if not folder.is_dir():
                    for left in self._leftovers():
                        if _name_of_leftover(left) == name:
                            shutil.rmtree(left, ignore_errors=True)
                    self.evict(keep=self.limit - (size or 0))
                    with atomic_write(folder) as temporary:
                        fetch(temporary)
                        flush_folder(temporary)
            os.utime(self._lock_path(name))
            self.evict()
            yield folder
        finally:
            os.close(descriptor)

    def evict(self, keep: int | None = None) -> list[str]:
        """Remove entries that nobody uses, the least recently used first, until at most ``keep`` bytes are left.

        What killed processes were fetching or removing goes first.

        Returns:
            The names of the removed entries.
        """
        keep = self.limit if keep is None else keep
        for left in self._leftovers():
            with self._alone(_name_of_leftover(left)) as alone:
                if alone:
                    shutil.rmtree(left, ignore_errors=True)
        names = [path.name for path in self.root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        sizes = {name: folder_size(self.root / name) for name in names}
        total, removed = sum(sizes.values()), []
        for name in sorted(names, key=self._used):
            if total <= keep:
                break
            with self._alone(name) as alone:
                if alone:
                    removed += [name] if self._remove(name) else []
                    total -= sizes[name]
        return removed

    def _remove(self, name: str) -> bool:
        """Remove an entry that nobody uses; returns False if another process has just done so.

        It vanishes at once: a process that is killed meanwhile leaves no part of it, only a leftover.
        """
        leftover = self.root / f".{name}{_REMOVED}"
        shutil.rmtree(leftover, ignore_errors=True)
        try:
            (self.root / name).rename(leftover)
        except FileNotFoundError:
            return False
        shutil.rmtree(leftover, ignore_errors=True)
        return True

    def _leftovers(self) -> list[Path]:
        """Hidden folders: entries that are being fetched or removed, and those of killed processes."""
        return sorted(self.root.glob(".*.*/"))

    @contextmanager
    def _alone(self, name: str) -> Iterator[bool]:
        """Lock the entry ``name`` within the block; yields False if another process uses or fetches it."""
        descriptor = self._open(name)
        try:
            yield try_lock(descriptor)
        finally:
            os.close(descriptor)

    def _used(self, name: str) -> float:
        with suppress(OSError):
            return self._lock_path(name).stat().st_mtime
        return 0.0

    def _lock_path(self, name: str) -> Path:
        return self.root / f"{name}{_LOCK}"

    def _open(self, name: str) -> int:
        return os.open(self._lock_path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


class PieceCache:
    """Files in ``root`` of at most ``limit`` bytes together; the least recently used are evicted.

    One process of the node fetches at a time, so that the limit holds at every moment: room is made before a fetch. A file that
    a process has open stays readable when it is evicted.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.root, self.limit = root, limit

    @contextmanager
    def open(
        self,
        name: str,
        fetch: Callable[[Path], None],
        size: int,
        is_whole: Callable[[int], bool],
    ) -> Iterator[int]:
        """Yield a descriptor of the piece ``name``, open for reading; it is fetched if it is not here, or damaged.

        Args:
            name: of the content: equal names have equal content. May not begin with a dot.
            fetch: writes the piece to the path it is given.
            size: most bytes that the piece can have.
            is_whole: whether the piece that is open with this descriptor is as it was fetched.

        Raises:
            StorageError: ``size`` is over the limit.
        """
        path = self.root / name
        descriptor = self._open(path, is_whole)
        if descriptor is None:
            if size > self.limit:
                raise StorageError(
                    f"The node cache {self.root} holds at most {format_bytes(self.limit)}, and a piece of the data needs "
                    f"{format_bytes(size)}. Raise storage.cache_gib."
                )
            self.root.mkdir(parents=True, exist_ok=True)
            with file_lock(self.root / _LOCK):
                descriptor = self._open(path, is_whole)  # another process may have fetched it meanwhile
                if descriptor is None:
                    if path.exists():
                        _LOG.warning("%s is damaged, as it may be after a power failure. It is fetched again.", path)
                    self._make_room(size)
                    part = self.root / f".{name}"
                    fetch(part)
                    os.replace(part, path)
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @staticmethod
    def _open(path: Path, is_whole: Callable[[int], bool]) -> int | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if not is_whole(descriptor):
            os.close(descriptor)
            return None
        os.utime(descriptor)  # the order of eviction
        return descriptor

    def _make_room(self, size: int) -> None:
        """Remove pieces until ``size`` bytes are free, and what a killed process was fetching; the lock is held."""
        with os.scandir(self.root) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.name != _LOCK]
        total = sum(stat.st_size for _, stat in found)
        for name, stat in sorted(found, key=lambda item: (not item[0].startswith("."), item[1].st_mtime_ns)):
            if total + size <= self.limit and not name.startswith("."):
                break
            os.unlink(self.root / name)
            total -= stat.st_size


def _name_of_leftover(path: Path) -> str:
    """Name of the entry of a hidden folder: of :meth:`NodeCache._remove`, or of :func:`gan_core.files.atomic_write`."""
    return path.name[1:].rpartition(".")[0]


def folder_size(folder: Path) -> int:
    """Bytes of the files below ``folder``; one that vanishes meanwhile counts as nothing."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
