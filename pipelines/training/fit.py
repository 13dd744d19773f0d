"""Run gan_core's trainer under Ray Train."""

import shutil
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gan_core.cache import user_cache_dir
from gan_core.checkpoint import find_damage, list_checkpoints
from gan_core.data import PreparedDataset
from gan_core.disk import describe_os_error, disk_error_at
from gan_core.errors import CheckpointError, StageError
from gan_core.inference.generator import load_generator
from gan_core.shards import FolderShards
from gan_core.training.start import Start, check_files, open_start
from gan_core.training.stream import streaming_reason
from pipelines.runtime.cluster import first_line
from pipelines.runtime.code import code_versions
from pipelines.runtime.local_ray import LOOPBACK
from pipelines.runtime.progress import say
from pipelines.runtime.resources import allocate, cluster_nodes
from pipelines.settings.schema import Settings
from pipelines.tracking.events import log_folder
from pipelines.training.kept import check_kept, note_kept
from pipelines.training.places import (
    CHECKPOINTS,
    CURVES,
    GENERATOR,
    RAY_FOLDER,
    START,
    SharedDisk,
    SharedStorage,
    shared_storage,
)
from pipelines.training.progress import Progress
from pipelines.training.worker import Job, ValuesAt, train_loop_per_worker

WORKER_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Environment of the workers: large memory pages, because every step allocates and frees tensors. Ray trains in a thread, where
glibc's allocator is slower than in the main thread; with small pages a step took 20 % longer than without Ray."""

GROUP_TIMEOUT = 4 * 3600
"""Seconds that workers wait for each other. Torch's default of half an hour is too short if rank 0 measures the FID of 50,000
pictures; Ray detects lost workers itself."""


def fit(
    work: Path,
    data: Path,
    settings: Settings,
    *,
    run_key: str,
    run_name: str,
    track: Path | None,
    start: Start | None = None,
    start_folder: Path | None = None,
    later: ValuesAt | None = None,
) -> None:
    """Train with Ray Train and export the generator to ``work``; resumes an earlier call with the same ``work``.

    Args:
        work: the work directory.
        data: the prepared data.
        settings: all settings.
        run_key: key of the run in the event log.
        run_name: its name there.
        track: folder of the event logs; None without tracking.
        start: the run that this one starts from (``train.start_from``); None starts from random weights.
        start_folder: its files. With a storage that has them already, they need not be here.
        later: what ``model.preset: auto`` chooses once ``train.minutes`` are a number of steps; None without the preset.

    Raises:
        SettingsError: the family does not support the data, or the cluster has too few resources for the workers.
        StageError: workers were lost more often than ``train.max_failures``; or an interrupted run keeps its work elsewhere.
        GantryError: any error of the trainer itself.
    """
    settings.check_data(PreparedDataset(data))
    uri = settings.storage.resolve_uri()
    versions = check_kept("train", work, uri, on_disk=CHECKPOINTS, brought=CURVES)
    if uri:
        shared = shared_storage(
            uri,
            work,
            data,
            cache_gib=settings.storage.cache_gib,
            events=log_folder(track, run_key) if track else None,
            weights=settings.train.fid_every > 0,
            start=start_folder,
        )
        with shared as place:
            note_kept(work, uri, versions)
            _say_feed(PreparedDataset(data, shards=FolderShards(data) if place.inputs.streams else None), settings)
            _fit(work, settings, place, run_key, run_name, start, later)
            failure = place.failure()
    else:
        disk = SharedDisk(
            work=str(work.resolve()),
            data=str(data.resolve()),
            events=str(track.resolve()) if track else "",
            start=str(start_folder.resolve()) if start_folder else "",
        )
        disk.forget_failure()
        note_kept(work, uri, versions)
        _say_feed(PreparedDataset(data), settings)
        _fit(work, settings, disk, run_key, run_name, start, later)
        failure = disk.failure()
    if failure:
        raise failure
    if not (work / GENERATOR).is_dir():
        raise StageError(f"Training ended without a generator in {work}. Run the stage again.")


def _say_feed(dataset: PreparedDataset, settings: Settings) -> None:
    """Say why training streams the data, if it does; raises SettingsError if the settings forbid what is needed."""
    if reason := streaming_reason(dataset, settings.train):
        say("train", f"streaming the training data, shuffled in windows (train.feed): {reason}")


def _fit(
    work: Path,
    settings: Settings,
    place: SharedDisk | SharedStorage,
    run_key: str,
    run_name: str,
    start: Start | None,
    later: ValuesAt | None,
) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from pipelines.training.local_trainer import LocalTrainer
    from pipelines.training.lost_nodes import ClusterTrainer
    from pipelines.training.rendezvous import LocalTorchConfig, remove_rendezvous_files

    least, most = settings.train.workers
    share = allocate(cluster_nodes(), least, most, setting="train.num_workers", what="workers")
    use_gpu, cpus = share.gpus > 0, share.cpus
    shared_disk = isinstance(place, SharedDisk)
    job = Job(
        settings=settings.for_workers(),
        place=place,
        cache=str((user_cache_dir() / "decoded").resolve()) if shared_disk else "",
        run_key=run_key,
        run_name=run_name,
        threads=cpus,
        start=start.record if start else None,
        versions=code_versions("train"),
        later=later,
    )
    steps, minutes = settings.train.known_steps, settings.train.minutes
    amount = f"{steps} steps" if steps is not None else f"{minutes:g} minutes"
    if steps is None and least != most:
        say("train", "train.minutes are turned into steps once, by the rate of the workers that begin")
    say(
        "train",
        f"{amount} on {least if least == most else f'{least} to {most}'} worker(s), "
        f"{'one GPU' if use_gpu else f'{cpus} CPU core(s)'} each; the workers take 10 to 30 s to start",
    )
    if shared_disk and (resumed := newest_checkpoint_step(work / CHECKPOINTS)):
        say("train", f"resuming at step {resumed}, from the newest checkpoint of an interrupted run")
    on_this_machine = ray.get_runtime_context().gcs_address.startswith(f"{LOOPBACK}:")
    torch_config = (
        LocalTorchConfig(timeout_s=GROUP_TIMEOUT, folder=str(work.resolve()))
        if on_this_machine
        else TorchConfig(timeout_s=GROUP_TIMEOUT)
    )
    shutil.rmtree(work / RAY_FOLDER, ignore_errors=True)
    # A run of a name that Ray knows would be resumed in its way: a new name leaves that to gan_core's checkpoints.
    name = uuid.uuid4().hex[:12]
    trainer = (LocalTrainer if on_this_machine else ClusterTrainer)(
        train_loop_per_worker,
        train_loop_config={"job": job},
        torch_config=torch_config,
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most),  # type: ignore[arg-type]
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # mypy sees the RunConfig of Ray Train v1
            name=name,
            **place.ray_storage(),
            failure_config=FailureConfig(max_failures=settings.train.max_failures),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )
    kept = f"Checkpoints are kept in {place.checkpoints}; run the stage again to resume from them."
    with Progress(work, steps), _handlers_restored():
        try:
            trainer.fit()
        except ray.exceptions.RayActorError as error:
            raise StageError(f"Ray Train's controller died ({_why_died(error)}). {kept}") from error
        except ray.train.TrainingFailedError as error:
            if failure := place.failure():
                raise failure from None
            if refused := disk_error_at(error, work):
                raise StageError(f"{describe_os_error(refused)} {kept}") from error
            raise StageError(
                f"Ray Train gave up (train.max_failures is {settings.train.max_failures}): {_last_line(error)} {kept}"
            ) from error
        finally:
            remove_rendezvous_files(work)


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """Restore the handler of SIGINT after the block. Ray Train's own stays, and would end this process with status 0 later."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def is_exported(work: Path) -> bool:
    """Whether ``work`` has a complete exported generator.

    The published files are hard links to these, so writing into a published file damages this generator too. A damaged
    generator is removed, so that :func:`fit` exports it again from the newest checkpoint.
    """
    if not (work / GENERATOR).is_dir():
        return False
    try:
        load_generator(work / GENERATOR)
        check_files(open_start(work / START), needed=())
    except CheckpointError as error:
        say("train", f"{error} Exporting it again from the newest checkpoint.")
        shutil.rmtree(work / GENERATOR)
        return False
    return True


def newest_checkpoint_step(folder: Path) -> int:
    """Step of the newest complete checkpoint in ``folder``, for a message; 0 if there is none.

    The trainer resumes from it if it fits the run (:class:`gan_core.training.recovery.Recovery`).
    """
    complete = next((path for path in list_checkpoints(folder) if find_damage(path) is None), None)
    return int(complete.name.removeprefix("step-")) if complete else 0


def _why_died(error: BaseException) -> str:
    """Why an actor is dead. If it could not be made, the first line does not say why, but the last line of the traceback."""
    return (_last_line(error) if "creation task" in first_line(error) else first_line(error)).rstrip(".")


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
