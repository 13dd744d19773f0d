"""Runs on a driver's host as ``python program.py KEY SETTINGS SECONDS``: trains, and waits SECONDS at each row of metrics.

A fast machine would otherwise be at the end of training before a fault has its effect.
"""

# ruff: noqa: E402
import json
import sys
import time
from pathlib import Path

from pipelines.runtime.environment import set_up_environment

set_up_environment()  # before libraries that read it are imported

from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import ray_cluster
from pipelines.training import fit as module
from pipelines.training import worker
from tests.datasets import blobs, write_prepared
from tests.pipelines.settings_example import small_settings

KEY, SETTINGS, SECONDS = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])


def train_slowly(values):
    """The workers' function; Ray sends it to them itself, because it is in the main program."""
    metrics = worker.Reporter.metrics

    def wait(*row):
        time.sleep(SECONDS)
        metrics(*row)

    worker.Reporter.metrics = wait
    worker.train_loop_per_worker(values)


module.train_loop_per_worker = train_slowly
if isinstance(SETTINGS["train__num_workers"], list):
    SETTINGS["train__num_workers"] = tuple(SETTINGS["train__num_workers"])
work = Path("/opt/work") / KEY
work.mkdir(parents=True, exist_ok=True)
data = write_prepared(Path("/opt/data") / KEY, blobs(64))
with ray_cluster(Checkout.at("/opt/gantry"), log_to_driver=False):
    module.fit(work, data, small_settings(**SETTINGS), run_key=KEY, run_name="train", track=Path("/opt/events"))
