"""The Ray Train worker: runs gan_core's trainer and reports metrics, pictures and checkpoints."""

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
    """All parameters of a worker, as plain values that can be serialised. Paths are absolute."""

    settings: dict[str, Any]
    data: str
    work: str
    uploads: str
    """Folder of the checkpoints uploaded by Ray."""
    cache: str
    track: str
    run_key: str
    run_name: str
    threads: int


class Reporter(Observer):
    """Observer of a training run under Ray: writes files to the work directory and the run log, and reports checkpoints."""

    def __init__(self, work: Path, log: RunLog | None) -> None:
        self._work, self._log = work, log

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Append a line to the curves and log the metrics."""
        with open(self._work / CURVES, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._log:
            self._log.log_metrics(values, step)

    def pictures(self, pictures: Tensor, step: int, columns: int) -> None:
        """Save the grid of pictures and log it."""
        path = self._work / GRIDS / f"step-{step:08d}.png"
        save_sheet(path, pictures, columns=columns)
        if self._log:
            self._log.log_artifact(path, GRIDS)

    def figure(self, figure: Figure, step: int) -> None:
        """Log the protocol of the run's FIDs as a tag; :meth:`metrics` logs their values."""
        if self._log:
            self._log.set_tags({"gantry.fid_protocol": figure.protocol.stamp})

    def checkpoint(self, path: Path | None, step: int) -> None:
        """Report the checkpoint to Ray, which uploads it while training continues."""
        checkpoint = None
        if path is not None:
            # Ray uploads from a copy of hard links, because the trainer may remove its own folder meanwhile.
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


def train_loop_per_worker(values: dict[str, Any]) -> None:
    """Train as one of the workers; ``values`` are the fields of a :class:`Job`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    job = Job(**values)
    torch.set_num_threads(job.threads)
    settings = parse_settings(job.settings)
    directory = Path(job.work)
    if (directory / FAILURE).exists():  # a restart by Ray would fail in the same way
        return
    rank = ray.train.get_context().get_world_rank()
    if rank > 0:
        _train(job, settings, directory, None)
        return
    # A worker of a killed driver may live for a few more seconds; two trainers must not share a work directory.
    with _only_trainer(directory / "trainer.lock"):
        log = RunLog(job.track, key=job.run_key, name=job.run_name) if job.track else None
        _train(job, settings, directory, log)


@contextmanager
def _only_trainer(path: Path, patience: float = 60.0) -> Iterator[None]:
    """Hold the lock of a work directory; raises StageError if another trainer holds it for ``patience`` seconds."""
    with file_lock(path, patience=patience) as ours:
        if not ours:
            raise StageError(f"Another trainer uses {path.parent}. End that process, then run the stage again.")
        yield


def _train(job: Job, settings: Any, directory: Path, log: RunLog | None) -> None:
    device = ray.train.torch.get_device()  # type: ignore[attr-defined]
    with save_failure(directory / FAILURE, ray.train.get_context().get_world_size()):
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
def save_failure(path: Path, workers: int) -> Iterator[None]:
    """Save a GantryError to ``path`` for the driver, because restarting the workers would not fix it.

    With several ``workers`` it is also raised, so that Ray ends the others; they would otherwise wait for this one for hours.
    """
    try:
        yield
    except GantryError as error:
        write_json(path, {"kind": type(error).__name__, "message": str(error)})
        if workers > 1:
            raise


def raise_saved_failure(path: Path) -> None:
    """Raise the error that a worker saved to ``path``, if any. Called by the driver."""
    if path.is_file():
        failure = read_json(path)
        raise getattr(errors, failure["kind"], StageError)(failure["message"])
