"""Check the SQLite files of MLflow and Prefect for damage, and explain how to recover."""

import contextlib
import errno
import importlib.util
import os
import re
import sqlite3
from functools import cache
from pathlib import Path

from gan_core.errors import TrackingError

_DAMAGE = ("disk image is malformed", "not a database", "database corruption", "malformed database schema")
"""Parts of SQLite's messages about damaged files; other errors (locked, disk full) have other remedies."""
_REVISION = re.compile(r"^revision\b[^=\n]*=\s*[\"'](\w+)", re.MULTILINE)
_DOWN = re.compile(r"^down_revision\b[^=\n]*=\s*(.*)", re.MULTILINE)
"""Assignments in a file of Alembic, which both use to change the schema from version to version."""


def check_database(path: Path, *, title: str, contents: str) -> None:
    """Check that ``path`` is a SQLite database that can be opened.

    A missing or empty file is accepted, because its owner creates the tables. Damage in the middle of a large file is not
    detected here; :func:`is_damage` recognises the error that SQLite raises on reading it.

    Args:
        path: the file.
        title: name of the database in messages, such as ``tracking database``.
        contents: what is lost without it, for the message.

    Raises:
        TrackingError: the file is damaged; names the file and the remedy.
        PermissionError: the file may not be read.
    """
    if path.is_dir():
        raise TrackingError(f"The {title} {path} is a folder. Move it away; a new database is then created.")
    if not path.exists() or not path.stat().st_size:
        return
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    # Only SQLite may open the file. Closing a file removes all locks that the process holds on it (POSIX), also those of a
    # transaction of another thread, so that two processes would write at once and destroy the database.
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as opened:
        try:
            opened.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                raise TrackingError(damage_message(path, str(error), title=title, contents=contents)) from error


def read_schema(path: Path) -> str | None:
    """Alembic's name of the schema of a SQLite file; None if it has none (yet), or cannot be read."""
    if not path.is_file():
        return None
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as opened:
        try:
            found = opened.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.DatabaseError:  # its owner has not finished it, or reports what is wrong
            return None
    return str(found[0]) if found else None


@cache
def known_schemas(package: str, folder: str) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the schemas that an installed package knows, and of the newest of these.

    They are read from the files in ``folder`` of the package, because importing it takes seconds. Both are empty if the package
    keeps them elsewhere.
    """
    spec = importlib.util.find_spec(package)
    places = (spec and spec.submodule_search_locations) or ()
    files = [path for place in places for path in sorted(Path(place, folder).glob("*.py"))]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    known = {found[1] for text in texts if (found := _REVISION.search(text))}
    older = {name for text in texts if (found := _DOWN.search(text)) for name in re.findall(r"\w+", found[1])}
    return frozenset(known), frozenset(known - older)


def is_damage(error: BaseException) -> bool:
    """Whether an error or one of its causes is SQLite's message about a damaged file."""
    seen: BaseException | None = error
    while seen is not None:
        if any(words in str(seen) for words in _DAMAGE):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def damage_message(path: Path, why: str, *, title: str, contents: str) -> str:
    """Message about a damaged database, with the remedies."""
    return (
        f"The {title} {path} is damaged ({why}). Restore a backup, or recover what is readable (sqlite3 {path.name} "
        f".recover). Or move it away (mv {path} {path}.damaged); a new one is then created, without {contents}."
    )
