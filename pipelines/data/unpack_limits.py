"""Check the unpacked size of an archive against limits, by the sizes in its headers, before anything is written."""

import tarfile
from pathlib import Path

from gan_core.disk import format_bytes
from gan_core.errors import DataError
from pipelines.settings.data import UnpackLimits

_DISK_BLOCK = 4096
"""Smallest size of a file on most disks, bytes. Counts a million empty files at their real cost."""
_HARMLESS = 64 * 2**20
"""Unpacked size up to which the ratio is not limited, bytes."""
_MANY_EMPTY = 10_000
_LONGEST_HEADER = 2**20
"""Largest extended header of a tar, bytes. tarfile reads it into memory whole; real ones have a few hundred bytes."""
_MOST_HEADERS = 32
"""Most extended headers of a tar in a row. tarfile reads them by recursion; a real member has one to four."""


class Budget:
    """Counts the disk space that an archive needs, and raises when it exceeds the limits."""

    def __init__(self, archive: Path, limits: UnpackLimits) -> None:
        self._archive, self.limits = archive, limits
        self._packed = archive.stat().st_size
        self._bytes = self._members = self._empty = 0

    def add(self, size: int, *, is_file: bool = True) -> None:
        """Count a member of ``size`` bytes; raises DataError if a limit is exceeded."""
        self._members += 1
        self._empty += is_file and size == 0
        self._bytes += max(size, _DISK_BLOCK)
        trust = "If you trust it, raise that setting in params.yaml, or unpack it yourself and give the folder."
        begin = f"{self._archive} is refused: it unpacks to {format_bytes(self._bytes)} or more"
        if self._bytes > self.limits.max_unpacked_gib * 2**30:
            raise DataError(f"{begin}, above data.max_unpacked_gib ({self.limits.max_unpacked_gib:g}). {trust}")
        ratio = self.limits.max_unpacked_ratio
        if self._bytes > max(_HARMLESS, ratio * self._packed):
            raise DataError(
                f"{begin}, more than {ratio:g} times its own size ({format_bytes(self._packed)}), which is the limit "
                f"data.max_unpacked_ratio. {trust}"
            )
        if self._empty > _MANY_EMPTY and 2 * self._empty > self._members:
            raise DataError(
                f"{self._archive} is refused: {self._empty} of its first {self._members} files are empty. Download it again, "
                "or unpack it yourself and give the folder."
            )


class BoundedTarInfo(tarfile.TarInfo):
    """Refuses extended headers that would fill the memory, or the stack, before reading them."""

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        extended = (
            *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
            *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
        )
        if self.type in extended and self.size > _LONGEST_HEADER:
            # Not a TarError: tarfile would take it for the end of the archive.
            raise DataError(
                f"{tarfile_.name!s} is refused: it has a header of {format_bytes(self.size)}, and is broken or malicious. "
                "Download it again."
            )
        in_a_row = getattr(tarfile_, "headers_in_a_row", 0) + 1 if self.type in extended else 0
        tarfile_.headers_in_a_row = in_a_row  # type: ignore[attr-defined]
        if in_a_row > _MOST_HEADERS:
            raise DataError(
                f"{tarfile_.name!s} is refused: it has more than {_MOST_HEADERS} headers for one file, and is broken or "
                "malicious. Download it again."
            )
        return super()._proc_member(tarfile_)  # type: ignore[misc]
