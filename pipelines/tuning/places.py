"""Where the trials of a search read their data and write their files: on one disk, or on any hosts, with a storage.

With a storage, each trial works on the disk of its own host. Tune carries its checkpoints, and its mirror the events that it
records. The driver brings these to its own event logs, so that everything after is as on one host.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gan_core.cache import user_cache_dir
from gan_core.training.start import Start
from pipelines.runtime.owned import scratch_folder
from pipelines.runtime.progress import say
from pipelines.storage.folders import fetch_folder, publish_folder
from pipelines.storage.inputs import HostData, Inputs, publish_inputs
from pipelines.storage.mirror import Mirror, MirrorWriter
from pipelines.storage.node_cache import NodeCache
from pipelines.storage.objects import Storage
from pipelines.tracking.events import log_folder
from pipelines.tracking.forward import Forwarder
from pipelines.training.places import EVENTS, pulling, stage_lease, start_name

STATE, MIRRORS = "search.zip", "mirrors"
"""In the work directory: the saved state of a search on one disk; what the trials of one with a storage have recorded."""
_SOONEST_SECONDS, _LATEST_SECONDS = 3.0, 60.0


def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class TrialFiles:
    """Folders of a trial, on its own host."""

    work: Path
    data: HostData
    events: Path
    """Folder of the event logs."""
    decoded: Path
    """Cache of decoded pictures."""
    statistics: Path
    """Cache of the feature statistics of real pictures."""
    start: Path | None = None
    """Start folder of the run that the trial starts from; None if there is none."""
    lock: Path | None = None
    """Lock under which the trials of this host fill these caches; None: the driver has filled them."""
    sync: Callable[[], None] = _nothing
    """Carries what the trial has recorded to the storage; raises StageError if another process has taken over the trial."""


@dataclass(frozen=True, kw_only=True)
class TrialsOnDisk:
    """Driver and trials are on one host. All paths are absolute."""

    work: str
    data: str
    events: str
    decoded: str
    statistics: str
    start: str = ""
    """Start folder of the run that the trials start from; empty if there is none."""

    @contextmanager
    def on_trial(self, trial: str) -> Iterator[TrialFiles]:
        """Yield the folders of a trial."""
        yield TrialFiles(
            work=Path(self.work) / "trials" / trial,
            data=HostData(Path(self.data), None),
            events=Path(self.events),
            decoded=Path(self.decoded),
            statistics=Path(self.statistics),
            start=Path(self.start) if self.start else None,
        )


@dataclass(frozen=True, kw_only=True)
class TrialsInStorage:
    """Driver and trials are on any hosts that reach the storage."""

    name: str
    """Of the search in the storage, ``work/tune/KEY``."""
    epoch: int
    """Of the driver's lease on it."""
    inputs: Inputs
    start: str = ""
    """Digest of the run that the trials start from, whose files are in the storage; empty if there is none."""

    @contextmanager
    def on_trial(self, trial: str) -> Iterator[TrialFiles]:
        """Fetch the inputs once for this host, go on with the log of the trial, and mirror what it records.

        Raises:
            StageError: a later driver has taken over.
            StorageError: the storage cannot be reached from this host.
        """
        with self.inputs.on_host() as data, self._start_on_host() as start, scratch_folder("work") as folder:
            mirror = MirrorWriter(
                Storage(self.inputs.uri),
                self.mirror_name(trial),
                folder / "mirrored",
                epoch=self.epoch,
                logs=(f"{EVENTS}/*/events.jsonl",),
                accept=lambda name: name.endswith("/events.jsonl"),
            )
            mirror.take_over()

            def sync() -> None:
                mirror.check()
                mirror.sync()

            with mirror.running():
                yield TrialFiles(
                    work=folder / "trial",
                    data=data,
                    events=folder / "mirrored" / EVENTS,
                    decoded=user_cache_dir() / "decoded",
                    statistics=user_cache_dir() / "statistics",
                    start=start,
                    lock=user_cache_dir() / "statistics.lock",
                    sync=sync,
                )

    @contextmanager
    def _start_on_host(self) -> Iterator[Path | None]:
        """Yield the start folder of the run that the trials start from, fetched once for this host."""
        if not self.start:
            yield None
            return
        cache = NodeCache(user_cache_dir() / "starts", self.inputs.cache_bytes)
        storage, name = Storage(self.inputs.uri), start_name(self.name)
        with cache.hold(self.start, lambda folder: fetch_folder(storage, name, folder)) as folder:
            yield folder

    def mirror_name(self, trial: str = "") -> str:
        """Name of the mirror of a trial in the storage, or of the folder of all mirrors."""
        return f"{self.name}/trials/{trial}".rstrip("/")


@contextmanager
def trials_in_storage(
    uri: str, key: str, data: Path, *, cache_gib: float, start: Start | None = None
) -> Iterator[TrialsInStorage]:
    """Hold the lease on the search ``key`` for the length of the block, with the inputs of its trials in the storage.

    Args:
        uri: of the storage.
        key: stage key.
        data: prepared data on the driver's host.
        cache_gib: largest size of the cache of each host.
        start: the run that the trials start from; without a folder if the storage has it already.

    Raises:
        StageError: another driver works under this key.
        StorageError: the storage cannot be reached.
        FetchError: the weights of the Inception network are neither on this host nor in the storage, and cannot be fetched.
    """
    storage = Storage(uri)
    with stage_lease(storage, "tune", key) as (name, held):
        inputs = publish_inputs(
            storage,
            data,
            user=name,
            cache_gib=cache_gib,
            weights=True,
            sending=lambda message: say("tune", message),
        )
        if start and start.folder:
            publish_folder(storage, start_name(name), start.folder)
        yield TrialsInStorage(name=name, epoch=held.epoch, inputs=inputs, start=start.digest if start else "")


class TrialFollower:
    """Brings the events of the trials to the logs of their runs on the driver's host.

    Args:
        place: where the trials work.
        folder: for the mirrors, on the driver's host.
        events: folder of the event logs there.
        run_key: key of the search's run.
    """

    def __init__(self, place: TrialsInStorage, folder: Path, events: Path, run_key: str) -> None:
        self._place, self._folder, self._events, self._run_key = place, folder, events, run_key
        self._storage = Storage(place.inputs.uri)
        self._trials: dict[str, _FollowedTrial] = {}

    def pull(self, *, everything: bool = False) -> None:
        """Bring what is new: of trials that have been quiet for long more rarely, unless ``everything``."""
        for name in self._storage.subfolders(self._place.mirror_name()):
            if name not in self._trials:
                log = log_folder(self._events, trial_run_key(self._run_key, name))
                folder = self._folder / name
                mirror = Mirror(self._storage, self._place.mirror_name(name), folder)
                self._trials[name] = _FollowedTrial(mirror, Forwarder(folder / EVENTS / log.name, log))
        now = time.monotonic()
        for trial in self._trials.values():
            if everything or now >= trial.due:
                trial.pull(now)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Pull during the block, and everything at its end."""
        with pulling(self.pull, "the trials"):
            yield
        self.pull(everything=True)


class _FollowedTrial:
    """Pulls one trial. Thousands may have ended: one that is quiet is asked again after a quarter of the time it was quiet."""

    def __init__(self, mirror: Mirror, forwarder: Forwarder) -> None:
        self._mirror, self._forwarder = mirror, forwarder
        self._changed = time.monotonic()
        self.due = 0.0

    def pull(self, now: float) -> None:
        if self._mirror.pull():
            self._changed = now
        self._forwarder.forward()
        self.due = now + min(max((now - self._changed) / 4, _SOONEST_SECONDS), _LATEST_SECONDS)


def trial_run_key(run_key: str, trial: str) -> str:
    """Key of the run of a trial."""
    return f"{run_key}-{trial}"
