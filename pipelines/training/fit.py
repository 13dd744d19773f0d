"""Ray Train around gan_core's trainer."""

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
from pipelines.training.worker import CHECKPOINTS, CURVES, FAILURE, GENERATOR, Job, raise_handed_over, work_as_one

MEMORY = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""In the environment of workers: large pages for the tensors that come and go at each step. Ray trains in a thread, which glibc
serves worse than a program's first; with small pages the stage's step took a fifth longer than the bare loop's."""

UPLOADS = "ray"
PATIENCE = 4 * 3600
"""Seconds that workers wait for each other. By default half an hour, which the first may take longer than to measure the FID of
50,000 pictures; a worker that is gone, Ray notices itself."""


def fit(work: Path, data: Path, settings: Settings, *, run_key: str, run_name: str, track: Path | None) -> None:
    """Run Ray Train until the generator lies in ``work``; resumes what an earlier call with the same ``work`` left.

    Raises:
        SettingsError: the family cannot make such pictures, or the cluster has not what the workers need.
        StageError: workers were lost more often than ``train.max_failures``.
        GantryError: what the trainer itself refused or gave up on.
    """
    settings.check_data(PreparedDataset(data))
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from pipelines.training.rendezvous import LocalTorchConfig, remove_rendezvous_files

    least, most = settings.train.workers
    use_gpu, cpus = share(least, most, ray.cluster_resources())
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
    if resumed := newest_step((work / CHECKPOINTS, uploads)):
        say("train", f"resumed at step {resumed}, from the newest checkpoint of a run that was stopped")
    # A worker that waits for one that is gone cannot leave the group: half a minute by default before it is ended.
    os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "5")
    on_this_machine = ray.get_runtime_context().gcs_address.startswith(f"{LOOPBACK}:")
    meeting = (
        LocalTorchConfig(timeout_s=PATIENCE, folder=job.work) if on_this_machine else TorchConfig(timeout_s=PATIENCE)
    )
    trainer = TorchTrainer(
        work_as_one,
        train_loop_config=dataclasses.asdict(job),
        torch_config=meeting,
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most),  # type: ignore[arg-type]
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # mypy sees that of Ray Train 1
            # The same name resumes the same run; the work directory's name is the stage key, which no other run can have.
            name=name,
            storage_path=str(uploads.resolve()),
            failure_config=FailureConfig(max_failures=settings.train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=settings.train.keep_checkpoints),
            worker_runtime_env={"env_vars": MEMORY},
        ),
    )
    with Progress(work / CURVES, settings.train.steps):
        try:
            trainer.fit()
        except ray.exceptions.RayActorError as error:
            raise StageError(
                f"Ray Train's controller died ({first_line(error)}). Checkpoints stay in {work}; running the stage again "
                "resumes from them."
            ) from error
        except ray.train.TrainingFailedError as error:
            raise_handed_over(work / FAILURE)
            if refused := with_place(error, work):
                raise StageError(
                    f"{what_failed(refused)} Checkpoints stay in {work}; running the stage again resumes from them."
                ) from error
            raise StageError(
                f"Ray Train gave up (train.max_failures is {settings.train.max_failures}): {_last_line(error)} "
                f"Checkpoints stay in {work}; running the stage again resumes from them."
            ) from error
        finally:
            remove_rendezvous_files(work)
    raise_handed_over(work / FAILURE)
    if not (work / GENERATOR).is_dir():
        raise StageError(f"Training ended without a generator in {work}. Remove {uploads} and run the stage again.")


def is_exported(work: Path) -> bool:
    """Whether the generator lies in ``work``, whole.

    Its published files are the same as these, so that who writes into those damages these. A damaged one is removed, and with
    it Ray's note that the run is done: :func:`fit` then exports it again, from the newest checkpoint.
    """
    if not (work / GENERATOR).is_dir():
        return False
    try:
        load_generator(work / GENERATOR)
    except CheckpointError as error:
        say("train", f"{error} It is made again from the newest checkpoint.")
        shutil.rmtree(work / UPLOADS, ignore_errors=True)
        shutil.rmtree(work / GENERATOR)
        return False
    return True


def share(least: int, most: int, resources: Mapping[str, float]) -> tuple[bool, int]:
    """Whether each of ``least`` to ``most`` workers gets a GPU, and how many CPU cores, of what the cluster has.

    Raises:
        SettingsError: it has too little for ``least``: Ray would wait for more, without a word and without end.
    """
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    has = f"and the cluster has {cpus} CPU core(s) and {gpus} GPU(s). Lower it, or add machines"
    check(
        gpus == 0 or gpus >= least,
        f"train.num_workers: {least} workers need a GPU each, {has}. CUDA_VISIBLE_DEVICES= in the environment hides GPUs.",
    )
    check(cpus >= least, f"train.num_workers: {least} workers need a CPU core each, {has}.")
    return gpus > 0, max(1, cpus // most)


def newest_step(places: Iterable[Path]) -> int:
    """The step of the newest whole checkpoint below ``places``, where the trainer is going to look; 0 when there is none."""
    found = [path for place in places for path in list_checkpoints(place)]
    newest = sorted(found, key=lambda path: path.name, reverse=True)
    whole = next((path for path in newest if find_damage(path) is None), None)
    return int(whole.name.removeprefix("step-")) if whole else 0


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
