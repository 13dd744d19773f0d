"""Replay one event log into MLflow, each event once.

The cursor beside the log records how much was sent. It is written after each successful call, so a process killed in
between sends the same events again. That has no effect: a metric with the same name, step, time and value, a parameter, a
tag, a dataset or a file overwrites itself, and a run is found by its key.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gan_core.errors import TrackingError
from gan_core.files import read_json, remove_stale, write_json
from gan_core.locks import locked
from pipelines.runtime.account import user_name
from pipelines.tracking.events import (
    ARTIFACTS,
    CURSOR,
    EVENTS,
    REFUSED,
    Event,
    count_events,
    now_ms,
    read_events,
)
from pipelines.tracking.store import KEY_TAG, PARENT_TAG, error_summary, find_run_id, find_runs, is_refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH, _METRICS, _TEXTS = 500, 500, 50  # MLflow's limits per call: 1000 entries, 100 parameters, 100 tags, 1 MB
_DIGEST_LIMIT = 36  # limit of MLflow's datasets, and the length of the DVC hash of a folder
_LOG = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(kw_only=True)
class Cursor:
    """How much of a log was sent, and to which destination."""

    destination: str
    """Tracking URI and experiment."""
    offset: int = 0
    run_id: str | None = None
    key: str | None = None
    parent_key: str | None = None
    nested_in: str | None = None
    """Key of the parent that the run is nested in on the server; still to be updated if it differs from ``parent_key``."""
    status: str = "RUNNING"
    unanswered: int = 0
    """How many times the server was asked to make the run and did not answer. It may have made a run each time, or make it
    later."""

    @classmethod
    def read(cls, folder: Path) -> "Cursor | None":
        """The cursor stored beside a log; None if it is missing or unreadable, so that the log is sent again.

        Unknown fields, from other versions of Gantry, are ignored.
        """
        try:
            kept = read_json(folder / CURSOR)
            return cls(**{known.name: kept[known.name] for known in fields(cls) if known.name in kept})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            _LOG.warning(
                "%s cannot be read (%s); the log is sent from its start.", folder / CURSOR, error_summary(error)
            )
            return None

    @classmethod
    def load(cls, folder: Path, destination: str) -> "Cursor":
        """The cursor of a log for ``destination``.

        What a process that was killed while it wrote the cursor has left behind is removed: a log that has been sent as a whole
        gets no new cursor, which would do it.

        A finished log that was sent completely to another destination keeps that cursor. An unfinished one starts over.
        """
        remove_stale(folder / CURSOR)
        cursor = cls.read(folder)
        if cursor is None:
            return cls(destination=destination)
        if cursor.destination != destination and not (cursor.status != "RUNNING" and not cursor.count_pending(folder)):
            return cls(destination=destination)
        return cursor

    def save(self, folder: Path) -> None:
        """Write the cursor atomically."""
        write_json(folder / CURSOR, asdict(self))

    def count_pending(self, folder: Path) -> int:
        """Number of events that are still to be sent."""
        return count_events(folder, self.offset)


@dataclass
class _Batch:
    """Consecutive parameters, metrics and tags, to be sent in one call."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, event: Event) -> "_Batch":
        """The entries of one event; raises KeyError, TypeError or ValueError if the event is malformed."""
        values = dict(event["values"])
        if event["kind"] == "metrics":
            return cls(
                metrics=[(name, float(value), event["time"], int(event["step"])) for name, value in values.items()]
            )
        texts = {name: str(value) for name, value in values.items()}
        return cls(params=texts) if event["kind"] == "params" else cls(tags=texts)

    def fits(self, other: "_Batch") -> bool:
        """Whether ``other`` can be added: within the limit, and no parameter has two values (the server decides)."""
        clash = any(self.params.get(name, value) != value for name, value in other.params.items())
        return not clash and len(self) + len(other) <= _BATCH

    def join(self, other: "_Batch") -> None:
        """Append the entries of ``other``."""
        self.metrics += other.metrics
        self.params |= other.params
        self.tags |= other.tags

    def __len__(self) -> int:
        return len(self.metrics) + len(self.params) + len(self.tags)


class Replayer:
    """Sends logs to one experiment of one tracking server."""

    def __init__(
        self, client: "MlflowClient", experiment_id: str, destination: str, *, verify_runs: bool = False
    ) -> None:
        """Set up for one destination; with ``verify_runs``, check once for each run that the server still has it."""
        self._verify_runs = verify_runs
        self._seen: set[str] = set()
        self._client = client
        self._experiment_id = experiment_id
        self._destination = destination

    def ship(self, folder: Path, parent: Callable[[str], str | None]) -> Cursor:
        """Send the events of the log in ``folder`` that are beyond its cursor.

        Args:
            folder: a log folder.
            parent: returns the run id of a key, or None if it is not known yet.

        Returns:
            The new cursor.

        Raises:
            Exception: any error of MLflow if the server cannot be reached; the cursor records what was sent before.
        """
        cursor = Cursor.load(folder, self._destination)
        if cursor.offset == 0 and (folder / CURSOR).is_file():
            _LOG.warning(
                "%s was partly sent to another destination; sending all of it to %s, but for the files that were sent already.",
                *(folder, self._destination),
            )
        if cursor.destination != self._destination:
            return cursor
        if cursor.run_id and (cursor.count_pending(folder) or (self._verify_runs and cursor.run_id not in self._seen)):
            self._seen.add(cursor.run_id)
            stage = self._lifecycle(cursor.run_id)
            if stage is None:
                _LOG.warning(
                    "%s: the server no longer has run %s; sending the whole log, but for the files that were sent already.",
                    *(folder, cursor.run_id),
                )
                cursor = Cursor(destination=self._destination)
            elif stage == "deleted" and cursor.count_pending(folder):
                self._check_experiment(str(cursor.run_id))
                self._drop(folder, cursor)
        batch = _Batch()
        end = cursor.offset
        for event, after in read_events(folder, cursor.offset):
            if event is not None and event["kind"] in ("metrics", "params", "tags"):
                more = self._guarded(folder, cursor, event, partial(_Batch.of, event)) or _Batch()
                if not batch.fits(more):
                    self._flush(folder, cursor, batch, end)
                    batch = _Batch()
                batch.join(more)
            elif event is not None:
                self._flush(folder, cursor, batch, end)
                batch = _Batch()
                self._guarded(folder, cursor, event, partial(self._perform, folder, cursor, event, parent))
                self._advance(folder, cursor, after)
            end = after
        self._flush(folder, cursor, batch, end)
        self._nest(folder, cursor, parent)
        if cursor.status != "RUNNING":
            _remove_artifacts(folder, cursor)
        return cursor

    def _lifecycle(self, run_id: str) -> str | None:
        """``active``, ``deleted`` (by a person), or None if the server does not know the run."""
        try:
            return self._client.get_run(run_id).info.lifecycle_stage
        except Exception as error:
            if not is_refusal(error):
                raise
            return None

    def _check_experiment(self, run_id: str) -> None:
        """Raise TrackingError if the experiment of a run was deleted, with all its runs: it can be restored."""
        experiment = self._client.get_experiment(self._client.get_run(run_id).info.experiment_id)
        if experiment.lifecycle_stage != "active":
            raise TrackingError(f"The MLflow experiment '{experiment.name}' was deleted.")

    def _is_active(self, cursor: Cursor) -> bool:
        """Whether a refusal can be about the event. Otherwise the run was deleted meanwhile, which the next pass finds."""
        return cursor.run_id is None or self._lifecycle(cursor.run_id) == "active"

    def _drop(self, folder: Path, cursor: Cursor) -> None:
        """Skip the remaining events of a run that a person deleted."""
        end = max((after for _, after in read_events(folder, cursor.offset)), default=cursor.offset)
        what = {"bytes": [cursor.offset, end], "of": EVENTS}
        self._refuse(folder, f"run {cursor.run_id} was deleted on the server", what)
        self._advance(folder, cursor, end)

    def _guarded(self, folder: Path, cursor: Cursor, event: Event, action: Callable[[], T]) -> T | None:
        """Run ``action``; set the event aside if it is malformed or the server rejects it.

        A rejected ``open`` event is raised and retried, because nothing else can be sent without its run. So is an event of a
        run that was deleted meanwhile.
        """
        try:
            return action()
        except Exception as error:
            malformed = isinstance(error, (KeyError, TypeError, ValueError)) and not isinstance(error, OSError)
            if not malformed and (not is_refusal(error) or event["kind"] == "open" or not self._is_active(cursor)):
                raise
            self._refuse(folder, f"not a valid event: {error!r}" if malformed else error_summary(error), event)
        return None

    def _flush(self, folder: Path, cursor: Cursor, batch: _Batch, end: int) -> None:
        """Send a batch and advance the cursor to ``end``."""
        if len(batch):
            if cursor.run_id is None:
                self._refuse(folder, "the log does not start with an open event", asdict(batch))
            else:
                self._send(folder, cursor, batch)
        if end > cursor.offset:
            self._advance(folder, cursor, end)

    def _send(self, folder: Path, cursor: Cursor, batch: _Batch) -> None:
        params, tags = list(batch.params.items()), list(batch.tags.items())
        while batch.metrics or params or tags:
            entries: list[tuple[str, Any]] = [("metric", entry) for entry in batch.metrics[:_METRICS]]
            entries += [("param", entry) for entry in params[:_TEXTS]] + [("tag", entry) for entry in tags[:_TEXTS]]
            batch.metrics, params, tags = batch.metrics[_METRICS:], params[_TEXTS:], tags[_TEXTS:]
            self._send_entries(folder, cursor, entries)

    def _send_entries(self, folder: Path, cursor: Cursor, entries: list[tuple[str, Any]]) -> None:
        """Send entries in one call; if it is rejected, bisect to find the bad entry and set it aside."""
        from mlflow.entities import Metric, Param, RunTag

        try:
            self._client.log_batch(
                str(cursor.run_id),
                metrics=[Metric(*entry) for kind, entry in entries if kind == "metric"],
                params=[Param(*entry) for kind, entry in entries if kind == "param"],
                tags=[RunTag(*entry) for kind, entry in entries if kind == "tag"],
            )
        except Exception as error:
            if not is_refusal(error) or not self._is_active(cursor):
                raise
            if len(entries) == 1:
                self._refuse(folder, error_summary(error), entries[0])
            else:
                half = len(entries) // 2
                self._send_entries(folder, cursor, entries[:half])
                self._send_entries(folder, cursor, entries[half:])

    def _perform(self, folder: Path, cursor: Cursor, event: Event, parent: Callable[[str], str | None]) -> None:
        if event["kind"] == "open":
            self._open(folder, cursor, event, parent)
            return
        if cursor.run_id is None:
            raise ValueError("the log does not start with an open event")
        if event["kind"] == "artifact":
            self._upload(folder, cursor.run_id, event)
        elif event["kind"] == "dataset":
            self._log_dataset(cursor.run_id, event)
        elif event["kind"] == "finish":
            self._client.set_terminated(cursor.run_id, event["status"], event["time"])
            cursor.status = event["status"]
            if cursor.unanswered:
                self._delete_doubles(cursor)
        else:
            raise ValueError(f"unknown kind of event '{event['kind']}'")

    def _open(self, folder: Path, cursor: Cursor, event: Event, parent: Callable[[str], str | None]) -> None:
        cursor.key, cursor.parent_key = event["key"], event["parent"] or cursor.parent_key
        cursor.run_id = cursor.run_id or find_run_id(self._client, self._experiment_id, event["key"])
        if cursor.run_id is None:
            cursor.run_id = self._create(folder, cursor, event)
        else:
            self._client.update_run(cursor.run_id, status="RUNNING")
        self._send(folder, cursor, _Batch(tags=dict(event["tags"])))
        # A run that is resumed by another pipeline run becomes its child.
        self._nest(folder, cursor, parent)
        cursor.status = "RUNNING"

    def _create(self, folder: Path, cursor: Cursor, event: Event) -> str:
        """Make the run of an ``open`` event; returns its id."""
        # Of two runs with one key, everybody uses the older one: this one, if an unanswered request makes another.
        start = event["time"] - cursor.unanswered
        source = {"mlflow.user": user_name(), "mlflow.source.name": "gantry", "mlflow.source.type": "LOCAL"}
        tags = {**source, KEY_TAG: event["key"]}
        cursor.unanswered += 1
        cursor.save(folder)
        try:
            run = self._client.create_run(self._experiment_id, start_time=start, tags=tags, run_name=event["name"])
        except Exception as error:
            if is_refusal(error):
                cursor.unanswered -= 1
                cursor.save(folder)
            raise
        cursor.unanswered -= 1
        return run.info.run_id

    def _delete_doubles(self, cursor: Cursor) -> None:
        """Delete the empty runs that unanswered requests for the run of ``cursor`` have made."""
        for run in find_runs(self._client, self._experiment_id, str(cursor.key)):
            if run.info.run_id != cursor.run_id and not run.data.metrics and not run.data.params:
                self._client.delete_run(run.info.run_id)
                _LOG.info("Deleted run %s, a double of run %s.", run.info.run_id, cursor.run_id)
        cursor.unanswered = 0

    def _nest(self, folder: Path, cursor: Cursor, parent: Callable[[str], str | None]) -> None:
        """Nest the run in its parent once the parent is known."""
        if cursor.run_id and cursor.parent_key and cursor.nested_in != cursor.parent_key:
            parent_id = parent(cursor.parent_key)
            if parent_id:
                self._client.set_tag(cursor.run_id, PARENT_TAG, parent_id)
                cursor.nested_in = cursor.parent_key
                cursor.save(folder)

    def _upload(self, folder: Path, run_id: str, event: Event) -> None:
        """Upload one artifact and remove the copy. A missing copy was sent before a kill, or to another server."""
        stored, target = folder / event["stored"], event["folder"]
        if stored.is_dir():
            self._client.log_artifacts(run_id, str(stored), "/".join(filter(None, [target, stored.name])))
        elif stored.is_file():
            self._client.log_artifact(run_id, str(stored), target or None)
        else:
            _LOG.info("%s: %s was already sent.", folder, event["stored"])
        shutil.rmtree(stored.parent, ignore_errors=True)

    def _log_dataset(self, run_id: str, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=event["name"],
            digest=event["digest"][:_DIGEST_LIMIT],
            source_type="local",
            source=json.dumps({"uri": event["source"]}),
        )
        tags = [InputTag("mlflow.data.context", event["context"]), InputTag("gantry.digest", event["digest"])]
        self._client.log_inputs(run_id, [DatasetInput(dataset, tags)])

    def _advance(self, folder: Path, cursor: Cursor, offset: int) -> None:
        cursor.offset = offset
        cursor.save(folder)

    def _refuse(self, folder: Path, reason: str, what: Any) -> None:
        """Set an event aside that the server will never accept, so that later events can be sent."""
        _LOG.warning("%s: set aside an event in %s: %s", folder, REFUSED, reason)
        line = json.dumps({"time": now_ms(), "reason": reason, "what": what}, default=str, ensure_ascii=False)
        with open(folder / REFUSED, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _remove_artifacts(folder: Path, cursor: Cursor) -> None:
    """Remove leftover copies of a killed writer from a finished log, unless a process has started to write again."""
    if not (folder / ARTIFACTS).is_dir():
        return
    with open(folder / EVENTS, "rb") as file, locked(file.fileno()):
        if os.fstat(file.fileno()).st_size == cursor.offset:
            shutil.rmtree(folder / ARTIFACTS, ignore_errors=True)
