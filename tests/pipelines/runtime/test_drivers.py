"""A driver that is known to be dead does not hold up the next one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gan_core.errors import StageError
from pipelines.runtime.drivers import driver_lease, identify, is_gone
from pipelines.storage.objects import Storage

HOLDS = """
import sys, time
from pipelines.runtime.drivers import driver_lease
from pipelines.storage.objects import Storage

if len(sys.argv) > 2:
    import ray
    ray.init(sys.argv[2], log_to_driver=False, logging_level="ERROR")
with driver_lease(Storage(sys.argv[1]), "work"):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(uri: str, *address: str) -> subprocess.Popen[str]:
    """A process that holds the lease, as a driver of the cluster if its address is given."""
    command = [sys.executable, "-c", HOLDS, uri, *address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    return process


def seconds_to_take(uri: str) -> float:
    began = time.monotonic()
    with driver_lease(Storage(uri), "work"):
        return time.monotonic() - began


def test_the_lease_of_a_killed_process_of_this_machine_is_taken_at_once(tmp_path: Path) -> None:
    process = holder(f"file://{tmp_path}")
    try:
        with pytest.raises(StageError, match=f"in use by process {process.pid} on host "):
            seconds_to_take(f"file://{tmp_path}")
    finally:
        process.kill()
        process.wait()
    assert seconds_to_take(f"file://{tmp_path}") < 10


@pytest.mark.ray
def test_a_driver_of_the_same_cluster_is_gone_once_ray_says_so(
    tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = holder(f"file://{tmp_path}", ray_cluster)
    try:
        seen = []
        with pytest.raises(StageError), driver_lease(Storage(f"file://{tmp_path}"), "work", seen.append):
            pass
        labels = {label: value for label, value in seen[0].labels.items() if label.startswith("ray")}
        assert labels.keys() == {"ray_session", "ray_job"}
        assert not is_gone(labels)
        assert not is_gone({**labels, "ray_session": "another cluster"})
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 30
    while not is_gone(labels):
        assert time.monotonic() < deadline, "Ray does not notice that the driver was killed"
        time.sleep(0.2)
    assert not is_gone({**labels, "ray_session": "another cluster"})


def test_a_process_of_which_nothing_is_known_is_taken_to_be_alive() -> None:
    assert not is_gone({})
    assert not is_gone(identify())
    assert not is_gone({"process": f"{os.uname().nodename}:1:1@another-boot", "ray_session": "s", "ray_job": "01"})
