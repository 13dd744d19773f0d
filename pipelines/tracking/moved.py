"""A SQLite tracking database that was moved or copied together with its files: correct where MLflow looks for them.

MLflow records an absolute place for each experiment, run, model and version. After a checkout was moved, it would find none of
them; in a copy of a checkout, it would read and write the files of the original.
"""

import contextlib
import logging
import shlex
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gan_core.errors import TrackingError

FILES = "mlartifacts"
"""Name of the folder with the files of runs and models, beside the database."""
_OWNERS = (("runs", "artifact_uri"), ("logged_models", "artifact_location"))
"""Table and column with the places of folders that hold files."""
_PLACES = (
    *_OWNERS,
    ("experiments", "artifact_location"),
    *(("model_versions", c) for c in ("source", "storage_location")),
)
_warned: set[tuple[Path, str]] = set()
_LOG = logging.getLogger(__name__)


def correct_places(database: Path) -> None:
    """Make the places in ``database`` lead to the folder beside it, if all of its files are there.

    Nothing changes if there is no such folder: the database alone was moved, and its files are where they were.

    Raises:
        TrackingError: the places must be corrected, and the file cannot be written.
    """
    here = database.parent.absolute() / FILES
    if not here.is_dir() or not database.is_file():
        return
    with contextlib.closing(sqlite3.connect(database)) as opened:
        tables = {name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables.issuperset(table for table, _ in _PLACES):
            return  # MLflow has not finished it
        places = [str(place) for (place,) in opened.execute("SELECT artifact_location FROM experiments")]
        for root in sorted({place.rpartition(f"/{FILES}/")[0] for place in places if f"/{FILES}/" in place}):
            old, new = f"{root}/{FILES}", here.as_uri()
            if old == new or not old.startswith("file:///") or _is_same(_path(old), here):
                continue
            folders = [place for table, column in _OWNERS for place in _below(opened, table, column, old)]
            left = [place for place in folders if _path(place).exists() and not _path(new + place[len(old) :]).exists()]
            if left:
                _warn(database, old, here, left)
                continue
            try:
                _replace(opened, old, new)
            except sqlite3.OperationalError as error:
                raise TrackingError(
                    f"The tracking database {database} was moved or copied from {_path(root)}, and the places of its files "
                    f"cannot be corrected in it ({error}). Make it writable, and end other processes that use it."
                ) from error
            if folders:
                _LOG.warning(
                    "The tracking database %s was moved or copied from %s with its files, which MLflow now finds in %s (runs "
                    "and models: %d).",
                    *(database, _path(root), here, len(folders)),
                )


def _warn(database: Path, old: str, here: Path, left: list[str]) -> None:
    """Say once in a process that files were not moved or copied with the database."""
    if (database, old) in _warned:
        return
    _warned.add((database, old))
    _LOG.warning(
        "The tracking database %s was moved or copied, but not all of its files: those of %d runs and models, and all new "
        "ones, are in %s. To use those beside the database, copy what is missing: cp -an %s/. %s",
        *(database, len(left), _path(old), shlex.quote(str(_path(old))), shlex.quote(str(here))),
    )


def _below(opened: sqlite3.Connection, table: str, column: str, root: str) -> list[str]:
    """The places in a column that are below ``root``."""
    query = f"SELECT {column} FROM {table} WHERE substr({column}, 1, ?) = ?"
    return [place for (place,) in opened.execute(query, (len(root) + 1, f"{root}/"))]


def _replace(opened: sqlite3.Connection, old: str, new: str) -> None:
    """Replace the root ``old`` of all places, at once."""
    with opened:
        for table, column in _PLACES:
            opened.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (new, len(old) + 1, len(old) + 1, f"{old}/"),
            )


def _path(place: str) -> Path:
    return Path(unquote(urlsplit(place).path))


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths are the same folder, such as a mount of it in two places."""
    return one.exists() and one.samefile(other)
