"""How much an archive may unpack to: counted from what it says of itself, before anything is written."""

import tarfile
from pathlib import Path

from gan_core.disk import amount
from gan_core.errors import DataError
from pipelines.settings.data import UnpackLimits

_DISK_BLOCK = 4096
"""Bytes that a file takes on most disks at least: a million empty files are not nothing."""
_HARMLESS = 64 * 2**20
"""Bytes below which an archive may unpack to any multiple of its size."""
_MANY_EMPTY = 10_000
_LONGEST_HEADER = 2**20
"""Bytes of a tar's extended header, which tarfile reads into memory whole; long names and times take some hundred."""


class Budget:
    """Counts what an archive is to take on the disk, and raises before it is too much."""

    def __init__(self, archive: Path, limits: UnpackLimits) -> None:
        self._archive, self.limits = archive, limits
        self._packed = archive.stat().st_size
        self._bytes = self._members = self._empty = 0

    def add(self, size: int, *, is_file: bool = True) -> None:
        """Count a member of ``size`` bytes; raises DataError where a limit is passed."""
        self._members += 1
        self._empty += is_file and size == 0
        self._bytes += max(size, _DISK_BLOCK)
        trust = "Where you trust it, raise that setting in params.yaml, or unpack it yourself and give the folder."
        begin = f"{self._archive} is refused: it unpacks to {amount(self._bytes)} or more"
        if self._bytes > self.limits.max_unpacked_gib * 2**30:
            raise DataError(f"{begin}, above data.max_unpacked_gib ({self.limits.max_unpacked_gib:g}). {trust}")
        ratio = self.limits.max_unpacked_ratio
        if self._bytes > max(_HARMLESS, ratio * self._packed):
            raise DataError(
                f"{begin}, more than {ratio:g} times its own size ({amount(self._packed)}), which is the limit "
                f"data.max_unpacked_ratio. {trust}"
            )
        if self._empty > _MANY_EMPTY and 2 * self._empty > self._members:
            raise DataError(
                f"{self._archive} is refused: {self._empty} of its first {self._members} files are empty. Get it again; or "
                "unpack it yourself, and give the folder of what is of use."
            )


class BoundedTarInfo(tarfile.TarInfo):
    """Refuses extended headers that would fill the memory, before they are read."""

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        extended = (
            *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
            *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
        )
        if self.type in extended and self.size > _LONGEST_HEADER:
            # No TarError: tarfile takes one here for the archive's end.
            raise DataError(
                f"{tarfile_.name!s} is refused: a header of {amount(self.size)} in it is broken or hostile."
            )
        return super()._proc_member(tarfile_)  # type: ignore[misc]
