"""Picture files in a folder, in a zip or alone: which files are pictures, where they are, what is in them.

Whatever reads pictures finds them here, so that all commands agree on what a picture is, and none is passed over in silence.
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
from gan_core.images import drawing
from gan_core.images.archive_names import LONGEST_LINK, is_link, link_target, zip_members
from gan_core.images.pictures import PictureError

PICTURE_SUFFIXES = frozenset(
    (
        *(".apng", ".avif", ".avifs", ".bmp", ".bw", ".dds", ".dib", ".gif", ".icb", ".ico", ".j2c", ".j2k"),
        *(".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".pbm", ".pcx", ".pfm", ".pgm"),
        *(".png", ".pnm", ".ppm", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp"),
        # Pictures too, in formats that are not read: such a file is a picture that cannot be used, not something else.
        *(".exr", ".heic", ".heif", ".jxl", ".psd"),
    )
)
"""What a picture file's name may end with, in lower case; see :func:`with_drawings` for SVG."""

MAX_FILE_BYTES = 256 * 2**20
"""A single file above this is taken for no picture and not read into memory."""

_MAGIC = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"DDS ", b"\0\0\1\0"),
    *(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL ", b"8BPS\0\1", b"\x76\x2f\x31\x01"),
)
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
# What operating systems and tools leave in folders, and Gantry's note beside raw data; never data, never counted.
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx", "__pycache__", "icon\r", "source.json"}
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# What reading a zip's member raises: cut short, of another checksum, encrypted (RuntimeError), packed in an unknown way.
_OF_A_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, OSError)


class PictureFiles:
    """The pictures in a folder and the folders in it, in a zip, or one picture alone; use it in a ``with`` statement.

    A file is a picture by the end of its name or by how its content begins, also where it turns out to be broken. Drawings
    (SVG) are pictures where there are no others.
    """

    names: list[str]
    """Of the pictures, sorted, as paths within the folder or zip with forward slashes; of a single picture its own."""
    others: list[str]
    """Of the files that are no pictures, sorted. What operating systems leave in folders is not counted."""

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        """
        Args:
            path: the folder, zip or picture.
            encoding: of the names in a zip that do not say theirs; see :func:`gan_core.images.archive_names.zip_members`.

        Raises:
            DataError: there is nothing at ``path``, nothing in it is a picture, a folder in it is a link or cannot be
                listed, or it is an archive that cannot be read.
        """
        self.path = path
        self.is_single = False
        self._zip: zipfile.ZipFile | None = None
        self._members: dict[str, zipfile.ZipInfo] = {}
        if path.is_dir():
            self.names, self.others = partition(path, walk_files(path))
        elif not path.exists():
            raise DataError(f"There is no picture, folder or zip at {path}.")
        elif not path.is_file():
            raise DataError(f"{path} is a pipe or a device. Give a picture, or a folder or zip of them.")
        elif zipfile.is_zipfile(path):
            self._open_zip(encoding)
        else:
            _refuse_other_archives(path)
            self.names, self.others, self.is_single = [path.name], [], True
        self.names, self.others = with_drawings(self.names, self.others)
        if not self.names:
            only = f", only {kinds(self.others)}" if self.others else ""
            self.close()
            raise DataError(f"{path} holds no pictures{only}. Give a folder or a zip that has some, at any depth.")

    def open(self, name: str) -> IO[bytes]:
        """The file of a picture; raises what the system or the archive says where that cannot be."""
        if self._zip is not None:
            return self._zip.open(self._members[name])
        return open(self._place(name), "rb", buffering=0, opener=_open_at_once)

    def read(self, name: str) -> bytes:
        """The content of a picture file.

        Raises:
            PictureError: unreadable, too-many-bytes.
        """
        try:
            if self._zip is None:
                content = read_picture_file(self._place(name))
            else:
                with self.open(name) as file:
                    content = file.read(MAX_FILE_BYTES + 1)
        except _OF_A_ZIP as error:
            said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            if "encrypted" in said:  # and the whole record of the member
                said = "it is encrypted; unpack the zip with its password, and give the folder"
            raise PictureError("unreadable", said.rstrip(".")) from error
        if len(content) > MAX_FILE_BYTES:
            raise _too_many_bytes()
        return content

    def load(self, name: str) -> bytes | np.ndarray:
        """What :meth:`read` gives; of a drawing its pixels, uint8 (4, H, W).

        Raises:
            PictureError: as :meth:`read` and :func:`gan_core.images.drawing.draw`.
        """
        return drawn(name, self.read(name))

    def close(self) -> None:
        """Close the zip."""
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
                        f"{self.path} holds two files for one place, {name}; one would be lost. Rename one, and pack it again."
                    )
                self._members[name] = info
            self._members = {name: self._linked(name, info) for name, info in self._members.items()}
            self.names = sorted(name for name in self._members if self._is_picture(name))
        except DataError:
            self.close()
            raise
        self.others = sorted(self._members.keys() - set(self.names))

    def _linked(self, name: str, info: zipfile.ZipInfo) -> zipfile.ZipInfo:
        """The member itself; of a link, the member that it leads to. Another link stays as it is, and is no picture."""
        assert self._zip is not None  # it is being opened
        if not is_link(info) or info.file_size > LONGEST_LINK:
            return info
        try:
            target = link_target(name, self._zip.read(info).decode("utf-8", errors="replace"))
        except _OF_A_ZIP:
            return info
        return info if target is None else self._members.get(target, info)

    def _is_picture(self, name: str) -> bool:
        if has_picture_suffix(name):
            return True
        try:
            with self.open(name) as file:
                return begins_as_picture(file.read(16))
        except _OF_A_ZIP:
            return False


def is_picture(path: str | Path) -> bool:
    """Whether a file is meant to be a picture: by the end of its name, else by how its content begins."""
    if has_picture_suffix(path):
        return True
    if not os.path.isfile(path):
        return False  # reading a pipe would wait for somebody to write
    with open(path, "rb", buffering=0) as file:
        return begins_as_picture(file.read(16))


def begins_as_picture(head: bytes) -> bool:
    """Whether a file that begins with these 16 bytes is a picture."""
    return (
        head.startswith(_MAGIC)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace())
        or (head[4:8] == b"ftyp" and head[8:12] in _BRANDS)
    )


def partition(root: Path, files: Iterable[str]) -> tuple[list[str], list[str]]:
    """Files below ``root`` that are meant to be pictures, and the others."""
    found: tuple[list[str], list[str]] = ([], [])
    for file in files:
        try:
            found[0 if is_picture(root / file) else 1].append(file)
        except OSError:  # whoever reads it gives the reason
            found[0].append(file)
    return found


def with_drawings(pictures: list[str], others: list[str]) -> tuple[list[str], list[str]]:
    """Pictures and other files, where drawings (SVG) are pictures if there are no others.

    Beside photographs such a file is a logo, or the like.
    """
    if pictures:
        return pictures, others
    drawings = [file for file in others if is_drawing(file)]
    return drawings, [file for file in others if not is_drawing(file)]


def is_drawing(name: str) -> bool:
    """Whether a file is an SVG, by the end of its name."""
    return name.lower().endswith(drawing.SUFFIX)


def drawn(name: str, content: bytes) -> bytes | np.ndarray:
    """The content of a picture file; of a drawing its pixels, uint8 (4, H, W). Raises PictureError as drawing does."""
    return drawing.draw(content) if is_drawing(name) else content


def walk_files(root: Path) -> Iterator[str]:
    """Every file below ``root`` as a sorted path with forward slashes, clutter left out.

    Raises:
        DataError: a folder cannot be looked into, or is a link: what lies in it would be left out, or walked without end.
    """
    found = []
    for directory, folders, names in os.walk(root, onerror=raise_unlistable):
        folders[:] = [name for name in folders if not is_clutter(name)]
        for name in folders:
            if os.path.islink(os.path.join(directory, name)):
                raise DataError(
                    f"{directory}/{name} is a link to a folder. Put the folder itself there, or give the one it leads to."
                )
        inside = Path(directory).relative_to(root).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        found += [prefix + name for name in names if not is_clutter(name)]
    yield from sorted(found)


def is_clutter(name: str) -> bool:
    """Whether a file or folder name is an operating system's or a tool's, not the data's."""
    return name.startswith(".") or name.lower() in _CLUTTER


def raise_unlistable(error: OSError) -> NoReturn:
    """The ``onerror`` of ``os.walk``, which without it skips folders that it cannot list."""
    raise DataError(
        f"{error.filename} cannot be listed: {error.strerror}. Make it readable, or take it out."
    ) from error


def kinds(files: Sequence[str]) -> str:
    """How many files, and which suffixes are the most frequent: ``5 files (3 .txt, 2 .md)``."""
    counts = Counter(Path(file).suffix.lower() or "without suffix" for file in files).most_common(3)
    more = ", ..." if len({Path(file).suffix.lower() for file in files}) > 3 else ""
    told = ", ".join(f"{count} {suffix}" for suffix, count in counts)
    return f"{len(files)} file{'s' if len(files) > 1 else ''} ({told}{more})"


def read_picture_file(path: str | Path) -> bytes:
    """The content of a picture file on the disk; a pipe or a device is not waited for.

    Raises:
        PictureError: unreadable (a pipe or a device), too-many-bytes.
        OSError: it cannot be opened or read.
    """
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PictureError("unreadable", "it is a pipe or a device, and no file")
        if status.st_size > MAX_FILE_BYTES:
            raise _too_many_bytes()
        return file.read()


def has_picture_suffix(path: str | Path) -> bool:
    """Whether a file's name ends as a picture's does."""
    return os.path.splitext(path)[1].lower() in PICTURE_SUFFIXES


def _open_at_once(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open` that does not wait at a pipe until somebody writes."""
    return os.open(path, flags | os.O_NONBLOCK)


def _too_many_bytes() -> PictureError:
    return PictureError("too-many-bytes", f"more than {MAX_FILE_BYTES} bytes in one file")


def _refuse_other_archives(path: Path) -> None:
    """Raise DataError for a tar, and for a zip whose end, which lists its members, is missing."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Make it readable.") from error
    if path.suffix.lower() == ".zip" or head == b"PK\3\4":
        raise DataError(f"{path} is a broken zip file; it may be cut off. Get it again, or give a folder.")
    if path.name.lower().endswith(_TARS):
        raise DataError(f"{path} is a tar. Unpack it, and give the folder; or give a zip.")
