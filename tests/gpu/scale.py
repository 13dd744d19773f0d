"""Images per second on 1 to n cards, each with the same share of a batch: what of n times one card is left.

One process a card, with Gantry's own averaging of gradients (NCCL). Without a second card there is nothing to compare; a
processor shows only that two processes train together.
"""

import json
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from gan_core.data import PreparedDataset
from gan_core.precision import choose_device
from gan_core.training.world import World
from tests.bench.trainers import auto_trainer, made_up_data, run_steps, seconds_of
from tests.gpu.report import Row, figure, holds, needs_cuda
from tests.gpu.tiny import SIDE, TINY
from tests.gpu.worker import Item, Options

CASES = {"dcgan": 64, "stylegan2": 128, "biggan": 64}
"""Families and sizes in pixels."""
BATCH = {"dcgan": 256, "stylegan2": 64, "biggan": 128}
"""Images of one card."""


def items(options: Options) -> list[Item]:
    """Each family."""
    cases = {"dcgan": SIDE} if options.small else CASES
    return [
        Item(
            name=f"{name} {size}", rows=partial(_case, name, size, options), seconds=120.0 if not options.small else 5.0
        )
        for name, size in cases.items()
    ]


def _case(name: str, size: int, options: Options) -> Iterator[Row]:
    if choose_device().type == "cpu":
        yield needs_cuda("efficiency from 1 card to n")
        if options.small:
            yield _same_weights(2, _together(name, size, 2, options)["weights"])
        return
    cards = torch.cuda.device_count()
    rates: dict[int, float] = {}
    count = 1
    while count <= cards:
        found = _together(name, size, count, options)
        rates[count] = found["rate"]
        yield figure(f"images/s on {count}", rates[count], note=f"batch {count * BATCH[name]}, {BATCH[name]} a card")
        if count > 1:
            yield figure(f"efficiency on {count}", 100 * rates[count] / (count * rates[1]), "%")
            yield _same_weights(count, found["weights"])
        count = cards if count < cards < 2 * count else 2 * count
    if cards == 1:
        yield Row(name="efficiency from 1 card to n", state="left out", note="this machine has one card")


def _same_weights(count: int, sums: list[float]) -> Row:
    return holds(f"{count} processes end with the same weights", len(set(sums)) == 1, "same")


def _together(name: str, size: int, count: int, options: Options) -> dict:
    """What ``count`` processes measure that train together."""
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        made_up_data(name, Path(folder), size, 64 if options.small else 1024).pixels("train")  # decoded once, for all
        mp.spawn(_worker, (count, name, size, folder, options.small), nprocs=count)
        return json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))


def _worker(rank: int, count: int, name: str, size: int, folder: str, small: bool) -> None:
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    meeting = f"file://{folder}/meet-{count}"
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=meeting,
        rank=rank,
        world_size=count,
        timeout=timedelta(minutes=3),
    )
    try:
        data = PreparedDataset(Path(folder) / f"data{size}", Path(folder) / "decoded")
        batch = 4 if small else BATCH[name]
        trainer = auto_trainer(
            name,
            data,
            Path(folder) / "run",
            device,
            model=TINY[name] if small else None,
            world=World.current(),
            batch=batch * count,
            accumulate=1,
            compile=device.type == "cuda",
        )
        run_steps(trainer, 1 if small else 20)
        steps = 1 if small else 64
        dist.barrier()
        rounds = trainer.config.discriminator_steps
        seconds = seconds_of(partial(run_steps, trainer, steps), device)
        total = sum(float(p.detach().double().abs().sum()) for p in trainer.family.networks["generator"].parameters())
        totals: list[float] = [0.0] * count
        dist.all_gather_object(totals, total)
        if rank == 0:
            found = {"rate": batch * count * rounds * steps / seconds, "weights": totals}
            (Path(folder) / "found.json").write_text(json.dumps(found), encoding="utf-8")
    finally:
        dist.destroy_process_group()
