"""What measurements of training share: trainers as ``auto`` sets them up, made-up data for them, races, and peak memory."""

import contextlib
import gc
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from gan_core.augment.augmenter import WINDOW
from gan_core.config import build
from gan_core.data import PreparedDataset
from gan_core.families import FAMILIES, family_config
from gan_core.presets.choose import choose
from gan_core.training.captured import WARM_UPS
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from gan_core.training.world import World
from tests.datasets import blobs, write_prepared

NEVER = 10**9
BLOCKS = 4
_CLEAR_REFS = Path("/proc/self/clear_refs")


def made_up_data(name: str, place: Path, size: int, count: int) -> PreparedDataset:
    """Pictures of blobs in the kind of data that the family ``name`` learns from."""
    folder, pixels = place / f"data{size}", blobs(count, size, channels=3)
    kinds = FAMILIES[name].kinds
    if "labelled" in kinds:
        written = write_prepared(folder, pixels, np.arange(count) % 10)
    elif "paired" in kinds:
        written = write_prepared(folder, pixels, conditions=255 - pixels)
    elif "unpaired" in kinds:
        written = write_prepared(folder, pixels, np.arange(count) % 2, kind="unpaired")
    else:
        written = write_prepared(folder, pixels, np.arange(count) % 4, kind="domains")
    return PreparedDataset(written, place / "decoded")


def auto_trainer(
    name: str,
    data: PreparedDataset,
    place: Path,
    device: torch.device,
    *,
    model: dict[str, object] | None = None,
    world: World | None = None,
    **settings: object,
) -> Trainer:
    """A trainer of ``name`` as ``auto`` chooses, without pictures, and without checkpoints after the first one.

    ``model`` and ``settings`` override settings of the family and of the run.
    """
    given = {f"model.{key}": value for key, value in (model or {}).items()}
    if "compile" in settings:  # a compiled step needs other memory, by which the micro-batches are chosen
        given["train.compile"] = settings["compile"]
    workers = world.size if world else 1
    chosen = {
        choice.name: choice.value
        for choice in choose(name, data.info, device, steps=1000, given=given, workers=workers)
    }
    family, train = (
        {key.removeprefix(prefix): value for key, value in chosen.items() if key.startswith(prefix)}
        for prefix in ("model.", "train.")
    )
    # The first grid is left out only if none is due before the end; it would count as memory of a step.
    seldom = {"steps": NEVER, "log_every": NEVER, "sample_every": NEVER + 1, "checkpoint_every": NEVER}
    config = build(TrainConfig, {**train, **seldom, **settings})
    return Trainer(
        name, family_config(name, {**family, **(model or {})}), data, config, place, device=device, world=world
    )


def run_steps(trainer: Trainer, count: int) -> None:
    """Train for ``count`` more steps."""
    trainer.run(until=trainer.step + count)


def cycle_of(trainer: Trainer) -> int:
    """Number of consecutive steps in which every lazy regulariser is as often due, whichever is the first; 1 without any."""
    return math.lcm(*(phase.every for phase in trainer.family.phases()))


def run_until_captured(trainer: Trainer) -> int:
    """Train until steps of all kinds are captured (``compile: step``). Returns after how many steps their kinds recur."""
    period = math.lcm(cycle_of(trainer), WINDOW if trainer.augmenter.adaptive else 1)
    run_steps(trainer, (WARM_UPS + 1) * period)
    return period


def read_batches(trainer: Trainer, count: int) -> None:
    """Only read ``count`` batches."""
    for turn in range(count):
        trainer._feed(turn)


def race(contestants: dict[str, Callable[[], object]], device: torch.device, blocks: int = BLOCKS) -> dict[str, float]:
    """Median seconds of each, block by block in turn, after one block to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for block in range(blocks + 1):
        for name, run in contestants.items():
            seconds = seconds_of(run, device)
            if block:
                taken[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Seconds until ``run`` has ended on the device."""
    wait(device)
    started = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a square matrix product that is large for the machine."""
    size = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def multiply(count: int) -> None:
        for _ in range(count):
            torch.mm(a, b)

    multiply(1)
    return 2 * size**3 / min(seconds_of(lambda: multiply(5), device) / 5 for _ in range(3))


def forget_memory(device: torch.device) -> None:
    """Free what earlier measurements left, and forget the most memory that there was."""
    gc.collect()
    if device.type == "cuda":
        torch.compiler.reset()  # compiled networks of earlier rows keep the memory of their graphs
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")  # Linux forgets the most that the process ever had


def most_memory(device: torch.device) -> int:
    """The most memory since :func:`forget_memory`, in bytes: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved()  # not allocated: what CUDA graphs replay in is not allocated again
    if _CLEAR_REFS.exists():
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def measured_memory(device: torch.device) -> Iterator[list[int]]:
    """The most memory that the block needs, in bytes, without what was there before; filled in at the block's end."""
    found: list[int] = []
    forget_memory(device)
    yield found
    found.append(most_memory(device))
