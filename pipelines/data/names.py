"""Check the names of datasets, classes and files."""

import os
import re
import tempfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from gan_core.errors import DataError
from gan_core.images.archive_names import fold_name
from pipelines.settings.data import MAX_NAME_BYTES

MAX_CLASS_LETTERS = 200
"""Longest name of a class or an attribute. A longer one is probably a caption, or from a wrong column."""

_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def check_dataset_name(name: str) -> None:
    """Raise DataError unless ``name`` can name a folder, and the DVC file beside it, on every operating system."""
    begin = f"{_shown(name)} is not a valid name of a dataset"
    if not _DATASET.fullmatch(name):
        raise DataError(
            f"{begin}. Use letters, digits, dots, dashes and underscores, and start with a letter or digit."
        )
    if len(name) > MAX_NAME_BYTES:
        raise DataError(f"{begin}: it has {len(name)} letters, more than {MAX_NAME_BYTES}. Choose a shorter name.")
    if name.lower().split(".")[0] in _WINDOWS_DEVICES or name.endswith("."):
        raise DataError(f"{begin}: Windows does not allow it for a folder. Choose another name.")
    if name.endswith(".dvc") or name in ("dvc.yaml", "dvc.lock"):
        raise DataError(f"{begin}: DVC uses it for its own files. Choose another name.")


def check_class_names(names: Iterable[str], source: object) -> None:
    """Raise DataError for a name of a class or attribute that is too long, blank, or has control characters.

    Args:
        names: names of classes or attributes.
        source: the origin of the names, for the message.
    """
    for name in names:
        if len(name) > MAX_CLASS_LETTERS:
            raise DataError(
                f"{source}: a class name has {len(name)} letters, more than {MAX_CLASS_LETTERS} ({name[:40]!r}...). Choose "
                "the column of labels with --label-column, or shorten the name."
            )
        if not name.strip() or any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
            raise DataError(
                f"{source}: {name!r} is not a valid class name: it is blank or has control characters. Rename it."
            )


def check_told_apart(names: Iterable[str], folder: Path, origin: object) -> None:
    """Raise DataError if two paths are one for the file system of ``folder``: a file would be lost, or two classes joined.

    Many file systems of macOS and Windows do not tell ``Cat`` from ``cat``, nor the two ways to write an é in Unicode.

    Args:
        names: paths with forward slashes, relative to ``folder``.
        folder: an existing folder.
        origin: what holds the files, for the message.
    """
    spellings: dict[str, str] = {}
    known: set[str] = set()
    apart: dict[tuple[str, str], bool] = {}
    for name in names:
        parts = name.split("/")
        for path in ("/".join(parts[:end]) for end in range(1, len(parts) + 1)):
            if path in known:
                continue
            known.add(path)
            other = spellings.setdefault(fold_name(path), path)
            if other == path:
                continue
            pair = next(pair for pair in zip(other.split("/"), parts, strict=False) if pair[0] != pair[1])
            if pair not in apart:
                apart[pair] = _tells_apart(folder, *pair)
            if not apart[pair]:
                raise DataError(
                    f"{origin}: {other} and {path} are one name on the disk of {folder}, which does not tell upper from "
                    "lower case, or forms of a letter. Rename one of them, or use a disk that does."
                )


def _tells_apart(folder: Path, one: str, other: str) -> bool:
    """Whether two files in a folder beside the files of ``folder`` may have these names."""
    with tempfile.TemporaryDirectory(prefix=".gantry-", dir=folder) as probe:
        (Path(probe) / one).touch()
        return not os.path.lexists(Path(probe) / other)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}...")
