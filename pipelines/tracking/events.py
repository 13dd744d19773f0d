"""The event log on disk: one folder per run, one JSON object per line.

A log folder holds

- ``events.jsonl``: the events in order, each with its time in milliseconds since the epoch;
- ``artifacts/ID/NAME``: copies of the files that are still to be sent;
- ``cursor.json``: the progress of the shipper (see :mod:`pipelines.tracking.replay`);
- ``refused.jsonl``: events that the tracking server rejected, with the reason;
- ``open.lock``: a lock that each process holds while it has the run open (:mod:`pipelines.runtime.presence`).

Writers append under an exclusive lock on ``events.jsonl``; a line that a killed writer left incomplete is ended by the
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
OPEN = "open.lock"
_KEY = re.compile(r"[A-Za-z0-9_.:/=+-]{1,200}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LOG = logging.getLogger(__name__)

Event = dict[str, Any]


def log_folder(directory: Path | str, key: str) -> Path:
    """The folder of the run ``key`` under ``directory``.

    Raises:
        TrackingError: the key is empty, has over 200 characters, or has characters other than letters, digits and
            ``_.:/=+-``.
    """
    if not _KEY.fullmatch(key):
        raise TrackingError(
            f"'{key}' is not a valid run key: use 1 to 200 letters, digits and _ . : / = + - (it becomes an MLflow tag)."
        )
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}", key)
    # Two keys could have the same shortened name: a digest of the key makes it unique.
    name = key if plain else f"{re.sub('[^A-Za-z0-9_-]', '-', key)[:80]}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return Path(directory) / name


def find_logs(directory: Path | str) -> list[Path]:
    """All log folders under ``directory``, at any depth, sorted; empty if the directory does not exist."""
    found = []
    for folder, subfolders, files in os.walk(directory):
        if EVENTS in files:
            found.append(Path(folder))
            subfolders.clear()  # the subfolders hold copies of artifacts
    return sorted(found)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def append_event(descriptor: int, event: Event) -> None:
    """Append one event to a log opened with O_APPEND; the caller holds the lock.

    If a killed writer left the last line without its end, the line is ended first, so that no other event is lost.
    Surrogates, such as invalid bytes of a file name, are written as ``\\udcff``.
    """
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    # Two backslashes: with one, a JSON reader would restore the surrogate, which no server accepts.
    line = _SURROGATE.sub(lambda found: f"\\\\u{ord(found[0]):04x}", text).encode() + b"\n"
    size = os.fstat(descriptor).st_size
    if _is_unfinished(descriptor):
        line = b"\n" + line
    try:
        while line:
            line = line[os.write(descriptor, line) :]
    except OSError:  # a full disk: remove the incomplete line, which would count as lost
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def end_last_line(descriptor: int) -> None:
    """End the last line of a log if a killed writer left it without its end; the caller holds the lock.

    It may be a whole event. Call this before reading what the log has: :func:`read_events` does not see such a line, and the
    next event would turn it into one.
    """
    if _is_unfinished(descriptor):
        os.write(descriptor, b"\n")


def _is_unfinished(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def read_events(folder: Path, offset: int = 0, *, containing: bytes = b"") -> Iterator[tuple[Event | None, int]]:
    """Yield the events of a log from byte ``offset`` on, each with the offset of its end.

    A line that is not a valid event, left by a killed writer, gives None. So does one without the bytes ``containing``, which
    is not parsed. A last line without its end is not yielded.
    """
    with open(folder / EVENTS, "rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield _parse(line, folder) if containing in line else None, offset


def count_events(folder: Path, offset: int = 0) -> int:
    """Number of complete lines of a log from byte ``offset`` on."""
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
        _LOG.warning("%s: skipped an incomplete line of a killed process: %.60r", folder / EVENTS, line)
    return None
