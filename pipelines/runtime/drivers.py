"""Leases of drivers: that of a driver that is known to be dead is taken over at once.

A lease in the storage lasts for half a minute after its last renewal. But of a process of this machine it is known that it has
ended, and so it is of a driver of the same Ray cluster: Ray has ended what it had started there.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from pipelines.runtime.guard import global_identity, is_running
from pipelines.storage.lease import Holder, Lease, lease
from pipelines.storage.objects import Storage

LOG = logging.getLogger(__name__)
_PROCESS, _SESSION, _JOB = "process", "ray_session", "ray_job"


def driver_lease(
    storage: Storage, name: str, waiting: Callable[[Holder], None] = lambda holder: None
) -> AbstractContextManager[Lease]:
    """Hold the lease ``name`` as this process, which may be the driver of a Ray cluster, for the length of the block.

    Args:
        storage: where all hosts look.
        name: of the thing that one process at a time may work on.
        waiting: called once with another holder, if there is one to wait for.

    Raises:
        StageError: another process holds the lease and renews it.
        StorageError: the storage cannot be reached.
    """
    return lease(storage, name, labels=identify(), is_gone=lambda holder: is_gone(holder.labels), waiting=waiting)


def identify() -> dict[str, str]:
    """What others can tell this process by: its identity on this host and, on a Ray cluster, its job there."""
    labels = {_PROCESS: global_identity()}
    if (ray := _connected_ray()) is not None:
        context = ray.get_runtime_context()
        labels |= {_SESSION: context.get_session_name(), _JOB: context.get_job_id()}
    return labels


def is_gone(labels: Mapping[str, str]) -> bool:
    """Whether the process with these labels is known to be dead. One of which nothing is known is taken to be alive."""
    if is_running(labels.get(_PROCESS, "")) is False:
        return True
    ray = _connected_ray()
    if ray is None or labels.get(_SESSION) != ray.get_runtime_context().get_session_name():
        return False
    try:
        jobs = {job["JobID"]: job["IsDead"] for job in ray._private.state.state.job_table()}
    except Exception as error:  # Ray's control store may be away, and this part of Ray may change
        LOG.debug("Ray does not say which drivers live: %s", error)
        return False
    return bool(jobs.get(labels.get(_JOB)))


def _connected_ray():  # type: ignore[no-untyped-def]  # the module
    """Ray, if this process is connected to a cluster. Not imported for it: that takes seconds."""
    ray = sys.modules.get("ray")
    return ray if ray is not None and ray.is_initialized() else None
