"""The work of stages in the storage, ``work/STAGE/KEY``: what is finished is removed as in the work directories of a host.

A stage that has finished marks its work here. When a stage finishes with another key, the marked work of earlier keys is
removed; unfinished work is kept, and so is work whose lease somebody holds.
"""

from contextlib import suppress

from gan_core.errors import StageError
from pipelines.storage.lease import current_holder, lease
from pipelines.storage.objects import MissingObjectError, Storage

FINISHED = "finished"
"""Name of the mark."""


def work_name(stage: str, key: str) -> str:
    """Name of the work of a stage in the storage, and of the lease on it."""
    return f"work/{stage}/{key}"


def mark_finished(storage: Storage, stage: str, key: str) -> None:
    """Note that the stage is finished with this key, if it has left anything in the storage."""
    name = work_name(stage, key)
    if any(True for _ in storage.entries(name)):
        storage.write(f"{name}/{FINISHED}", b"")


def prune_finished(storage: Storage, stage: str, key: str) -> list[str]:
    """Remove the finished work of the stage with other keys than ``key``; returns the removed names.

    Leases are kept: a few bytes each, and what they count must never begin again.
    """
    removed = []
    for other in storage.subfolders(f"work/{stage}"):
        name = work_name(stage, other)
        if other == key or not is_finished(storage, name) or current_holder(storage, name):
            continue
        with suppress(StageError), lease(storage, name):  # somebody may have taken it meanwhile
            remove_work(storage, name)
            removed.append(name)
    return removed


def remove_work(storage: Storage, name: str) -> None:
    """Remove the work ``name``, whose lease the caller holds."""
    # The mark goes last, so that the next call completes a removal that was interrupted.
    storage.delete(*(entry.name for entry in storage.entries(name) if entry.name != f"{name}/{FINISHED}"))
    storage.delete(f"{name}/{FINISHED}")


def is_finished(storage: Storage, name: str) -> bool:
    """Whether :func:`mark_finished` has marked the work ``name``."""
    try:
        storage.read(f"{name}/{FINISHED}")
    except MissingObjectError:
        return False
    return True
