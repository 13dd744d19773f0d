"""What one Ray Train worker does: run gan_core's trainer, tell of metrics, pictures and checkpoints."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from torch import Tensor

from gan_core import errors
from gan_core.data import PreparedDataset
from gan_core.errors import GantryError, StageError
from gan_core.files import link_or_copy, read_json, write_json
from gan_core.images.grid import save_sheet
from gan_core.locks import file_lock
from gan_core.metrics.protocol import Figure
from gan_core.training.observer import Observer
from gan_core.training.trainer import Trainer
from pipelines.settings.schema import parse_settings
from pipelines.tracking import RunLog

CHECKPOINTS, CURVES, GRIDS, GENERATOR, FAILURE = "checkpoints", "curves.jsonl", "grids", "generator", "failure.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a worker has to know; plain values, so that it travels. Paths are absolute."""

    settings: dict[str, Any]
    data: str
    work: str
    uploads: str
    """Where Ray keeps the uploaded checkpoints."""
    cache: str
    track: str
    run_key: str
    run_name: str
    threads: int


class Reporter(Observer):
    """The observer of a training run under Ray: files in the work directory, the run's log, Ray's checkpoints."""

    def __init__(self, work: Path, log: RunLog | None) -> None:
        self._work, self._log = work, log

    def metrics(self, values: dict[str, float], step: int) -> None:
        """One line for the curves, one event for the tracker."""
        with open(self._work / CURVES, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._log:
            self._log.log_metrics(values, step)

    def pictures(self, pictures: Tensor, step: int, columns: int) -> None:
        """The grid."""
        path = self._work / GRIDS / f"step-{step:08d}.png"
        save_sheet(path, pictures, columns=columns)
        if self._log:
            self._log.log_artifact(path, GRIDS)

    def figure(self, figure: Figure, step: int) -> None:
        """The protocol that the run's FIDs share; their values are in the rows."""
        if self._log:
            self._log.set_tags({"gantry.fid_protocol": figure.protocol.stamp})

    def checkpoint(self, path: Path | None, step: int) -> None:
        """Hand the checkpoint to Ray, which uploads it while training goes on."""
        checkpoint = None
        if path is not None:
            # Ray uploads from a copy of hard links: the trainer may prune its own folder meanwhile.
            copy = self._work / "uploading" / path.name
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(path, copy / path.name, copy_function=link_or_copy)
            checkpoint = Checkpoint.from_directory(str(copy))
        ray.train.report(
            {"step": step},
            checkpoint=checkpoint,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )


def work_as_one(values: dict[str, Any]) -> None:
    """Train as one of the workers; ``values`` are a :class:`Job`'s."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    job = Job(**values)
    torch.set_num_threads(job.threads)
    settings = parse_settings(job.settings)
    directory = Path(job.work)
    if (directory / FAILURE).exists():  # by Ray's second attempt: it would end in the same way
        return
    rank = ray.train.get_context().get_world_rank()
    if rank > 0:
        _train(job, settings, directory, None)
        return
    # A worker of a killed driver may live for some seconds more: never two trainers on one work directory.
    with _only_trainer(directory / "trainer.lock"):
        log = RunLog(job.track, key=job.run_key, name=job.run_name) if job.track else None
        _train(job, settings, directory, log)


@contextmanager
def _only_trainer(path: Path, patience: float = 60.0) -> Iterator[None]:
    """Hold the lock of a work directory; raises StageError when another trainer keeps it for ``patience`` seconds."""
    with file_lock(path, patience=patience) as ours:
        if not ours:
            raise StageError(f"Another trainer holds {path}. End it, then run the stage again.")
        yield


def _train(job: Job, settings: Any, directory: Path, log: RunLog | None) -> None:
    device = ray.train.torch.get_device()  # type: ignore[attr-defined]
    with handed_over(directory / FAILURE, ray.train.get_context().get_world_size()):
        trainer = Trainer(
            settings.model.family,
            settings.model.config,
            PreparedDataset(job.data, cache_dir=job.cache),
            settings.train.trainer_config(),
            directory / CHECKPOINTS,
            device=device,
            observer=Reporter(directory, log),
            resume_from=job.uploads,
        )
        trainer.run()
        if trainer.world.rank == 0:
            trainer.export(directory / GENERATOR)


@contextmanager
def handed_over(path: Path, workers: int) -> Iterator[None]:
    """Leave a GantryError in ``path`` for the driver: no restart of the workers would mend it.

    With several ``workers`` it is raised as well, so that Ray ends the others: those that did not meet it would wait for
    this one for hours.
    """
    try:
        yield
    except GantryError as error:
        write_json(path, {"kind": type(error).__name__, "message": str(error)})
        if workers > 1:
            raise


def raise_handed_over(path: Path) -> None:
    """In the driver: raise the error that a worker left in ``path``, if any."""
    if path.is_file():
        failure = read_json(path)
        raise getattr(errors, failure["kind"], StageError)(failure["message"])
