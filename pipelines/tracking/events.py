"""The event log on disk: one folder a run, one JSON object a line.

A log folder holds

- ``events.jsonl``: what was logged, in order, each with the time (milliseconds since the epoch) at which it was logged;
- ``artifacts/ID/NAME``: copies of the files that still have to be sent;
- ``cursor.json``: how far the shipper got (see :mod:`pipelines.tracking.replay`);
- ``refused.jsonl``: what the tracking server would not take, and why.

Writers append under an exclusive lock on ``events.jsonl``; a line that a killed writer left unfinished is ended by the
next writer and skipped by readers.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from gan_core.errors import TrackingError

EVENTS, ARTIFACTS, CURSOR, REFUSED = "events.jsonl", "artifacts", "cursor.json", "refused.jsonl"
_KEY = re.compile(r"[A-Za-z0-9_.:/=+-]{1,200}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LOG = logging.getLogger(__name__)

Event = dict[str, Any]


def log_folder(directory: Path | str, key: str) -> Path:
    """The folder of the run ``key`` under ``directory``.

    Raises:
        TrackingError: the key is empty, over 200 characters or holds others than letters, digits and ``_.:/=+-``.
    """
    if not _KEY.fullmatch(key):
        raise TrackingError(
            f"'{key}' cannot name a run: use 1 to 200 letters, digits and _ . : / = + - (it becomes a tag)."
        )
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}", key)
    # A shortened or changed name could be shared by two keys: a digest of the key keeps them apart.
    name = key if plain else f"{re.sub('[^A-Za-z0-9_-]', '-', key)[:80]}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return Path(directory) / name


def find_logs(directory: Path | str) -> list[Path]:
    """Every log folder under ``directory``, at any depth, sorted; none when the directory does not exist."""
    found = []
    for folder, subfolders, files in os.walk(directory):
        if EVENTS in files:
            found.append(Path(folder))
            subfolders.clear()  # what lies below are copies of artifacts
    return sorted(found)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def append(descriptor: int, event: Event) -> None:
    """Append one event to a log opened with O_APPEND; the caller holds the lock.

    A last line without its end was left by a writer that died: it is ended first, so that only that line is lost.
    What is no text in UTF-8, such as bytes of a file's name, is written as ``\\udcff``.
    """
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    # Two backslashes: a reader of JSON takes one as the surrogate itself, which no server accepts.
    line = _SURROGATE.sub(lambda found: f"\\\\u{ord(found[0]):04x}", text).encode() + b"\n"
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    try:
        while line:
            line = line[os.write(descriptor, line) :]
    except OSError:  # a full disk: half a line would be counted as lost
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def read_events(folder: Path, offset: int = 0) -> Iterator[tuple[Event | None, int]]:
    """Yield the events of a log from byte ``offset`` on, each with the offset of its end.

    A line that is no event (left by a writer that died) is None. A last line that has no end yet is not yielded.
    """
    with open(folder / EVENTS, "rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield _parse(line, folder), offset


def count_events(folder: Path, offset: int = 0) -> int:
    """Complete lines of a log from byte ``offset`` on."""
    with open(folder / EVENTS, "rb") as file:
        file.seek(offset)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def _parse(line: bytes, folder: Path) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and isinstance(event.get("kind"), str) and isinstance(event.get("time"), int):
        return event
    if line.strip():
        _LOG.warning("%s: skipped a line that a killed process left unfinished: %.60r", folder / EVENTS, line)
    return None
