"""Tracking: event logs on disk that wait for no server, and a shipper that replays each event once into MLflow."""

from pipelines.tracking.runlog import RunLog
from pipelines.tracking.shipper import Shipper, sync
from pipelines.tracking.store import RunRef, find_run

__all__ = ["RunLog", "RunRef", "Shipper", "find_run", "sync"]
