"""Tracking: event logs on disk that never wait for a server, and a shipper that replays them into MLflow, each event once."""

from pipelines.tracking.runlog import RunLog
from pipelines.tracking.shipper import Shipper, sync
from pipelines.tracking.store import RunRef, find_run

__all__ = ["RunLog", "RunRef", "Shipper", "find_run", "sync"]
