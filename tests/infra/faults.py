"""Faults of a training run on several hosts. Each case breaks one run on a cluster, and returns what that cost."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from infra.hosts.hosts import Host
from tests.infra.cluster import BIN, HEAD, Cluster
from tests.infra.training import CHECKPOINT_EVERY, STEPS_A_SECOND, Figures, Run, start

WARM = CHECKPOINT_EVERY + 10
"""Step at which the fault comes."""
STEPS = 160
NOTICE = 20.0
"""Seconds of notice before a host is taken away."""
START_SECONDS = 200.0


@dataclass(frozen=True)
class Case:
    """A fault."""

    run: Callable[[Cluster, str, float], Figures]
    """Breaks one run; is called with the cluster, a stage key, and how many seconds an outage lasts."""
    hosts: int
    """Number of hosts that it uses up."""
    about: str


def lose_host(cluster: Cluster, key: str, _: float, *, workers: int | list[int], cut_first: bool = False) -> Figures:
    """The host of rank 0 dies; ``cut_first``: the link goes down first, so that no connection is closed."""
    with training(cluster, key, workers=workers) as run:
        host, newest, fault = warm(run)
        if cut_first:
            host.cut()
        host.kill()
        figures = run.recovered(fault, newest, 1)
        assert figures.lost <= CHECKPOINT_EVERY, f"{figures.lost} steps were lost"
        run.finish()
        return figures


def grow(cluster: Cluster, key: str, _: float) -> Figures:
    """A host dies, training goes on with one worker, and with two again when another host joins."""
    with training(cluster, key, workers=[1, 2], steps=100_000) as run:
        host, newest, fault = warm(run)
        assert run.groups()[0]["workers"] == 2
        host.kill()
        figures = run.recovered(fault, newest, 1)
        assert run.groups()[1]["workers"] == 1
        joined = time.time()
        cluster.add_worker()
        run.wait_until(lambda: len(run.groups()) > 2, 200, "start with the new host")
        assert run.groups()[2]["workers"] == 2
        return Figures(figures.seconds, figures.lost, {"grown": round(run.groups()[2]["stepped"] - joined, 1)})


def drain(cluster: Cluster, key: str, _: float) -> Figures:
    """The worker's host is taken away with 20 seconds of notice."""
    with training(cluster, key, workers=1, steps=STEPS + round(NOTICE) * STEPS_A_SECOND) as run:
        host, newest, _ = warm(run)
        drain_node(cluster, host, NOTICE)
        noticed, checkpoints = time.time(), set()
        while time.time() < noticed + NOTICE:
            newest = max(newest, run.newest_step())
            checkpoints |= run.checkpoints()
            time.sleep(0.1)
        assert any(step % CHECKPOINT_EVERY for step in checkpoints), (
            f"no checkpoint on notice, only {sorted(checkpoints)}"
        )
        fault = time.time()
        host.kill()
        figures = run.recovered(fault, newest, 1)
        assert figures.lost <= CHECKPOINT_EVERY, f"{figures.lost} steps were lost"
        run.finish()
        return figures


def driver_killed(cluster: Cluster, key: str, _: float) -> Figures:
    """The host of the driver dies; a driver on another host takes the run up when Ray knows of it."""
    first = cluster.add_driver()
    with training(cluster, key, workers=1, host=first, steps=STEPS) as run:
        _, newest, fault = warm(run)
        cluster.hosts[first].kill()
        with training(cluster, key, workers=1, steps=STEPS) as again:
            figures = again.recovered(fault, newest, 1)
            again.finish()
        return figures


def s3_stopped(cluster: Cluster, key: str, seconds: float) -> Figures:
    """The S3 server is killed, and started again after a while."""
    with training(cluster, key, workers=1, steps=STEPS + round(seconds) * STEPS_A_SECOND) as run:
        warm(run)
        cluster.s3.server.stop()
        try:
            time.sleep(seconds)
        finally:
            cluster.s3.server.start()
        return went_on(run)


def s3_bad(cluster: Cluster, key: str, seconds: float) -> Figures:
    """For a while, the S3 server answers every second connection with 503, and the others slowly."""
    with training(cluster, key, workers=1, steps=STEPS + round(seconds) * STEPS_A_SECOND) as run:
        warm(run)
        with cluster.s3_answering_badly():
            time.sleep(seconds)
        return went_on(run)


def network_cut(cluster: Cluster, key: str, seconds: float) -> Figures:
    """The worker's host is cut off for a while and comes back. The other host has gone on, so it must not."""
    with training(cluster, key, workers=1, steps=STEPS + round(seconds) * STEPS_A_SECOND) as run:
        host, newest, fault = warm(run)
        host.cut()
        figures = run.recovered(fault, newest, 1)
        time.sleep(max(0.0, seconds - (time.time() - fault)))
        host.heal()
        run.finish()
        assert len(run.groups()) == 2, "the host that was cut off has trained on"
        host.kill()  # Ray on it has ended, because the cluster takes it for dead
        return figures


CASES: dict[str, Case] = {
    "kill": Case(partial(lose_host, workers=1), 1, "the only worker's host is killed"),
    "kill-of-two": Case(partial(lose_host, workers=[1, 2]), 1, "one of two workers' hosts is killed"),
    "power-off": Case(partial(lose_host, workers=1, cut_first=True), 1, "as kill, with the link down first"),
    "power-off-of-two": Case(
        partial(lose_host, workers=[1, 2], cut_first=True), 1, "as kill-of-two, with the link down first"
    ),
    "drain": Case(drain, 1, "the worker's host is taken away with 20 s of notice"),
    "grow": Case(grow, 1, "one of two hosts is killed, later another joins"),
    "driver-killed": Case(driver_killed, 1, "the driver's host is killed, another one takes the run up"),
    "network-cut": Case(network_cut, 1, "the worker's host is cut off and comes back"),
    "s3-stopped": Case(s3_stopped, 0, "the S3 server is away"),
    "s3-bad": Case(s3_bad, 0, "the S3 server answers slowly or with 503"),
}


@contextmanager
def training(
    cluster: Cluster, key: str, *, steps: int = STEPS, host: str = HEAD, workers: int | list[int]
) -> Iterator[Run]:
    """A run that is ended with the block, on a cluster of at least two hosts for workers."""
    while len(cluster.workers) < 2:
        cluster.add_worker()
    run = start(cluster, key=key, workers=workers, steps=steps, host=host)
    try:
        yield run
    finally:
        run.end()


def warm(run: Run) -> tuple[Host, int, float]:
    """Wait for the first steps; returns the host of rank 0, the newest step, and the time."""
    run.wait_until(lambda: run.newest_step() >= WARM, START_SECONDS, "first steps")
    run.wait_until(run.groups, 30, "news of the first start")
    return run.cluster.hosts[run.groups()[0]["host"]], run.newest_step(), time.time()


def went_on(run: Run) -> Figures:
    """Wait for the end of a run in which nothing was started again; its next step is the first after the fault."""
    began, before = time.time(), run.newest_step()
    run.wait_until(lambda: run.newest_step() > before or run.process.poll() == 0, 120, "next step")
    seconds = time.time() - began
    run.finish()
    assert len(run.groups()) == 1, "the workers were started again"
    return Figures(round(seconds, 1), 0)


def drain_node(cluster: Cluster, host: Host, seconds: float) -> None:
    """Give Ray notice that ``host`` will be taken away."""
    program = (
        "import ray, sys; ray.init(log_to_driver=False, logging_level='ERROR')\n"
        "print([n['NodeID'] for n in ray.nodes() if n['Alive'] and n['NodeManagerHostname'] == sys.argv[1]][0])"
    )
    driver, environment = cluster.hosts[HEAD], cluster.environment
    node = driver.run([str(BIN / "python"), "-c", program, host.name], environment=environment).stdout.split()[-1]
    words: dict[str, Any] = {
        "address": environment["RAY_ADDRESS"],
        "node-id": node,
        "reason": "DRAIN_NODE_REASON_PREEMPTION",
        "reason-message": "spot",
        "deadline-remaining-seconds": round(seconds),
    }
    options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    driver.run(["ray", "drain-node", *options], environment=environment)
