"""What the storage holds and who uses it, and the removal of what nobody has used for a while.

Content (``data/DIGEST``, ``weights/DIGEST``) is in use while one of its users holds its lease, and work (``work/STAGE/KEY``)
while somebody holds the lease on it. A holder that has not renewed its lease for ten minutes counts as dead. All times are
those of the storage. Content that is needed again is sent again; unfinished work begins anew.
"""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from gan_core.errors import StageError
from pipelines.storage.folders import MANIFEST
from pipelines.storage.lease import Holder, current_holder, lease
from pipelines.storage.objects import Entry, Storage
from pipelines.storage.uses import USES
from pipelines.storage.work import FINISHED, remove_work

_DEAD_SECONDS = 600.0
_DEPTHS = {"data": 2, "weights": 2, "work": 3}
"""Number of parts in the name of a thing, by its first part."""
OTHER = "other"
"""Name of the rest: leases, notes of use, and what Gantry did not write."""


@dataclass(kw_only=True)
class Stored:
    """A thing in the storage: prepared data, weights, or the work of a stage."""

    name: str
    """``data/DIGEST``, ``weights/DIGEST``, ``work/STAGE/KEY`` or :data:`OTHER`."""
    size: int = 0
    """Bytes."""
    objects: int = 0
    unused_days: float = 0.0
    """Since it was written or taken into use last."""
    finished: bool = False
    """Whether it is the work of a stage that has finished."""
    held: list[tuple[str, Holder]] = field(default_factory=list)
    """The leases whose holders use it."""

    @property
    def removable(self) -> bool:
        """Whether nobody uses it."""
        return self.name != OTHER and not self.held


def list_stored(storage: Storage) -> list[Stored]:
    """What is in the storage, by name; the rest comes last. Reads the names of all objects, one page at a time.

    Raises:
        StorageError: the storage cannot be reached.
    """
    found: dict[str, Stored] = {}
    changed: dict[str, float] = defaultdict(float)
    users: dict[str, set[str]] = defaultdict(set)
    rest = Stored(name=OTHER)
    for entry in storage.entries():
        name = _thing(entry.name)
        used, _, user = _split_use(entry.name)
        if used:
            changed[used] = max(changed[used], entry.modified)
            users[used].add(user)
        thing = found.setdefault(name, Stored(name=name)) if name else rest
        thing.size, thing.objects = thing.size + entry.size, thing.objects + 1
        if name:
            changed[name] = max(changed[name], entry.modified)
            thing.finished |= entry.name == f"{name}/{FINISHED}"
    now = storage.clock()
    for name, thing in found.items():
        thing.unused_days = max(0.0, now - changed[name]) / 86400
        thing.held = _holders(storage, {name} if name.startswith("work/") else users[name], now)
    return [*sorted(found.values(), key=lambda thing: thing.name), *([rest] if rest.objects else [])]


def prune(storage: Storage, things: Iterable[Stored]) -> list[Stored]:
    """Remove ``things`` unless somebody has taken them into use meanwhile; returns those that were removed.

    Raises:
        StorageError: the storage cannot be reached. What was not removed completely is removed by the next call.
    """
    return [thing for thing in things if thing.removable and _remove(storage, thing.name)]


def _remove(storage: Storage, name: str) -> bool:
    if name.startswith("work/"):
        with suppress(StageError), lease(storage, name):
            remove_work(storage, name)
            return True
        return False
    with lease(storage, name, wait=None):
        notes = list(storage.entries(f"{USES}/{name}"))
        if _holders(storage, {_split_use(note.name)[2] for note in notes}, storage.clock()):
            return False
        storage.delete(f"{name}/{MANIFEST}")  # first: what is left is not complete
        storage.delete_below(name)
        storage.delete(*(note.name for note in notes))
        return True


def _thing(name: str) -> str:
    """Name of the thing to which an object belongs; empty for the rest."""
    parts = name.split("/")
    depth = _DEPTHS.get(parts[0], len(parts))
    return "/".join(parts[:depth]) if len(parts) > depth else ""


def _split_use(name: str) -> tuple[str, str, str]:
    """Split the name of a note into what is used, a slash and the user; three empty texts for any other object."""
    prefix, _, note = name.partition("/")
    used = _thing(note) if prefix == USES else ""
    return (used, "/", note[len(used) + 1 :]) if used else ("", "", "")


def _holders(storage: Storage, leases: Iterable[str], now: float) -> list[tuple[str, Holder]]:
    """The names and holders of those of ``leases`` that are held by somebody alive."""
    found = []
    for name in sorted(leases):
        holder = current_holder(storage, name)
        if holder is not None and now - _last_beat(storage, name) < _DEAD_SECONDS:
            found.append((name, holder))
    return found


def _last_beat(storage: Storage, name: str) -> float:
    def newest(entries: Iterable[Entry]) -> float:
        return max((entry.modified for entry in entries), default=0.0)

    return newest(storage.entries(f"leases/{name}"))
