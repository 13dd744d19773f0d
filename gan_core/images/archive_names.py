"""Names of files: detect the encoding in a zip, refuse paths that leave an archive, and compare as a disk may.

A zip marks a name that is UTF-8, but does not state the encoding of other names. macOS writes UTF-8 without the mark.
Japanese Windows writes Shift-JIS (cp932). The standard says cp437, which decodes any bytes to some text; it is therefore
used only if that text consists of Latin letters.
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

MAX_LINK_BYTES = 4096
"""Longest target of a symbolic link, in bytes, as on Linux."""

_MAX_PATH = 4096
"""Longest path of a member, in characters: no disk holds a longer one.

All folders above a file are looked at, which takes memory by the square of the length: the path of a member of a tar may have a
million characters, packed in two kilobytes."""

_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075
"""Info-ZIP's extra field: the name in UTF-8, with a checksum of the stored name."""
_KNOWN = {
    "cp932": (
        *("HIRAGANA", "KATAKANA", "CJK", "IDEOGRAPHIC", "FULLWIDTH DIGIT", "FULLWIDTH LATIN"),
        *("FULLWIDTH LEFT PARENTHESIS", "FULLWIDTH RIGHT PARENTHESIS"),
    ),
    "cp437": ("LATIN",),
    "latin-1": ("LATIN",),
}
"""Encodings that are detected, with the beginnings of the Unicode names of the characters that people write in them.

Names that fit exactly one encoding are decoded with it. A few short names may fit two: those are refused."""


def fold_name(name: object) -> str:
    """A text that is equal for all names that are one on a disk of macOS or Windows, where ``Cat`` may be ``cat``."""
    return unicodedata.normalize("NFC", str(name)).casefold()


class ZipMember(NamedTuple):
    """A member of a zip: open it with ``info``, refer to it by ``name``."""

    name: str
    """Normalised path within the archive, with forward slashes. It never leaves the archive."""
    info: zipfile.ZipInfo
    is_folder: bool


def zip_members(zipped: zipfile.ZipFile, archive: Path, encoding: str | None = None) -> list[ZipMember]:
    """Return every member of an open zip, in the order of the zip.

    Args:
        zipped: opened for reading, without a ``metadata_encoding``.
        archive: path of the zip, for messages.
        encoding: encoding of the names that are not marked as UTF-8. None detects it: UTF-8 if all names are valid UTF-8,
            else cp932 if they fit only Japanese, or cp437 if they fit only Latin. A warning names the detected encoding
            unless it is UTF-8.

    Raises:
        DataError: a name leaves the archive or is not valid in the encoding, or no encoding is detected.
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
    """Decode names whose encoding is not stated. All names of an archive have the same encoding.

    Args:
        names: bytes as stored in the archive.
        archive: path of the archive, for messages.
        encoding: their encoding, if known. None detects it.
        usual: encodings other than UTF-8 that may be detected, provided that the names fit no other known encoding.

    Raises:
        DataError: a name is not valid in the encoding, or no encoding is detected.
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
            f"{archive}: the name {shown} is not UTF-8, and the archive does not state its encoding{may_be}. "
            "Give the encoding of the names with --encoding NAME (gbk, cp1252, ...), or unpack the archive and "
            "rename the files (convmv renames many at once)."
        )
    texts = [name.decode(chosen) for name in names]
    if chosen != "utf-8":
        example = next(text for text in texts if not text.isascii())
        log.warning(
            "%s: the names are not UTF-8, and the archive does not state their encoding; read as %s, such as '%s'. If that "
            "is wrong, give their encoding with --encoding NAME, or pack the archive again with UTF-8 names.",
            archive,
            chosen,
            example,
        )
    return texts


def safe_path(name: str, archive: Path) -> str:
    """Return a member's normalised path with forward slashes (Windows may write backslashes).

    Raises:
        DataError: the path is absolute, leaves the archive, contains a NUL, or is longer than any disk allows.
    """
    if len(name) > _MAX_PATH:
        raise DataError(
            f"{archive} is refused: the path of a member has {len(name)} characters, more than any disk allows "
            f"({name[:40]!r}...). Shorten it, and pack the archive again."
        )
    path = posixpath.normpath(name.replace("\\", "/"))
    # C:/x.png is an absolute path on Windows. C:x.png leaves the folder only on Windows; elsewhere it is a plain name.
    drive = path[1:3] == ":/" or (os.name == "nt" and path[1:2] == ":")
    if path.startswith(("/", "../")) or path == ".." or drive or "\0" in path:
        raise DataError(f"{archive} is refused: its member {name!r} would be written outside the target folder.")
    return path


def is_link(info: zipfile.ZipInfo) -> bool:
    """Whether a member of a zip is a symbolic link. The content of such a member is the path of its target."""
    return stat.S_ISLNK(info.external_attr >> 16)


def link_target(name: str, link: str) -> str | None:
    """Resolve the symbolic link ``name`` with target ``link`` to a path within the archive; None if it leaves the archive."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    return None if path.startswith(("/", "../")) or path == ".." else path


def _unicode_path(info: zipfile.ZipInfo) -> str | None:
    """Return the name in the extra field; None if the field is missing or belongs to another name."""
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
            f"{archive}: the name {shown} is not valid {encoding} ({error.reason}). Give another --encoding."
        ) from error
    except LookupError as error:
        raise DataError(
            f"--encoding: Python has no encoding named '{encoding}'. Try utf-8, cp932, cp437 or gbk."
        ) from error


def _reads_as(names: Sequence[bytes], encoding: str) -> bool:
    """Whether all names are valid in ``encoding`` and use only characters of its script besides ASCII (UTF-8: any)."""
    try:
        strange = {character for name in names for character in name.decode(encoding) if not character.isascii()}
    except UnicodeDecodeError:
        return False
    if encoding == "utf-8":
        return True
    written = [unicodedata.name(character, "") for character in strange]
    # Full-width letters alone do not count: cp932 reads an accented letter followed by another letter as one.
    telling = encoding != "cp932" or any(name.startswith(("HIRAGANA", "KATAKANA", "CJK")) for name in written)
    return telling and all(name.startswith(_KNOWN[encoding]) for name in written)
