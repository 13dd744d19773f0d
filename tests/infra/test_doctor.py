"""``gantry doctor --cluster`` sees each host, and names one that is silent and one that is gone. Takes three minutes."""

import json
import secrets
import shutil
import time

import pytest

from infra.hosts.driver import CODE, ENVIRONMENT, copy_code
from infra.hosts.hosts import SERVICES, HostsError, check_machine, hosts
from infra.hosts.ray_node import PORT, ray_environment, start_ray
from infra.hosts.s3 import start_s3
from tests.checkout import ROOT

pytestmark = [pytest.mark.hosts, pytest.mark.slow]

CHECKS = ("reach", "versions", "storage", "clock")


@pytest.fixture(scope="module")
def examine(tmp_path_factory):
    """Runs the command on the driver; returns its exit status, and what it found by node and check. Also the hosts."""
    try:
        check_machine()
    except HostsError as missing:
        pytest.skip(str(missing))
    with hosts(["driver", "b", "c"], "10.88.0") as made:
        s3 = start_s3(made[SERVICES], ["gantry"], tmp_path_factory.mktemp("s3") / "s3.log")
        # Ray takes a host for dead after a minute or two: until then a silent one is for the command to find.
        node = ray_environment(secrets.token_hex(32)) | s3.client("gantry")
        node["RAY_health_check_failure_threshold"] = "20"
        start_ray(made["driver"], node, cpus=0)
        for name in ("b", "c"):
            start_ray(made[name], node, cpus=1, head=made["driver"])
        copy_code(made["driver"])
        shutil.copy(ROOT / "params.yaml", made["driver"].files(CODE))
        address = {"RAY_ADDRESS": f"{made['driver'].address}:{PORT}", "GANTRY_STORAGE_URI": "s3://gantry/pipeline"}

        def run(*words):
            done = made["driver"].run(
                ["gantry", "doctor", "--cluster", "--json", *words],
                cwd=CODE,
                environment={**node, **ENVIRONMENT, **address},
                check=False,
                timeout=150,
            )
            assert "[\n" in done.stdout, done.stdout
            listed = json.loads(done.stdout[done.stdout.index("[\n") :])
            return done.returncode, {(one["node"], one["check"]): one for one in listed}

        yield run, made


def statuses(found, name):
    return {check: found[name, check]["status"] for check in CHECKS}


def test_hosts_in_order_then_a_silent_one_and_a_dead_one(examine):
    run, made = examine
    status, found = run()
    assert status == 0
    for name in ("driver (driver)", "driver", "b", "c"):
        assert statuses(found, name) == dict.fromkeys(CHECKS, "ok")
        assert found[name, "storage"]["found"] == "writable"
        assert found[name, "weights"]["status"] == "note"

    (raylet,) = made["b"].run(["pgrep", "-x", "raylet"]).stdout.split()
    made["b"].run(["kill", "-STOP", raylet])
    status, found = run("--timeout", "10")
    made["b"].run(["kill", "-CONT", raylet])
    assert status == 1
    assert found["b", "reach"]["status"] == "problem"
    assert found["b", "reach"]["found"] == "does not answer within 10 s"
    assert "Look at this host" in found["b", "reach"]["remedy"]
    assert statuses(found, "c") == dict.fromkeys(CHECKS, "ok")

    made["b"].kill()
    deadline = time.monotonic() + 240
    while (found := run("--timeout", "10")[1])["b", "reach"]["found"] != "gone":
        assert found["b", "reach"]["status"] == "problem", "Ray has not noticed yet, and the command has"
        assert time.monotonic() < deadline
    assert found["b", "reach"]["status"] == "note"
    assert "ray start --address" in found["b", "reach"]["remedy"]
    assert statuses(found, "c") == dict.fromkeys(CHECKS, "ok")
