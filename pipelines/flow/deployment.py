"""Apply a deployment of ``prefect.yaml`` to a Prefect server, remove it, and run it for a list of commits.

Uses Prefect's Python API. Each function says what it changed, and changes nothing if nothing differs.
"""

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from gan_core.errors import SettingsError, StageError
from pipelines.flow.automations import apply_automations, find_block, wanted_automations
from pipelines.flow.deployed import pipeline
from pipelines.flow.flow_runs import FLOW_NAME, read_flow_runs
from pipelines.flow.prefect_yaml import CLONE, ENTRYPOINT, Options, check_name, concurrency, new_entry
from pipelines.flow.schedule import check_schedule
from pipelines.settings.flow import FlowSettings

POOL_TYPE = "process"
BACKFILL = "backfill"
_FIELDS = frozenset(new_entry("", "", Options()))
_POOL_FIELDS, _SCHEDULE_FIELDS = ("name", "job_variables"), ("cron", "timezone", "active")
"""What Gantry applies of a deployment in prefect.yaml, of its work pool, and of each of its schedules."""
_SAME = {"day_or": True, "enforce_parameter_schema": True, "work_queue_name": "default"}
"""What Prefect itself may write there, and what Gantry's deployments do anyhow."""


def apply_deployment(entry: Mapping[str, Any], settings: FlowSettings, *, new: bool = False) -> list[str]:
    """Make the server's deployment, work pool and automations those of ``entry``; returns a line for each change.

    Args:
        entry: a deployment of prefect.yaml.
        settings: the section flow of params.yaml.
        new: whether prefect.yaml has no deployment of this name yet.

    Raises:
        SettingsError: a value of ``entry`` is invalid, or the server has no notification block of that name.
        StageError: the work pool exists, but its workers do not run processes; or ``entry`` is new, and the server has a
            deployment of this name that runs another project.
    """
    wanted = _wanted(entry)
    with get_client(sync_client=True) as client:
        block = find_block(client, settings.notify) if settings.notify else None
        old = _find(client, entry["name"])
        if new and old is not None:
            _check_project(entry["name"], old, wanted)
        changes = _ensure_pool(client, wanted["work_pool_name"])
        # One that gantry serve has left is paused, because that process has ended.
        served = old is not None and old.work_pool_name is None
        changed = {} if old is None else _differences(_present(old), wanted)
        if old is None or changed:
            flow = client.create_flow_from_name(FLOW_NAME)
            deployment = client.create_deployment(
                flow_id=flow,
                name=entry["name"],
                entrypoint=ENTRYPOINT,
                description=wanted["description"],
                tags=wanted["tags"],
                parameters=wanted["parameters"],
                parameter_openapi_schema=wanted["form"],
                enforce_parameter_schema=True,
                pull_steps=wanted["pull"],
                work_pool_name=wanted["work_pool_name"],
                job_variables=wanted["job_variables"],
                paused=False if served else None,  # None: as it is
                concurrency_limit=wanted["limit"],
                concurrency_options=ConcurrencyOptions(
                    collision_strategy=ConcurrencyLimitStrategy(wanted["collision_strategy"])
                ),
                schedules=[
                    DeploymentScheduleCreate(
                        schedule=CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"]),
                        active=schedule["active"],
                    )
                    for schedule in wanted["schedules"]
                ],
            )
            changes += [f"deployment added: {FLOW_NAME}/{entry['name']}"] if old is None else []
            changes += [f"{name}: {before} -> {after}" for name, (before, after) in changed.items()]
        else:
            deployment = old.id
        title = f"{FLOW_NAME}/{entry['name']}"
        if old is not None and old.paused and not served:
            changes.append(
                f"{title} is paused on the server: no scheduled run starts until it is resumed in Prefect's page"
            )
        automations = wanted_automations(deployment, title, entry.get("triggers") or [], block)
        return changes + apply_automations(client, deployment, title, automations)


def remove_deployment(name: str) -> list[str]:
    """Remove a deployment and its automations from the server; returns a line for each. Its past runs and its pool stay."""
    with get_client(sync_client=True) as client:
        deployment = _find(client, name)
        if deployment is None:
            return []
        told = apply_automations(client, deployment.id, f"{FLOW_NAME}/{name}", {})
        client.delete_deployment(deployment.id)
        return [*told, f"deployment removed: {FLOW_NAME}/{name}"]


@dataclass(frozen=True, kw_only=True)
class Backfill:
    """The run of a deployment for one commit."""

    commit: str
    run: str
    """Name of the flow run."""
    state: str
    new: bool
    """Whether the run was ordered now; False if it was there."""


def backfill(name: str, commits: Sequence[str], overrides: Mapping[str, Any]) -> list[Backfill]:
    """Order one run of the deployment ``name`` for each commit that has none with the same settings, in this order.

    Args:
        name: of the deployment.
        commits: hashes.
        overrides: values by dotted name in params.yaml, on top of those of the deployment.

    Raises:
        StageError: there is no such deployment, or it would cancel runs that have to wait for each other.
    """
    with get_client(sync_client=True) as client:
        deployment = _find(client, name)
        if deployment is None:
            raise StageError(
                f"The Prefect server has no deployment {FLOW_NAME}/{name}. Make it: gantry deploy --name {name}."
            )
        options = deployment.concurrency_options
        if options is not None and options.collision_strategy == ConcurrencyLimitStrategy.CANCEL_NEW:
            raise StageError(
                f"The deployment {FLOW_NAME}/{name} cancels a run that is due while another is in progress, so it cannot be "
                "backfilled. Let such runs wait: gantry deploy --collision enqueue."
            )
        there = _backfilled(client, deployment)
        orders = []
        for commit in commits:
            parameters = run_parameters(deployment.parameters, commit, overrides)
            settings = json.dumps(parameters["overrides"], sort_keys=True)
            key = f"{BACKFILL}:{deployment.id}:{hashlib.sha256(f'{commit} {settings}'.encode()).hexdigest()}"
            run = there.get(key)
            new = run is None
            if run is None:
                run = client.create_flow_run_from_deployment(
                    deployment.id,
                    name=f"{BACKFILL}-{commit[:12]}",
                    parameters=parameters,
                    tags=[BACKFILL],
                    idempotency_key=key,
                )
            state = run.state_name or "Unknown"
            orders.append(Backfill(commit=commit, run=run.name, state=state, new=new))
        return orders


def run_parameters(deployed: Mapping[str, Any], commit: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run at ``commit``: those of its deployment, ``deployed``, with ``overrides`` on top of its own."""
    return {**deployed, "revision": commit, "overrides": {**(deployed.get("overrides") or {}), **overrides}}


def _backfilled(client: SyncPrefectClient, deployment: DeploymentResponse) -> dict[str, FlowRun]:
    """All backfill runs of ``deployment``, by idempotency key."""
    runs = read_flow_runs(
        client,
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
        flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[BACKFILL])),
    )
    return {run.idempotency_key: run for run in runs if run.idempotency_key}


def _find(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(f"{FLOW_NAME}/{name}")
    except ObjectNotFound:
        return None


def _check_project(name: str, old: DeploymentResponse, wanted: Mapping[str, Any]) -> None:
    """Raise StageError if the workers of ``old`` clone another project than those of ``wanted`` do."""
    theirs, ours = _cloned(old.pull_steps or []), _cloned(wanted["pull"])
    if old.work_pool_name is not None and theirs != ours:
        other = "/".join(filter(None, theirs)) if theirs else "the checkout of a worker"
        raise StageError(
            f"The Prefect server already has a deployment {FLOW_NAME}/{name}, which runs another project ({other}). Choose "
            f"another name: gantry deploy --name NAME. If it is this project, remove it first: gantry deploy --remove --name "
            f"{name}."
        )


def _cloned(pull: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """The repository that pull steps clone, and the project's folder in it; None if workers use a checkout of their own."""
    steps = [step[CLONE] for step in pull if CLONE in step]
    return (steps[0].get("repository", ""), steps[0].get("subfolder", "")) if steps else None


def _ensure_pool(client: SyncPrefectClient, name: str) -> list[str]:
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(name=name, type=POOL_TYPE, base_job_template=ProcessWorker.get_default_base_job_template())
        )
        return [f"work pool added: {name} ({POOL_TYPE})"]
    if pool.type != POOL_TYPE:
        raise StageError(
            f"The work pool '{name}' is of type {pool.type}, and this deployment needs one of type {POOL_TYPE}. Choose another "
            "name: gantry deploy --pool NAME."
        )
    return []


def _wanted(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``entry`` in the form in which :func:`_present` reads them from the server."""
    where = f"prefect.yaml, deployment '{entry['name']}'"
    limit, pool = concurrency(entry), entry.get("work_pool") or {}
    strategies = [strategy.value for strategy in ConcurrencyLimitStrategy]
    if (strategy := limit["collision_strategy"]) not in strategies:
        raise SettingsError(f"{where}: collision_strategy must be one of {', '.join(strategies)}, not {strategy!r}.")
    if not pool.get("name"):
        raise SettingsError(f"{where}: work_pool has no name.")
    check_name(f"{where}, work_pool:", str(pool["name"]))
    _refuse_others(where, entry, _FIELDS)
    _refuse_others(f"{where}, work_pool", pool, _POOL_FIELDS)
    schedules = []
    for schedule in entry.get("schedules") or []:
        cron, timezone = schedule.get("cron"), schedule.get("timezone")
        if not isinstance(cron, str) or not isinstance(timezone, str | None):
            raise SettingsError(f"{where}: Gantry applies schedules with cron only, not {schedule!r}.")
        _refuse_others(f"{where}, schedule '{cron}'", schedule, _SCHEDULE_FIELDS)
        check_schedule(cron, timezone)
        schedules.append(
            {
                "cron": schedule["cron"],
                "timezone": schedule.get("timezone") or "UTC",
                "active": schedule.get("active", True),
            }
        )
    return {
        "description": entry.get("description"),
        "tags": sorted(entry.get("tags") or []),
        "parameters": entry.get("parameters") or {},
        "pull": entry.get("pull") or [],
        "work_pool_name": pool["name"],
        "job_variables": pool.get("job_variables") or {},
        "limit": limit["limit"],
        "collision_strategy": strategy,
        "schedules": schedules,
        "form": parameter_schema(pipeline).model_dump_for_openapi(),
    }


def _refuse_others(where: str, given: Mapping[str, Any], known: Container[str]) -> None:
    """Raise SettingsError if ``given`` has a value that Gantry would not apply: prefect.yaml would say what is not so."""
    empty: tuple[Any, ...] = (None, "", [], {})
    others = [name for name, value in given.items() if name not in known and value not in (*empty, _SAME.get(name))]
    if others:
        raise SettingsError(
            f"{where}: gantry deploy does not apply {', '.join(others)}. Remove it, or apply the file with prefect deploy."
        )


def _present(deployment: DeploymentResponse) -> dict[str, Any]:
    limit, options = deployment.global_concurrency_limit, deployment.concurrency_options
    return {
        "description": deployment.description,
        "tags": sorted(deployment.tags),
        "parameters": deployment.parameters,
        "pull": deployment.pull_steps or [],
        "work_pool_name": deployment.work_pool_name,
        "job_variables": deployment.job_variables,
        "limit": limit.limit if limit else None,
        "collision_strategy": options.collision_strategy.value if options else "ENQUEUE",
        "schedules": [
            {"cron": known.schedule.cron, "timezone": known.schedule.timezone or "UTC", "active": known.active}
            if isinstance(known.schedule, CronSchedule)
            else {"other": str(known.schedule)}
            for known in deployment.schedules
        ],
        "form": deployment.parameter_openapi_schema,
    }


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = {"form": "form of the parameters", "limit": "concurrency limit", "work_pool_name": "work pool"}
    return {
        names.get(name, name.replace("_", " ")): ("earlier", "current") if name == "form" else (before[name], value)
        for name, value in after.items()
        if before[name] != value
    }
