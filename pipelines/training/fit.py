"""Ray Train around gan_core's trainer, and what a person sees of it meanwhile."""

import dataclasses
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from gan_core.data import PreparedDataset, user_cache_dir
from gan_core.errors import StageError
from pipelines.progress import duration, say
from pipelines.settings import Settings
from pipelines.training.worker import CURVES, FAILURE, GENERATOR, Job, raise_handed_over, work_as_one


def fit(work: Path, data: Path, settings: Settings, *, run_key: str, run_name: str, track: Path | None) -> None:
    """Run Ray Train until the generator lies in ``work``; resumes what an earlier call with the same ``work`` left.

    Raises:
        StageError: workers were lost more often than ``train.max_failures``.
        GantryError: what the trainer itself refused or gave up on.
    """
    settings.check_data(PreparedDataset(data).info)
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = ray.cluster_resources()
    least, most = settings.train.workers
    use_gpu = resources.get("GPU", 0) >= least
    cpus = max(1, int(resources.get("CPU", 1)) // most)
    name = work.name
    uploads = work / "ray"
    (work / FAILURE).unlink(missing_ok=True)
    job = Job(
        settings=settings.as_dict(),
        data=str(data.resolve()),
        work=str(work.resolve()),
        uploads=str(uploads.resolve()),
        cache=str((user_cache_dir() / "decoded").resolve()),
        track=str(track.resolve()) if track else "",
        run_key=run_key,
        run_name=run_name,
        threads=cpus,
    )
    say(
        "train",
        f"{settings.train.steps} steps on {least if least == most else f'{least} to {most}'} worker(s), "
        f"{'one GPU' if use_gpu else f'{cpus} CPU core(s)'} each; the workers take about half a minute to start",
    )
    trainer = TorchTrainer(
        work_as_one,
        train_loop_config=dataclasses.asdict(job),
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most),  # type: ignore[arg-type]
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            # The same name resumes the same run; the work directory's name is the stage key, which no other run can have.
            name=name,
            storage_path=str(uploads.resolve()),
            failure_config=FailureConfig(max_failures=settings.train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=settings.train.keep_checkpoints),
        ),
    )
    with _Progress(work / CURVES, settings.train.steps, settings.train.batch):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise StageError(
                f"Ray Train gave up (train.max_failures is {settings.train.max_failures}): {_last_line(error)} "
                f"Checkpoints stay in {work}; running the stage again resumes from them."
            ) from error
    raise_handed_over(work / FAILURE)
    if not (work / GENERATOR).is_dir():
        raise StageError(f"Training ended without a generator in {work}. Remove {uploads} and run the stage again.")


class _Progress:
    """Prints how far training is, with a rate and an estimate, from the file that rank 0 writes."""

    def __init__(self, curves: Path, steps: int, batch: int, every: float = 10.0) -> None:
        self._curves, self._steps, self._batch, self._every = curves, steps, batch, every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        # What an earlier run left in the file is no progress of this one.
        before = _last_complete_line(self._curves)
        told, started = before["step"] if before else -1, time.monotonic()
        while not self._done.wait(self._every if told >= 0 or time.monotonic() - started > 60 else 2):
            line = _last_complete_line(self._curves)
            if line is None or line["step"] == told:
                continue
            told, rate = line["step"], line["rate/images_per_second"]
            left = (self._steps - told) * self._batch / max(rate, 1e-9)
            say(
                "train",
                f"{told}/{self._steps} steps, {rate:.0f} images/s, {duration(left)} left; "
                f"D right on real {line['health/real_right']:.2f} / fake {line['health/fake_right']:.2f}, "
                f"diversity {line['health/diversity']:.2f}",
            )


def _last_complete_line(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = file.read().split(b"\n")
    for line in reversed(lines[:-1]):
        try:
            return json.loads(line)
        except ValueError:
            continue
    return None


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
