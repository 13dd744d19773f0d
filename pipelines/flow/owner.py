"""Mark flow runs whose process was killed as crashed; Prefect would show them as Running forever."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypeFilter
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from pipelines.flow.flow_runs import FLOW_NAME, read_flow_runs
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import is_process_alive, process_identity
from pipelines.runtime.presence import hold, is_held

LOG = logging.getLogger(__name__)

_IDENTITY = re.compile(r".+:\d+:\d+")
"""The format of :func:`pipelines.runtime.guard.process_identity`."""
OWNER = "gantry.owner"
CHECKOUT = "gantry.checkout"


@contextmanager
def own_run(run: UUID, checkout: Checkout) -> Iterator[None]:
    """Label a flow run with this process and its checkout, and hold the run's lock for the length of the block."""
    lock = _lock(checkout, run)
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = hold(lock)
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(run, {OWNER: process_identity(), CHECKOUT: str(checkout.root)})
        yield
    finally:
        if held is not None:
            os.close(held)
            lock.unlink(missing_ok=True)


def _lock(checkout: Checkout, run: UUID) -> Path:
    return checkout.prefect / "runs" / f"{run}.lock"


def mark_crashed(checkout: Checkout, *, own_server: bool) -> list[str]:
    """Set the state Crashed for unfinished flow runs of ``checkout`` whose process is gone; returns the names of the runs.

    Args:
        checkout: whose runs.
        own_server: whether the server is the checkout's own, where all runs are: the checkout may have been moved since.
    """
    unfinished = [StateType.RUNNING, StateType.CANCELLING]
    with get_client(sync_client=True) as client:
        runs = read_flow_runs(
            client,
            flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW_NAME])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=StateTypeFilter(any_=unfinished))),
        )
        marked = []
        for run in runs:
            lock = _lock(checkout, run.id)
            held = is_held(lock)
            ours = own_server or held is not None or run.labels.get(CHECKOUT) == str(checkout.root)
            owner = run.labels.get(OWNER)
            # Any client of the server can write labels.
            if not ours or not isinstance(owner, str) or not _IDENTITY.fullmatch(owner):
                continue
            if held if held is not None else is_process_alive(owner):
                continue
            message = f"Its process ({owner.rsplit(':', 1)[0]}) was killed."
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            lock.unlink(missing_ok=True)
            LOG.warning("Flow run '%s' is marked as crashed: its process was killed.", run.name)
            marked.append(run.name)
        return marked
