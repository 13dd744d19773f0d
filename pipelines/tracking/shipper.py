"""Shipper: a background thread that sends all event logs under a folder to the tracking server."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from gan_core.errors import TrackingError
from pipelines.runtime.redaction import redact_credentials
from pipelines.tracking.abandoned import end_abandoned
from pipelines.tracking.store import error_summary, uri_setting
from pipelines.tracking.tree import RETENTION_DAYS, LogTree, SendResult, prune_logs

_POLL, _FLUSH, _LONGEST_WAIT = 1.0, 15.0, 60.0
_LOG = logging.getLogger(__name__)


class Shipper:
    """Context manager that sends the logs under a folder from a background thread while the block runs.

    If the tracking server is unavailable, it logs a warning and keeps the events on disk; they are sent when the server is
    back, or by the next shipper on the same folder. Leaving the block waits at most ``flush_seconds`` for pending events.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        tracking_uri: str,
        experiment: str,
        poll_seconds: float = _POLL,
        flush_seconds: float = _FLUSH,
    ) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._tree = LogTree(directory, tracking_uri=tracking_uri, experiment=experiment)
        self._counter = LogTree(directory, tracking_uri=tracking_uri, experiment=experiment)
        self._uri = redact_credentials(tracking_uri)
        self._poll, self._flush = poll_seconds, flush_seconds
        self._stop = threading.Event()
        self._passed = threading.Condition()
        self._wanted, self._passes, self._last = 0, 0, SendResult(waiting=0)
        self._thread = threading.Thread(target=self._work, name="gantry-shipper", daemon=True)

    def __enter__(self) -> "Shipper":
        for old in prune_logs(self._directory):
            _LOG.info("Removed %s: it was sent completely more than %.0f days ago.", old, RETENTION_DAYS)
        for name in end_abandoned(self._directory):
            _LOG.info("Marked run '%s' as killed: its process is gone.", name)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sent = self.flush(self._flush)
        self._stop.set()
        with self._passed:
            self._passed.notify_all()
        if sent:
            self._thread.join(self._flush)
        else:
            _LOG.warning(
                "%d events in %s are still to be sent to the tracking server %s. The next run sends them; to send them now: "
                "gantry track sync",
                self._counter.count_pending(),
                self._directory,
                self._uri,
            )

    def flush(self, timeout: float) -> bool:
        """Send all events that are on disk now; returns whether that succeeded within ``timeout`` seconds.

        Returns False early if the server cannot be reached.
        """
        end = time.monotonic() + timeout
        first = self._passes
        while (left := end - time.monotonic()) > 0:
            with self._passed:
                begun = self._passes
                self._wanted = begun + 1
                self._passed.notify_all()
                self._passed.wait_for(lambda begun=begun: self._passes > begun, left)  # type: ignore[misc]
            if not self._counter.count_pending():
                return True
            # The first pass may have failed before this call; the second started after it.
            if self._last.error and self._passes >= first + 2:
                return False
            time.sleep(0.05)
        return False

    def _work(self) -> None:
        failures = 0
        while True:
            try:
                last = self._tree.send()
            except OSError as error:  # the disk, not the server
                last = SendResult(waiting=1, error=error_summary(error))
            failures = self._report(last, failures)
            with self._passed:
                self._last = last
                self._passes += 1
                self._passed.notify_all()
                wait = min(self._poll * 2**failures, _LONGEST_WAIT) if failures else self._poll
                self._passed.wait_for(lambda: self._stop.is_set() or self._wanted > self._passes, wait)
                if self._stop.is_set():
                    return

    def _report(self, last: SendResult, failures: int) -> int:
        """Log the first failure and the recovery; return the number of consecutive failures."""
        if last.error is None:
            if failures:
                _LOG.info("The tracking server %s is available again.", self._uri)
            return 0
        if not failures:
            _LOG.warning(
                "Cannot send events to the tracking server %s (%s). The run continues; events are kept in %s.",
                self._uri,
                last.error,
                self._directory,
            )
        return failures + 1


def sync(
    directory: Path | str,
    *,
    tracking_uri: str,
    experiment: str,
    timeout: float = 3600.0,
    retry_command: str = "gantry track sync",
    progress: Callable[[int], object] | None = None,
) -> int:
    """Send all pending events under ``directory`` in this thread; returns the number of events sent.

    Args:
        directory: folder of event logs; it need not exist.
        tracking_uri: MLflow server or database.
        experiment: MLflow experiment.
        timeout: seconds after which to give up, for example if another shipper holds the folder.
        retry_command: command that the error message recommends for sending the events later.
        progress: called with the number of pending events.

    Raises:
        TrackingError: the server cannot be reached, or the timeout has passed.
    """
    tree = LogTree(directory, tracking_uri=tracking_uri, experiment=experiment)
    before = waiting = tree.count_pending()
    end = time.monotonic() + timeout
    while waiting:
        last = tree.send()
        if last.error:
            remedy = "Then" if last.remedied else f"Check {uri_setting()} and that the server is running, then"
            raise TrackingError(
                f"Cannot send the events in {directory} to the tracking server {redact_credentials(tracking_uri)} "
                f"({last.error}). {remedy} run: {retry_command}"
            )
        waiting = tree.count_pending()
        if progress:
            progress(waiting)
        if waiting and time.monotonic() > end:
            raise TrackingError(
                f"{waiting} events in {directory} are still to be sent after {timeout:.0f} s. Check whether another process "
                "that sends them is stuck."
            )
        if waiting:
            time.sleep(0.2)
    return before
