"""Measured on this machine: a step and its collectives, all-reduces of a few processes, a checkpoint, rows of metrics."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from gan_core.data import PreparedDataset
from gan_core.families import family_config
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from tests.datasets import blobs, write_prepared
from tests.scale.model import Costs

BATCH, SIZE, LARGE = 16, 32, 1 << 16
FAMILIES = {"dcgan": {"width": 64}, "stylegan2": {"channel_base": 4096, "channel_max": 256}}
WORLDS = (2, 4, 8)
NEVER = 10**9


def _trainer(name: str, place: Path, batch: int) -> Trainer:
    data = PreparedDataset(place / "data", place / "decoded")
    seldom = {"log_every": NEVER, "sample_every": NEVER, "checkpoint_every": NEVER}
    config = TrainConfig(steps=NEVER, batch=batch, **seldom)
    return Trainer(name, family_config(name, FAMILIES[name]), data, config, place / f"{name}-{batch}", device="cpu")


def _spawned(target: Callable[..., Any], world: int, *arguments: object) -> Any:
    """What rank 0 of ``world`` processes returns."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_joined, (world, folder, target, arguments), nprocs=world)
        return json.loads((Path(folder) / "found.json").read_text())


def _joined(rank: int, world: int, folder: str, target: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    found = target(*arguments)
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _sizes(name: str, place: str) -> list[int]:
    """Bytes of each all-reduce in one step."""
    trainer, sizes = _trainer(name, Path(place), 2 * BATCH), []
    original = dist.all_reduce

    def counted(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        sizes.append(tensor.numel() * tensor.element_size())
        return original(tensor, *arguments, **options)

    trainer.run(until=1)
    dist.all_reduce = counted
    trainer.run(until=2)
    dist.all_reduce = original
    return sizes


def _all_reduce(size: int) -> float:
    tensor, taken = torch.ones(size // 4), []
    for _ in range(12):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(tensor)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[2:])


def all_reduce_seconds(size: int, world: int) -> float:
    """Median seconds of an all-reduce of ``size`` bytes over ``world`` processes."""
    return _spawned(_all_reduce, world, size)


def step_costs(name: str) -> tuple[Costs, dict[str, float]]:
    """The costs of a step of ``name``, and of its checkpoint: ``bytes`` and ``seconds``."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        noise = np.random.default_rng(0).integers(0, 16, (256, 3, SIZE, SIZE), dtype=np.uint8)
        # With noise, a PNG is as large as that of a photograph.
        data = PreparedDataset(write_prepared(place / "data", blobs(256, SIZE, channels=3) // 2 + noise, row_group=64))
        pictures = data.row_groups()
        sizes = _spawned(_sizes, 2, name, folder)
        torch.set_num_threads(1)
        trainer = _trainer(name, place, BATCH)
        trainer.run(until=2)
        taken = []
        for _ in range(5):
            started = time.perf_counter()
            trainer.run(until=trainer.step + 1)
            taken.append(time.perf_counter() - started)
        started = time.perf_counter()
        trainer._save()
        seconds = time.perf_counter() - started
        newest = max((place / f"{name}-{BATCH}").glob("step-*"))
        size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    costs = Costs(
        step_seconds=statistics.median(taken),
        gradient_bytes=tuple(s for s in sizes if s > LARGE),
        small_collectives=sum(s <= LARGE for s in sizes),
        batch=BATCH,
        picture_bytes=int(pictures.size.sum() // pictures.rows.sum()),
    )
    return costs, {"bytes": size, "seconds": seconds}


def events_per_second(count: int = 5000) -> float:
    """Rows of metrics that one process records in a second, to the log on disk."""
    from pipelines.tracking import RunLog

    with tempfile.TemporaryDirectory() as folder:
        log = RunLog(Path(folder), key="scale", name="scale")
        started = time.perf_counter()
        for step in range(count):
            log.log_metrics({"loss": float(step)}, step)
        seconds = time.perf_counter() - started
        log.close()
    return count / seconds
