"""The names of a zip's members: which encoding they are written in, and where they lead.

A zip says of each name whether it is UTF-8 and, where it is not, does not say what it is. macOS writes UTF-8 without saying
so; Japanese Windows writes Shift-JIS (cp932); the standard means cp437, which gives some text for any bytes, and so is
taken only where that text is made of Latin letters.
"""

import logging
import os
import posixpath
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gan_core.errors import DataError

log = logging.getLogger(__name__)

LONGEST_LINK = 4096
"""Bytes of the path that a symbolic link may lead to, as on Linux."""

_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075
"""Info-ZIP's extra field: the name in UTF-8, with a checksum of the name that it stands for."""
_KNOWN = {
    "cp932": (
        *("HIRAGANA", "KATAKANA", "CJK", "IDEOGRAPHIC", "FULLWIDTH DIGIT", "FULLWIDTH LATIN"),
        *("FULLWIDTH LEFT PARENTHESIS", "FULLWIDTH RIGHT PARENTHESIS"),
    ),
    "cp437": ("LATIN",),
    "latin-1": ("LATIN",),
}
"""Encodings, and how the names of those characters begin that people write in them. What reads as one of them alone is of it;
a few short names may read as two, and then nobody can tell."""


class ZipMember(NamedTuple):
    """A member of a zip: open it by ``info``, call it by ``name``."""

    name: str
    """Its path within the archive, with forward slashes, normalised, never leading out."""
    info: zipfile.ZipInfo
    is_folder: bool


def zip_members(zipped: zipfile.ZipFile, archive: Path, encoding: str | None = None) -> list[ZipMember]:
    """Every member of an open zip, in its order.

    Args:
        zipped: opened for reading, without a ``metadata_encoding``.
        archive: where it lies, for messages.
        encoding: of names that do not say theirs. None: UTF-8 where all of them are, else cp932 where they read as Japanese
            alone, or cp437 where they read as Latin alone; a warning says which, unless it is UTF-8.

    Raises:
        DataError: a name leads out of the archive, is not of the encoding, or no encoding can be told.
    """
    infos = zipped.infolist()
    names = [info.filename if info.flag_bits & _UTF8_FLAG else _unicode_path(info) for info in infos]
    silent = [index for index, name in enumerate(names) if name is None]
    raw = [infos[index].orig_filename.encode("cp437") for index in silent]
    for index, text in zip(silent, decode_names(raw, archive, encoding), strict=True):
        names[index] = text
    found = []
    for name, info in zip(names, infos, strict=True):
        assert name is not None  # filled in above
        found.append(ZipMember(safe_path(name, archive), info, name.replace("\\", "/").endswith("/")))
    return found


def decode_names(
    names: Sequence[bytes], archive: Path, encoding: str | None = None, usual: Sequence[str] = ("cp932", "cp437")
) -> list[str]:
    """Names whose encoding is not stated, as text. All of an archive's are of one encoding.

    Args:
        names: as they lie in the archive.
        archive: where it lies, for messages.
        encoding: theirs, where it is known.
        usual: what such an archive may be in where it is not UTF-8, if nothing else reads as well.

    Raises:
        DataError: a name is not of the encoding, or no encoding can be told.
    """
    if encoding is not None:
        return [_decoded(name, archive, encoding) for name in names]
    readings = ["utf-8"] if _reads_as(names, "utf-8") else [known for known in _KNOWN if _reads_as(names, known)]
    chosen = readings[0] if len(readings) == 1 else None
    if chosen is None or chosen not in ("utf-8", *usual):
        strange = next(name for name in names if not _reads_as([name], "utf-8"))
        shown = strange.decode("ascii", errors="backslashreplace")
        may_be = " or ".join(f"'{strange.decode(known)}' ({known})" for known in readings)
        may_be = f"; it may be {may_be}" if may_be else ""
        raise DataError(
            f"{archive}: the name {shown} is not UTF-8, and does not say what it is{may_be}. "
            "Give the encoding of the names with --encoding NAME (gbk, cp1252, ...), or unpack the archive and "
            "rename the files (convmv does many at once)."
        )
    texts = [name.decode(chosen) for name in names]
    if chosen != "utf-8":
        example = next(text for text in texts if not text.isascii())
        log.warning(
            "%s: its names are not UTF-8 and do not say what they are; read as %s, such as '%s'. If that is wrong, give "
            "their encoding with --encoding NAME, or pack it again with UTF-8 names.",
            archive,
            chosen,
            example,
        )
    return texts


def safe_path(name: str, archive: Path) -> str:
    """The member's path with forward slashes (Windows may write backslashes), normalised.

    Raises:
        DataError: it is absolute, climbs out, or holds a NUL.
    """
    path = posixpath.normpath(name.replace("\\", "/"))
    # C:/x.png is an absolute path of Windows; C:x.png leads out there alone, and is a plain name elsewhere.
    drive = path[1:3] == ":/" or (os.name == "nt" and path[1:2] == ":")
    if path.startswith(("/", "../")) or path == ".." or drive or "\0" in path:
        raise DataError(f"{archive} is refused: its member {name!r} would be written outside of the target folder.")
    return path


def is_link(info: zipfile.ZipInfo) -> bool:
    """Whether a member of a zip is a symbolic link, whose content is the path that it leads to."""
    return stat.S_ISLNK(info.external_attr >> 16)


def link_target(name: str, link: str) -> str | None:
    """The path within the archive that the symbolic link ``name`` to ``link`` leads to; None where it leads out of it."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    return None if path.startswith(("/", "../")) or path == ".." else path


def _unicode_path(info: zipfile.ZipInfo) -> str | None:
    """The name that the extra field gives; None where there is none, or where it is of another name."""
    extra = info.extra
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        data, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and len(data) > 5 and data[0] == 1:
            (checksum,) = struct.unpack("<I", data[1:5])
            try:
                return data[5:].decode() if checksum == zlib.crc32(info.orig_filename.encode("cp437")) else None
            except UnicodeDecodeError:
                return None
    return None


def _decoded(name: bytes, archive: Path, encoding: str) -> str:
    try:
        return name.decode(encoding)
    except UnicodeDecodeError as error:
        shown = name.decode("ascii", errors="backslashreplace")
        raise DataError(
            f"{archive}: the name {shown} is not {encoding} ({error.reason}). Give another --encoding."
        ) from error
    except LookupError as error:
        raise DataError(
            f"--encoding: Python knows no encoding '{encoding}'. Try utf-8, cp932, cp437 or gbk."
        ) from error


def _reads_as(names: Sequence[bytes], encoding: str) -> bool:
    """Whether all names are of ``encoding`` and, but for UTF-8, all that is not ASCII is of the script that it is for."""
    try:
        strange = {character for name in names for character in name.decode(encoding) if not character.isascii()}
    except UnicodeDecodeError:
        return False
    if encoding == "utf-8":
        return True
    written = [unicodedata.name(character, "") for character in strange]
    # Full-width letters alone are none: they are what cp932 makes of an accented letter before another letter.
    telling = encoding != "cp932" or any(name.startswith(("HIRAGANA", "KATAKANA", "CJK")) for name in written)
    return telling and all(name.startswith(_KNOWN[encoding]) for name in written)
