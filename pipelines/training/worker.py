"""The Ray Train worker: runs gan_core's trainer, and records metrics, pictures and checkpoints."""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.errors import GantryError
from gan_core.images.grid import save_sheet
from gan_core.metrics.protocol import Figure
from gan_core.training.config import TrainConfig
from gan_core.training.length import decide_length
from gan_core.training.observer import Observer
from gan_core.training.start import Start, open_start
from gan_core.training.trainer import Trainer
from gan_core.training.world import World
from pipelines.runtime.code import check_versions
from pipelines.settings.schema import Settings, parse_settings
from pipelines.storage.journal import ReplacedError
from pipelines.storage.objects import StorageError
from pipelines.tracking import RunLog
from pipelines.training.cost import MEMORY, peak_memory_gib
from pipelines.training.curves import append_row
from pipelines.training.notice import Notice
from pipelines.training.places import (
    CHECKPOINTS,
    CURVES,
    GENERATOR,
    GRIDS,
    GROUPS,
    START,
    SharedDisk,
    SharedStorage,
    WorkerFiles,
)
from pipelines.training.run_tags import run_tags

LOG = logging.getLogger(__name__)
ValuesAt = Callable[[int], dict[str, Any]]
"""Values of settings by dotted name for a number of steps."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All parameters of a worker."""

    settings: dict[str, Any]
    place: SharedDisk | SharedStorage
    cache: str
    """Folder of decoded pictures; empty: the cache of the worker's user."""
    run_key: str
    run_name: str
    threads: int
    start: dict[str, Any] | None
    """Record of the run that this one starts from (:attr:`gan_core.training.start.Start.record`)."""
    versions: str
    """:func:`pipelines.runtime.code.code_versions` of the driver, which the workers must have, too."""
    later: ValuesAt | None = None
    """What ``model.preset: auto`` chooses once ``train.minutes`` are a number of steps; None without the preset."""


class Reporter(Observer):
    """Observer of a training run under Ray: writes files to the work directory and the run log, and sends checkpoints."""

    def __init__(self, files: WorkerFiles, log: RunLog | None, times: dict[str, Any]) -> None:
        self._work, self._log, self._check, self._send = files.work, log, files.check, files.send
        self._notice = Notice() if files.send else None
        self._times: dict[str, Any] | None = times

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Append a line to the curves and log the metrics."""
        self._check()
        append_row(self._work / CURVES, {"step": step, **values})
        if self._log:
            self._log.log_metrics(values, step)

    def pictures(self, pictures: Tensor, step: int, columns: int) -> None:
        """Save the grid of pictures and log it. MLflow's chart view opens at step 0 and is empty if no grid has that step."""
        path = self._work / GRIDS / f"step-{step:08d}.png"
        save_sheet(path, pictures, columns=columns)
        if self._log:
            self._log.log_image(path, GRIDS, step)

    def figure(self, figure: Figure, step: int) -> None:
        """Log the protocol of the run's FIDs as a tag; :meth:`metrics` logs their values."""
        if self._log:
            self._log.set_tags({"gantry.fid_protocol": figure.protocol.stamp})

    def checkpoint(self, path: Path | None, step: int) -> None:
        """Send the checkpoint to the storage, if there is one. (Ray Train is told nothing: decision 152.)"""
        if path and self._send:
            try:
                self._send()  # at once, so that a lost host costs no steps before this one
            except StorageError as error:
                LOG.warning("The checkpoint of step %d waits on this host: %s", step, error)

    def wants_checkpoint(self, step: int) -> bool:
        """Whether a host of this group is about to be taken away."""
        if self._notice is None:
            return False
        if self._times is not None:
            self._note_group(step)
        return self._notice.is_new(step)

    def _note_group(self, step: int) -> None:
        """Record when this group has made its first step, and what it did before."""
        if ray.train.get_context().get_world_rank() == 0:
            append_row(self._work / GROUPS, {**(self._times or {}), "step": step, "stepped": time.time()})
        self._times = None


def train_loop_per_worker(values: dict[str, Any]) -> None:
    """Train as one of the workers; ``values["job"]`` is a :class:`Job`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    job: Job = values["job"]
    times: dict[str, Any] = {"host": socket.gethostname(), "entered": time.time()}
    torch.set_num_threads(job.threads)
    if job.place.failure() is not None:  # a restart by Ray would fail in the same way
        return
    context = ray.train.get_context()
    with save_failure(job.place, context.get_world_size()):
        check_versions("train", job.versions)
        with job.place.on_worker(context.get_world_rank()) as files:
            _train(job, files, times)


def _train(job: Job, files: WorkerFiles, times: dict[str, Any]) -> None:
    times["fetched"] = time.time()
    settings = parse_settings(job.settings)
    log = RunLog(files.events, key=job.run_key, name=job.run_name) if files.events else None
    dataset = PreparedDataset(files.data, cache_dir=job.cache or None, shards=files.shards)
    if settings.train.minutes is not None:
        settings = _decide_length(job, settings, dataset, files, log)
    trainer = Trainer(
        settings.model.family,
        settings.model.config,
        dataset,
        settings.train.trainer_config(),
        files.work / CHECKPOINTS,
        device=ray.train.torch.get_device(),  # type: ignore[attr-defined]
        observer=Reporter(files, log, times),
        start=Start(**job.start, folder=files.start and open_start(files.start).folder) if job.start else None,
    )
    if log:
        log.set_tags(run_tags(trainer.device, job.threads, trainer.world.size, trainer.dataset))
    times |= {"built": time.time(), "workers": trainer.world.size, "resumed": trainer.step}
    trainer.run()
    if trainer.world.rank == 0:
        trainer.export_start(files.work / START)
        trainer.export(files.work / GENERATOR)
    if log:
        log.log_metrics({MEMORY: peak_memory_gib(trainer.device)}, trainer.step)


def _decide_length(
    job: Job, settings: Settings, dataset: PreparedDataset, files: WorkerFiles, log: RunLog | None
) -> Settings:
    """The settings with a number of steps in place of ``train.minutes``, and with the choices that follow from it."""

    def build_trainer(config: TrainConfig, directory: Path) -> Trainer:
        device = ray.train.torch.get_device()  # type: ignore[attr-defined]
        return Trainer(settings.model.family, settings.model.config, dataset, config, directory, device=device)

    config = settings.train.trainer_config()
    world = World.current()
    length = decide_length(build_trainer, config, files.work, files.work / CHECKPOINTS, world=world)
    if files.send:
        try:
            files.send()  # at once, so that the group that goes on after a lost host has as many steps
        except StorageError as error:
            LOG.warning("The number of steps waits on this host: %s", error)
    # Those of rank 0 for all: another host may have other presets, and the networks would drift apart.
    chosen = world.broadcast(job.later(length.steps) if job.later and world.rank == 0 else {})
    if log:
        log.log_params({"train.steps": length.steps, **chosen})
    return settings.with_values({"train.steps": length.steps, "train.minutes": None, **chosen})


@contextmanager
def save_failure(place: SharedDisk | SharedStorage, workers: int) -> Iterator[None]:
    """Keep a GantryError for the driver, because restarting the workers would not fix it; one of the storage may be fixed.

    With several ``workers`` it is also raised, so that Ray ends the others; they would otherwise wait for this one for hours.
    """
    try:
        yield
    except (ReplacedError, StorageError):
        # The first: the driver goes on with another worker. The second may pass; Ray counts it (train.max_failures).
        raise
    except GantryError as error:
        place.save_failure(error)
        if workers > 1:
            raise
