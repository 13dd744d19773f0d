"""Who runs the schedule of a deployment: ``gantry serve`` of one checkout, or the workers of a pool.

A Prefect server knows a deployment by its name alone. Whoever serves it last replaces its schedule, and whoever ends first
pauses it for all.
"""

import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from gan_core.errors import StageError
from gan_core.files import sha256_json
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.process_lock import process_lock

LOG = logging.getLogger(__name__)

_SERVED = "Served by gantry serve in "
"""Start of the description of a deployment that gantry serve runs."""


@contextmanager
def only_server(checkout: Checkout, name: str) -> Iterator[None]:
    """Serve the deployment ``name`` from ``checkout`` for the length of the block, as the only process of the checkout.

    Raises:
        StageError: another process serves it. The message has its process id.
    """
    with process_lock(checkout.prefect / f"serve-{sha256_json(name)[:24]}.lock") as holder:
        if holder:
            raise StageError(
                f"gantry serve already runs the deployment pipeline/{name} of {checkout.root} ({holder}). End it first, or "
                "choose another name: --name NAME."
            )
        yield


def served_description(checkout: Checkout) -> str:
    """The description of a deployment that is served from ``checkout``, for Prefect's page."""
    return f"{_SERVED}{checkout.root} on {socket.gethostname()}."


def check_served_name(checkout: Checkout, name: str) -> None:
    """Check that the server's deployment ``name`` may be served from ``checkout``.

    Logs a warning if another checkout serves it, or did so until it was killed.

    Raises:
        StageError: it belongs to the workers of a pool, which would not get its runs any more.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    from pipelines.flow.flow_runs import FLOW_NAME

    title = f"{FLOW_NAME}/{name}"
    with get_client(sync_client=True) as client:
        try:
            there = client.read_deployment_by_name(title)
        except ObjectNotFound:
            return
    if there.work_pool_name:
        raise StageError(
            f"The deployment {title} on this Prefect server belongs to the workers of pool {there.work_pool_name} (gantry "
            f"deploy). Choose another name: gantry serve --name NAME. Or remove it: gantry deploy --remove --name {name}."
        )
    said = there.description or ""
    if said.startswith(_SERVED) and said != served_description(checkout) and not there.paused:
        LOG.warning(
            "The deployment %s was served by %s, and is served from here now. If the other one still runs, each may take runs "
            "that are meant for the other: choose another name (--name NAME).",
            title,
            said.removeprefix(_SERVED).rstrip("."),
        )


def drop_outdated_runs(deployment: UUID, parameters: Mapping[str, Any]) -> None:
    """Delete runs that the schedule ordered with other parameters, and that came due while nothing served the deployment.

    The server replaces runs that are due later, when a deployment is made again, but keeps these: they would run now, with the
    revision and the overrides of the earlier ``gantry serve``. Runs that somebody has ordered are kept.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    from pipelines.flow.flow_runs import read_flow_runs

    with get_client(sync_client=True) as client:
        waiting = read_flow_runs(
            client,
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
            ),
        )
        outdated = [run for run in waiting if run.auto_scheduled and not run.run_count and run.parameters != parameters]
        for run in outdated:
            client.delete_flow_run(run.id)
    if outdated:
        LOG.warning(
            "%d run(s) that came due while nothing served the deployment are dropped: they had an earlier revision or --set.",
            len(outdated),
        )
