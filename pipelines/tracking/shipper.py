"""Shipper: a background thread that brings every event log under a folder to the tracking server."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from gan_core.errors import TrackingError
from pipelines.runtime.redaction import redact_credentials
from pipelines.tracking.abandoned import end_abandoned
from pipelines.tracking.store import short, uri_setting
from pipelines.tracking.tree import KEPT_DAYS, LogTree, Pass, prune

_POLL, _FLUSH, _LONGEST_WAIT = 1.0, 15.0, 60.0
_LOG = logging.getLogger(__name__)


class Shipper:
    """Context manager that sends the logs under a folder while the block runs, in a thread of its own.

    A tracking server that is away costs nothing but a warning: events wait on disk, are sent when it is back, or by the
    next shipper on the same folder. Leaving the block waits at most ``flush_seconds`` for what is left.
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
        self._wanted, self._passes, self._last = 0, 0, Pass(waiting=0)
        self._thread = threading.Thread(target=self._work, name="gantry-shipper", daemon=True)

    def __enter__(self) -> "Shipper":
        for old in prune(self._directory):
            _LOG.info("Removed %s: the tracking server has had all of it for %.0f days.", old, KEPT_DAYS)
        for name in end_abandoned(self._directory):
            _LOG.info("Run '%s' was killed; it is marked so.", name)
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
                "%d events wait in %s for the tracking server %s: the next run sends them, or now: gantry track sync",
                self._counter.waiting(),
                self._directory,
                self._uri,
            )

    def flush(self, timeout: float) -> bool:
        """Have everything sent that is on disk now; whether that was done within ``timeout`` seconds.

        Returns early with False when the server cannot be reached.
        """
        end = time.monotonic() + timeout
        first = self._passes
        while (left := end - time.monotonic()) > 0:
            with self._passed:
                begun = self._passes
                self._wanted = begun + 1
                self._passed.notify_all()
                self._passed.wait_for(lambda begun=begun: self._passes > begun, left)  # type: ignore[misc]
            if not self._counter.waiting():
                return True
            # The first pass may have failed before this call; the second is an answer to it.
            if self._last.trouble and self._passes >= first + 2:
                return False
            time.sleep(0.05)
        return False

    def _work(self) -> None:
        failures = 0
        while True:
            try:
                last = self._tree.send()
            except OSError as error:  # the disk, not the server
                last = Pass(waiting=1, trouble=short(error))
            failures = self._report(last, failures)
            with self._passed:
                self._last = last
                self._passes += 1
                self._passed.notify_all()
                wait = min(self._poll * 2**failures, _LONGEST_WAIT) if failures else self._poll
                self._passed.wait_for(lambda: self._stop.is_set() or self._wanted > self._passes, wait)
                if self._stop.is_set():
                    return

    def _report(self, last: Pass, failures: int) -> int:
        """Say once that sending fails and once that it works again; return the failures in a row."""
        if last.trouble is None:
            if failures:
                _LOG.info("The tracking server %s takes events again.", self._uri)
            return 0
        if not failures:
            _LOG.warning(
                "Cannot send to the tracking server %s (%s). Work goes on; events wait in %s.",
                self._uri,
                last.trouble,
                self._directory,
            )
        return failures + 1


def sync(
    directory: Path | str,
    *,
    tracking_uri: str,
    experiment: str,
    timeout: float = 3600.0,
    then: str = "gantry track sync",
    progress: Callable[[int], object] | None = None,
) -> int:
    """Send everything that waits under ``directory`` now, in this thread; return how many events were sent.

    Args:
        directory: the folder of event logs; one that does not exist holds none.
        tracking_uri: MLflow server or database.
        experiment: MLflow experiment.
        timeout: seconds after which to give up (another shipper may be at work on the same folder).
        then: what to do once the server is back, for the error's message.
        progress: called with the number of events that still wait.

    Raises:
        TrackingError: the server cannot be reached or the time is over.
    """
    tree = LogTree(directory, tracking_uri=tracking_uri, experiment=experiment)
    before = waiting = tree.waiting()
    end = time.monotonic() + timeout
    while waiting:
        last = tree.send()
        if last.trouble:
            remedy = "After that" if last.disk else f"Check {uri_setting()} and that the server runs, then"
            raise TrackingError(
                f"The tracking server {redact_credentials(tracking_uri)} does not take the events that wait in {directory} "
                f"({last.trouble}). {remedy}: {then}"
            )
        waiting = tree.waiting()
        if progress:
            progress(waiting)
        if waiting and time.monotonic() > end:
            raise TrackingError(
                f"{waiting} events still wait in {directory} after {timeout:.0f} s: is another shipper stuck?"
            )
        if waiting:
            time.sleep(0.2)
    return before
