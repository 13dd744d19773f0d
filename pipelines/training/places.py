"""Where training reads its data and writes its files: on a disk that driver and workers share, or on each host, with a storage.

The driver ends with the same work directory in both cases: checkpoints aside, it holds what rank 0 wrote.
"""

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gan_core import errors
from gan_core.checkpoint import list_checkpoints
from gan_core.errors import GantryError, StageError
from gan_core.files import read_json, write_json
from gan_core.locks import file_lock
from gan_core.training.length import LENGTH
from pipelines.runtime.drivers import driver_lease
from pipelines.runtime.owned import scratch_folder
from pipelines.runtime.progress import say, say_waiting
from pipelines.storage.folders import fetch_folder, publish_folder
from pipelines.storage.inputs import Inputs, publish_inputs
from pipelines.storage.lease import Lease
from pipelines.storage.mirror import Mirror, MirrorWriter
from pipelines.storage.objects import MissingObjectError, Storage, StorageError
from pipelines.storage.shards import StorageShards
from pipelines.storage.work import work_name
from pipelines.tracking.forward import Forwarder
from pipelines.training.kept import forget_brought

LOG = logging.getLogger(__name__)

CHECKPOINTS, CURVES, GRIDS, GENERATOR, EVENTS = "checkpoints", "curves.jsonl", "grids", "generator", "events"
START = "start"
GROUPS = "groups.jsonl"
"""A line for each group of workers that has started on a cluster: where, and what took how long."""
RAY_FOLDER = "ray"
_FAILURE = "failure.json"
_PULL_SECONDS = 3.0


@dataclass(frozen=True)
class WorkerFiles:
    """Folders of a worker, on its own host."""

    work: Path
    data: Path
    events: Path | None
    """Folder of the event logs, of rank 0 if the run is tracked."""
    shards: StorageShards | None = None
    """Where the shards are if they are not in :attr:`data`, which then has only their description."""
    start: Path | None = None
    """Start folder of the run that this one starts from; None if there is none, or if this run has a checkpoint."""
    check: Callable[[], None] = field(default=lambda: None)
    """Raises StageError if another process has taken over the work of this one."""
    send: Callable[[], None] | None = None
    """Sends what this worker has written to the storage, where others go on if this host is lost. None on a single host."""


@dataclass(frozen=True, kw_only=True)
class SharedDisk:
    """Driver and workers are on one host. All paths are absolute."""

    work: str
    data: str
    events: str
    """Folder of the event logs; empty without tracking."""
    start: str = ""
    """Start folder of the run that this one starts from; empty if there is none."""

    def ray_storage(self) -> dict[str, Any]:
        """Where Ray Train keeps its own state, as arguments of its RunConfig."""
        return {"storage_path": f"{self.work}/{RAY_FOLDER}"}

    @property
    def checkpoints(self) -> str:
        """Where checkpoints are kept, for messages."""
        return f"{self.work}/{CHECKPOINTS}"

    @contextmanager
    def on_worker(self, rank: int) -> Iterator[WorkerFiles]:
        """Yield the folders of a worker.

        Raises:
            StageError: rank 0 of another run still uses the work directory after a minute.
        """
        work, data = Path(self.work), Path(self.data)
        if rank > 0:
            yield WorkerFiles(work, data, None)
            return
        # A worker of a killed driver may live for a few more seconds; two trainers must not share a work directory.
        with _only_trainer(work / "trainer.lock"):
            events = Path(self.events) if self.events else None
            yield WorkerFiles(work, data, events, start=Path(self.start) if self.start else None)

    def save_failure(self, error: GantryError) -> None:
        """Keep ``error`` for the driver."""
        write_json(Path(self.work) / _FAILURE, _as_json(error))

    def failure(self) -> GantryError | None:
        """The error that a worker kept, if any."""
        path = Path(self.work) / _FAILURE
        return _from_json(read_json(path)) if path.is_file() else None

    def forget_failure(self) -> None:
        """Forget an error that an earlier attempt kept."""
        (Path(self.work) / _FAILURE).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class SharedStorage:
    """Driver and workers are on any hosts that reach the storage."""

    uri: str
    name: str
    """Of this work in the storage, such as ``work/train/KEY``."""
    epoch: int
    """Of the driver's lease on it."""
    inputs: Inputs
    tracked: bool
    """Whether rank 0 records events."""
    starts: bool = False
    """Whether the storage has the files of a run that this one starts from."""

    def ray_storage(self) -> dict[str, Any]:
        """Where Ray Train keeps its own state, as arguments of its RunConfig. Ray itself cannot read all of our addresses."""
        filesystem, root = Storage(self.uri).filesystem()
        return {"storage_path": f"{root}/{self.name}/{RAY_FOLDER}", "storage_filesystem": filesystem}

    @property
    def checkpoints(self) -> str:
        """Where checkpoints are kept, for messages."""
        return f"{self.uri}/{self.name}"

    @contextmanager
    def on_worker(self, rank: int) -> Iterator[WorkerFiles]:
        """Fetch the data once for this host; on rank 0, continue from what an earlier rank 0 has mirrored, and mirror the rest.

        Raises:
            StageError: a later driver has taken over.
            StorageError: the storage cannot be reached from this host.
        """
        with self.inputs.on_host() as inputs, scratch_folder("work") as work:
            if rank > 0:
                yield WorkerFiles(work, inputs.folder, None, inputs.shards, send=lambda: None)
                return
            mirror = MirrorWriter(
                Storage(self.uri),
                self.name,
                work,
                epoch=self.epoch,
                logs=(CURVES, GROUPS, f"{EVENTS}/*/events.jsonl"),
                checkpoints=(f"{CHECKPOINTS}/*",),
                accept=lambda name: name.startswith((CHECKPOINTS, CURVES, GROUPS, LENGTH, f"{EVENTS}/")),
            )
            mirror.take_over()
            with mirror.running(), scratch_folder("start") as start:
                events = work / EVENTS if self.tracked else None
                first = self.starts and not list_checkpoints(work / CHECKPOINTS)
                if first:
                    fetch_folder(Storage(self.uri), start_name(self.name), start / "files")
                yield WorkerFiles(
                    work,
                    inputs.folder,
                    events,
                    inputs.shards,
                    start / "files" if first else None,
                    mirror.check,
                    mirror.sync,
                )

    def save_failure(self, error: GantryError) -> None:
        """Keep ``error`` for the driver; of several workers that fail, the first is heard."""
        text = json.dumps({**_as_json(error), "host": socket.gethostname()}, sort_keys=True)
        Storage(self.uri).create(self._failure, text.encode())

    def failure(self) -> GantryError | None:
        """The error that a worker kept, if any."""
        try:
            return _from_json(json.loads(Storage(self.uri).read(self._failure)))
        except MissingObjectError:
            return None

    @property
    def _failure(self) -> str:
        return f"{self.name}/failures/{self.epoch:08d}"

    @contextmanager
    def on_driver(self, work: Path, events: Path | None) -> Iterator[None]:
        """Bring here what rank 0 writes and records, during the block and at its end.

        Args:
            work: work directory of the driver.
            events: log folder of the run on the driver's host; None without tracking.
        """
        forwarder = Forwarder(work / EVENTS / events.name, events) if events else None
        mirror = Mirror(Storage(self.uri), self.name, work, accept=lambda name: not name.startswith(f"{CHECKPOINTS}/"))

        def pull() -> None:
            mirror.pull()
            if forwarder:
                forwarder.forward()

        pull()
        with pulling(pull, "the training workers"):
            yield


@contextmanager
def pulling(pull: Callable[[], None], whom: str) -> Iterator[None]:
    """Call ``pull`` every few seconds in a thread, and at the end of the block.

    While the storage is away, or the disk here is full, that is only logged: what is in the storage waits there. At the end of
    the block it is an error.

    Args:
        pull: to call.
        whom: whom it brings news from.
    """
    over = threading.Event()

    def work() -> None:
        while not over.wait(_PULL_SECONDS):
            try:
                pull()
            except (StorageError, OSError) as error:
                LOG.warning("No news from %s: %s", whom, error)

    thread = threading.Thread(target=work, name="mirror", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        over.set()
        thread.join()
        with contextlib.suppress(StorageError, OSError):  # the reason may be that the storage is away
            pull()
        raise
    finally:
        over.set()
        thread.join()
    pull()


@contextmanager
def stage_lease(storage: Storage, stage: str, key: str) -> Iterator[tuple[str, Lease]]:
    """Hold the lease on the work of a stage for the length of the block; yields the name of the work, and the lease.

    Raises:
        StageError: another driver works on this stage, or has taken it over at the end of the block.
        StorageError: the storage cannot be reached.
    """
    storage.check()
    name = work_name(stage, key)
    with driver_lease(storage, name, partial(say_waiting, stage)) as held:
        yield name, held
        held.check()


@contextmanager
def shared_storage(
    uri: str,
    work: Path,
    data: Path,
    *,
    cache_gib: float,
    events: Path | None,
    weights: bool = False,
    start: Path | None = None,
) -> Iterator[SharedStorage]:
    """Hold the lease on training in ``work`` for the length of the block, with its inputs in the storage.

    Args:
        uri: of the storage.
        work: work directory of the driver; its name is the stage key.
        data: prepared data on the driver's host.
        cache_gib: largest size of the cache of each host.
        events: log folder of the run on the driver's host; None without tracking.
        weights: whether the workers measure the FID, and need the weights of the Inception network.
        start: start folder of the run that this one starts from. It need not exist if the storage has it already.

    Raises:
        StageError: another driver works under this key.
        StorageError: the storage cannot be reached.
    """
    storage = Storage(uri)
    with stage_lease(storage, "train", work.name) as (name, held):
        inputs = publish_inputs(
            storage,
            data,
            user=name,
            cache_gib=cache_gib,
            weights=weights,
            sending=lambda message: say("train", message),
        )
        if start and start.is_dir():
            publish_folder(storage, start_name(name), start)
        place = SharedStorage(
            uri=uri,
            name=name,
            epoch=held.epoch,
            inputs=inputs,
            tracked=events is not None,
            starts=start is not None,
        )
        if not any(True for _ in storage.entries(f"{name}/journal")):
            forget_brought(work, (CURVES, GROUPS, GRIDS, GENERATOR, START, EVENTS, LENGTH), events)
        with place.on_driver(work, events):
            yield place


def start_name(work: str) -> str:
    """Name in the storage of what the run of the work ``work`` starts from. It is removed with the work."""
    return f"{work}/start"


@contextmanager
def _only_trainer(path: Path, timeout: float = 60.0) -> Iterator[None]:
    """Hold the lock of a work directory; raises StageError if another trainer holds it for ``timeout`` seconds."""
    with file_lock(path, timeout=timeout) as ours:
        if not ours:
            raise StageError(f"Another trainer uses {path.parent}. End that process, then run the stage again.")
        yield


def _as_json(error: GantryError) -> dict[str, str]:
    return {"kind": type(error).__name__, "message": str(error)}


def _from_json(value: dict[str, Any]) -> GantryError:
    kind = getattr(errors, value["kind"], StageError)
    host = f" (on host {value['host']})" if value.get("host") else ""
    return kind(f"{value['message']}{host}")
