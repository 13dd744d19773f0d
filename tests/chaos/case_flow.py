"""Runs of the whole flow: killed, interrupted, without its Prefect server, two at once. Training uses no cluster."""

import os
import random
import signal
import sqlite3
import time
from functools import partial
from pathlib import Path

import psutil

from tests.chaos.case import Case, Suite, repeat_until_it_comes
from tests.chaos.case_stages import sync_all
from tests.chaos.checks import check_logs_sent, check_metrics, check_one_version, check_same, check_whole, make_old
from tests.chaos.place import STAGES, Command, Place, kill, orphans

LOCAL = {"GANTRY_CHAOS_LOCAL": "1"}
VICTIMS = {
    "run": "gantry run",
    "repro": "dvc --wait-for-lock repro",
    "stage": "gantry stage",
    "guard": "pipelines.runtime.guard",
    "prefect": "pipelines.flow.auth_middleware prefect",
}
"""Part of the victim's command line, by the name of the victim."""
RUN_SECONDS = 400.0


def cases() -> list[Case]:
    """One case for each victim. The short form has the death of the Prefect server and two runs in one checkout."""
    single = [
        Case(
            name=f"flow-{victim}-killed",
            run=partial(breaking, faults=(victim,)),
            small=victim == "prefect",
            seconds=1200,
        )
        for victim in VICTIMS
    ]
    return [
        *single,
        Case(name="flow-ctrl-c", run=partial(breaking, faults=("ctrl-c",)), small=False, seconds=1200),
        Case(name="flow-terminated", run=partial(breaking, faults=("terminated",)), small=False, seconds=1200),
        Case(name="repro-killed", run=partial(breaking, faults=("bare-repro",)), small=False, seconds=1200),
        Case(name="flow-broken-in-turn", run=partial(breaking, faults=("prefect", "run")), small=False, seconds=1200),
        Case(name="two-runs-one-checkout", run=two_in_one_checkout, small=True, seconds=1200),
        Case(name="two-runs-two-checkouts", run=two_checkouts, small=False, seconds=1200),
        Case(name="revision-beside-checkout", run=revision_beside, small=False, seconds=1200),
    ]


def breaking(suite: Suite, numbers: random.Random, *, faults: tuple[str, ...]) -> None:
    """Break several runs in a row, each in a stage, then run to the end. The results equal those of the undisturbed run."""

    def once() -> bool:
        with suite.baseline.before["ingest"].copy() as place:
            _untracked(place)
            came = [
                _broken_run(suite, numbers, place, fault, stage)
                for fault, stage in zip(faults, _in_order(numbers, len(faults)), strict=True)
            ]
            last = place.command("gantry", "run", **LOCAL).wait(RUN_SECONDS)
            assert last.status == 0, f"the run after it ended with {last.status}:\n{last.output[-4000:]}"
            check_finished(suite, place)
        return all(came)

    repeat_until_it_comes(once, "the run")


def _broken_run(suite: Suite, numbers: random.Random, place: Place, fault: str, stage: str) -> bool:
    """Run until ``stage``, break the run, and check its end. Whether the fault came before that end."""
    command = ("dvc", "repro") if fault == "bare-repro" else ("gantry", "run")
    run = place.command(*command, **LOCAL)
    run.until(partial(works_at, place, stage), RUN_SECONDS, f"stage {stage}")
    time.sleep(numbers.uniform(0, 2))
    suite.notes.append(f"{fault} in {stage}")
    came = run.process.poll() is None
    if came:
        _break(run, fault)
    ended = run.wait(RUN_SECONDS)
    if fault in ("prefect", "repro", "stage", "guard"):
        _check_message(ended.output, fault, ended.status)
    elif ended.status == 0:
        # A signal may come when nothing is left to do but to exit.
        assert stage == STAGES[-1], f"the run succeeded in spite of {fault} in {stage}:\n{ended.output[-2000:]}"
        came = False
    if not came:
        suite.notes.append("too late")
    left = orphans()
    assert not left, f"still running after {fault}: {'; '.join(left)}"
    make_old(place)
    return came


def _break(run: Command, fault: str) -> None:
    family = run.family()
    if fault == "ctrl-c":
        os.killpg(run.pid, signal.SIGINT)
    elif fault == "terminated":
        os.kill(run.pid, signal.SIGTERM)
    elif fault in ("run", "bare-repro"):
        kill(family[:1])
    else:
        found = [process for process in family[1:] if VICTIMS[fault] in _words(process)]
        assert found, f"no process of {fault} among {[_words(process)[:70] for process in family]}"
        # The last guard is that of the stage; those of servers and of dvc come before it.
        kill(found[-1:] if fault in ("guard", "stage") else found)


def _check_message(output: str, fault: str, status: int) -> None:
    if status:
        assert "Traceback" not in output, f"a traceback after {fault} was killed:\n{output[-4000:]}"
        assert "error: " in output.lower(), f"no error is named after {fault} was killed:\n{output[-2000:]}"


def _in_order(numbers: random.Random, count: int) -> list[str]:
    """Stages in which to break the run, in order: a finished stage does not run again."""
    return [STAGES[number] for number in sorted(numbers.sample(range(len(STAGES)), count))]


def works_at(place: Place, stage: str) -> bool:
    """Whether a stage has begun, that is, its work directory exists."""
    return any(path.is_dir() for path in (place.root / "var/work" / stage).glob("*"))


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(Path(word).name if word.startswith("/") else word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _untracked(place: Place) -> None:
    """Let the flow choose its own pipeline run key."""
    place.environment.pop("GANTRY_PIPELINE_RUN", None)


def check_finished(suite: Suite, place: Place, stages: tuple[str, ...] = STAGES) -> None:
    """Check that checkout and MLflow are as after the undisturbed run, and that Prefect has no run in state Running."""
    sent = place.call(sync_all)
    assert sent.status == 0, f"gantry track sync failed:\n{sent.output[-2000:]}"
    for stage in stages:
        check_same(place, stage, suite.baseline.results(stage))
    check_whole(place)
    check_metrics(place)
    check_logs_sent(place)
    check_one_version(place)
    states = flow_runs(place)
    assert "RUNNING" not in states, f"Prefect's flow runs: {states}"
    left = orphans()
    assert not left, f"still running: {'; '.join(left)}"


def flow_runs(place: Place) -> list[str]:
    """The states of all flow runs in the checkout's own Prefect database, oldest first."""
    with sqlite3.connect(place.root / "var/prefect/prefect.db") as database:
        return [row[0] for row in database.execute("SELECT state_type FROM flow_run ORDER BY created")]


def two_in_one_checkout(suite: Suite, numbers: random.Random) -> None:
    """A second run in the same checkout fails with one line, and the first continues."""
    with suite.baseline.before["ingest"].copy() as place:
        _untracked(place)
        first = place.command("gantry", "run", **LOCAL)
        stage = numbers.choice(STAGES)
        first.until(partial(works_at, place, stage), RUN_SECONDS, f"stage {stage}")
        second = place.command("gantry", "run", **LOCAL).wait(120)
        assert second.status != 0, f"a second run was allowed:\n{second.output[-2000:]}"
        assert "Another run is in progress" in second.output, second.output[-2000:]
        assert "Traceback" not in second.output, second.output[-2000:]
        ended = first.wait(RUN_SECONDS)
        assert ended.status == 0, f"the first run ended with {ended.status}:\n{ended.output[-3000:]}"
        check_finished(suite, place)


def two_checkouts(suite: Suite, numbers: random.Random) -> None:
    """Simultaneous runs of two checkouts succeed, each with its own Prefect database."""
    before = suite.baseline.before["ingest"]
    with before.copy() as one, before.copy() as other:
        places = (one, other)
        for place in places:
            _untracked(place)
        runs = []
        for place in places:
            runs.append(place.command("gantry", "run", **LOCAL))
            time.sleep(numbers.uniform(0, 1))
        for place, run in zip(places, runs, strict=True):
            ended = run.wait(2 * RUN_SECONDS)
            assert ended.status == 0, f"a run ended with {ended.status}:\n{ended.output[-3000:]}"
            assert flow_runs(place) == ["COMPLETED"], f"flow runs of {place.root}: {flow_runs(place)}"
        for place in places:
            check_finished(suite, place)


def revision_beside(suite: Suite, numbers: random.Random) -> None:
    """A run of a revision and a run of the checkout at the same time: both succeed, and the checkout is not affected."""
    with suite.baseline.before["ingest"].copy() as place:
        _untracked(place)
        first = place.command("gantry", "run", **LOCAL)
        time.sleep(numbers.uniform(0, 20))
        # Another seed, so that the two runs have different stage keys.
        command = (
            "gantry",
            "run",
            "--revision",
            "HEAD",
            "--set",
            "train.seed=1",
            "--set",
            "ingest.shard_pictures=1000",
        )
        second = place.command(*command, **LOCAL)
        for run in (first, second):
            ended = run.wait(2 * RUN_SECONDS)
            assert ended.status == 0, f"a run ended with {ended.status}:\n{ended.output[-3000:]}"
        assert not list((place.root / "var/worktrees").glob("*")), "a worktree was left behind"
        make_old(place)  # a stage may have ended, and its shipper with it, while that made the database
        sent = place.call(sync_all)
        assert sent.status == 0, sent.output[-2000:]
        for stage in STAGES:
            check_same(place, stage, suite.baseline.results(stage))
        check_whole(place)
        check_logs_sent(place)
        assert flow_runs(place) == ["COMPLETED", "COMPLETED"], flow_runs(place)
