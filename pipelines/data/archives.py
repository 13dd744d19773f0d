"""Unpack untrusted archives and copy folders: nothing is written outside the target, and the source is not modified."""

import errno
import logging
import lzma
import os
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from gan_core.disk import disk_error_at, format_bytes, require_free_space
from gan_core.download.fetch import progress_bar
from gan_core.errors import DataError
from gan_core.images.archive_names import MAX_LINK_BYTES, decode_names, is_link, link_target, safe_path, zip_members
from pipelines.data.names import check_told_apart
from pipelines.data.readers.base import is_clutter, printable_name, raise_unlistable
from pipelines.data.unpack_limits import BoundedTarInfo, Budget
from pipelines.settings.data import UnpackLimits

log = logging.getLogger(__name__)

_BLOCK = 1 << 20
_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Errors that damaged and encrypted archives cause: OSError from bzip2 and gzip; RuntimeError from zip for encryption and
# for unsupported compression; ValueError for an invalid number or name in a header.
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
)
_REMEDIES = {
    errno.EACCES: "Make it readable, or remove it",
    errno.EPERM: "Make it readable, or remove it",
    errno.ENAMETOOLONG: "Shorten its name",
}

_Info = TypeVar("_Info", zipfile.ZipInfo, tarfile.TarInfo)


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a zip or a tar (plain, gzip, bzip2 or xz)."""
    try:
        if zipfile.is_zipfile(path):
            return True
        with tarfile.open(path, tarinfo=BoundedTarInfo):
            return True
    except (DataError, ValueError, OverflowError):
        return True  # a tar whose first header is hostile: unpacking raises the error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError):  # truncated or damaged before the first member
        return False


def looks_like_archive(path: Path) -> bool:
    """Whether ``path`` has the suffix of an archive or starts like a zip. A truncated archive does.

    Raises:
        DataError: ``path`` cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {_remedy(error)}.") from error
    return path.name.lower().endswith(_ENDINGS) or head == b"PK\3\4"


def unpack(
    archive: Path,
    target: Path,
    label: str,
    *,
    limits: UnpackLimits | None = None,
    encoding: str | None = None,
) -> None:
    """Unpack a zip or tar, with its empty folders, into the folder ``target``. Nested archives stay packed.

    Args:
        archive: the archive file.
        target: folder; created if it does not exist.
        label: title of the progress bar.
        limits: limits on the unpacked size; None: the defaults.
        encoding: encoding of names that do not state it; see :func:`gan_core.images.archive_names.zip_members`.

    Raises:
        DataError: the archive is broken or unpacks beyond the limits, a member's name or link points outside the archive,
            or two members have the same path.
        OSError: ``target`` cannot be written, for example because the disk is full.
    """
    try:
        budget = Budget(archive, limits or UnpackLimits())
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                _write(_zip_members(zipped, archive, budget, encoding), target, label, archive)
        else:
            with tarfile.open(archive, tarinfo=BoundedTarInfo) as tar:
                _write(_tar_members(tar, archive, budget, encoding), target, label, archive)
    except _ARCHIVE_ERRORS as error:
        if refused := disk_error_at(error, target):
            raise refused from error
        raise DataError(f"{archive} cannot be unpacked: {_reason(error)}. {_remedy(error)}.") from error


def copy_tree(source: Path, target: Path, label: str) -> None:
    """Copy a folder, with its empty folders, into ``target``. Symbolic links to files in the folder are copied as files.

    Raises:
        DataError: a link points outside the folder or to a folder, or a file or folder cannot be read.
        OSError: ``target`` cannot be written, for example because the disk is full.
    """
    try:
        _write(_tree_members(source.resolve()), target, label, source)
    except OSError as error:
        if refused := disk_error_at(error, target):
            raise refused from error
        raise DataError(f"{error.filename} cannot be read: {_reason(error)}. {_remedy(error)}.") from error


# Name, size, and a function that opens the member, which is None for a folder.
_Member = tuple[str, int, Callable[[], IO[bytes]] | None]


def _write(members: Iterator[_Member], target: Path, label: str, origin: Path) -> None:
    found = [member for member in members if not any(is_clutter(part) for part in member[0].split("/"))]
    _check_names(found, origin)
    target.mkdir(parents=True, exist_ok=True)
    check_told_apart((name for name, _, _ in found), target, origin)
    total = sum(size for _, size, _ in found)
    require_free_space(target, total)
    with progress_bar(label, total) as bar:
        for name, size, open_member in found:
            path = target / name
            try:
                if open_member is None:
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with open_member() as stream, open(path, "wb") as file:
                    _copy(stream, file, size, name, bar)
            except _ARCHIVE_ERRORS as error:
                if refused := disk_error_at(error, target):
                    raise refused from error
                short = name if len(name) <= 100 else f"{name[:100]}..."
                raise DataError(f"{origin}: {short} cannot be copied: {_reason(error)}. {_remedy(error)}.") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error).rstrip(".") or type(error).__name__


def _remedy(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return _REMEDIES.get(error.errno, "Resolve this and run the command again")
    if isinstance(error, RuntimeError):
        return "Unpack it with the program that packed it, and give the folder"
    return "The archive is broken. Download it again"


def _check_names(members: list[_Member], origin: Path) -> None:
    """Raise DataError for a name that is not text, or that both a file and a folder have."""
    files = {name for name, _, open_member in members if open_member is not None}
    for name, _, open_member in members:
        if printable_name(name) != name:
            raise DataError(
                f"{origin}: the name {printable_name(name)} is not UTF-8. Rename it (convmv renames many files), and run the "
                "command again."
            )
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise DataError(
                f"{origin}: the name {name!r} contains a control character. Rename it, and run the command again."
            )
        parts = name.split("/")
        ends = range(1, len(parts) + (open_member is None))
        if both := sorted({"/".join(parts[:end]) for end in ends} & files):
            raise DataError(f"{origin}: {both[0]} is both a file and a folder. Rename one of them, and pack it again.")


def _copy(stream: IO[bytes], file: IO[bytes], size: int, name: str, bar: Any) -> None:
    # Stop at the announced size, so that a member with a false size cannot fill the disk.
    written = 0
    while block := stream.read(_BLOCK):
        written += len(block)
        if written > size:
            raise DataError(
                f"{name} is longer than the archive's header says: the archive is broken or malicious. Download it again."
            )
        file.write(block)
        bar.update(len(block))


def _by_name(infos: Iterable[tuple[str, _Info]], archive: Path) -> dict[str, _Info]:
    """Members by their safe paths. Raises DataError if two have the same path: one would overwrite the other."""
    found: dict[str, _Info] = {}
    for name, info in infos:
        path = safe_path(name, archive)
        if path in found and not any(is_clutter(part) for part in path.split("/")):
            raise DataError(
                f"{archive} contains two files with the path {path}; one would be lost. Rename one, and pack it again."
            )
        found[path] = info
    return found


def _link_target(name: str, link: str, archive: Path) -> str:
    path = link_target(name, link)
    if path is None:
        raise DataError(
            f"{archive} is refused: its member '{name}' is a link to '{link}', outside the archive. Replace it with the file, "
            "and pack it again."
        )
    return path


def _zip_members(zipped: zipfile.ZipFile, archive: Path, budget: Budget, encoding: str | None) -> Iterator[_Member]:
    members = zip_members(zipped, archive, encoding)
    yield from _folders([member.name for member in members if member.is_folder], budget)
    by_name = _by_name(((member.name, member.info) for member in members if not member.is_folder), archive)
    for name, info in by_name.items():
        resolved = info
        if is_link(info):
            if info.file_size > MAX_LINK_BYTES:
                raise DataError(
                    f"{archive} is refused: the link '{name}' in it has a target of {format_bytes(info.file_size)}. The "
                    "archive is broken or malicious."
                )
            link = _link_target(name, zipped.read(info).decode("utf-8", errors="replace"), archive)
            if link not in by_name or is_link(by_name[link]):
                raise DataError(
                    f"{archive}: its member '{name}' is a link to '{link}', which is not a file in the archive. Remove the "
                    "link, and pack it again."
                )
            resolved = by_name[link]
        budget.add(resolved.file_size)
        yield name, resolved.file_size, lambda resolved=resolved: zipped.open(resolved)  # type: ignore[misc]


def _folders(names: Iterable[str], budget: Budget) -> Iterator[_Member]:
    for name in names:
        budget.add(0, is_file=False)
        yield name, 0, None


def _tar_members(tar: tarfile.TarFile, archive: Path, budget: Budget, encoding: str | None) -> Iterator[_Member]:
    infos = []
    reading = Budget(archive, budget.limits)
    for info in tar:
        # Check before tarfile reads to the next header, past the content that this header announces.
        reading.add(info.size, is_file=not info.isdir())
        infos.append(info)
    _check_end(tar, archive, sum(not info.isdir() for info in infos))
    _decode_tar_names(infos, archive, encoding)
    yield from _folders((safe_path(info.name, archive) for info in infos if info.isdir()), budget)
    by_name = _by_name(((info.name, info) for info in infos if not info.isdir()), archive)
    for name, info in by_name.items():
        resolved = info
        if info.issym() or info.islnk():
            # The target of a hard link is a path in the archive; that of a symbolic link is relative to the link.
            link = _link_target(name, info.linkname, archive) if info.issym() else safe_path(info.linkname, archive)
            if link not in by_name or not by_name[link].isfile():
                raise DataError(
                    f"{archive}: its member '{name}' is a link to '{link}', which is not a file in the archive. Remove the "
                    "link, and pack it again."
                )
            resolved = by_name[link]
        elif not info.isfile():
            raise DataError(
                f"{archive} is refused: its member '{name}' is a device or a pipe. Remove it, and pack it again."
            )
        budget.add(resolved.size)
        yield name, resolved.size, lambda resolved=resolved: _opened(tar, resolved)  # type: ignore[misc]


def _decode_tar_names(infos: list[tarfile.TarInfo], archive: Path, encoding: str | None) -> None:
    """Decode names and link targets that are not UTF-8; tarfile returns them with surrogates."""
    fields = [(info, field) for info in infos for field in ("name", "linkname")]
    raw = [os.fsencode(getattr(info, field)) for info, field in fields]
    if any(printable_name(getattr(info, field)) != getattr(info, field) for info, field in fields):
        # Unlike zips, tars come from Unix, which never used cp437.
        for (info, field), text in zip(fields, decode_names(raw, archive, encoding, usual=("cp932",)), strict=True):
            setattr(info, field, text)


def _check_end(tar: tarfile.TarFile, archive: Path, files: int) -> None:
    """Raise DataError if anything but zeros follows the last member: tarfile ends silently at a broken header.

    Reading to the end also makes gzip, bzip2 and xz check their checksums.
    """
    stream = tar.fileobj
    assert stream is not None  # it is open
    stream.seek(tar.offset)
    rest = stream.read(_BLOCK)
    if not rest:
        log.warning("%s ends after file %d without an end marker; it may be truncated.", archive, files)
    while rest:
        if rest.strip(b"\0"):
            raise DataError(
                f"{archive} is broken after file {files}: the rest cannot be read. Download it again. If it is a concatenation "
                "of tars, unpack it with tar --ignore-zeros and give the folder."
            )
        rest = stream.read(_BLOCK)


def _opened(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(info)
    assert stream is not None  # regular files only
    return stream


def _tree_members(source: Path) -> Iterator[_Member]:
    for directory, folders, names in os.walk(source, onerror=raise_unlistable):
        folders[:] = [name for name in folders if not is_clutter(name)]
        for name in [*folders, *names]:
            path = Path(directory) / name
            if is_clutter(name):
                continue
            inside = path.relative_to(source).as_posix()
            if name in folders and not path.is_symlink():
                yield inside, 0, None
                continue
            resolved = path.resolve()
            if path.is_symlink() and not resolved.is_relative_to(source):
                raise DataError(
                    f"{path} is refused: it is a link to {resolved}, outside {source}. Replace it with a copy of the file."
                )
            if path.is_symlink() and resolved.is_dir():
                raise DataError(f"{path} is refused: it is a link to a folder. Replace it with a copy of the folder.")
            if not resolved.is_file():
                raise DataError(f"{path} is refused: it is not a regular file, or it is a broken link. Remove it.")
            yield inside, resolved.stat().st_size, lambda resolved=resolved: resolved.open("rb")  # type: ignore[misc]
