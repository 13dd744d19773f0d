"""A training run on the hosts of a cluster, watched from outside."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.infra.cluster import HEAD, Cluster

LOG_EVERY, CHECKPOINT_EVERY = 5, 30
STEPS_A_SECOND = 10
"""Speed of training, at most: a fast machine would be at the end before a fault has its effect."""
_WORK = "/root/.cache/gantry/work"
"""Where a worker has its work folder on its own host."""
PROGRAM = Path(__file__).with_name("program.py")


@dataclass
class Figures:
    """What a fault has cost."""

    seconds: float
    """From the fault to the first step after it."""
    lost: int
    """Steps that were made again."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of the parts of ``seconds``."""


@dataclass
class Run:
    """A run that was started by :func:`start`."""

    cluster: Cluster
    process: Any
    key: str
    steps: int
    log: Path
    host: str

    @property
    def _work(self) -> Path:
        return self.cluster.hosts[self.host].files(f"/opt/work/{self.key}")

    def rows(self) -> list[int]:
        """Steps of the rows of the curves on the driver's host."""
        return [row["step"] for row in _rows(self._work / "curves.jsonl")]

    def groups(self) -> list[dict[str, Any]]:
        """What the driver knows of the starts of the workers."""
        return _rows(self._work / "groups.jsonl")

    def newest_step(self) -> int:
        """Newest row that a worker has written on its own host, before it reaches any other."""
        return max((row["step"] for folder in self._on_workers() for row in _rows(folder / "curves.jsonl")), default=0)

    def checkpoints(self) -> set[int]:
        """Steps of the checkpoints on the workers' hosts."""
        paths = (path for folder in self._on_workers() for path in folder.glob("checkpoints/step-*"))
        return {int(path.name.removeprefix("step-")) for path in paths}

    def _on_workers(self) -> list[Path]:
        """The work folders of this run on the workers' hosts. Those of earlier runs may lie beside them."""
        parents = (self.cluster.hosts[name].files(_WORK) for name in self.cluster.workers)
        return [
            folder for parent in parents for folder in parent.glob("*/files") if (folder / "events" / self.key).is_dir()
        ]

    def wait_until(self, met: Callable[[], Any], seconds: float, what: str) -> Any:
        """Wait for ``met``; fails with the driver's output if the run ends before, or after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not (value := met()):
            ended = self.process.poll() is not None
            assert not ended, f"the run ended before {what}:\n{self.output()}"
            assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s:\n{self.output()}"
            time.sleep(0.2)
        return value

    def output(self) -> str:
        """The end of what the driver has printed."""
        return self.log.read_text()[-4000:] if self.log.exists() else ""

    def recovered(self, fault: float, newest: int, before: int, seconds: float = 300) -> Figures:
        """Wait for the first step after the fault; ``before``: number of starts until then."""
        self.wait_until(lambda: len(self.groups()) > before, seconds, "step after the fault")
        start = self.groups()[before]
        marks = {name: start[name] for name in ("entered", "fetched", "built", "stepped")}
        parts, last = {}, fault
        for name, mark in marks.items():
            parts[name], last = round(mark - last, 1), mark
        return Figures(round(marks["stepped"] - fault, 1), max(0, newest - start["resumed"]), parts)

    def finish(self, seconds: float = 300) -> None:
        """Wait for the end of the run; check that it ended well and that each metric is there once."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
        assert self.process.poll() == 0, self.output()
        steps = self.rows()
        assert set(range(LOG_EVERY, self.steps + 1, LOG_EVERY)) <= set(steps), "rows are missing"
        events = self.cluster.hosts[self.host].files(f"/opt/events/{self.key}/events.jsonl").read_text()
        told = [json.loads(line) for line in events.splitlines() if '"kind":"metrics"' in line]
        seen = [(event["step"], event["time"]) for event in told]
        assert seen, "no metric was sent"
        assert len(seen) == len(set(seen)), "a metric was sent twice"

    def end(self) -> None:
        """End the driver if it still runs, and wait until its workers are gone."""
        for number in (signal.SIGINT, signal.SIGKILL):  # after SIGINT, Ray frees what it has reserved for the run
            if self.process.poll() is None:
                os.killpg(self.process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(20)
        deadline = time.monotonic() + 60
        while self.cluster.hosts_that_train() and time.monotonic() < deadline:
            time.sleep(0.5)


def start(
    cluster: Cluster,
    *,
    workers: int | list[int] = 1,
    steps: int,
    key: str,
    host: str = HEAD,
) -> Run:
    """Start a driver that trains under the stage key ``key``; on a second host, it takes the run up."""
    settings = {
        "train__steps": steps,
        "train__num_workers": workers,
        "train__log_every": LOG_EVERY,
        "train__checkpoint_every": CHECKPOINT_EVERY,
        "train__max_failures": 0,  # a run that ends well has counted no failure
    }
    words = key, json.dumps(settings), str(LOG_EVERY / STEPS_A_SECOND)
    log = cluster.logs / f"{key}-{host}.log"
    process = cluster.drive(PROGRAM.read_text(), *words, log=log, host=host)
    return Run(cluster, process, key, steps, log, host)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text().splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n") and line.strip()]
