"""The section ``data`` of params.yaml: which pictures, and what an archive of them may unpack to."""

import os
from dataclasses import dataclass
from pathlib import Path

from gan_core.config import check


@dataclass(frozen=True, kw_only=True)
class UnpackLimits:
    """What an archive may unpack to, judged by what it says of itself; what is longer than it says is refused, too."""

    max_unpacked_gib: float = 100.0
    """GiB on the disk that an archive may unpack to."""
    max_unpacked_ratio: float = 100.0
    """How many times its own size an archive may unpack to, where that is more than 64 MiB. Pictures hardly compress."""

    def __post_init__(self) -> None:
        for name in ("max_unpacked_gib", "max_unpacked_ratio"):
            check(getattr(self, name) > 0, f"{name}: must be above 0, got {getattr(self, name)}.")


MAX_NAME_BYTES = 200
"""Of a data set's name: file systems take 255, and files beside its folder have longer names."""


@dataclass(frozen=True, kw_only=True)
class DataSettings(UnpackLimits):
    """Which raw dataset, and what ``gantry data add`` may unpack."""

    name: str
    """Folder under data/raw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = self.name == Path(self.name).name and self.name not in ("", "..") and self.name.isprintable()
        check(plain, f"name: {self.name!r} is not a plain folder name.")
        check(
            len(os.fsencode(self.name)) <= MAX_NAME_BYTES,
            f"name: must be at most {MAX_NAME_BYTES} bytes long, got {len(os.fsencode(self.name))}.",
        )
