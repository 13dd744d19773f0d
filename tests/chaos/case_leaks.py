"""Long runs: memory, threads, file handles, temporary files and ``var`` do not grow."""

import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.chaos.case import Case, Suite
from tests.chaos.place import Place, orphans, set_params

FLOW_RUNS, FLOW_RUNS_SMALL = 50, 5
STEPS, STEPS_SMALL = 20_000, 1_000
WARM_SHARE = 0.4
"""Share of a long run in which caches fill up; only the rest is checked."""
MEMORY_SHARE = 0.02
"""Share by which the memory may still grow afterwards: noise of the allocator."""
VAR_BYTES = 250_000
"""By how much ``var``, without MLflow's store, may grow with each cached run of the flow: its events (kept for 7 days), states
and log lines (90 days) in Prefect's database, and the output of its stages (of 20 runs)."""
STORE_SPARE = 50_000
"""By how much MLflow's store may grow with each cached run beside the files of the results: rows of the database. It keeps a
run's figures and pictures until the user deletes the run, and each sheet as a file and as a picture of the chart view."""


def cases() -> list[Case]:
    """Many runs of the flow in one process, and many steps of training."""
    return [
        Case(name="leaks-steps", run=many_steps, seconds=1800),
        Case(name="leaks-flow", run=many_runs, small=False, seconds=3600),
    ]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The resources of a process at one moment."""

    memory: int
    """Unique set size in bytes."""
    threads: int
    handles: int


def sample(process: psutil.Process) -> Sample:
    """The resources of ``process`` now."""
    with process.oneshot():
        return Sample(memory=process.memory_full_info().uss, threads=process.num_threads(), handles=process.num_fds())


def check_flat(samples: Sequence[Sample]) -> str:
    """Raise AssertionError if memory, threads or handles grow after the warm-up; return a summary.

    Memory that grows once, when something is used for the first time, is no leak. So it has to grow from the first third of the
    samples to the second, and from the second to the last.
    """
    late = samples[int(len(samples) * WARM_SHARE) :]
    third = len(late) // 3
    assert third, f"{len(samples)} samples are too few"
    thirds = late[:third], late[third:-third], late[-third:]
    first, middle, last = (
        {name: statistics.median(getattr(s, name) for s in part) for name in ("memory", "threads", "handles")}
        for part in thirds
    )
    grown = {name: last[name] - first[name] for name in first}
    steady = 2 * min(middle["memory"] - first["memory"], last["memory"] - middle["memory"])
    counts = f"threads {grown['threads']:+.0f}, handles {grown['handles']:+.0f}"
    said = f"memory {first['memory'] / 1e6:.0f} MB {grown['memory'] / 1e6:+.1f}, {counts}"
    assert steady <= max(MEMORY_SHARE * first["memory"], 8e6), f"memory grows: {said}"
    assert grown["threads"] <= 0, f"threads grow: {said}"
    assert grown["handles"] <= 0, f"handles grow: {said}"
    return said


def many_steps(suite: Suite, numbers: random.Random) -> None:
    """Run the train stage for many steps and observe its process."""
    steps = STEPS_SMALL if suite.small else STEPS
    with suite.baseline.before["train"].copy() as place:
        every = max(20, steps // 40)
        set_params(
            place,
            train={
                "steps": steps,
                "batch": 4,
                "log_every": every // 2,
                "checkpoint_every": every,
                "sample_every": every,
            },
        )
        stage = place.begin_stage("train")
        samples, seen = [], 0
        while not stage.ended():
            rows = _rows(place)
            if rows > seen:
                seen = rows
                for process in _worker(stage.family()):
                    samples.append(sample(process))
            time.sleep(0.02)
        ended = stage.wait(60)
        assert ended.status == 0, f"training ended with {ended.status}:\n{ended.output[-2000:]}"
        suite.notes.append(f"{steps} steps, {len(samples)} samples, {check_flat(samples)}")
        kept = list((place.root / "var/work/train").glob("*/checkpoints/step-*"))
        assert len(kept) <= 3, f"{len(kept)} checkpoints are kept"
        check_no_temporaries(place)
    left = orphans()
    assert not left, f"still running: {'; '.join(left)}"


def _rows(place: Place) -> int:
    paths = (place.root / "var/work/train").glob("*/curves.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in paths)


def _worker(family: Sequence[psutil.Process]) -> list[psutil.Process]:
    """The training process, which is the guard's child."""
    return list(family[1:2])


def check_no_temporaries(place: Place) -> None:
    """Check that the folder for temporary files is empty."""
    left = [path.name for path in Path(place.environment["TMPDIR"]).iterdir()]
    assert not left, f"temporary files are left: {', '.join(sorted(left)[:5])}"


RUNNER = """
import json, os, sys, threading
from pipelines.runtime.environment import set_up_environment

set_up_environment()
import psutil
from pipelines.flow.server import connect_prefect
from pipelines.runtime.checkout import Checkout
from pipelines.flow.workspace import check_checkout, exclusive_run, remove_abandoned

checkout, runs, stages = Checkout.at(), int(sys.argv[1]), sys.argv[2:]
with connect_prefect(checkout, long_lived=True) as connection, connection.clients():
    from pipelines.flow.flow import pipeline_flow
    from pipelines.flow.owner import mark_crashed

    for _ in range(runs):
        # As gantry run does, but for the end of its connection: Prefect 3 keeps 2.7 MB of each events client that it has
        # ended. A process of ours ends one, with its only run.
        check_checkout(checkout, stages)
        with exclusive_run(checkout):
            mark_crashed(checkout, own_server=True)
            remove_abandoned(checkout)
            assert pipeline_flow(checkout)(stages, None, {}, return_state=True).is_completed()
        me = psutil.Process()
        held = [me.memory_full_info().uss, me.num_threads(), me.num_fds()]
        var = {"store": 0, "rest": 0}
        for path in checkout.var.rglob("*"):
            if path.is_file():
                part = "store" if path.relative_to(checkout.var).parts[0] in ("mlartifacts", "mlflow.db") else "rest"
                var[part] += path.stat().st_size
        with open(sys.argv[0] + ".json", "a") as file:
            file.write(json.dumps({"held": held, "var": var}) + "\\n")
"""


def many_runs(suite: Suite, numbers: random.Random) -> None:
    """One process runs the flow many times; after the first run, every stage is cached."""
    runs = FLOW_RUNS_SMALL if suite.small else FLOW_RUNS
    stages = ["ingest"] if suite.small else []
    with suite.baseline.after.copy() as place:
        script = place.scratch / "runner.py"
        place.scratch.mkdir(exist_ok=True)
        script.write_text(RUNNER, encoding="utf-8")
        place.environment.pop("GANTRY_PIPELINE_RUN", None)
        ended = place.command("python", str(script), str(runs), *stages, GANTRY_CHAOS_LOCAL="1").wait(60 * runs + 300)
        assert ended.status == 0, f"a run ended with {ended.status}:\n{ended.output[-3000:]}"
        lines = Path(f"{script}.json").read_text(encoding="utf-8").splitlines()
        rows = [_parse(line) for line in lines]
        said = check_flat([Sample(memory=m, threads=t, handles=h) for (m, t, h), _ in rows])
        late = [var for _, var in rows[int(len(rows) * WARM_SHARE) :]]
        each = {part: (late[-1][part] - late[0][part]) / max(1, len(late) - 1) for part in late[0]}
        kept = 2 * sum(path.stat().st_size for path in (place.root / "outputs/evaluate").iterdir()) + STORE_SPARE
        suite.notes.append(
            f"{runs} runs, {said}, var {each['rest'] / 1000:+.0f} kB a run, MLflow's store {each['store'] / 1000:+.0f} kB"
        )
        assert each["rest"] <= VAR_BYTES, f"var grows by {each['rest'] / 1000:.0f} kB with each run"
        assert each["store"] <= kept, f"MLflow's store grows by {each['store'] / 1000:.0f} kB with each run"
        check_no_temporaries(place)
    left = orphans()
    assert not left, f"still running: {'; '.join(left)}"


def _parse(line: str) -> tuple[tuple[int, int, int], dict[str, int]]:
    row = json.loads(line)
    memory, threads, handles = row["held"]
    return (memory, threads, handles), row["var"]
