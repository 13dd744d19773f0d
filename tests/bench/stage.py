"""What the pipeline costs: the train stage's step beside the bare loop's, and a `dvc repro` with nothing to do."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from gan_core.data import PreparedDataset
from gan_core.training.trainer import Trainer
from pipelines.cluster import cluster
from pipelines.settings import Settings, load_settings
from pipelines.tracking import RunLog, Shipper
from pipelines.training.fit import fit
from tests.bench import Row
from tests.datasets import blobs, write_prepared

ROOT = Path(__file__).parents[2]
STEPS, WARM = 300, 20


def rows() -> list[Row]:
    """The table's rows."""
    return [stage_against_bare_loop(), no_op_repro()]


def stage_against_bare_loop() -> Row:
    """Seconds a step: Ray, tracking, grids and checkpoints as params.yaml has them, against the trainer with none of them."""
    settings = load_settings(ROOT / "params.yaml").with_values({"train.steps": STEPS})
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["GANTRY_CACHE_DIR"] = str(place / "cache")
        data = write_prepared(place / "data", blobs(2048, size=32))
        before = bare(place, data, settings)
        staged = in_stage(place, data, settings)
        after = bare(place, data, settings)
    alone = (before + after) / 2
    note = f"{staged * 1e3:.0f} ms a step against {before * 1e3:.0f} before and {after * 1e3:.0f} after"
    return Row(
        name="train stage beside the bare loop, a step", ratio=(staged / alone - 1) * 100, target=3, unit="%", note=note
    )


def bare(place: Path, data: Path, settings: Settings) -> float:
    """Seconds a step of gan_core's trainer with nothing around it."""
    torch.set_num_threads(os.cpu_count() or 1)
    never = 10 * STEPS
    config = dataclasses.replace(
        settings.train.core(), steps=never, sample_every=never, checkpoint_every=never, log_every=STEPS
    )
    with tempfile.TemporaryDirectory(dir=place) as folder:
        trainer = Trainer(settings.model.family, settings.model.config, PreparedDataset(data), config, folder)
        trainer.run(WARM)
        started = time.perf_counter()
        trainer.run(WARM + STEPS // 2)
        return (time.perf_counter() - started) / (STEPS // 2)


def in_stage(place: Path, data: Path, settings: Settings) -> float:
    """Seconds a step of the train stage, from the times at which its worker logged the first and the last row."""
    work, track = place / "work/bench", place / "track"
    work.mkdir(parents=True)
    store = f"sqlite:///{place / 'mlflow.db'}"
    with (
        cluster(root=place, log_to_driver=False),
        Shipper(track, tracking_uri=store, experiment="bench"),
        RunLog(track, key="bench", name="bench") as run,
    ):
        fit(work, data, settings, run_key="bench", run_name="bench", track=track)
        lines = (run.folder / "events.jsonl").read_text().splitlines()
    logged = [(event["step"], event["time"]) for event in map(json.loads, lines) if event["kind"] == "metrics"]
    (first, began), (last, ended) = logged[0], logged[-1]
    return (ended - began) / 1000 / (last - first)


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
