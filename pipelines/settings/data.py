"""The section ``data`` of params.yaml: the raw dataset, and limits on unpacking archives."""

import os
from dataclasses import dataclass
from pathlib import Path

from gan_core.config import check


@dataclass(frozen=True, kw_only=True)
class UnpackLimits:
    """Limits on the unpacked size of an archive.

    They apply to the sizes in the headers of the archive. A member that unpacks to more than its header states is refused.
    """

    max_unpacked_gib: float = 100.0
    """Largest unpacked size of an archive, GiB."""
    max_unpacked_ratio: float = 100.0
    """Largest ratio of an archive's unpacked size to its own size. Archives that unpack to at most 64 MiB are exempt.
    Pictures hardly compress: a high ratio suggests a decompression bomb."""

    def __post_init__(self) -> None:
        for name in ("max_unpacked_gib", "max_unpacked_ratio"):
            check(getattr(self, name) > 0, f"{name}: must be above 0, got {getattr(self, name)}.")


MAX_NAME_BYTES = 200
"""Longest name of a dataset. File systems allow 255 bytes, and files beside its folder have longer names."""


@dataclass(frozen=True, kw_only=True)
class DataSettings(UnpackLimits):
    """The raw dataset, and the limits of ``gantry data add``."""

    name: str
    """Name of the dataset: its folder under data/raw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = self.name == Path(self.name).name and self.name not in ("", "..") and self.name.isprintable()
        check(plain, f"name: must be the plain name of a folder under data/raw, got {self.name!r}.")
        check(
            len(os.fsencode(self.name)) <= MAX_NAME_BYTES,
            f"name: must be at most {MAX_NAME_BYTES} bytes long, got {len(os.fsencode(self.name))}.",
        )
