"""Tracking: runs write event logs to disk without waiting for a server; a shipper sends each event to MLflow once."""

from pipelines.tracking.runlog import RunLog
from pipelines.tracking.shipper import Shipper, sync
from pipelines.tracking.store import RunRef, find_run

__all__ = ["RunLog", "RunRef", "Shipper", "find_run", "sync"]
