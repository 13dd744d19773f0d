"""Training on hosts that share no files, with the driver on one without CPUs, survives the loss of a host."""

import json
import re
import time

import pytest
import torch

from gan_core.data import PreparedDataset
from gan_core.files import sha256_file
from gan_core.training.trainer import Trainer
from infra.hosts.hosts import HostsError, check_machine
from pipelines.training.curves import read_curves
from tests.datasets import blobs, write_prepared
from tests.infra.cluster import cluster
from tests.pipelines.settings_example import small_settings

try:
    check_machine()
except HostsError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.hosts

SETTINGS = {"train__steps": 400, "train__log_every": 10, "train__checkpoint_every": 50, "train__max_failures": 3}
PROGRAM = f"""
import sys
from pathlib import Path
from pipelines.runtime.environment import set_up_environment
set_up_environment()
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import ray_cluster
from pipelines.training.fit import fit
from tests.datasets import blobs, write_prepared
from tests.pipelines.settings_example import small_settings

work = Path("/opt/work/key")
work.mkdir(parents=True, exist_ok=True)
data = write_prepared(Path("/opt/data"), blobs(64))
settings = small_settings(**{SETTINGS!r}, train__num_workers=int(sys.argv[1]))
with ray_cluster(Checkout.at("/opt/gantry"), log_to_driver=False):
    fit(work, data, settings, run_key="key", run_name="train", track=Path("/opt/events"))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with cluster("10.85.0", tmp_path_factory.mktemp("cluster")) as made:
        yield made


def test_a_host_with_other_code_is_refused_by_name(made, tmp_path):
    """Two workers on two hosts, and a driver that claims to have something else than it has sent."""
    program = PROGRAM.replace(
        "work = Path", 'fit.__globals__["code_versions"] = lambda stage: "torch 1.0"\nwork = Path', 1
    )
    process = made.drive(program.replace('"key"', '"refused"'), "2", log=tmp_path / "driver.log")
    assert process.wait(300) == 1
    last = (tmp_path / "driver.log").read_text().splitlines()[-1]
    assert "StageError: Host " in last
    assert "the driver has torch 1.0. Install the same versions on every host." in last


def test_an_error_of_one_worker_ends_all_with_that_error_and_its_host(made, tmp_path):
    """Rank 0 waits for the other in a collective when that one fails."""
    one_fails = """
def one_fails(values):
    import ray.train
    from gan_core.errors import DataError
    from pipelines.training import worker

    def fail(self, step):
        if step == 20 and ray.train.get_context().get_world_rank() == 1:
            raise DataError("shard-7.parquet is not there")
        return False

    worker.Reporter.wants_checkpoint = fail
    worker.train_loop_per_worker(values)


fit.__globals__["train_loop_per_worker"] = one_fails
work = Path"""
    program = PROGRAM.replace("work = Path", one_fails, 1).replace('"key"', '"one-fails"').replace("/key", "/one-fails")
    process = made.drive(program, "2", log=tmp_path / "driver.log")
    curves = made.hosts["driver"].files("/opt/work/one-fails/curves.jsonl")
    deadline = time.monotonic() + 200
    while not (curves.exists() and len(read_curves(curves)) >= 1) and process.poll() is None:
        assert time.monotonic() < deadline, (tmp_path / "driver.log").read_text()[-4000:]
        time.sleep(0.2)
    assert process.wait(60) == 1, "four hours in the collective, without this"
    last = (tmp_path / "driver.log").read_text().splitlines()[-1]
    assert re.fullmatch(r".*DataError: shard-7.parquet is not there \(on host [bc]\)", last), last


def test_training_goes_on_on_another_host_and_ends_with_the_same_bytes(made, tmp_path):
    driver = made.hosts["driver"]
    process = made.drive(PROGRAM, "1", log=tmp_path / "driver.log")
    curves = driver.files("/opt/work/key/curves.jsonl")
    killed = None
    deadline = time.monotonic() + 400
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
        if killed is None and curves.exists() and curves.read_text().count("\n") >= 8:
            (killed,) = made.hosts_that_train()
            made.hosts[killed].kill()
    output = (tmp_path / "driver.log").read_text()
    assert process.poll() == 0, output[-4000:]
    assert killed, "training ended before a host was killed; increase the steps"
    assert list(read_curves(curves)["step"]) == list(range(10, 401, 10))
    events = map(json.loads, driver.files("/opt/events/key/events.jsonl").read_text().splitlines())
    measured = [
        (event["step"], "cost/peak_memory_gib" in event["values"]) for event in events if event["kind"] == "metrics"
    ]
    assert sorted(measured) == [*((step, False) for step in range(10, 401, 10)), (400, True)], "each event once"
    ours = sha256_file(driver.files("/opt/work/key/generator/generator.safetensors"))

    settings = small_settings(**SETTINGS)
    data = PreparedDataset(write_prepared(tmp_path / "data", blobs(64)))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # as many as a worker had
    try:
        alone = Trainer(
            settings.model.family,
            settings.model.config,
            data,
            settings.train.trainer_config(),
            tmp_path / "alone",
            device="cpu",
        )
        alone.run()
        alone.export(tmp_path / "generator")
    finally:
        torch.set_num_threads(threads)
    assert ours == sha256_file(tmp_path / "generator" / "generator.safetensors")
