"""The automations of a deployment on a Prefect server: what happens to runs that stop reporting, fail or are late."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, CallWebhook, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.deployment_triggers import DeploymentTriggerTypes
from prefect.exceptions import ObjectNotFound
from pydantic import TypeAdapter, ValidationError

from gan_core.errors import SettingsError

LOST_SECONDS = 60
"""A run that gives no sign of life for this long is taken to be lost. It gives one every 30 s."""
LOST = "No sign of life from its worker"
"""Start of the message of the state Crashed of such a run; only runs with this message are taken up again."""
_ENDED = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut")}
_TOLD = (
    "Flow run {{ flow_run.name }} of deployment {{ deployment.name }}: {{ flow_run.state.name }}. "
    "{{ flow_run.state.message }} {{ flow_run|ui_url }}"
)


def wanted_automations(
    deployment: UUID, title: str, triggers: Sequence[Mapping[str, Any]], block: tuple[UUID, str] | None
) -> dict[str, AutomationCore]:
    """The automations of a deployment, by name.

    Args:
        deployment: its id.
        title: its name, ``pipeline/nightly``.
        triggers: its ``triggers`` in prefect.yaml.
        block: id and type of the notification block; None for no notifications.

    Raises:
        SettingsError: a trigger is not one of Prefect's.
    """
    owner = f"prefect.deployment.{deployment}"
    related: dict[str, str | list[str]] = {"prefect.resource.id": owner, "prefect.resource.role": "deployment"}
    runs: dict[str, str | list[str]] = {"prefect.resource.id": "prefect.flow-run.*"}
    each_run = {"prefect.resource.id"}
    made = [
        AutomationCore(
            name=f"{title}: a run whose worker is lost is Crashed",
            description=f"After {LOST_SECONDS} s without a heartbeat. Made by gantry deploy.",
            trigger=EventTrigger(
                match=runs,
                match_related=related,
                after={"prefect.flow-run.heartbeat"},
                # Any end of the run, and a run that is given back to a queue, also ends the wait for its next heartbeat.
                expect={"prefect.flow-run.heartbeat", "prefect.flow-run.AwaitingRetry", *_ENDED},
                for_each=each_run,
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=LOST_SECONDS),
            ),
            actions=[
                ChangeFlowRunState(
                    name="Crashed", force=False, state=StateType.CRASHED, message=f"{LOST} for {LOST_SECONDS} s."
                )
            ],
            owner_resource=owner,
        ),
        AutomationCore(
            name=f"{title}: another worker takes up a lost run",
            description="The run resumes its stage; flow.max_takeovers in params.yaml limits how often. Made by gantry deploy.",
            trigger=EventTrigger(
                match={**runs, "prefect.state-message": f"{LOST}*"},
                match_related=related,
                expect={"prefect.flow-run.Crashed"},
                for_each=each_run,
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.SCHEDULED, name="AwaitingRetry", message="Waits for another worker.", force=True
                )
            ],
            owner_resource=owner,
        ),
    ]
    if block is not None:
        for event in ("Failed", "Late", "Crashed"):
            made.append(
                AutomationCore(
                    name=f"{title}: notify of a run that is {event}",
                    description="To the block that flow.notify in params.yaml names. Made by gantry deploy.",
                    trigger=EventTrigger(
                        match=runs,
                        match_related=related,
                        expect={f"prefect.flow-run.{event}"},
                        for_each=each_run,
                        posture=Posture.Reactive,
                        threshold=1,
                    ),
                    actions=[_notification(*block, event)],
                    owner_resource=owner,
                )
            )
    adapter: TypeAdapter[Any] = TypeAdapter(DeploymentTriggerTypes)
    for number, values in enumerate(triggers, 1):
        try:
            trigger = adapter.validate_python({"name": f"{title}: trigger {number} of prefect.yaml", **values})
        except ValidationError as error:
            raise SettingsError(f"prefect.yaml, trigger {number} of {title}: {error}") from None
        trigger.set_deployment_id(deployment)
        made.append(trigger.as_automation())
    return {automation.name: automation for automation in made}


def _notification(block: UUID, kind: str, event: str) -> ActionTypes:
    if kind == "webhook":
        return CallWebhook(block_document_id=block, payload=_TOLD)
    return SendNotification(block_document_id=block, subject=f"Gantry: a run is {event}", body=_TOLD)


def find_block(client: SyncPrefectClient, notify: str) -> tuple[UUID, str]:
    """The id and the type of the block ``TYPE/NAME``.

    Raises:
        SettingsError: the server has no such block.
    """
    kind, _, name = notify.partition("/")
    try:
        return client.read_block_document_by_name(name, kind, include_secrets=False).id, kind
    except ObjectNotFound:
        raise SettingsError(
            f"flow.notify: the Prefect server has no block '{notify}'. Make it in Prefect's page (Blocks), which shows its "
            "type in the address, or set flow.notify to null."
        ) from None


def apply_automations(
    client: SyncPrefectClient, deployment: UUID, title: str, wanted: Mapping[str, AutomationCore]
) -> list[str]:
    """Make Gantry's automations of ``deployment`` those in ``wanted``; returns a line for each change.

    Args:
        client: a client of the server.
        deployment: the id of the deployment.
        title: its name, ``pipeline/nightly``, with which the names of Gantry's automations begin.
        wanted: automations by name.
    """
    there: dict[str, Automation] = {}
    told = []
    for known in client.read_resource_related_automations(f"prefect.deployment.{deployment}"):
        # The server does not say who owns an automation. Those that a user made for this deployment have other names.
        if not known.name.startswith(f"{title}: "):
            continue
        if known.name in wanted and known.name not in there:
            there[known.name] = known
        else:
            client.delete_automation(known.id)
            told.append(f"automation removed: {known.name}")
    for name, automation in wanted.items():
        if name not in there:
            client.create_automation(automation)
            told.append(f"automation added: {name}")
        elif _essence(there[name]) != _essence(automation):
            client.update_automation(there[name].id, AutomationCore(**automation.model_dump()))
            told.append(f"automation changed: {name}")
    return told


def _essence(automation: AutomationCore) -> str:
    """What an automation does, in a form that can be compared; the server adds ids to triggers."""
    values = automation.model_dump(mode="json", include={"description", "trigger", "actions", "enabled"})
    return json.dumps(_sorted(values), sort_keys=True)


def _sorted(value: Any) -> Any:
    """``value`` without ids of triggers, and with sets, which have become lists, in order."""
    if isinstance(value, dict):
        return {name: _sorted(part) for name, part in value.items() if name != "id"}
    if isinstance(value, list):
        return sorted((_sorted(part) for part in value), key=lambda part: json.dumps(part, sort_keys=True))
    return value
