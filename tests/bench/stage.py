"""What the pipeline costs: the train stage's step beside the bare loop's, and a `dvc repro` with nothing to do."""

import contextlib
import dataclasses
import json
import os
import statistics
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
from pipelines.settings.schema import load_settings
from pipelines.tracking import RunLog, Shipper
from pipelines.training.fit import fit
from pipelines.training.worker import CURVES
from tests.bench import Row
from tests.datasets import blobs, write_prepared

ROOT = Path(__file__).parents[2]
STEPS, WARM = 300, 40


def rows() -> list[Row]:
    """The table's rows."""
    return [stage_against_bare_loop(), no_op_repro()]


def stage_against_bare_loop() -> Row:
    """Seconds a step: Ray, tracking, grids and checkpoints as params.yaml has them, beside the trainer with none of them.

    A shared machine computes half as fast again from one minute to the next: the bare loop runs before and after.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["GANTRY_CACHE_DIR"] = str(place / "cache")
        write_prepared(place / "data", blobs(2048, size=32))
        with started("bare", place) as process:
            alone = seconds_a_step(process, place / "alone.jsonl")
            process.suspend()
            with started("stage", place) as staging:
                staged = seconds_a_step(staging, place / "work/bench" / CURVES)
            process.resume()
            again = seconds_a_step(process, place / "alone.jsonl")
    return Row(
        name="train stage beside the bare loop, a step",
        ratio=(staged / (alone + again) * 2 - 1) * 100,
        target=3,
        unit="%",
        note=f"{staged * 1e3:.0f} ms a step; the bare loop {alone * 1e3:.0f} before and {again * 1e3:.0f} after it",
    )


def stage(place: Path) -> None:
    """What the train stage does."""
    settings = load_settings(ROOT / "params.yaml").with_values({"train.steps": 2 * STEPS})
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
    torch.set_num_threads(os.cpu_count() or 1)
    settings, never = load_settings(ROOT / "params.yaml"), 10**9
    config = dataclasses.replace(
        settings.train.trainer_config(), steps=never, sample_every=never, checkpoint_every=never
    )

    class Lines(Observer):
        def metrics(self, values: dict[str, float], step: int) -> None:
            with open(place / "alone.jsonl", "a") as file:
                file.write(json.dumps({"step": step}) + "\n")

    model, dataset = settings.model, PreparedDataset(place / "data")
    Trainer(model.family, model.config, dataset, config, place / "alone", observer=Lines()).run()


@contextmanager
def started(function: str, place: Path) -> Iterator[psutil.Process]:
    """Run ``function`` of this module in a process of its own; it and all that it has started end with the block."""
    code = f"from pathlib import Path; from tests.bench.stage import {function} as f; f(Path({str(place)!r}))"
    process = psutil.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        yield process
    finally:
        family = [process, *process.children(recursive=True)] if process.is_running() else []
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=10)


def seconds_a_step(process: psutil.Process, rows: Path) -> float:
    """The median over the rows of metrics that ``process`` appends to the file ``rows``, from the next row on."""
    times: list[float] = []
    first = last = steps_in(rows)
    before = time.perf_counter()
    while last - first < STEPS:
        if process.status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError(f"what writes {rows.name} has ended at step {last}")
        time.sleep(0.02)
        step = steps_in(rows)
        if step > last:
            now = time.perf_counter()
            if last - first >= WARM:
                times.append((now - before) / (step - last))
            last, before = step, now
    return statistics.median(times)


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
