"""What the pipeline costs: the train stage's step beside the bare loop's, and a `dvc repro` with nothing to do."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from gan_core.data import PreparedDataset
from gan_core.training.observer import Observer
from gan_core.training.trainer import Trainer
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import ray_cluster
from pipelines.runtime.resources import usable_cpus
from pipelines.settings.schema import load_settings
from pipelines.tracking import RunLog, Shipper
from pipelines.training.fit import fit
from pipelines.training.worker import CURVES
from tests.bench import Row
from tests.bench.pairs import in_pairs
from tests.datasets import blobs, write_prepared

ROOT = Path(__file__).parents[2]
WARM, PAIRS, SECONDS = 60, 12, 8.0


def rows() -> list[Row]:
    """The table's rows."""
    return [stage_against_bare_loop(), no_op_repro()]


def stage_against_bare_loop() -> Row:
    """Seconds a step: Ray, tracking, grids and checkpoints as params.yaml has them, beside the trainer with none of them.

    A shared machine computes half as fast again from one minute to the next, so both are started once, and then one of them is
    suspended, with all its processes, while the other trains for some seconds, in turn.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["GANTRY_CACHE_DIR"] = str(place / "cache")
        write_prepared(place / "data", blobs(2048, size=32))
        with started("bare", place, place / "alone.jsonl") as alone:
            alone.wait_for_step(WARM)
            alone.suspend()
            with started("stage", place, place / "work/bench" / CURVES) as staged:
                staged.wait_for_step(WARM)
                staged.suspend()
                compared = in_pairs(alone.seconds_a_step, staged.seconds_a_step, pairs=PAIRS)
    return Row(
        name="train stage beside the bare loop, a step",
        ratio=(compared.ratio - 1) * 100,
        low=(compared.low - 1) * 100,
        high=(compared.high - 1) * 100,
        target=3,
        unit="%",
        note=f"{compared.second * 1e3:.0f} ms a step against {compared.first * 1e3:.0f}; {PAIRS} pairs of {SECONDS:g} s",
    )


def stage(place: Path) -> None:
    """What the train stage does."""
    settings = load_settings(ROOT / "params.yaml").with_values({"train.steps": 100_000, "train.fid_every": 0})
    work, track = place / "work/bench", place / "track"
    work.mkdir(parents=True)
    with (
        ray_cluster(Checkout.at(place), log_to_driver=False),
        Shipper(track, tracking_uri=f"sqlite:///{place / 'mlflow.db'}", experiment="bench"),
        RunLog(track, key="bench", name="bench"),
    ):
        fit(work, place / "data", settings, run_key="bench", run_name="bench", track=track)


def bare(place: Path) -> None:
    """Train with nothing around it, a line for each row of metrics."""
    torch.set_num_threads(usable_cpus())  # as many as the stage's worker has
    settings, never = load_settings(ROOT / "params.yaml"), 10**9
    config = dataclasses.replace(
        settings.train.trainer_config(), steps=never, sample_every=never, checkpoint_every=never, fid_every=0
    )

    class Lines(Observer):
        def metrics(self, values: dict[str, float], step: int) -> None:
            with open(place / "alone.jsonl", "a") as file:
                file.write(json.dumps({"step": step}) + "\n")

    model, dataset = settings.model, PreparedDataset(place / "data")
    Trainer(model.family, model.config, dataset, config, place / "alone", observer=Lines()).run()


class Training:
    """A process that trains, and all that it has started. It runs only while something is measured."""

    def __init__(self, process: psutil.Popen, rows: Path) -> None:
        self._process, self._rows = process, rows

    @property
    def family(self) -> list[psutil.Process]:
        """The process and its descendants."""
        return [self._process, *self._process.children(recursive=True)] if self._process.is_running() else []

    def suspend(self) -> None:
        """Stop the whole family."""
        for member in self.family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.suspend()

    def seconds_a_step(self) -> float:
        """Let it train for :data:`SECONDS` after a first row of metrics; the mean over the steps between two rows."""
        for member in self.family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()
        first, began = self._next_row(steps_in(self._rows))
        last, ended = first, began
        while ended - began < SECONDS:
            last, ended = self._next_row(last)
        self.suspend()
        return (ended - began) / (last - first)

    def wait_for_step(self, step: int) -> None:
        """Wait for a row of metrics of ``step`` or later."""
        while steps_in(self._rows) < step:
            self._next_row(steps_in(self._rows))

    def _next_row(self, before: int) -> tuple[int, float]:
        """Wait for a row after the step ``before``; its step and the time."""
        while (step := steps_in(self._rows)) <= before:
            if self._process.status() == psutil.STATUS_ZOMBIE:
                raise RuntimeError(f"what writes {self._rows.name} has ended at step {step}")
            time.sleep(0.005)
        return step, time.perf_counter()


@contextmanager
def started(function: str, place: Path, rows: Path) -> Iterator[Training]:
    """Run ``function`` of this module, which appends to ``rows``; it and all that it has started end with the block."""
    code = f"from pathlib import Path; from tests.bench.stage import {function} as f; f(Path({str(place)!r}))"
    training = Training(psutil.Popen([sys.executable, "-c", code], cwd=ROOT), rows)
    try:
        yield training
    finally:
        family = training.family
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=10)


def steps_in(rows: Path) -> int:
    """The step of the last row."""
    # The last line may be half written.
    lines = rows.read_text().split("\n")[:-1] if rows.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0


def no_op_repro() -> Row:
    """Seconds that `dvc repro` takes in this checkout when nothing has changed."""
    name = "dvc repro with nothing to do"
    command = [sys.executable, "-m", "dvc"]
    status = subprocess.run([*command, "status", "--json"], cwd=ROOT, capture_output=True, text=True, check=False)
    if status.returncode or json.loads(status.stdout or "{}"):
        return Row(
            name=name, ratio=None, target=None, unit="s", note="stages here have changed or never ran: make demo first"
        )
    started = time.perf_counter()
    subprocess.run([*command, "repro"], cwd=ROOT, capture_output=True, check=True)
    return Row(name=name, ratio=time.perf_counter() - started, target=None, unit="s")
