"""Unpacking what a stranger packed, copying what a user owns: nothing leaves the target, the source stays as it is."""

import gzip
import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from gan_core.errors import DataError
from gan_core.fetch import progress_bar
from pipelines.data.readers.base import is_clutter

_BLOCK = 1 << 20


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a zip or a tar (plain, gzip, bzip2 or xz)."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(archive: Path, target: Path, label: str) -> None:
    """Unpack a zip or tar into the folder ``target``.

    Raises:
        DataError: a member's name or link leads out of the archive, there is not enough room, the archive is broken.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                _write(_zip_members(zipped, archive), target, label)
        else:
            with tarfile.open(archive) as tar:
                _write(_tar_members(tar, archive), target, label)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        EOFError,
        gzip.BadGzipFile,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}") from error


def copy_tree(source: Path, target: Path, label: str) -> None:
    """Copy a folder's files into the folder ``target``. A symbolic link to a file inside is copied as that file.

    Raises:
        DataError: a link leads out of the folder, or to a folder.
    """
    _write(_tree_members(source.resolve()), target, label)


# A member is its name, its size, and a way to open it.
_Member = tuple[str, int, Callable[[], IO[bytes]]]


def _write(members: Iterator[_Member], target: Path, label: str) -> None:
    found = [member for member in members if not any(is_clutter(part) for part in member[0].split("/"))]
    target.mkdir(parents=True, exist_ok=True)
    total, room = sum(size for _, size, _ in found), shutil.disk_usage(target).free
    if total > room:
        raise DataError(
            f"{label}: {total / 2**30:.1f} GiB do not fit into the {room / 2**30:.1f} GiB free at {target}."
        )
    with progress_bar(label, total) as bar:
        for name, size, open_member in found:
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as stream, open(path, "wb") as file:
                _copy(stream, file, size, name, bar)


def _copy(stream: IO[bytes], file: IO[bytes], size: int, name: str, bar: Any) -> None:
    # No more than was announced: a packed file that lies about its size does not fill the disk.
    written = 0
    while block := stream.read(_BLOCK):
        written += len(block)
        if written > size:
            raise DataError(f"{name} is longer than its archive says; the archive is broken or hostile.")
        file.write(block)
        bar.update(len(block))


def _safe(name: str, archive: Path) -> str:
    """The member's path with forward slashes; raises when it is absolute or climbs out."""
    path = posixpath.normpath(name.replace("\\", "/"))
    if path.startswith(("/", "../")) or path == ".." or (len(path) > 1 and path[1] == ":") or "\0" in path:
        raise DataError(f"{archive} is refused: its member '{name}' would be written outside of the target folder.")
    return path


def _link_target(name: str, link: str, archive: Path) -> str:
    if link.startswith("/"):
        raise DataError(f"{archive} is refused: its member '{name}' is a link to '{link}', outside of the archive.")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    if path.startswith("../") or path == "..":
        raise DataError(f"{archive} is refused: its member '{name}' is a link to '{link}', outside of the archive.")
    return path


def _zip_members(zipped: zipfile.ZipFile, archive: Path) -> Iterator[_Member]:
    by_name = {_safe(info.filename, archive): info for info in zipped.infolist() if not info.is_dir()}
    for name, info in by_name.items():
        resolved = info
        if stat.S_ISLNK(info.external_attr >> 16):
            link = _link_target(name, zipped.read(info).decode("utf-8", errors="replace"), archive)
            if link not in by_name or stat.S_ISLNK(by_name[link].external_attr >> 16):
                raise DataError(f"{archive}: its member '{name}' is a link to '{link}', which is no file in it.")
            resolved = by_name[link]
        yield name, resolved.file_size, lambda resolved=resolved: zipped.open(resolved)  # type: ignore[misc]


def _tar_members(tar: tarfile.TarFile, archive: Path) -> Iterator[_Member]:
    by_name = {_safe(info.name, archive): info for info in tar.getmembers() if not info.isdir()}
    for name, info in by_name.items():
        resolved = info
        if info.issym() or info.islnk():
            # A hard link's target is a path in the archive, a symbolic link's is relative to the link.
            link = _link_target(name, info.linkname, archive) if info.issym() else _safe(info.linkname, archive)
            if link not in by_name or not by_name[link].isfile():
                raise DataError(f"{archive}: its member '{name}' is a link to '{link}', which is no file in it.")
            resolved = by_name[link]
        elif not info.isfile():
            raise DataError(f"{archive} is refused: its member '{name}' is a device or a pipe.")
        yield name, resolved.size, lambda resolved=resolved: _opened(tar, resolved)  # type: ignore[misc]


def _opened(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(info)
    assert stream is not None  # regular files only
    return stream


def _tree_members(source: Path) -> Iterator[_Member]:
    for directory, folders, names in os.walk(source):
        for name in [*folders, *names]:
            path = Path(directory) / name
            if is_clutter(name) or (name in folders and not path.is_symlink()):
                continue
            inside = path.relative_to(source).as_posix()
            resolved = path.resolve()
            if path.is_symlink() and not resolved.is_relative_to(source):
                raise DataError(
                    f"{path} is refused: it is a link to {resolved}, outside of {source}. Copy the file there."
                )
            if path.is_symlink() and resolved.is_dir():
                raise DataError(f"{path} is refused: it is a link to a folder. Put the folder itself there.")
            if not resolved.is_file():
                raise DataError(f"{path} is refused: it is no regular file.")
            yield inside, resolved.stat().st_size, lambda resolved=resolved: resolved.open("rb")  # type: ignore[misc]
