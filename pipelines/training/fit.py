"""Run gan_core's trainer under Ray Train."""

import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from gan_core.checkpoint import find_damage, list_checkpoints
from gan_core.config import check
from gan_core.data import PreparedDataset, user_cache_dir
from gan_core.disk import what_failed, with_place
from gan_core.errors import CheckpointError, StageError
from gan_core.inference.generator import load_generator
from pipelines.runtime.cluster import first_line
from pipelines.runtime.local_ray import LOOPBACK
from pipelines.runtime.progress import say
from pipelines.settings.schema import Settings
from pipelines.training.progress import Progress
from pipelines.training.worker import (
    CHECKPOINTS,
    CURVES,
    FAILURE,
    GENERATOR,
    Job,
    raise_saved_failure,
    train_loop_per_worker,
)

WORKER_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Environment of the workers: large memory pages, because every step allocates and frees tensors. Ray trains in a thread, where
glibc's allocator is slower than in the main thread; with small pages a step took 20 % longer than without Ray."""

UPLOADS = "ray"
GROUP_TIMEOUT = 4 * 3600
"""Seconds that workers wait for each other. Torch's default of half an hour is too short if rank 0 measures the FID of 50,000
pictures; Ray detects lost workers itself."""


def fit(work: Path, data: Path, settings: Settings, *, run_key: str, run_name: str, track: Path | None) -> None:
    """Train with Ray Train and export the generator to ``work``; resumes an earlier call with the same ``work``.

    Raises:
        SettingsError: the family does not support the data, or the cluster has too few resources for the workers.
        StageError: workers were lost more often than ``train.max_failures``.
        GantryError: any error of the trainer itself.
    """
    settings.check_data(PreparedDataset(data))
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from pipelines.training.rendezvous import LocalTorchConfig, remove_rendezvous_files

    least, most = settings.train.workers
    use_gpu, cpus = allocate_resources(least, most, ray.cluster_resources())
    name = work.name
    uploads = work / UPLOADS
    (work / FAILURE).unlink(missing_ok=True)
    job = Job(
        settings=settings.for_workers(),
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
    if resumed := newest_checkpoint_step((work / CHECKPOINTS, uploads)):
        say("train", f"resuming at step {resumed}, from the newest checkpoint of an interrupted run")
    # A worker that waits for a lost one cannot leave the group; by default, Ray kills it only after half a minute.
    os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "5")
    on_this_machine = ray.get_runtime_context().gcs_address.startswith(f"{LOOPBACK}:")
    torch_config = (
        LocalTorchConfig(timeout_s=GROUP_TIMEOUT, folder=job.work)
        if on_this_machine
        else TorchConfig(timeout_s=GROUP_TIMEOUT)
    )
    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config=dataclasses.asdict(job),
        torch_config=torch_config,
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most),  # type: ignore[arg-type]
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # mypy sees the RunConfig of Ray Train v1
            # A run with the same name is resumed; the work directory is named after the stage key, which is unique.
            name=name,
            storage_path=str(uploads.resolve()),
            failure_config=FailureConfig(max_failures=settings.train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=settings.train.keep_checkpoints),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )
    with Progress(work / CURVES, settings.train.steps):
        try:
            trainer.fit()
        except ray.exceptions.RayActorError as error:
            raise StageError(
                f"Ray Train's controller died ({first_line(error)}). Checkpoints are kept in {work}; run the stage again to "
                "resume from them."
            ) from error
        except ray.train.TrainingFailedError as error:
            raise_saved_failure(work / FAILURE)
            if refused := with_place(error, work):
                raise StageError(
                    f"{what_failed(refused)} Checkpoints are kept in {work}; run the stage again to resume from them."
                ) from error
            raise StageError(
                f"Ray Train gave up (train.max_failures is {settings.train.max_failures}): {_last_line(error)} "
                f"Checkpoints are kept in {work}; run the stage again to resume from them."
            ) from error
        finally:
            remove_rendezvous_files(work)
    raise_saved_failure(work / FAILURE)
    if not (work / GENERATOR).is_dir():
        raise StageError(f"Training ended without a generator in {work}. Remove {uploads} and run the stage again.")


def is_exported(work: Path) -> bool:
    """Whether ``work`` has a complete exported generator.

    The published files are hard links to these, so writing into a published file damages this generator too. A damaged
    generator is removed together with Ray's record of the finished run, so that :func:`fit` exports it again from the
    newest checkpoint.
    """
    if not (work / GENERATOR).is_dir():
        return False
    try:
        load_generator(work / GENERATOR)
    except CheckpointError as error:
        say("train", f"{error} Exporting it again from the newest checkpoint.")
        shutil.rmtree(work / UPLOADS, ignore_errors=True)
        shutil.rmtree(work / GENERATOR)
        return False
    return True


def allocate_resources(least: int, most: int, resources: Mapping[str, float]) -> tuple[bool, int]:
    """Divide the resources of a cluster among ``least`` to ``most`` workers.

    Returns:
        Whether each worker gets a GPU, and its number of CPU cores.

    Raises:
        SettingsError: the resources do not suffice for ``least`` workers. Ray would wait for more indefinitely.
    """
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    has = f"and the cluster has {cpus} CPU core(s) and {gpus} GPU(s). Lower it, or add machines"
    check(
        gpus == 0 or gpus >= least,
        f"train.num_workers: {least} workers need a GPU each, {has}. CUDA_VISIBLE_DEVICES= in the environment hides GPUs.",
    )
    check(cpus >= least, f"train.num_workers: {least} workers need a CPU core each, {has}.")
    return gpus > 0, max(1, cpus // most)


def newest_checkpoint_step(places: Iterable[Path]) -> int:
    """Step of the newest complete checkpoint below ``places``, from which the trainer will resume; 0 if there is none."""
    found = [path for place in places for path in list_checkpoints(place)]
    newest = sorted(found, key=lambda path: path.name, reverse=True)
    whole = next((path for path in newest if find_damage(path) is None), None)
    return int(whole.name.removeprefix("step-")) if whole else 0


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
