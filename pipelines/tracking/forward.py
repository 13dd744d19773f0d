"""Carry the events that a worker on another host recorded to the log that the shipper sends, each exactly once.

A worker records events in a log of its own, which the mirror of its work folder brings here. Each event is appended to the log
of the same run on this host together with its position in the worker's log. The last position in the log therefore says where
to go on, also after a kill in the middle.
"""

import logging
import os
from pathlib import Path

from gan_core.files import atomic_write, link_or_copy
from gan_core.locks import locked
from pipelines.tracking.events import EVENTS, append_event, end_last_line, now_ms, read_events

LOG = logging.getLogger(__name__)

_POSITION = "worker_position"


def begin_again(target: Path) -> None:
    """Note in the log folder ``target`` that the worker's log was lost, and that the next one is brought from its start."""
    if (target / EVENTS).is_file():
        descriptor = os.open(target / EVENTS, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            with locked(descriptor):
                end_last_line(descriptor)
                append_event(descriptor, {"kind": "tags", "time": now_ms(), "values": {}, _POSITION: 0})
        finally:
            os.close(descriptor)


class Forwarder:
    """Carries the events of one log folder to another.

    Args:
        source: log folder of the worker, as mirrored here.
        target: log folder of the run on this host.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = source, target
        self._position: int | None = None

    def forward(self) -> int:
        """Append the new events of the source to the target; returns their number."""
        path = self._source / EVENTS
        if not path.is_file():
            return 0
        self._target.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._target / EVENTS, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        count = 0
        try:
            with locked(descriptor):
                end_last_line(descriptor)
                for event, position in read_events(self._source, self._find_position()):
                    if event is None:
                        LOG.warning("%s has a damaged line before byte %d, which is skipped.", path, position)
                        self._position = position  # said once, not at each poll
                        continue
                    self._bring(event.get("stored"))
                    append_event(descriptor, {**event, _POSITION: position})
                    self._position = position
                    count += 1
        finally:
            os.close(descriptor)
        return count

    def _find_position(self) -> int:
        if self._position is None:
            found = [event[_POSITION] for event, _ in read_events(self._target) if event and _POSITION in event]
            self._position = int(found[-1]) if found else 0
        return self._position

    def _bring(self, stored: str | None) -> None:
        """Have the target hold the artifact that an event names."""
        if stored is None:
            return
        source, target = self._source / stored, self._target / stored
        files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
        for path in files:
            copy = target / path.relative_to(source) if source.is_dir() else target
            if path.is_file() and not copy.exists():
                with atomic_write(copy) as temporary:  # a copy that a kill cut short would be taken for the file
                    link_or_copy(path, temporary)
