"""Say before a run what it takes: memory and disk of a worker, and the time, from an earlier run or from an estimate."""

import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from gan_core.data import DatasetInfo, PreparedDataset
from gan_core.families import ImageShape, build_family
from gan_core.precision import has_bf16
from gan_core.presets.cost import peak_memory, training_flops
from gan_core.presets.recommend import training_speed
from pipelines.settings.schema import Settings
from pipelines.tracking.events import find_logs, read_events
from pipelines.training.run_tags import CORES, DEVICE, PICTURES, WORKERS, device_name, shape_name

_FAMILY, _RATE = "model.family", "rate/images_per_second"
_FLOAT = 4


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The speed of an earlier training run."""

    run: str
    """Name of its log folder."""
    family: str
    device: str
    workers: int
    pictures: str
    images_per_second: float
    """Median over the run, of all workers together."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a training run takes."""

    memory: int
    """Bytes of a worker's step; libraries and Ray's own processes come on top."""
    data: int
    """Bytes of the decoded pictures of the train split, which every host with a worker caches on its disk unless it streams."""
    checkpoint: int
    """Bytes of a checkpoint."""
    kept: int
    """Bytes of the checkpoints that are kept at the same time."""
    steps: int | None
    """Number of steps, estimated if ``train.minutes`` decide it; None if unknown."""
    seconds: float | None
    """Expected duration of the steps, without start-up and FIDs; None if unknown. With ``train.minutes``, the budget."""
    source: str
    """Where ``seconds`` comes from, or with ``train.minutes``, where ``steps`` comes from."""


def measured_runs(events: Path) -> Iterator[Measured]:
    """The training runs in ``events`` (folder of event logs) that measured their speed, the latest first."""
    for folder in sorted(find_logs(events), key=lambda path: (path / "events.jsonl").stat().st_mtime, reverse=True):
        known: dict[str, str] = {}
        rates: list[float] = []
        for event, _ in read_events(folder):
            if event and event["kind"] in ("tags", "params"):
                known |= event["values"]
            elif event and event["kind"] == "metrics" and _RATE in event["values"]:
                rates.append(event["values"][_RATE])
        # The first rows include the time to warm up.
        if rates and {DEVICE, WORKERS, PICTURES, _FAMILY} <= set(known):
            yield Measured(
                run=folder.name,
                family=known[_FAMILY],
                device=known[DEVICE],
                workers=int(known[WORKERS]),
                pictures=known[PICTURES],
                images_per_second=statistics.median(rates[1:] or rates),
            )


def forecast(
    settings: Settings,
    dataset: PreparedDataset,
    device: torch.device,
    *,
    threads: int,
    workers: int,
    events: Path,
    elsewhere: bool = False,
) -> Forecast:
    """What the train stage takes with these settings, whose preset is resolved.

    Args:
        settings: all of the run.
        dataset: prepared data.
        device: of a worker.
        threads: CPU cores of a worker.
        workers: number of workers.
        events: folder of the event logs of earlier runs.
        elsewhere: whether the workers have GPUs and this machine has none: the latest run on any GPU then gives the time.
    """
    info = dataset.info
    train, family, shape = settings.train, settings.model.family, ImageShape.of(info)
    values = settings.model.as_dict()
    model = {name: value for name, value in values.items() if name not in ("family", "preset")}
    bf16 = has_bf16(device) if train.precision == "auto" else train.precision == "bf16"
    memory = peak_memory(
        family,
        shape,
        model,
        max(1, train.batch // workers // train.accumulate),
        keep=train.accumulate == 1,
        bf16=bf16,
        compiled=bool(train.compile),
    )
    checkpoint = _checkpoint_bytes(settings, shape)
    per_image: float | None
    if measured := _find_run(settings, info, device, threads, events, elsewhere):
        per_image = measured.workers / (measured.images_per_second * workers)
        source = _describe(measured, workers)
    elif elsewhere:
        per_image, source = None, f"no run of {family} at {shape_name(info)} on a GPU was measured"
    else:
        # A matrix product uses all cores of this machine, and the workers their share of them.
        share = min(1.0, workers * threads / (os.cpu_count() or 1)) if device.type == "cpu" else float(workers)
        flops = training_flops(family, shape, model, train.discriminator_steps)
        per_image = flops / (training_speed(device) * share)
        source = (
            f"estimate, off by a factor of about two: no run of {family} at {shape_name(info)} was measured on "
            f"{device_name(device, threads)}"
        )
    per_step = None if per_image is None else per_image * train.batch * train.discriminator_steps
    steps, seconds = train.known_steps, None
    if train.minutes is not None:
        seconds = 60 * train.minutes
        steps = None if per_step is None else max(1, int(seconds / per_step))
    elif per_step is not None:
        seconds = train.steps * per_step
    return Forecast(
        memory=memory,
        data=dataset.decoded_bytes(),
        checkpoint=checkpoint,
        kept=checkpoint * (train.keep_checkpoints + 1),  # the new one is complete before the oldest is removed
        steps=steps,
        seconds=seconds,
        source=source,
    )


def _checkpoint_bytes(settings: Settings, shape: ImageShape) -> int:
    """Networks, averaged generators and Adam's two moments in float32."""
    with torch.device("meta"):
        family = build_family(settings.model.family, settings.model.config, shape)
    generators, discriminators = (
        sum(parameter.numel() for name in names for parameter in family.networks[name].parameters())
        for names in (family.generators, family.discriminators)
    )
    return _FLOAT * (4 * generators + 3 * discriminators)


def _find_run(
    settings: Settings, info: DatasetInfo, device: torch.device, threads: int, events: Path, elsewhere: bool
) -> Measured | None:
    """The latest run of the family at this size on this device, or on any GPU."""
    wanted = settings.model.family, shape_name(info)
    same = (run for run in measured_runs(events) if (run.family, run.pictures) == wanted)
    name = device_name(device, threads)
    return next((run for run in same if (CORES not in run.device if elsewhere else run.device == name)), None)


def _describe(run: Measured, workers: int) -> str:
    scaled = f", scaled from {run.workers} to {workers} workers" if run.workers != workers else ""
    return (
        f"measured: {run.images_per_second:.1f} images/s in run {run.run} of {run.family} at {run.pictures} on {run.device}"
        f"{scaled}"
    )
