"""What a data set and a class may be called."""

import re
import unicodedata
from collections.abc import Iterable

from gan_core.errors import DataError
from pipelines.settings.data import MAX_NAME_BYTES

MAX_CLASS_LETTERS = 200
"""Of the name of a class or an attribute. A longer one is a text about one picture, or a mistaken column."""

_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def check_dataset_name(name: str) -> None:
    """Raise DataError unless ``name`` can name a folder of raw data on every system, and a file of DVC's beside it."""
    begin = f"{_shown(name)} cannot be a dataset's name"
    if not _DATASET.fullmatch(name):
        raise DataError(
            f"{begin}: use letters, digits, dots, dashes and underscores, and begin with a letter or a digit."
        )
    if len(name) > MAX_NAME_BYTES:
        raise DataError(f"{begin}: it has {len(name)} letters, more than {MAX_NAME_BYTES}. Choose a shorter one.")
    if name.lower().split(".")[0] in _WINDOWS_DEVICES or name.endswith("."):
        raise DataError(f"{begin}: Windows allows no such folder. Choose another.")
    if name.endswith(".dvc") or name in ("dvc.yaml", "dvc.lock"):
        raise DataError(f"{begin}: DVC calls its own files so. Choose another.")


def check_class_names(names: Iterable[str], source: object) -> None:
    """Raise DataError for a class or attribute whose name cannot be shown on one line.

    Args:
        names: as they came with the data.
        source: where they come from, for the message.
    """
    for name in names:
        if len(name) > MAX_CLASS_LETTERS:
            raise DataError(
                f"{source}: a class name has {len(name)} letters, more than {MAX_CLASS_LETTERS} ({name[:40]!r}...). Choose "
                "the column of labels with --label-column, or shorten the name."
            )
        if not name.strip() or any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
            raise DataError(
                f"{source}: {name!r} cannot be a class name: it is blank or has control characters. Rename it."
            )


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}...")
