"""Find and read picture files in a folder, in a zip, or a single one.

All commands find pictures through this module, so that they agree on which files are pictures and skip none silently.
"""

import lzma
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NoReturn

import numpy as np

from gan_core.errors import DataError
from gan_core.images import svg
from gan_core.images.archive_names import MAX_LINK_BYTES, is_link, link_target, zip_members
from gan_core.images.pictures import PictureError

PICTURE_SUFFIXES = frozenset(
    (
        *(".apng", ".avif", ".avifs", ".bmp", ".bw", ".dds", ".dib", ".gif", ".icb", ".ico", ".j2c", ".j2k"),
        *(".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".pbm", ".pcx", ".pfm", ".pgm"),
        *(".png", ".pnm", ".ppm", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp"),
        # Formats that are not supported: such a file counts as a picture that cannot be read, not as another file.
        *(".exr", ".heic", ".heif", ".jxl", ".psd"),
    )
)
"""Suffixes of picture files, in lower case; see :func:`include_svgs` for SVG."""

MAX_FILE_BYTES = 256 * 2**20
"""Largest picture file in bytes. Larger files are refused and not read into memory."""

_MAGIC = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"DDS ", b"\0\0\1\0"),
    *(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL ", b"8BPS\0\1", b"\x76\x2f\x31\x01"),
)
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
# Files that operating systems and tools leave in folders, and Gantry's note beside raw data. Ignored and not counted.
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx", "__pycache__", "icon\r", "source.json"}
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Raised when a member of a zip is read: truncated, wrong checksum, encrypted (RuntimeError), unknown compression.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, OSError)


class PictureFiles:
    """The pictures in a folder and its subfolders, in a zip, or a single picture; a context manager.

    A file counts as a picture by its suffix or its first bytes, even if it turns out to be broken. SVG files count only if
    there are no other pictures.
    """

    names: list[str]
    """Sorted paths of the pictures within the folder or zip, with forward slashes. A single picture has its file name."""
    others: list[str]
    """Sorted paths of the other files, without those that operating systems leave in folders."""

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        """List the pictures.

        Args:
            path: the folder, zip or picture.
            encoding: of the names in a zip that are not marked as UTF-8; see
                :func:`gan_core.images.archive_names.zip_members`.

        Raises:
            DataError: ``path`` does not exist or has no pictures, a folder in it is a link or cannot be listed, or it is an
                archive that cannot be read.
        """
        self.path = path
        self.is_single = False
        self._zip: zipfile.ZipFile | None = None
        self._members: dict[str, zipfile.ZipInfo] = {}
        if path.is_dir():
            self.names, self.others = partition(path, walk_files(path))
        elif not path.exists():
            raise DataError(f"{path} does not exist. Give a picture, or a folder or zip of pictures.")
        elif not path.is_file():
            raise DataError(f"{path} is a pipe or a device. Give a picture, or a folder or zip of pictures.")
        elif zipfile.is_zipfile(path):
            self._open_zip(encoding)
        else:
            _refuse_other_archives(path)
            self.names, self.others, self.is_single = [path.name], [], True
        self.names, self.others = include_svgs(self.names, self.others)
        if not self.names:
            only = f", only {summarize_suffixes(self.others)}" if self.others else ""
            self.close()
            raise DataError(f"{path} contains no pictures{only}. Give a folder or a zip with pictures, at any depth.")

    def open(self, name: str) -> IO[bytes]:
        """Open the file of a picture; raises the error of the system or of the archive if that fails."""
        if self._zip is not None:
            return self._zip.open(self._members[name])
        return open(self._place(name), "rb", buffering=0, opener=_open_at_once)

    def read(self, name: str) -> bytes:
        """Return the bytes of a picture file.

        Raises:
            PictureError: unreadable, too-many-bytes.
        """
        try:
            if self._zip is None:
                content = read_picture_file(self._place(name))
            else:
                with self.open(name) as file:
                    content = file.read(MAX_FILE_BYTES + 1)
        except _ZIP_ERRORS as error:
            said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            if "encrypted" in said:  # zipfile's message quotes the whole record of the member
                said = "it is encrypted; unpack the zip with its password, and give the folder"
            raise PictureError("unreadable", said.rstrip(".")) from error
        if len(content) > MAX_FILE_BYTES:
            raise _too_many_bytes()
        return content

    def load(self, name: str) -> bytes | np.ndarray:
        """Return the bytes of a picture file, or the pixels of an SVG file, uint8 (4, H, W).

        Raises:
            PictureError: as :meth:`read` and :func:`gan_core.images.svg.render`.
        """
        return render_if_svg(name, self.read(name))

    def close(self) -> None:
        """Close the zip, if it is one."""
        if self._zip is not None:
            self._zip.close()

    def __enter__(self) -> "PictureFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, name: str) -> Path:
        return self.path if self.is_single else self.path / name

    def _open_zip(self, encoding: str | None) -> None:
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise DataError(f"{self.path} is a broken zip file ({error}). Pack it again, or give a folder.") from error
        try:
            members = [member for member in zip_members(self._zip, self.path, encoding) if not member.is_folder]
            for name, info, _ in members:
                if any(is_clutter(part) for part in name.split("/")):
                    continue
                if name in self._members:
                    raise DataError(
                        f"{self.path} has two files with the same path, {name}. Rename one, and pack the zip again."
                    )
                self._members[name] = info
            self._members = {name: self._linked(name, info) for name, info in self._members.items()}
            self.names = sorted(name for name in self._members if self._is_picture(name))
        except DataError:
            self.close()
            raise
        self.others = sorted(self._members.keys() - set(self.names))

    def _linked(self, name: str, info: zipfile.ZipInfo) -> zipfile.ZipInfo:
        """Return the member, or the target if it is a link to a member. Any other link is returned as is: it is no picture."""
        assert self._zip is not None  # set by _open_zip
        if not is_link(info) or info.file_size > MAX_LINK_BYTES:
            return info
        try:
            target = link_target(name, self._zip.read(info).decode("utf-8", errors="replace"))
        except _ZIP_ERRORS:
            return info
        return info if target is None else self._members.get(target, info)

    def _is_picture(self, name: str) -> bool:
        if has_picture_suffix(name):
            return True
        try:
            with self.open(name) as file:
                return has_picture_magic(file.read(16))
        except _ZIP_ERRORS:
            return False


def is_picture(path: str | Path) -> bool:
    """Whether a file counts as a picture, by its suffix or else by its first bytes."""
    if has_picture_suffix(path):
        return True
    if not os.path.isfile(path):
        return False  # reading a pipe would block until another process writes
    with open(path, "rb", buffering=0) as file:
        return has_picture_magic(file.read(16))


def has_picture_magic(head: bytes) -> bool:
    """Whether a file that begins with these 16 bytes is a picture."""
    return (
        head.startswith(_MAGIC)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace())
        or (head[4:8] == b"ftyp" and head[8:12] in _BRANDS)
    )


def partition(root: Path, files: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split files below ``root`` into pictures and others."""
    found: tuple[list[str], list[str]] = ([], [])
    for file in files:
        try:
            found[0 if is_picture(root / file) else 1].append(file)
        except OSError:  # reported when it is read
            found[0].append(file)
    return found


def include_svgs(pictures: list[str], others: list[str]) -> tuple[list[str], list[str]]:
    """Move SVG files from ``others`` to ``pictures`` if there are no pictures.

    Beside photographs, an SVG file is probably a logo.
    """
    if pictures:
        return pictures, others
    drawings = [file for file in others if is_svg(file)]
    return drawings, [file for file in others if not is_svg(file)]


def is_svg(name: str) -> bool:
    """Whether a file is an SVG, by its suffix."""
    return name.lower().endswith(svg.SUFFIX)


def render_if_svg(name: str, content: bytes) -> bytes | np.ndarray:
    """Return the pixels of an SVG file, uint8 (4, H, W), and any other ``content`` as is.

    Raises:
        PictureError: as :func:`gan_core.images.svg.render`.
    """
    return svg.render(content) if is_svg(name) else content


def walk_files(root: Path) -> Iterator[str]:
    """Yield the sorted paths of all files below ``root``, with forward slashes and without clutter (:func:`is_clutter`).

    Raises:
        DataError: a folder cannot be listed, or is a link. Its files would be missed, or a loop would never end.
    """
    found = []
    for directory, folders, names in os.walk(root, onerror=raise_unlistable):
        folders[:] = [name for name in folders if not is_clutter(name)]
        for name in folders:
            if os.path.islink(os.path.join(directory, name)):
                raise DataError(
                    f"{directory}/{name} is a link to a folder. Replace it with the folder itself, or give the link target."
                )
        inside = Path(directory).relative_to(root).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        found += [prefix + name for name in names if not is_clutter(name)]
    yield from sorted(found)


def is_clutter(name: str) -> bool:
    """Whether a file or folder belongs to an operating system or a tool, and not to the data, by its name."""
    return name.startswith(".") or name.lower() in _CLUTTER


def raise_unlistable(error: OSError) -> NoReturn:
    """Raise DataError for a folder that cannot be listed: an ``onerror`` for ``os.walk``, which skips it by default."""
    raise DataError(f"{error.filename} cannot be listed: {error.strerror}. Make it readable, or remove it.") from error


def summarize_suffixes(files: Sequence[str]) -> str:
    """Return the number of files and their most frequent suffixes: ``5 files (3 .txt, 2 .md)``."""
    counts = Counter(Path(file).suffix.lower() or "without suffix" for file in files).most_common(3)
    more = ", ..." if len({Path(file).suffix.lower() for file in files}) > 3 else ""
    listed = ", ".join(f"{count} {suffix}" for suffix, count in counts)
    return f"{len(files)} file{'s' if len(files) > 1 else ''} ({listed}{more})"


def read_picture_file(path: str | Path) -> bytes:
    """Return the bytes of a picture file on disk. Never blocks on a pipe or a device.

    Raises:
        PictureError: unreadable (a pipe or a device), too-many-bytes.
        OSError: it cannot be opened or read.
    """
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PictureError("unreadable", "it is a pipe or a device, not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise _too_many_bytes()
        return file.read()


def has_picture_suffix(path: str | Path) -> bool:
    """Whether a file name has the suffix of a picture (:data:`PICTURE_SUFFIXES`)."""
    return os.path.splitext(path)[1].lower() in PICTURE_SUFFIXES


def _open_at_once(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open` that does not block on a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _too_many_bytes() -> PictureError:
    return PictureError("too-many-bytes", f"the file has more than {MAX_FILE_BYTES} bytes")


def _refuse_other_archives(path: Path) -> None:
    """Raise DataError for a tar, and for a zip without its end, where its members are listed."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Make it readable.") from error
    if path.suffix.lower() == ".zip" or head == b"PK\3\4":
        raise DataError(f"{path} is a broken zip file, perhaps truncated. Get it again, or give a folder.")
    if path.name.lower().endswith(_TARS):
        raise DataError(f"{path} is a tar archive. Unpack it and give the folder, or give a zip.")
