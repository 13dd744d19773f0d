"""Read all flow runs that filters select: the server gives at most 200 at a time."""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort

FLOW_NAME = "pipeline"
"""Prefect's name of the pipeline."""
_PAGE = 200


def read_flow_runs(client: SyncPrefectClient, **filters: Any) -> list[FlowRun]:
    """All flow runs that ``filters``, those of ``client.read_flow_runs``, select, in no particular order."""
    found: list[FlowRun] = []
    # Pages need an order. Without one, the server rejects the request.
    while page := client.read_flow_runs(**filters, sort=FlowRunSort.ID_DESC, limit=_PAGE, offset=len(found)):
        found += page
    return found
