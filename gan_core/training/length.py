"""Turn a time budget (``train.minutes``) into a number of steps: measured before the first step, then recorded and kept.

Everything that depends on the length of a run then knows it from the start, and a resumed run has the same length.
"""

import dataclasses
import gc
import itertools
import logging
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gan_core.checkpoint import remove_leftovers, valid_checkpoints
from gan_core.config import as_dict, build, check, check_at_least
from gan_core.errors import DamagedFileError, SettingsError
from gan_core.files import read_json, write_json
from gan_core.training.config import TrainConfig
from gan_core.training.observer import Observer
from gan_core.training.trainer import Trainer
from gan_core.training.world import World

log = logging.getLogger(__name__)

LENGTH = "length.json"
"""File in the folder of a run that records its length."""
_TRIED = ".step-00000000.tried"
"""Folder of the trainer that is measured and thrown away. Leftovers of its name are removed when a run starts or resumes."""
_SHARE, _SHORTEST_S, _LONGEST_S = 0.03, 4.0, 10.0
"""The steps are timed for about this share of the budget, within these limits in seconds."""
_NEVER = 1 << 40
"""An interval in steps that no run reaches."""

Build = Callable[[TrainConfig, Path], Trainer]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds that the parts of a run take."""

    step: float
    checkpoint: float = 0.0
    grid: float = 0.0
    fid: float = 0.0
    real: float = 0.0
    """Additional seconds of the first FID, which measures the real pictures. Later runs read them from a cache."""

    def __post_init__(self) -> None:
        check(self.step > 0, f"step: must be above 0, got {self.step}.")
        check_at_least(self, 0, "checkpoint", "grid", "fid", "real")

    def seconds(self, steps: int, config: TrainConfig) -> float:
        """Seconds from the first step to the last, with all checkpoints, grids and FIDs."""
        rounds = [(self.checkpoint, config.checkpoint_every), (self.grid, config.sample_every)]
        if config.fid_every:
            rounds.append((self.fid, config.fid_every))
        first = self.real if config.fid_every else 0.0
        return first + steps * self.step + sum(cost * -(-steps // every) for cost, every in rounds)

    def steps_within(self, seconds: float, config: TrainConfig) -> int:
        """The largest number of steps that take at most ``seconds``; 0 if there is none."""
        low, high = 0, int(seconds / self.step) + 1  # enough, and too many
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.seconds(middle, config) <= seconds else (low, middle)
        return low


@dataclass(frozen=True, kw_only=True)
class Length:
    """The length of a run, decided from its time budget."""

    steps: int
    minutes: float
    """``train.minutes``."""
    workers: int
    """Number of workers that it was measured with. A later group of another size trains as many steps, in another time."""
    costs: Costs

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "workers")
        check(self.minutes > 0, f"minutes: must be above 0, got {self.minutes}.")

    def describe(self) -> str:
        """What was decided, and from what."""
        costs = self.costs
        parts = [f"{_short(costs.step)} a step", f"{_short(costs.checkpoint)} a checkpoint"]
        parts += [f"{_short(costs.fid)} an FID"] if costs.fid else []
        return (
            f"{self.minutes:g} minutes are {self.steps} steps on {self.workers} worker(s), as measured before the first one "
            f"({', '.join(parts)})"
        )


def decide_length(build_trainer: Build, config: TrainConfig, folder: Path, directory: Path, *, world: World) -> Length:
    """Return the length of a run with ``train.minutes``: the recorded one or, for a new run, the one that is measured now.

    All workers call it, and get the decision of rank 0. It is on disk in ``folder`` when this function returns.

    Args:
        build_trainer: builds the trainer of the run from its settings and a folder for checkpoints. It is called once for a
            new run; the trainer makes some steps, and is then thrown away.
        config: settings of the run, with ``minutes``.
        folder: folder of the run, where the record is kept.
        directory: folder of its checkpoints.
        world: the workers that train together.

    Raises:
        SettingsError: the run was begun with another budget or with ``steps``, or the budget is too short.
        GantryError: any error of a trainer.
    """
    assert config.minutes is not None
    known: Length | None = world.broadcast(world.on_rank_zero(lambda: _recorded(config, folder, directory)))
    if known is None:
        costs = _measure(build_trainer, config, directory / _TRIED, world)
        known = world.broadcast(world.on_rank_zero(lambda: _decide(costs, config, folder, world)))
    if world.rank == 0:
        log.info("train.minutes: %s.", known.describe())
    return known


def read_length(folder: Path) -> Length | None:
    """The recorded length of the run in ``folder``; None if there is no record.

    Raises:
        SettingsError: the record is damaged.
    """
    path = folder / LENGTH
    if not path.is_file():
        return None
    try:
        return build(Length, read_json(path), where=LENGTH)
    except (SettingsError, ValueError) as error:
        reason = error.reason if isinstance(error, DamagedFileError) else str(error).rstrip(".")
        raise SettingsError(f"{path} is damaged: {reason}. Restore it, or train into an empty folder.") from error


def _recorded(config: TrainConfig, folder: Path, directory: Path) -> Length | None:
    known = read_length(folder)
    if known is not None:
        check(
            known.minutes == config.minutes,
            f"train.minutes: the run in {folder} has {known.steps} steps, decided from {known.minutes:g} minutes, got "
            f"{config.minutes:g}. Give {known.minutes:g} minutes to resume it, train.steps in their place to train it to "
            "another step (if nothing of it depends on its length), or another folder for another run.",
        )
        return known
    remove_leftovers(directory)
    found = next(iter(valid_checkpoints([directory])), None)
    if found is not None:
        raise SettingsError(
            f"train.minutes: it decides the length of a new run, but {folder} has a checkpoint of a run of "
            f"{found.state.get('steps', 'an unknown number of')} steps and no {LENGTH}. Give train.steps to resume that run, "
            "or another folder for another run."
        )
    return None


def _decide(costs: Costs, config: TrainConfig, folder: Path, world: World) -> Length:
    """Decide the number of steps, and record it."""
    assert config.minutes is not None
    steps, least = costs.steps_within(60 * config.minutes, config), config.checkpoint_every
    needed = costs.seconds(least, config) / 60
    check(
        steps >= least,
        f"train.minutes: {config.minutes:g} minutes are {steps} steps here ({_short(costs.step)} each), fewer than "
        f"train.checkpoint_every ({least}): a killed run would lose all of them. Give at least "
        f"{math.ceil(100 * needed) / 100:g} minutes, or lower train.checkpoint_every.",
    )
    length = Length(steps=steps, minutes=config.minutes, workers=world.size, costs=costs)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / LENGTH, as_dict(length))
    return length


def _measure(build_trainer: Build, config: TrainConfig, place: Path, world: World) -> Costs:
    """Measure a trainer of the run, whose files go to ``place``, and throw it away."""
    assert config.minutes is not None
    if world.rank == 0:
        log.info("Measuring the steps, to fit them into train.minutes: %g.", config.minutes)
    trainer = build_trainer(
        dataclasses.replace(
            config,
            minutes=None,
            steps=_NEVER,
            log_every=_NEVER,
            checkpoint_every=_NEVER,
            sample_every=_NEVER,
            fid_every=_NEVER if config.fid_every else 0,
        ),
        place,
    )
    try:
        return _costs(trainer, min(_LONGEST_S, max(_SHORTEST_S, 60 * config.minutes * _SHARE)), world)
    finally:
        del trainer
        if world.rank == 0:
            shutil.rmtree(place, ignore_errors=True)
        if config.compile:
            torch._dynamo.reset()  # the trainer of the run has networks of its own
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _costs(trainer: Trainer, limit: float, world: World) -> Costs:
    """The costs on rank 0. ``limit``: seconds for which the steps are timed."""
    trainer.observer = clock = _Clock()
    for _ in range(2):  # the first time is not typical
        clock.start()
        trainer.run(until=0)  # writes the first checkpoint and draws the first grid
    step = _seconds_per_step(trainer, limit, world)
    fid, real = world.broadcast(world.on_rank_zero(trainer.measure_fid_seconds))
    return world.broadcast(Costs(step=step, checkpoint=clock.checkpoint_s, grid=clock.grid_s, fid=fid, real=real))


class _Clock(Observer):
    """Times the first checkpoint and the first grid of a run."""

    def __init__(self) -> None:
        self.checkpoint_s = self.grid_s = self._last = 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def checkpoint(self, path: Path | None, step: int) -> None:
        self.checkpoint_s = self._lap()

    def pictures(self, pictures: Tensor, step: int, columns: int) -> None:
        self.grid_s = self._lap()

    def _lap(self) -> float:
        before, self._last = self._last, time.perf_counter()
        return self._last - before


def _seconds_per_step(trainer: Trainer, limit: float, world: World) -> float:
    """Mean seconds of a step, timed for at most about ``limit`` seconds over whole periods of the phases that run seldom.

    If a single period takes longer than that, one step of each kind is timed, and weighted by how often it occurs.
    """
    intervals = [phase.every for phase in itertools.chain.from_iterable(trainer.family.updates())]
    period = math.lcm(*intervals)

    def timed(until: int) -> float:
        """Seconds of the steps up to ``until`` on rank 0."""
        began = time.perf_counter()
        trainer.run(until)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        return float(world.broadcast(time.perf_counter() - began))

    timed(1)  # all phases; compiles the networks
    spent, fastest = 0.0, math.inf
    while spent < limit / 2:  # the next steps are slow, too: libraries choose and build their kernels
        seconds = timed(trainer.step + 1)
        spent, fastest = spent + seconds, min(fastest, seconds)
    if fastest * period > limit:
        total = 0.0
        for step, times in _kinds(intervals, period):
            trainer.step = period + step
            total += times * timed(trainer.step + 1)
        return total / period
    timed(period * -(-trainer.step // period))
    spent, first, block = 0.0, trainer.step, period
    while spent < limit / 2:
        spent += timed(trainer.step + block)
        block *= 2
    return spent / (trainer.step - first)


def _kinds(intervals: Sequence[int], period: int) -> list[tuple[int, int]]:
    """The first step of each kind in a period, and how many there are. Steps are of one kind if the same phases run."""
    firsts: dict[tuple[bool, ...], int] = {}
    kinds = [tuple(step % every == 0 for every in intervals) for step in range(period)]
    for step, kind in enumerate(kinds):
        firsts.setdefault(kind, step)
    counts = Counter(kinds)
    return [(step, counts[kind]) for kind, step in firsts.items()]


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"
