"""Mark flow runs whose process was killed as crashed; Prefect would show them as Running forever."""

import logging
import re

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypeFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed

from pipelines.flow.flow_runs import FLOW_NAME, read_flow_runs
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import is_process_alive, process_identity

LOG = logging.getLogger(__name__)

_IDENTITY = re.compile(r".+:\d+:\d+")
"""The format of :func:`pipelines.runtime.guard.process_identity`."""
OWNER = "gantry.owner"
CHECKOUT = "gantry.checkout"


def label_run(client: SyncPrefectClient, run: FlowRun, checkout: Checkout) -> None:
    """Label a flow run with this process and with its checkout."""
    client.update_flow_run_labels(run.id, {OWNER: process_identity(), CHECKOUT: str(checkout.root)})


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
            owner = run.labels.get(OWNER)
            ours = own_server or run.labels.get(CHECKOUT) == str(checkout.root)
            if not ours or not isinstance(owner, str):
                continue
            # Any client of the server can write labels.
            if not _IDENTITY.fullmatch(owner) or is_process_alive(owner):
                continue
            message = f"Its process ({owner.rsplit(':', 1)[0]}) was killed."
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            LOG.warning("Flow run '%s' is marked as crashed: its process was killed.", run.name)
            marked.append(run.name)
        return marked
