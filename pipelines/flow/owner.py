"""Flow runs whose process is gone: a killed one cannot say so itself, and would stay Running for ever."""

import logging
import re

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypeFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Crashed

from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import identity, lives

LOG = logging.getLogger(__name__)

_IDENTITY = re.compile(r".+:\d+:\d+")
"""What :func:`pipelines.runtime.guard.identity` makes."""
OWNER = "gantry.owner"
CHECKOUT = "gantry.checkout"


def sign(client: SyncPrefectClient, run: FlowRun, checkout: Checkout) -> None:
    """Note on a flow run which process it is and which checkout it belongs to."""
    client.update_flow_run_labels(run.id, {OWNER: identity(), CHECKOUT: str(checkout.root)})


def mark_crashed(flow_name: str, checkout: Checkout) -> list[str]:
    """Set to Crashed each unfinished flow run of ``checkout`` whose process is gone; returns their names."""
    unfinished = [StateType.RUNNING, StateType.CANCELLING]
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=StateTypeFilter(any_=unfinished))),
            sort=FlowRunSort.START_TIME_DESC,
            limit=200,
        )
        marked = []
        for run in runs:
            owner = run.labels.get(OWNER)
            if run.labels.get(CHECKOUT) != str(checkout.root) or not isinstance(owner, str):
                continue
            # A client of the server may write any label.
            if not _IDENTITY.fullmatch(owner) or lives(owner):
                continue
            message = f"Its process ({owner.rsplit(':', 1)[0]}) was killed."
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            LOG.warning("Flow run '%s' is marked as crashed: its process was killed.", run.name)
            marked.append(run.name)
        return marked
