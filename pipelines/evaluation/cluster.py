"""Measure a generator as one task of a Ray cluster, on its accelerator if it has one.

Generator, data and weights travel through the storage, each by its content. If the host of the task is lost, Ray starts it
again on another one.
"""

import os
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gan_core.errors import GantryError
from gan_core.inference.generator import load_generator
from gan_core.metrics.assess import Assessment
from gan_core.precision import choose_device
from pipelines.evaluation.measure import measure
from pipelines.evaluation.sheet import draw_sheet
from pipelines.runtime.code import check_versions, code_versions
from pipelines.runtime.drivers import driver_lease
from pipelines.runtime.owned import scratch_folder
from pipelines.runtime.progress import format_duration, say, say_waiting
from pipelines.runtime.resources import allocate, cluster_nodes
from pipelines.settings.schema import EvaluateSettings, Settings
from pipelines.storage.folders import fetch_folder, publish_folder
from pipelines.storage.inputs import Inputs, publish_inputs
from pipelines.storage.objects import Storage
from pipelines.storage.work import work_name

_SAY_EVERY_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class _Job:
    chosen: EvaluateSettings
    inputs: Inputs
    generator: str
    """Name of the generator's folder in the storage."""
    decoded_gib: float
    """``train.decoded_gib``: above it, the pictures are streamed."""
    threads: int
    versions: str


def on_cluster(settings: Settings) -> str:
    """The URI of the storage if evaluation runs on a cluster: there are a storage and RAY_ADDRESS. Else empty."""
    return settings.storage.resolve_uri() if os.environ.get("RAY_ADDRESS") else ""


def measure_on_cluster(generator: Path, data: Path, sheet: Path, settings: Settings, key: str) -> Assessment:
    """Measure an exported generator on the connected Ray cluster, and draw its contact sheet.

    Args:
        generator: folder of the generator.
        data: prepared data.
        sheet: file to write.
        settings: with a storage.
        key: key of the evaluate stage.

    Raises:
        SettingsError: no node of the cluster has a CPU core.
        StageError: another driver measures under this key.
        StorageError: the storage cannot be reached, from here or from the host of the task.
        GantryError: as :func:`pipelines.evaluation.measure.measure`.
    """
    storage, name = Storage(on_cluster(settings)), work_name("evaluate", key)
    storage.check()
    with driver_lease(storage, name, partial(say_waiting, "evaluate")):
        return _measure_remotely(storage, name, generator, data, sheet, settings)


def _measure_remotely(
    storage: Storage, work: str, generator: Path, data: Path, sheet: Path, settings: Settings
) -> Assessment:
    import ray

    inputs = publish_inputs(
        storage,
        data,
        user=work,
        cache_gib=settings.storage.cache_gib,
        weights=True,
        sending=lambda message: say("evaluate", message),
    )
    name = f"{work}/generator"
    publish_folder(storage, name, generator)
    share = allocate(cluster_nodes(), 1, 1, setting="evaluation on the cluster", what="task")
    job = _Job(
        chosen=settings.evaluate,
        inputs=inputs,
        generator=name,
        decoded_gib=settings.train.decoded_gib,
        threads=share.cpus,
        versions=code_versions("evaluate"),
    )
    say("evaluate", f"on the cluster: {'one GPU and ' if share.gpus else ''}{share.cpus} CPU core(s)")
    task = ray.remote(_measure).options(num_cpus=share.cpus, num_gpus=share.gpus, name="evaluate").remote(job)
    waited = 0.0
    while not ray.wait([task], timeout=_SAY_EVERY_SECONDS)[0]:
        waited += _SAY_EVERY_SECONDS
        say("evaluate", f"still measuring or waiting for a free node, {format_duration(waited)} until now")
    try:
        measured, picture, host = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, GantryError):
            raise error.cause from None
        raise
    say("evaluate", f"measured on host {host}")
    sheet.write_bytes(picture)
    return measured


def _measure(job: _Job) -> tuple[Assessment, bytes, str]:
    """The task: the figures, the contact sheet as a PNG, and the name of this host."""
    import torch

    check_versions("evaluate", job.versions)
    torch.set_num_threads(job.threads)
    with job.inputs.on_host() as data, scratch_folder("work") as folder:
        fetch_folder(Storage(job.inputs.uri), job.generator, folder / "generator")
        generator = load_generator(folder / "generator", choose_device())
        dataset = data.open().streamed_above(job.decoded_gib)
        draw_sheet(folder / "samples.png", generator, dataset, job.chosen.seed)
        return measure(generator, dataset, job.chosen), (folder / "samples.png").read_bytes(), socket.gethostname()
