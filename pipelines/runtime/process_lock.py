"""A lock that says who holds it."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gan_core.locks import try_lock


@contextmanager
def process_lock(path: Path) -> Iterator[str]:
    """Hold the lock file at ``path`` for the length of the block, with a note of this process.

    Yields:
        An empty text; or, if another process holds the lock, its note: ``process 4321, since 2026-01-31 12:00``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        if not try_lock(file.fileno()):
            file.seek(0)
            yield file.read().strip() or "unknown process"
            return
        file.truncate(0)
        file.write(f"process {os.getpid()}, since {datetime.datetime.now():%Y-%m-%d %H:%M}")
        file.flush()
        yield ""
