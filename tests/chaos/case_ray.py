"""Kill processes of a real Ray cluster during training or search: the weights stay the same, and no trial is lost."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

from gan_core.files import read_json, write_json
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import offer_cluster
from pipelines.runtime.resources import usable_cpus
from tests.chaos.case import Case, Suite
from tests.chaos.case_stages import sync_all
from tests.chaos.checks import check_logs_sent, check_metrics, check_same, check_whole, make_old
from tests.chaos.inject import VARIABLE, Plan, Point, release
from tests.chaos.place import Command, Ended, Place, kill, orphans, outs, set_params

VICTIMS = {
    "worker": "RayTrainWorker",
    "controller": "TrainController",
    "raylet": "raylet/raylet",
    "gcs": "gcs_server",
    "stage": "stage train",
}
"""Part of the victim's command line, by the name of the victim."""
SEARCH = {
    "trials": 3,
    "steps": 20,
    "report_every": 10,
    "samples": 8,
    "features": 64,
    "concurrent": 1,
    "space": {"model.slope": {"type": "uniform", "low": 0.0, "high": 0.4}},
}


def cases() -> list[Case]:
    """One case for each process of a cluster. The short form has the death of the whole cluster."""
    single = [
        Case(name=f"ray-{victim}", run=partial(training, victims=(victim,)), small=victim == "gcs", seconds=600)
        for victim in VICTIMS
    ]
    return [
        *single,
        Case(
            name="ray-one-after-the-other", run=partial(training, victims=("worker", "gcs")), small=False, seconds=600
        ),
        Case(name="search-killed", run=searching, small=False, seconds=1800),
    ]


def training(suite: Suite, numbers: random.Random, *, victims: tuple[str, ...]) -> None:
    """Kill processes one after the other while a worker waits at a row of its curves. The results are undisturbed."""
    wanted = _undisturbed(suite)
    with suite.baseline.before["train"].copy() as place, _cluster(place) as environment:
        ended = None
        for victim in victims:
            row = numbers.randint(1, 3)
            plan = place.plan(Point("write", "var/work/train/*/curves.jsonl", row), "hold")
            _plan_for_workers(place, plan)
            suite.notes.append(f"{victim} at row {row}")
            if ended is None or ended.process.poll() is not None:
                ended = place.command("gantry", "stage", "train", **environment)
            ended.until(partial(_held, plan), 180, f"row {row}")
            family = ended.family()
            found = [process for process in _everything() if VICTIMS[victim] in _words(process)]
            assert found, f"no process of {victim} among {[_words(process)[:60] for process in _everything()]}"
            kill(found)
            release(Path(plan.log))
            if victim == "worker":
                continue  # it is replaced, and the stage goes on
            _check_end(ended.wait(240), victim)
            _, alive = psutil.wait_procs(family, timeout=30)
            assert not alive, f"still running: {[_words(process)[:80] for process in alive]}"
        assert ended is not None
        _plan_for_workers(place, place.plan())
        last = ended.wait(240) if ended.process.poll() is None else None
        if last is None or last.status:
            make_old(place)
            last = place.command("gantry", "stage", "train", **environment).wait(300)
        assert last.status == 0, f"the run after it ended with {last.status}:\n{last.output[-3000:]}"
        check_same(place, "train", wanted)
        sent = place.call(sync_all)
        assert sent.status == 0, sent.output[-2000:]
        check_whole(place)
        check_metrics(place)
        check_logs_sent(place)
    left = orphans()
    assert not left, f"still running: {'; '.join(left)}"


def _undisturbed(suite: Suite) -> dict[str, str]:
    """Results of the train stage with a thread for each core, as a worker of a real cluster has; rounding depends on it."""
    kept = suite.folder / "train-with-all-cores.json"
    if not kept.is_file():  # each run is a process of its own
        with suite.baseline.before["train"].copy() as alone:
            ended = alone.stage("train", GANTRY_CHAOS_LOCAL=str(usable_cpus()))
            assert ended.status == 0, ended.output[-2000:]
            write_json(kept, outs(alone.root, "train"))
    return read_json(kept)


def _check_end(ended: Ended, victim: str) -> None:
    if victim != "stage" and ended.status:
        assert "Traceback" not in ended.output, f"a traceback after {victim} was killed:\n{ended.output[-3000:]}"
        assert "error: " in ended.output.lower(), (
            f"no error is named after {victim} was killed:\n{ended.output[-2000:]}"
        )


@contextmanager
def _cluster(place: Place) -> Iterator[dict[str, str]]:
    """Offer a cluster as the flow does. Its workers read the plan from a file."""
    environment = {**place.environment, VARIABLE: f"@{place.scratch / 'plan.json'}"}
    _plan_for_workers(place, place.plan())
    with offer_cluster(Checkout.at(place.root), environment) as offered:
        yield {**offered, VARIABLE: environment[VARIABLE]}


def _plan_for_workers(place: Place, plan: Plan) -> None:
    path = place.scratch / "plan.json"
    path.write_text(plan.to_json(), encoding="utf-8")


def _held(plan: Plan) -> bool:
    return Path(f"{plan.log}.fired").exists()


def _everything() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def searching(suite: Suite, numbers: random.Random) -> None:
    """Kill the search ten times (twice in the short form): no trial is lost, and each measurement is logged once."""
    with suite.baseline.before["tune"].copy() as place, _cluster(place) as environment:
        set_params(place, tune=SEARCH)
        for _ in range(2 if suite.small else 10):
            stage = place.command("gantry", "stage", "tune", **environment)
            done = _checkpoints(place)
            with_more = partial(_more_than, place, done)
            if not _until(stage, with_more):
                break
            family = stage.family()
            kill(family[:1])
            stage.wait(30)
            _, alive = psutil.wait_procs(family, timeout=30)
            assert not alive, f"still running: {[_words(process)[:80] for process in alive]}"
        suite.notes.append(f"{_checkpoints(place)} checkpoints at the last kill")
        begun = {path.parent.name for path in (place.root / "var/work/tune").glob("*/search/*/checkpoint_*")}
        make_old(place)
        last = place.command("gantry", "stage", "tune", **environment).wait(600)
        assert last.status == 0, f"the run after it ended with {last.status}:\n{last.output[-3000:]}"
        sent = place.call(sync_all)
        assert sent.status == 0, sent.output[-2000:]
        board = (place.root / "outputs/tune/leaderboard.csv").read_text(encoding="utf-8").splitlines()[1:]
        assert len(board) == SEARCH["trials"], f"{len(board)} trials on the leaderboard"
        names = {line.split(",")[0] for line in board}
        assert begun <= names, f"lost trials: {sorted(begun - names)}"
        check_whole(place)
        check_metrics(place, name="tune")
        check_logs_sent(place)
    left = orphans()
    assert not left, f"still running: {'; '.join(left)}"


def _checkpoints(place: Place) -> int:
    return len(list((place.root / "var/work/tune").glob("*/search/*/checkpoint_*")))


def _more_than(place: Place, count: int) -> bool:
    return _checkpoints(place) > count


def _until(stage: Command, condition: Callable[[], bool]) -> bool:
    """Wait for the condition; False if the stage succeeds before it."""
    try:
        stage.until(condition, 240, "a checkpoint")
    except AssertionError:
        if stage.process.poll() == 0:
            return False
        raise
    return True
