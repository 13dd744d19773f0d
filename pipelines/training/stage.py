"""The train stage: prepared data and the search's best settings in; a generator, its curves and its grids out."""

import dataclasses
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd

from gan_core import errors
from gan_core.data import user_cache_dir
from gan_core.errors import StageError
from gan_core.files import read_json
from pipelines.cluster import cluster
from pipelines.progress import duration, say
from pipelines.settings import Settings
from pipelines.stages.context import StageContext
from pipelines.tracking.stage import stage_run
from pipelines.training.worker import CURVES, FAILURE, GENERATOR, GRIDS, Job

log = logging.getLogger(__name__)

DATA, BEST, OUT = "data/prepared", "outputs/tune/best.json", "outputs/train"


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Train with the settings of params.yaml, those that the search improved taken from its result; gives the stage's outs."""
    best = read_json(context.root / BEST)["parameters"]
    settings = settings.with_values(best)
    for name, value in best.items():
        say("train", f"{name} = {value} (from the search)")
    with stage_run(context, settings) as run:
        run.params({"model": settings.model.as_dict(), "train": settings.as_dict()["train"]})
        if not (context.work / GENERATOR).is_dir():
            with cluster():
                fit(
                    context.work,
                    context.root / DATA,
                    settings,
                    run_key=run.key,
                    run_name="train",
                    track=run.folder.parent,
                )
        write_curves(context.work / CURVES, context.work / "curves.csv")
        run.artifact(context.work / "curves.csv")
    return {f"{OUT}/{name}": context.work / name for name in (GENERATOR, "curves.csv", GRIDS)}


def fit(work: Path, data: Path, settings: Settings, *, run_key: str, run_name: str, track: Path | None) -> None:
    """Run Ray Train until the generator lies in ``work``; resumes what an earlier call with the same ``work`` left.

    Raises:
        StageError: workers were lost more often than ``train.max_failures``.
        GantryError: what the trainer itself refused or gave up on.
    """
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
        _work,
        train_loop_config=dataclasses.asdict(job),
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most),
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
    with _progress(work / CURVES, settings.train.steps, settings.train.batch):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise StageError(
                f"Training lost its workers more than train.max_failures ({settings.train.max_failures}) times; "
                f"checkpoints stay in {work}, running again resumes. The last failure: {_last_line(error)}"
            ) from error
    if (work / FAILURE).is_file():
        failure = read_json(work / FAILURE)
        raise getattr(errors, failure["kind"], StageError)(failure["message"])
    if not (work / GENERATOR).is_dir():
        raise StageError(f"Training ended without a generator in {work}. Remove {uploads} and run the stage again.")


def _work(values: dict[str, Any]) -> None:
    """The worker's function; a module-level shell, so that only its name travels and the driver needs no torch."""
    from pipelines.training.worker import work

    work(values)


def read_curves(path: Path) -> pd.DataFrame:
    """Metrics by step; where a resumed run repeated steps, the later rows stand. A line cut short by a kill is left out."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["step"]] = row
    return pd.DataFrame([rows[step] for step in sorted(rows)])


def write_curves(source: Path, target: Path) -> None:
    """The curves as CSV, for `dvc plots`; columns that DVC can name (no slashes)."""
    frame = read_curves(source).rename(columns=lambda name: name.replace("/", "_"))
    frame.drop(columns=["rate_images_per_second"], errors="ignore").to_csv(target, index=False)


class _progress:
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
        told, started = -1, time.monotonic()
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
