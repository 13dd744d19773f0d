"""Every family that turns noise into images, on the CPU: its step against an eager loop in fp32, where the time goes, its
memory. ``python -m tests.gpu speed`` measures a GPU."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from gan_core.data import PreparedDataset
from gan_core.families import families_that_can
from gan_core.families.noise import NoiseFamily
from gan_core.precision import has_bf16
from gan_core.training.trainer import Trainer
from tests.bench import Row
from tests.bench.straightforward import NoiseLoop, torchs_second_gradients
from tests.bench.trainers import (
    BLOCKS,
    auto_trainer,
    cycle_of,
    made_up_data,
    measured_memory,
    race,
    read_batches,
    run_steps,
)

DEVICE = torch.device("cpu")
STEPS = {False: 2, True: 10}
"""In a block, at least: of networks whose step takes tens of milliseconds more, so that a block is not over at once."""
QUICK = ("dcgan", "cgan")
NAMES = tuple(families_that_can(NoiseFamily))
SIZE, COUNT, BATCH = 32, 512, 32


def rows() -> list[Row]:
    """For each family: ratio to eager fp32, share of the data, what quick second gradients and compiled penalties gain."""
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            place = Path(folder) / name
            table += _family(name, made_up_data(name, place, SIZE, COUNT), place)
    return table


def _family(name: str, data: PreparedDataset, place: Path) -> list[Row]:
    bf16, fp32_settings = has_bf16(DEVICE), {"precision": "fp32", "batch": BATCH}
    ours = auto_trainer(name, data, place / "ours", DEVICE, batch=BATCH)
    with measured_memory(DEVICE) as memory:
        run_steps(ours, 1)
    fp32 = auto_trainer(name, data, place / "fp32", DEVICE, **fp32_settings)
    plain = NoiseLoop(auto_trainer(name, data, place / "plain", DEVICE, **fp32_settings))
    steps = block_steps(ours)
    contestants = {
        "ours": lambda: run_steps(ours, steps),
        "fp32": lambda: run_steps(fp32, steps),
        "plain": lambda: plain.run(steps),
    }
    seconds = race(contestants, DEVICE, blocks_of(steps))
    step = seconds["ours"] / steps
    shown = BATCH * ours.config.discriminator_steps
    gib = memory[0] / 2**30
    note = f"{shown / step:.0f} images/s at {SIZE} pixels, batch {BATCH}; peak memory {gib:.1f} GiB of the process"
    note += (
        f"; {seconds['fp32'] / seconds['ours']:.2f}x of Gantry's own step in fp32"
        if bf16
        else "; without bf16 instructions both run in fp32"
    )
    table = [
        Row(
            name=f"{name}: a step against the straightforward loop in eager fp32",
            ratio=seconds["plain"] / seconds["ours"],
            target=1.5 if bf16 else None,
            note=note,
        )
    ]
    feed = race({"feed": lambda: read_batches(ours, 20)}, DEVICE)["feed"] / 20
    rounds = ours.config.discriminator_steps
    table.append(
        Row(name=f"{name}: share of a step that data takes", ratio=100 * feed * rounds / step, target=2.0, unit="%")
    )
    if ours.family.penalties():
        table.append(_second_gradients(name, fp32, steps))
        table.append(_compiled_penalties(name, ours, steps))
    return table


def block_steps(trainer: Trainer) -> int:
    """Steps of a block: whole cycles, because a block without a lazy penalty says nothing of it."""
    cycle = cycle_of(trainer)
    return -(-STEPS[trainer.family.name in QUICK] // cycle) * cycle


def blocks_of(steps: int) -> int:
    """Number of blocks of ``steps``: fewer long ones."""
    return BLOCKS if steps <= max(STEPS.values()) else 2


def _second_gradients(name: str, trainer: Trainer, steps: int) -> Row:
    """The same steps with torch's own gradients of gradients of convolutions."""

    def torchs_own() -> None:
        with torchs_second_gradients():
            run_steps(trainer, steps)

    seconds = race({"quick": lambda: run_steps(trainer, steps), "torch": torchs_own}, DEVICE, blocks_of(steps))
    return Row(
        name=f"{name}: quick second gradients against torch's",
        ratio=seconds["torch"] / seconds["quick"],
        target=1.0,
        note=f"{seconds['quick'] / steps:.2f} against {seconds['torch'] / steps:.2f} s a step, eager fp32",
    )


def _compiled_penalties(name: str, trainer: Trainer, steps: int) -> Row:
    """The same steps with penalties that are compiled with their gradients, and networks that are not."""
    family = trainer.family

    def run(options: dict[str, Any] | None) -> Callable[[], None]:
        def steps_with_options() -> None:
            with patch.object(family, "_options", options):
                run_steps(trainer, steps)

        return steps_with_options

    compiled = {"dynamic": False}
    began = time.monotonic()
    run(compiled)()
    compiling = time.monotonic() - began
    seconds = race({"eager": run(None), "compiled": run(compiled)}, DEVICE, blocks_of(steps))
    fast, slow = seconds["compiled"] / steps, seconds["eager"] / steps
    return Row(
        name=f"{name}: a step with compiled penalties against eager ones",
        ratio=slow / fast,
        target=1.0,
        note=f"{fast:.2f} against {slow:.2f} s a step; compiled in {compiling:.0f} s",
    )
