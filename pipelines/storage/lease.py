"""A lease on a name: at most one process of all hosts makes progress under it, and a lost host's lease can be taken over.

The only operation that decides is :meth:`Storage.create`: taking the lease means creating the object of the next epoch. The
holder rewrites the object ``beat`` of its epoch. Others watch it by their own clock (the hosts' clocks are never compared) and
take the next epoch if it has not changed for ``ttl`` seconds in which the storage answered them. A holder that was cut off and
comes back finds a higher epoch.

A lease alone does not stop such a holder between two checks: what it writes must carry its epoch or be created only once (see
:mod:`pipelines.storage.mirror`). That is what Kleppmann calls a fencing token (How to do distributed locking, 2016).
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from gan_core.errors import StageError
from pipelines.storage.objects import MissingObjectError, Storage, StorageError

LOG = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
TTL_SECONDS = 30.0
_RELEASED = "released"


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as it has written."""

    epoch: int
    host: str
    process: int
    labels: Mapping[str, str] = field(default_factory=dict)
    """What others can tell the process by."""


class Lease:
    """A held lease. It is renewed by a thread until :meth:`release`."""

    def __init__(self, storage: Storage, name: str, epoch: int, beat_seconds: float) -> None:
        self.epoch = epoch
        """Number of this holder, higher than that of every earlier holder."""
        self._storage, self._name = storage, name
        self._every = beat_seconds
        self._over = threading.Event()
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> str | None:
        """Why the lease is lost, or None while it is held."""
        return self._lost

    def check(self) -> None:
        """Raise StageError if the lease is lost."""
        if self._lost:
            raise StageError(self._lost)

    def release(self) -> None:
        """Give the lease up, so that the next one need not wait."""
        self._over.set()
        self._thread.join()
        if not self._lost:
            with suppress(StorageError):  # then it is taken over when its time is over
                self._storage.write(_beat(self._name, self.epoch), _RELEASED.encode())

    def _renew(self) -> None:
        number = 0
        while not self._over.wait(self._every):
            number += 1
            try:
                newest = max(_epochs(self._storage, self._name), default=0)
                if newest > self.epoch:
                    holder = _read_holder(self._storage, self._name, newest)
                    self._lost = (
                        f"Another process has taken over {self._name}: process {holder.process} on {holder.host}. This host "
                        "was cut off from the storage or paused for too long. The other one goes on."
                    )
                    return
                self._storage.write(_beat(self._name, self.epoch), str(number).encode())
            except StorageError as error:
                LOG.warning("The lease on %s cannot be renewed: %s", self._name, error)


@contextmanager
def lease(
    storage: Storage,
    name: str,
    *,
    wait: float | None = 0.0,
    ttl: float = TTL_SECONDS,
    beat_seconds: float = BEAT_SECONDS,
    labels: Mapping[str, str] = {},
    is_gone: Callable[[Holder], bool] = lambda holder: False,
    waiting: Callable[[Holder], None] = lambda holder: None,
) -> Iterator[Lease]:
    """Hold the lease ``name`` for the length of the block.

    Args:
        storage: where all hosts look.
        name: of the thing that one process at a time may work on.
        wait: seconds to wait for a holder that renews its lease; None waits without end. A holder that does not renew it is
            waited for and replaced after ``ttl`` in any case.
        ttl: seconds without renewal, while the storage answers this process, after which a lease is taken over. All processes
            must use the same.
        beat_seconds: seconds between two renewals.
        labels: what others can tell this process by.
        is_gone: whether a holder is known to be dead: its lease is taken over at once.
        waiting: called once with the holder if there is one to wait for.

    Raises:
        StageError: another process holds the lease and renews it.
    """
    held = _acquire(storage, name, wait, ttl, beat_seconds, labels, is_gone, waiting)
    try:
        yield held
    finally:
        held.release()


def _acquire(
    storage: Storage,
    name: str,
    wait: float | None,
    ttl: float,
    beat_seconds: float,
    labels: Mapping[str, str],
    is_gone: Callable[[Holder], bool],
    waiting: Callable[[Holder], None],
) -> Lease:
    me = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "labels": dict(labels),
        "token": uuid.uuid4().hex,
    }
    began, seen, told, renewals = time.monotonic(), None, False, -1
    silent, looked = 0.0, time.monotonic()
    while True:
        newest = max(_epochs(storage, name), default=0)
        state = (newest, _read_beat(storage, name, newest)) if newest else None
        # While the storage did not answer this process, the holder may have been unable to renew its lease, too.
        silent, looked = silent + min(time.monotonic() - looked, beat_seconds), time.monotonic()
        if state != seen:
            seen, silent, renewals = state, 0.0, renewals + 1
        free = state is None or state[1] == _RELEASED or silent > ttl
        if free or is_gone(_read_holder(storage, name, newest)):
            if storage.create(_epoch(name, newest + 1), json.dumps(me, sort_keys=True).encode()):
                return Lease(storage, name, newest + 1, beat_seconds)
            continue
        holder = _read_holder(storage, name, newest)
        if not told:
            told = True
            waiting(holder)
        # One that has renewed its lease while this process watched is alive.
        if wait is not None and renewals > 0 and time.monotonic() - began > wait:
            raise StageError(
                f"{name} is in use by process {holder.process} on host {holder.host}, which renews its lease. Wait for it, or "
                "end that process."
            )
        time.sleep(min(1.0, beat_seconds / 4))


def current_holder(storage: Storage, name: str) -> Holder | None:
    """Who took the lease ``name`` last and has not released it; it may have died since. None if nobody did."""
    newest = max(_epochs(storage, name), default=0)
    if not newest or _read_beat(storage, name, newest) == _RELEASED:
        return None
    return _read_holder(storage, name, newest)


def _epochs(storage: Storage, name: str) -> list[int]:
    parts = (entry.name.rpartition("/")[2] for entry in storage.entries(f"leases/{name}/epochs"))
    return [int(part) for part in parts if part.isdigit()]


def _epoch(name: str, number: int) -> str:
    return f"leases/{name}/epochs/{number:08d}"


def _beat(name: str, epoch: int) -> str:
    return f"leases/{name}/beats/{epoch:08d}"


def _read_beat(storage: Storage, name: str, epoch: int) -> str:
    try:
        return storage.read(_beat(name, epoch)).decode(errors="replace")
    except MissingObjectError:  # its holder has not renewed it yet
        return ""


def _read_holder(storage: Storage, name: str, epoch: int) -> Holder:
    try:
        note: Any = json.loads(storage.read(_epoch(name, epoch)))
        labels = {str(label): str(value) for label, value in note.get("labels", {}).items()}
        return Holder(epoch, str(note["host"]), int(note["process"]), labels)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{storage.uri}/{_epoch(name, epoch)} is damaged. Remove {storage.uri}/leases/{name}."
        ) from error
