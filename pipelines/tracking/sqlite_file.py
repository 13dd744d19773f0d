"""Whether a SQLite file of MLflow's or Prefect's is whole enough to be opened, and what to do where it is not."""

import contextlib
import sqlite3
from pathlib import Path

from gan_core.errors import TrackingError

_HEADER = b"SQLite format 3\x00"
_DAMAGE = ("disk image is malformed", "not a database", "database corruption", "malformed database schema")
"""What SQLite says of a file that is none of its own any more; other errors (locked, full) have other remedies."""


def check_database(path: Path, *, title: str, keeps: str) -> None:
    """Raise TrackingError, which names the file and the remedy, where ``path`` is no database that can be opened.

    One that is not there yet, or that is empty, passes: its owner makes its tables. Pages in the middle of a large file are
    not read; :func:`is_damage` recognises what SQLite says when it meets them.

    Args:
        path: the file.
        title: whose it is: ``tracking database``.
        keeps: what is lost with it, for the remedy.
    """
    if path.is_dir():
        raise TrackingError(f"The {title} {path} is a folder. Move it away: a database is made in its place.")
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        begin = file.read(len(_HEADER))
    if begin != _HEADER:
        raise TrackingError(damaged(path, "it does not begin as a SQLite file does", title=title, keeps=keeps))
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as opened:
        try:
            opened.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                raise TrackingError(damaged(path, str(error), title=title, keeps=keeps)) from error


def is_damage(error: BaseException) -> bool:
    """Whether an error, or one that it came of, is SQLite's word for a damaged file."""
    seen: BaseException | None = error
    while seen is not None:
        if any(words in str(seen) for words in _DAMAGE):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def damaged(path: Path, why: str, *, title: str, keeps: str) -> str:
    """What to say of a damaged database: where it is and what may be done."""
    return (
        f"The {title} {path} is damaged ({why}). Put a backup in its place, or save what can be read (sqlite3 {path.name} "
        f".recover). Or move it away (mv {path} {path}.damaged): a new one is made, without {keeps}."
    )
