"""Every family that turns noise into images: its step against an eager loop in fp32, where the time goes, its memory."""

import contextlib
import gc
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from gan_core.config import build
from gan_core.data import PreparedDataset
from gan_core.families import families_that_can, family_config
from gan_core.families.noise import NoiseFamily
from gan_core.nn import penalties
from gan_core.precision import choose_device, has_bf16
from gan_core.presets.choose import choose
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from tests.bench import Row
from tests.bench.straightforward import NoiseLoop
from tests.datasets import blobs, write_prepared

NEVER = 10**9
BLOCKS = 4
_CLEAR_REFS = Path("/proc/self/clear_refs")
STEPS = {False: 2, True: 10}
"""In a block on a CPU: of networks whose step takes tens of milliseconds more, so that a block is not over at once."""
QUICK = ("dcgan", "cgan")
NAMES = tuple(families_that_can(NoiseFamily))
# Images per second on one H200-class GPU, by family and resolution, with the settings of `auto`.
RATES = {("dcgan", 64): 40_000, ("stylegan2", 128): 450, ("stylegan2", 256): 240}


def rows() -> list[Row]:
    """For each family: ratio to eager fp32, share of the data, what quick second gradients gain; on a GPU also rates."""
    device = choose_device()
    size, count = (64, 2048) if device.type == "cuda" else (32, 512)
    table = []
    with tempfile.TemporaryDirectory() as folder:
        data = _data(Path(folder), size, count)
        for name in NAMES:
            table += _family(name, data, Path(folder) / name, device)
        if device.type == "cuda":
            table += [_rate(name, side, target, Path(folder)) for (name, side), target in RATES.items()]
    return table


def _data(folder: Path, size: int, count: int) -> PreparedDataset:
    place = folder / f"data{size}"
    written = write_prepared(place, blobs(count, size, channels=3), np.arange(count) % 10)
    return PreparedDataset(written, folder / "cache")


def _trainer(name: str, data: PreparedDataset, place: Path, device: torch.device, **settings: object) -> Trainer:
    """A trainer of ``name`` as ``auto`` chooses, without pictures and checkpoints on the way."""
    chosen = {choice.name: choice.value for choice in choose(name, data.info, device, steps=1000)}
    model, train = (
        {key.removeprefix(prefix): value for key, value in chosen.items() if key.startswith(prefix)}
        for prefix in ("model.", "train.")
    )
    seldom = {"steps": NEVER, "log_every": NEVER, "sample_every": NEVER, "checkpoint_every": NEVER}
    if device.type == "cpu":
        seldom["batch"] = 32
    config = build(TrainConfig, {**train, **seldom, **settings})
    return Trainer(name, family_config(name, model), data, config, place, device=device)


def _family(name: str, data: PreparedDataset, place: Path, device: torch.device) -> list[Row]:
    bf16 = has_bf16(device)
    ours = _trainer(name, data, place / "ours", device, compile=device.type == "cuda")
    with _peak_memory(device) as memory:
        _steps(ours, 10 if device.type == "cuda" else 1)
    fp32 = _trainer(name, data, place / "fp32", device, precision="fp32", compile=False)
    plain = NoiseLoop(_trainer(name, data, place / "plain", device, precision="fp32", compile=False))
    steps = 50 if device.type == "cuda" else STEPS[name in QUICK]
    contestants = {
        "ours": lambda: _steps(ours, steps),
        "fp32": lambda: _steps(fp32, steps),
        "plain": lambda: plain.run(steps),
    }
    seconds = _race(contestants, device)
    step = seconds["ours"] / steps
    shown = ours.config.batch * ours.config.discriminator_steps
    target = {"cuda": 2.0, "cpu": 1.5}[device.type] if bf16 else None
    note = (
        f"{shown / step:.0f} images/s at {data.info.height} pixels, batch {ours.config.batch}; peak memory {memory[0]}"
    )
    note += (
        f"; {seconds['fp32'] / seconds['ours']:.2f}x of Gantry's own step in fp32"
        if bf16
        else "; without bf16 instructions both run in fp32"
    )
    ratio = seconds["plain"] / seconds["ours"]
    table = [
        Row(
            name=f"{name}: a step against the straightforward loop in eager fp32", ratio=ratio, target=target, note=note
        )
    ]
    feed = _race({"feed": lambda: _feed(ours, 20)}, device)["feed"] / 20
    rounds = ours.config.discriminator_steps
    table.append(
        Row(name=f"{name}: share of a step that data takes", ratio=100 * feed * rounds / step, target=2.0, unit="%")
    )
    if ours.family.penalties():
        table.append(_second_gradients(name, fp32, steps, device))
    return table


def _second_gradients(name: str, trainer: Trainer, steps: int, device: torch.device) -> Row:
    """The same steps with torch's own gradients of gradients of convolutions."""

    def torchs_own() -> None:
        with patch.object(penalties, "FastDoubleBackward", contextlib.nullcontext):
            _steps(trainer, steps)

    seconds = _race({"quick": lambda: _steps(trainer, steps), "torch": torchs_own}, device)
    return Row(
        name=f"{name}: quick second gradients against torch's",
        ratio=seconds["torch"] / seconds["quick"],
        target=1.0,
        note=f"{seconds['quick'] / steps:.2f} against {seconds['torch'] / steps:.2f} s a step, eager fp32",
    )


def _rate(name: str, size: int, target: int, folder: Path) -> Row:
    device = torch.device("cuda")
    trainer = _trainer(name, _data(folder, size, 2048), folder / f"{name}{size}", device, compile=True)
    steps = 100 if name == "dcgan" else 20
    with _peak_memory(device) as memory:
        _steps(trainer, 10)
    seconds = _race({"ours": lambda: _steps(trainer, steps)}, device)["ours"] / steps
    rate = trainer.config.batch / seconds
    return Row(
        name=f"{name} at {size} pixels against {target} images/s",
        ratio=rate / target,
        target=1.0,
        note=f"{rate:.0f} images/s, batch {trainer.config.batch}; peak memory {memory[0]}",
    )


@contextlib.contextmanager
def _peak_memory(device: torch.device) -> Iterator[list[str]]:
    """What the block needs of memory at most, on a GPU without what earlier rows left; a text, there at the block's end."""
    told: list[str] = []
    gc.collect()
    if device.type == "cuda":
        torch.compiler.reset()  # compiled networks of earlier rows keep the memory of their graphs
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")  # Linux forgets the most that the process ever had
    yield told
    if device.type == "cuda":
        # Reserved: what CUDA graphs replay in is not allocated again.
        told.append(f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GiB on the GPU")
    else:
        told.append(f"{_high_water() / 2**30:.1f} GiB of the process")


def _high_water() -> int:
    """The most memory that this process has had, in bytes: since it was last forgotten, where that can be."""
    if _CLEAR_REFS.exists():
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _feed(trainer: Trainer, count: int) -> None:
    for turn in range(count):
        trainer._feed(turn)


def _steps(trainer: Trainer, count: int) -> None:
    trainer.run(until=trainer.step + count)


def _race(contestants: dict[str, Callable[[], None]], device: torch.device) -> dict[str, float]:
    """Median seconds of each, block by block in turn, after one block to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for block in range(BLOCKS + 1):
        for name, run in contestants.items():
            _wait(device)
            started = time.perf_counter()
            run()
            _wait(device)
            if block:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
