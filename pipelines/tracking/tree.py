"""All event logs under a folder: count the pending events, and send them."""

import logging
import os
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gan_core.disk import describe_os_error, disk_error_at
from gan_core.locks import file_lock, locked
from pipelines.runtime.guard import is_process_alive
from pipelines.runtime.redaction import redact_credentials
from pipelines.settings.tracking_uri import SQLITE, resolve_uri
from pipelines.tracking.events import CURSOR, EVENTS, REFUSED, find_logs, log_folder, read_events
from pipelines.tracking.replay import Cursor, Replayer
from pipelines.tracking.schema import explain_schema
from pipelines.tracking.store import connect, ensure_experiment, error_summary, find_run_id, is_refusal

LOCK = ".shipper.lock"
RETENTION_DAYS = 30.0
_PARENT_WAIT = 30.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SendResult:
    """Result of one pass over all logs."""

    waiting: int
    """Number of events that are still to be sent, as far as this pass knows."""
    error: str | None = None
    """Why an event could not be sent; None if there was no error."""
    remedied: bool = False
    """Whether ``error`` includes the remedy, as that of a full disk or of a database of another version of MLflow does."""


def prune_logs(directory: Path | str, days: float = RETENTION_DAYS) -> list[Path]:
    """Remove logs of finished runs that were sent completely, without rejected events, more than ``days`` days ago.

    If such a run is opened again, it is found on the server by its key.
    """
    removed = []
    for folder in find_logs(directory):
        cursor = Cursor.read(folder)
        if cursor is None or (folder / REFUSED).exists():
            continue
        shipped = cursor.status != "RUNNING" and cursor.nested_in == cursor.parent_key
        gone = folder.with_name(f".{folder.name}.sent")
        with suppress(FileNotFoundError), open(folder / EVENTS, "rb") as file, locked(file.fileno()):
            state = os.fstat(file.fileno())
            if shipped and state.st_size == cursor.offset and time.time() - state.st_mtime > days * 86400:
                shutil.rmtree(gone, ignore_errors=True)
                folder.rename(gone)
                removed.append(folder)
        # Not before the file is closed: NFS keeps a folder with an open file. What a killed process leaves is a log as before.
        shutil.rmtree(gone, ignore_errors=True)
    return removed


def destination_name(tracking_uri: str, experiment: str) -> str:
    """Name of a destination in logs and cursors. It does not depend on the secrets in the environment of this process."""
    return f"{redact_credentials(resolve_uri(tracking_uri), {})} {experiment}"


class LogTree:
    """All logs under a directory, for one destination. Not thread-safe, but safe beside other processes."""

    def __init__(self, directory: Path | str, *, tracking_uri: str, experiment: str) -> None:
        self._directory = Path(directory)
        self._uri = resolve_uri(tracking_uri)
        self._experiment = experiment
        self.destination = destination_name(tracking_uri, experiment)
        """Name of the destination in the cursors of the logs."""
        self._replayer: Replayer | None = None
        self._was_connected = False
        self._opened: dict[Path, int] = {}
        self._senders: dict[Path, _Senders] = {}
        self._done: dict[Path, int] = {}
        self._run_ids: dict[str, str] = {}
        self._asked: dict[str, float] = {}

    def count_pending(self) -> int:
        """Number of events on disk that are still to be sent."""
        return sum(self._waiting(folder) for folder in find_logs(self._directory))

    def forget_sent(self) -> None:
        """Forget what was sent, so that everything is sent again. Waits while another process sends.

        What the server has overwrites itself. Files are not sent again, because their copies were removed.
        """
        if not self._directory.is_dir():
            return
        with file_lock(self._directory / LOCK):
            for folder in find_logs(self._directory):
                cursor = Cursor.read(folder)
                if cursor is not None and cursor.destination == self.destination:
                    for name in (REFUSED, CURSOR):  # the server refuses the same events again
                        (folder / name).unlink(missing_ok=True)

    def send(self) -> SendResult:
        """Send all pending events, unless another process is already sending them."""
        folders = [
            folder
            for folder in find_logs(self._directory)
            if _size(folder) not in (None, self._done.get(folder)) and not self._is_sent_elsewhere(folder)
        ]
        if not folders:
            return SendResult(waiting=0)
        with file_lock(self._directory / LOCK, timeout=0) as alone:
            trouble = self._send_each(folders) if alone else None
        waiting = sum(self._waiting(folder) for folder in folders)
        if trouble is None:
            return SendResult(waiting=waiting)
        if self._uri.startswith(SQLITE) and (refused := disk_error_at(trouble, self._uri.removeprefix(SQLITE))):
            return SendResult(waiting=waiting, error=describe_os_error(refused).rstrip("."), remedied=True)
        if why := explain_schema(trouble, self._uri):
            return SendResult(waiting=waiting, error=why, remedied=True)
        return SendResult(waiting=waiting, error=error_summary(trouble))

    def _send_each(self, folders: list[Path]) -> Exception | None:
        """Send the logs in ``folders``; return the first error."""
        trouble: Exception | None = None
        try:
            replayer = self._connected()
        except Exception as error:  # of any kind: the events are safe on disk, so report it and retry later
            _LOG.debug("Could not connect to %s", self._uri, exc_info=True)
            return error
        # Parents usually come before their children. A run whose parent comes later is sent once more after it.
        queue = sorted(folders, key=self._first_time)
        late: dict[Path, str] = {}
        for folder in queue:
            size = _size(folder)
            try:
                cursor = replayer.ship(folder, self._run_id)
            except Exception as error:  # as above; other logs may succeed unless the server is unavailable
                if _size(folder) is None:
                    continue
                _LOG.debug("Could not send %s", folder, exc_info=True)
                trouble = trouble or error
                if not self._answers():
                    break
                continue
            if cursor.destination == self.destination and cursor.key and cursor.run_id:
                self._run_ids[cursor.key] = cursor.run_id
            if cursor.nested_in == cursor.parent_key or cursor.destination != self.destination:
                self._done[folder] = size or 0
            elif cursor.parent_key and folder not in late:
                late[folder] = cursor.parent_key
            queue += [folder for folder, key in late.items() if key == cursor.key]
        return trouble

    def _connected(self) -> Replayer:
        """The replayer for the experiment; if the experiment is gone, find or create it again."""
        if self._replayer is not None and not self._still_there():
            self._replayer = None
        if self._replayer is None:
            for known in (self._run_ids, self._asked, self._done):
                known.clear()
            self._client = connect(self._uri)
            self._experiment_id = ensure_experiment(self._client, self._uri, self._experiment)
            # A server that was unavailable may have come back with another database.
            self._replayer = Replayer(
                self._client, self._experiment_id, self.destination, verify_runs=self._was_connected
            )
            self._was_connected = True
        return self._replayer

    def _still_there(self) -> bool:
        """Whether the experiment still exists: a person may delete it, or the server may have another database."""
        try:
            found = self._client.get_experiment(self._experiment_id)
        except Exception as error:
            if not is_refusal(error):
                raise
            return False
        return found.name == self._experiment and found.lifecycle_stage == "active"

    def _answers(self) -> bool:
        try:
            self._client.get_experiment(self._experiment_id)
        except Exception as error:  # any failure of the simplest request means that the server is unavailable
            self._replayer = None
            _LOG.debug("%s does not answer: %s", self._uri, error)
            return False
        return True

    def _run_id(self, key: str) -> str | None:
        """The run id of ``key``, or None if it is not known yet; asks the server at most every 30 seconds."""
        now = time.monotonic()
        if key not in self._run_ids and now - self._asked.get(key, -_PARENT_WAIT) >= _PARENT_WAIT:
            self._asked[key] = now
            found = find_run_id(self._client, self._experiment_id, key)
            if found:
                self._run_ids[key] = found
        return self._run_ids.get(key)

    def _first_time(self, folder: Path) -> int:
        if folder not in self._opened:
            first = None
            with suppress(FileNotFoundError):
                first = next((event for event, _ in read_events(folder) if event), None)
            if first is None:
                return 0
            self._opened[folder] = first["time"]
        return self._opened[folder]

    def _is_sent_elsewhere(self, folder: Path) -> bool:
        """Whether a living process sends the log, or that of its parent, to another destination.

        Otherwise two runs with different tracking servers would each send the other's logs, too, and share the files.
        """
        senders = self._find_senders(folder)
        found = list(senders.processes.items())
        if senders.parent and (parent := log_folder(self._directory, senders.parent)) != folder:
            found += self._find_senders(parent).processes.items()
        return any(to != self.destination and _is_alive_here(process) for process, to in found)

    def _find_senders(self, folder: Path) -> "_Senders":
        """Who sends a log, by the events that are there until now."""
        senders = self._senders.setdefault(folder, _Senders())
        if senders.offset > (_size(folder) or 0):  # the log was removed, and perhaps begun again
            senders = self._senders[folder] = _Senders()
        with suppress(FileNotFoundError):
            for event, after in read_events(folder, senders.offset, containing=b'"open"'):
                senders.offset = after
                if event and event["kind"] == "open":
                    senders.parent = event.get("parent") or senders.parent
                    if event.get("process") and event.get("destination"):
                        senders.processes[event["process"]] = event["destination"]
        return senders

    def _waiting(self, folder: Path) -> int:
        with suppress(FileNotFoundError):
            if self._is_sent_elsewhere(folder):
                return 0
            cursor = Cursor.load(folder, self.destination)
            return cursor.count_pending(folder) if cursor.destination == self.destination else 0
        return 0


@dataclass
class _Senders:
    """Who sends a log, as far as it was read."""

    offset: int = 0
    parent: str | None = None
    """Key of the run that the log's run is nested in."""
    processes: dict[str, str] = field(default_factory=dict)
    """Destination of each process that has opened the log to send it."""


def _is_alive_here(process: str) -> bool:
    """Whether a process runs on this host. Of other hosts it cannot be told, so that their logs are sent."""
    return process.rsplit(":", 2)[0] == socket.gethostname() and is_process_alive(process)


def _size(folder: Path) -> int | None:
    """Size of a log in bytes; None if another process has removed it."""
    with suppress(FileNotFoundError):
        return (folder / EVENTS).stat().st_size
    return None
