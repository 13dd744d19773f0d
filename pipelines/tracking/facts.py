"""What a run recorded: parameters, tags and last metrics, from its event log or, if that is gone, from the tracking server."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gan_core.errors import TrackingError
from pipelines.tracking.events import EVENTS, Event, log_folder, read_events
from pipelines.tracking.store import connect, error_summary, explain_server_errors, find_run

WALL = "cost/wall_seconds"
"""Metric of a run: seconds that it worked (:func:`working_seconds`)."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What one run recorded. All values are as MLflow has them."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each metric."""


def find_facts(events: Path, key: str, *, tracking_uri: str, experiment: str) -> RunFacts | None:
    """What the run ``key`` recorded, from its log in ``events`` or from the server; None if neither has it.

    A server that cannot be reached counts as one that does not have it, with a warning.
    """
    folder = log_folder(events, key)
    if (folder / EVENTS).is_file():
        return read_facts(folder)
    try:
        reference = find_run(tracking_uri, experiment, key)
        if reference is None:
            return None
        with explain_server_errors(tracking_uri):
            data = connect(tracking_uri, create=False).get_run(reference.run_id).data
    except TrackingError as error:
        _LOG.warning("What run %s recorded is not known here: %s", key, error_summary(error))
        return None
    return RunFacts(params=dict(data.params), tags=dict(data.tags), metrics=dict(data.metrics))


def read_facts(folder: Path) -> RunFacts:
    """What the log in ``folder`` recorded."""
    facts = RunFacts()
    for event, _ in read_events(folder):
        if event is None:
            continue
        if event["kind"] == "open":
            facts.tags.update(event["tags"])
        elif event["kind"] in ("params", "tags", "metrics"):
            getattr(facts, event["kind"]).update(event["values"])
    return facts


def working_seconds(folder: Path) -> float:
    """Seconds that the run of the log in ``folder`` worked until its last event, without the pauses after a kill or failure.

    A stage that starts again opens its log with a parent, unlike its workers: the time before that is a pause.
    """
    return _working_ms(event for event, _ in read_events(folder) if event is not None) / 1000


def _working_ms(events: Iterable[Event]) -> int:
    total, last = 0, None
    for event in events:
        begins = event["kind"] == "open" and event["parent"] is not None
        if last is not None and not begins:
            total += max(0, event["time"] - last)
        last = event["time"]
    return total
