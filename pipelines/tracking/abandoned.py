"""End abandoned runs: those whose processes were killed before they could finish."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gan_core.locks import locked
from pipelines.runtime.guard import is_process_alive
from pipelines.runtime.presence import is_held
from pipelines.tracking.events import EVENTS, OPEN, append_event, find_logs, read_events

_LAST_LINE = 4096


def end_abandoned(directory: Path | str) -> list[str]:
    """Finish all runs under ``directory`` whose processes are gone as KILLED, at the time of their last event.

    A run that is opened again, for example by a stage that resumes, continues. Returns the names of the finished runs.
    """
    names: list[str] = []
    for folder in find_logs(directory):
        with suppress(FileNotFoundError):  # another process has removed a log that was sent completely
            names += _end(folder)
    return names


def _end(folder: Path) -> Iterator[str]:
    descriptor = os.open(folder / EVENTS, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    try:
        if _is_finished(descriptor):
            return
        with locked(descriptor):  # a process that opens the run now is seen below, or waits
            name, last = folder.name, 0
            processes: list[str | None] = []
            for event, _ in read_events(folder):
                if event is None:
                    continue
                last = event["time"]
                if event["kind"] == "finish":
                    processes = []
                elif event["kind"] == "open":
                    name = event["name"]
                    processes.append(event.get("process"))
            if processes and not _is_open(folder, processes):
                append_event(descriptor, {"kind": "finish", "time": last, "status": "KILLED"})
                yield name
    finally:
        os.close(descriptor)


def _is_open(folder: Path, processes: list[str | None]) -> bool:
    """Whether one of ``processes`` still has the log open. Older versions of Gantry recorded no identity, or held no lock."""
    if (held := is_held(folder / OPEN)) is not None:
        return held
    return any(process is None or is_process_alive(process) for process in processes)


def _is_finished(descriptor: int) -> bool:
    """Whether the last event finishes the run. Saves reading the whole log of most runs."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _LAST_LINE, max(size - _LAST_LINE, 0))
    last = tail.removesuffix(b"\n").rpartition(b"\n")[2]
    try:
        return bool(json.loads(last)["kind"] == "finish")
    except (ValueError, TypeError, KeyError):
        return False
