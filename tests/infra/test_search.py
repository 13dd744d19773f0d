"""A search over hosts that share no files, with the driver on one without CPUs, survives the loss of a host."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time

import pandas as pd
import pytest

from infra.hosts.hosts import HostsError, check_machine
from tests.infra.cluster import CHECKOUT, cluster

try:
    check_machine()
except HostsError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.hosts

STEPS, REPORT = 240, 60
BEST = 0.05
"""Learning rate of params.yaml in the search, better than all others in its range."""
PROGRAM = f"""
import json, os, sys
from contextlib import nullcontext
from pathlib import Path
from pipelines.runtime.environment import set_up_environment
set_up_environment()
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import ray_cluster
from pipelines.runtime.code import code_versions
from pipelines.tuning.places import TrialsOnDisk, trials_in_storage
from pipelines.tuning.search import search
from pipelines.tuning.trial import TrialJob
from tests.datasets import blobs, write_prepared
from tests.pipelines.settings_example import small_settings

base = Path(sys.argv[1])
work = base / "work" / sys.argv[2]
work.mkdir(parents=True)
data = write_prepared(base / "data", blobs(64))
settings = small_settings(
    train__generator_lr={BEST},
    tune__space={{"train.generator_lr": {{"type": "log", "low": 1e-7, "high": {BEST}}}}},
    tune__trials=3, tune__steps={STEPS}, tune__report_every={REPORT}, tune__samples=32, tune__features=64,
    tune__concurrent=2, tune__reduction=8,
)
uri = os.environ.get("GANTRY_STORAGE_URI")
if uri:
    trials = trials_in_storage(uri, work.name, data, cache_gib=1)
else:
    folders = {{name: str(base / name) for name in ("data", "events", "decoded", "statistics")}}
    trials = nullcontext(TrialsOnDisk(work=str(work), **folders))
with trials as place:
    job = TrialJob(settings=settings.for_workers(), place=place, run_key="key", versions=code_versions("tune"))
    # Two trials with two CPUs each, as on the hosts: the number of threads changes the last digits.
    with ray_cluster(Checkout.at(base), num_cpus=4, log_to_driver=False):
        found = search(work, settings, job, base / "events")
found.table.to_csv(base / "board.csv", index=False)
(base / "best.json").write_text(json.dumps([found.parameters, found.value]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory, weights_file):
    with cluster("10.86.0", tmp_path_factory.mktemp("cluster")) as made:
        weights = made.hosts["driver"].files("/opt/weights")  # no other host has them, and none has internet
        weights.mkdir()
        (weights / weights_file.name).write_bytes(weights_file.read_bytes())
        yield dataclasses.replace(made, environment={**made.environment, "GANTRY_WEIGHTS_DIR": "/opt/weights"})


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same search on this machine, without a storage."""
    base = tmp_path_factory.mktemp("alone")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "GANTRY_STORAGE_URI")
    }
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(base), "key"],
        cwd=CHECKOUT,
        env={**environment, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    return base


def events_of_best_trial(base):
    """The events of the trial with the values of params.yaml."""
    for log in base.glob("events/key-*/events.jsonl"):
        events = [json.loads(line) for line in log.read_text().splitlines()]
        if any(event["kind"] == "params" and event["values"]["train.generator_lr"] == str(BEST) for event in events):
            return events
    return []


def steps(events):
    return [event["step"] for event in events if event["kind"] == "metrics"]


def fids(events):
    return [event["values"] for event in events if event["kind"] == "metrics"]


def hosts_of(events):
    return [event["process"].split(":")[0] for event in events if event["kind"] == "open"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_whose_driver_was_killed_is_taken_up_by_another_with_other_folders(made, alone, tmp_path):
    driver = made.hosts["driver"]
    first, second = driver.files("/opt/first"), driver.files("/opt/second")
    process = made.drive(PROGRAM, "/opt/first", "again", log=tmp_path / "first.log")
    deadline = time.monotonic() + 150
    while process.poll() is None and time.monotonic() < deadline and len(steps(events_of_best_trial(first))) < 2:
        time.sleep(0.2)
    assert process.poll() is None, (tmp_path / "first.log").read_text()[-4000:]
    for line in driver.run(["ps", "-eo", "pid,args"]).stdout.splitlines():
        if line.endswith("program.py /opt/first again"):
            driver.run(["kill", "-9", line.split()[0]], check=False)
    process.wait(20)
    known = steps(events_of_best_trial(first))

    process = made.drive(PROGRAM, "/opt/second", "again", log=tmp_path / "second.log")
    assert process.wait(200) == 0, (tmp_path / "second.log").read_text()[-4000:]
    events = events_of_best_trial(second)
    assert len(known) >= 2
    assert steps(events) == list(range(REPORT, STEPS + 1, REPORT)), (
        "each measurement once, those of the first driver too"
    )
    assert len(hosts_of(events)) > 1, "the trial was not begun again by the second driver"
    assert fids(events) == fids(events_of_best_trial(alone))
    # Which of the other trials ASHA stops depends on the order of their measurements.
    rates = [set(pd.read_csv(folder / "board.csv")["train.generator_lr"]) for folder in (second, alone)]
    assert rates[0] == rates[1]


@pytest.mark.ray
def test_a_lost_trial_goes_on_on_another_host_and_the_search_ends_as_on_one(made, alone, tmp_path):
    """The last of this module, because a host is gone after it."""
    base = made.hosts["driver"].files("/opt/run")
    process = made.drive(PROGRAM, "/opt/run", "key", log=tmp_path / "driver.log")
    killed, reached, deadline = None, 0, time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
        if killed is None and len(steps(events := events_of_best_trial(base))) >= 2:
            killed, reached = hosts_of(events)[-1], steps(events)[-1]
            made.hosts[killed].kill()
    output = (tmp_path / "driver.log").read_text()
    assert process.poll() == 0, output[-4000:]
    assert killed, "the search ended before a host was killed; increase the steps"
    events = events_of_best_trial(base)
    (survivor,) = {"b", "c"} - {killed}
    assert hosts_of(events)[-1] == survivor
    assert steps(events) == list(range(REPORT, STEPS + 1, REPORT)), "each measurement once"
    name = next(event["name"] for event in events if event["kind"] == "open")
    (resumed,) = re.findall(rf"{name} was lost and goes on from step (\d+)", output)
    assert int(resumed) >= reached - REPORT, "at most the steps since the last checkpoint are lost"
    assert fids(events) == fids(events_of_best_trial(alone))
    assert (base / "best.json").read_text() == (alone / "best.json").read_text()
    rates = [set(pd.read_csv(folder / "board.csv")["train.generator_lr"]) for folder in (base, alone)]
    assert rates[0] == rates[1]
    assert len(rates[0]) == 3
