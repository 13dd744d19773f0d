"""A search starts with the values in params.yaml, runs one process per trial, and resumes without losing a trial."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from gan_core.data import PreparedDataset
from gan_core.files import read_json, write_json
from gan_core.training.start import open_start
from gan_core.training.trainer import Trainer
from pipelines.runtime.environment import DEFAULTS
from pipelines.tracking.facts import read_facts
from pipelines.tuning.search import initial_values, rank
from tests.datasets import blobs, write_prepared
from tests.pipelines.settings_example import small_settings

SPACE = {
    "train.generator_lr": {"type": "log", "low": 1e-4, "high": 1e-3},
    "model.slope": {"type": "uniform", "low": 0.0, "high": 0.4},
}


def test_the_values_in_params_yaml_are_the_first_trial() -> None:
    settings = small_settings(tune__space=SPACE, train__generator_lr=3e-4, model__slope=0.1)
    assert initial_values(settings) == {"train.generator_lr": 3e-4, "model.slope": 0.1}


def test_the_best_trial_trained_longest_of_those_that_did_not_diverge() -> None:
    trials = pd.DataFrame(
        [
            {"trial": "diverged", "step": 400, "loss": 1e6},
            {"trial": "second", "step": 300, "loss": 45.0},
            {"trial": "third", "step": 200, "loss": 40.0},
            {"trial": "best", "step": 300, "loss": 44.0},
        ]
    )
    assert list(rank(trials, "loss", 1e6)["trial"]) == ["best", "second", "third", "diverged"]


def test_ctrl_c_ends_the_stage_and_not_only_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune's handler ends its loop: all trials then count as done, and a search of a minute would win over one of a day."""
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        importlib.import_module("ray.tune.tune")._setup_signal_catching()
        assert signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


DRIVER = """
import json, sys
from pathlib import Path
from gan_core.files import read_json
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import ray_cluster
from pipelines.settings.schema import parse_settings
from pipelines.runtime.guard import enter_guard
enter_guard()
from pipelines.runtime.code import code_versions
from pipelines.tuning.places import TrialsOnDisk
from pipelines.tuning.search import search
from pipelines.tuning.trial import TrialJob
values = read_json(sys.argv[1])
work, place = Path(values["place"]["work"]), TrialsOnDisk(**values["place"])
settings = parse_settings(values["settings"])
job = TrialJob(
    settings=values["settings"], place=place, run_key="key", versions=code_versions("tune"), start=values["start"]
)
with ray_cluster(Checkout.at(work), num_cpus=2, log_to_driver=False):
    found = search(work, settings, job, Path(place.events))
found.table.to_csv(work / "board.csv", index=False)
(work / "best.json").write_text(json.dumps(found.parameters))
"""


@pytest.mark.ray
@pytest.mark.weights
def test_a_killed_search_resumes_without_losing_or_repeating_a_trial(tmp_path: Path) -> None:
    """Its trials start from an earlier run, here from one that has not trained."""
    settings = small_settings(
        train__start_from="blobs@champion",
        tune__space=SPACE,
        tune__trials=3,
        tune__steps=20,
        tune__report_every=10,
        tune__samples=8,
        tune__features=64,
        tune__concurrent=1,
    )
    work = tmp_path / "work"
    work.mkdir()
    place = {
        "work": str(work),
        "data": str(write_prepared(tmp_path / "data", blobs(32))),
        "events": str(tmp_path / "track"),
        "decoded": str(tmp_path / "decoded"),
        "statistics": str(tmp_path / "statistics"),
        "start": str(tmp_path / "start"),
    }
    plain = small_settings()
    data = PreparedDataset(tmp_path / "data", tmp_path / "decoded")
    earlier = Trainer("dcgan", plain.model.config, data, plain.train.trainer_config(), tmp_path / "run")
    earlier.export_start(tmp_path / "start")
    start = open_start(tmp_path / "start", "blobs/3")
    job = {"settings": settings.as_dict(), "place": place, "start": start.record}
    write_json(tmp_path / "job.json", job)
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "job.json")]
    with open(tmp_path / "log", "wb") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        family, begun = [], set()
        try:
            deadline = time.monotonic() + 240
            while time.monotonic() < deadline and driver.poll() is None:
                if len(list((work / "search").glob("*/checkpoint_*"))) >= 2:
                    break
                time.sleep(0.1)
            family = psutil.Process(driver.pid).children(recursive=True)
            os.kill(driver.pid, signal.SIGKILL)
            driver.wait()
            _, alive = psutil.wait_procs(family, timeout=45)
            assert not alive
            begun = {path.parent.name for path in (work / "search").glob("*/checkpoint_*")}
        finally:
            for process in family:
                if process.is_running():
                    process.kill()
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
        assert begun, (tmp_path / "log").read_text()[-3000:]
        subprocess.run(command, stdout=log, stderr=log, check=True, timeout=400, start_new_session=True)
    board = pd.read_csv(work / "board.csv", dtype={"trial": str})
    assert len(board) == 3
    assert begun <= set(board["trial"]), "a trial that had begun was lost"
    assert small_settings().train.generator_lr in set(board["train.generator_lr"])
    # Each trial logged each of its measurements once, in order.
    for trial in board["trial"]:
        lines = (tmp_path / "track" / f"key-{trial}" / "events.jsonl").read_text().splitlines()
        steps = [event["step"] for event in map(json.loads, lines) if event["kind"] == "metrics"]
        assert steps == sorted(set(steps))
        assert read_facts(tmp_path / "track" / f"key-{trial}").tags["gantry.parent"] == "blobs/3"
    described = [read_json(path)["generator"] for path in (work / "search").glob("*/checkpoint_*/step-*/state.json")]
    assert described
    assert all(generator["parent"] == start.record for generator in described)
