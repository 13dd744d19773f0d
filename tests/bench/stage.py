"""What the pipeline costs: the train stage's step beside the bare loop's, and a `dvc repro` with nothing to do."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from gan_core.data import PreparedDataset
from gan_core.training.trainer import Silent, Trainer
from pipelines.cluster import cluster
from pipelines.settings import Settings, load_settings
from pipelines.tracking import RunLog, Shipper
from pipelines.training.fit import fit
from pipelines.training.worker import CURVES
from tests.bench import Row
from tests.datasets import blobs, write_prepared

ROOT = Path(__file__).parents[2]
STEPS, WARM, TURN = 300, 20, 6.0


def rows() -> list[Row]:
    """The table's rows."""
    return [stage_against_bare_loop(), no_op_repro()]


def stage_against_bare_loop() -> Row:
    """CPU seconds a step: Ray, tracking, grids and checkpoints as params.yaml has them, against the trainer with none of them.

    A shared machine computes half as fast again from one minute to the next. So the two take turns of some seconds (the
    other is stopped meanwhile), and the processor's time counts, of every process that the stage has started.
    """
    settings = load_settings(ROOT / "params.yaml").with_values({"train.steps": STEPS})
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["GANTRY_CACHE_DIR"] = str(place / "cache")
        write_prepared(place / "data", blobs(2048, size=32))
        with ThreadPoolExecutor(1) as pool, bare_loop(place) as alone:
            spent = pool.submit(take_turns, place / "work/bench" / CURVES, place / "alone.jsonl", alone)
            run_stage(place, settings)
            staged, bare = spent.result()
    note = f"{staged * 1e3:.0f} ms of the CPUs a step against {bare * 1e3:.0f}, in turns of {TURN:.0f} s"
    return Row(
        name="train stage beside the bare loop, a step", ratio=(staged / bare - 1) * 100, target=3, unit="%", note=note
    )


def run_stage(place: Path, settings: Settings) -> None:
    """What the train stage does."""
    work, track = place / "work/bench", place / "track"
    work.mkdir(parents=True)
    with (
        cluster(root=place, log_to_driver=False),
        Shipper(track, tracking_uri=f"sqlite:///{place / 'mlflow.db'}", experiment="bench"),
        RunLog(track, key="bench", name="bench"),
    ):
        fit(work, place / "data", settings, run_key="bench", run_name="bench", track=track)


@contextmanager
def bare_loop(place: Path) -> Iterator[psutil.Process]:
    """A process that runs gan_core's trainer with nothing around it, stopped at first, ended with the block."""
    code = f"from tests.bench.stage import bare; bare({str(place)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        process.send_signal(signal.SIGSTOP)
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def bare(place: str) -> None:
    """Train without end, a line for each row of metrics."""
    torch.set_num_threads(os.cpu_count() or 1)
    settings, never = load_settings(ROOT / "params.yaml"), 10**9
    config = dataclasses.replace(settings.train.core(), steps=never, sample_every=never, checkpoint_every=never)

    class Lines(Silent):
        def metrics(self, values: dict[str, float], step: int) -> None:
            with open(Path(place) / "alone.jsonl", "a") as file:
                file.write(json.dumps({"step": step}) + "\n")

    model, dataset = settings.model, PreparedDataset(Path(place) / "data")
    Trainer(model.family, model.config, dataset, config, Path(place) / "alone", observer=Lines()).run()


def take_turns(staged: Path, alone: Path, bare: psutil.Process) -> tuple[float, float]:
    """CPU seconds a step of the stage (all processes but ``bare``) and of ``bare``, which run in turns once both train."""
    while not steps_in(staged):
        time.sleep(0.1)
    worker = next(p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline()))
    worker.suspend()
    totals = [[0, 0.0], [0, 0.0]]
    try:
        while steps_in(staged) < STEPS:
            for place, runner, total, mine in ((alone, bare, totals[1], True), (staged, worker, totals[0], False)):
                runner.resume()
                step, spent = next_row(place, bare, mine, 0.0)
                last, until = next_row(place, bare, mine, TURN)
                with contextlib.suppress(psutil.NoSuchProcess):
                    runner.suspend()
                if step >= WARM:
                    total[0] += last - step
                    total[1] += until - spent
    finally:
        # Whatever happened here: a stopped worker would keep the stage waiting for ever.
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.resume()
    return totals[0][1] / totals[0][0], totals[1][1] / totals[1][0]


def next_row(place: Path, bare: psutil.Process, mine: bool, seconds: float) -> tuple[int, float]:
    """Wait ``seconds`` and then for the next row of metrics in ``place``; its step, and the CPU seconds spent by then."""
    time.sleep(seconds)
    before = steps_in(place)
    while steps_in(place) == before < STEPS:
        time.sleep(0.02)
    me = psutil.Process()
    others = [me, *(process for process in me.children(recursive=True) if process != bare)]
    spent = 0.0
    for process in [bare] if mine else others:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return steps_in(place), spent


def steps_in(place: Path) -> int:
    """The step of the last row in ``place``."""
    # The last line may be half written.
    rows = place.read_text().split("\n")[:-1] if place.is_file() else []
    return json.loads(rows[-1])["step"] if rows else 0


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
